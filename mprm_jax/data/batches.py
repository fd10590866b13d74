"""Examples of any length, and the padded batch made of them at the device's edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from theory.labelling import StepTargets

# numpy's on the host, jax's on a device and in a program: no type is all of these,
# and what only counts does not import jax.
Array: TypeAlias = Any

PAD_ID = 0

# Lengths are rounded up to multiples of this: vector units, and few distinct shapes.
_TOKEN_MULTIPLE = 16
_SMALLEST = 32


class Example(NamedTuple):
    """One rollout as a model reads it, unpadded; counts, not labels.

    Attributes:
        tokens_L: int32 ids of the prompt.
        images_PxD: image patches, uint8 or float32; P may be 0.
        marker_S: int32 position in ``tokens_L`` of each kept step's ``<prm>``.
        successes_S: int32 K of each kept step.
        trials_S: int32 N of each kept step.
        truncated: steps that were cut off at the end.
        weight: what the loss of each of its steps counts, at least 0.
    """

    tokens_L: np.ndarray
    images_PxD: np.ndarray
    marker_S: np.ndarray
    successes_S: np.ndarray
    trials_S: np.ndarray
    truncated: int = 0
    weight: float = 1.0


# From counts K and N, [..., S], to the labels and loss weights of a rollout's steps.
Labeller = Callable[[np.ndarray, np.ndarray], StepTargets]


def unlabelled(successes_S: np.ndarray, trials_S: np.ndarray) -> StepTargets:
    """Every step counts, with no label: for whoever only reads scores."""
    return StepTargets(np.zeros(successes_S.shape), trials_S > 0)


class Batch(NamedTuple):
    """Padded rollouts: the only padded type, a pytree.

    A row is one rollout, or several that stand one after another (packed).

    Attributes:
        tokens_BxL: int32 ids, padded at the end with 0.
        images_BxPxD: image patches, uint8 or float32, padded at the end with 0.
        marker_BxS: int32 position in the tokens of each step's ``<prm>``; 0 where
            padded.
        successes_BxS: int32 K.
        trials_BxS: int32 N; 0 = no step here.
        label_BxS: float32 y in [0, 1]; 0 where the loss has no labels.
        weight_BxS: float32, what the step's loss counts; 0 = no step here, or one
            without a label.
        place_BxKxL: int32, only of packed rows: where in its row each token of the k-th
            rollout stands, -1 where there is none.
    """

    tokens_BxL: Array
    images_BxPxD: Array
    marker_BxS: Array
    successes_BxS: Array
    trials_BxS: Array
    label_BxS: Array
    weight_BxS: Array
    place_BxKxL: Array | None = None


@dataclass(frozen=True)
class Bucket:
    """One shape that batches are padded to.

    Attributes:
        tokens: L.
        patches: P.
    """

    tokens: int
    patches: int


@dataclass(frozen=True)
class Buckets:
    """The shapes of all batches: a step is compiled once for each bucket that occurs.

    Attributes:
        shapes: from small to large; a batch takes the first that holds it, so there
            are at most ``len(shapes)`` compiled shapes.
        steps: S of every batch (padding it costs next to nothing).

    Raises:
        ValueError: there is none, or they do not grow (by tokens, then by patches).
    """

    shapes: tuple[Bucket, ...]
    steps: int

    def __post_init__(self) -> None:
        if not self.shapes:
            raise ValueError("at least one bucket is needed")
        sizes = [(shape.tokens, shape.patches) for shape in self.shapes]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"buckets must grow, not {sizes}")

    def choose(self, tokens: int, patches: int) -> Bucket:
        """The first shape that holds this many tokens and patches.

        Raises:
            ValueError: none does.
        """
        for shape in self.shapes:
            if tokens <= shape.tokens and patches <= shape.patches:
                return shape
        raise ValueError(
            f"{tokens} tokens and {patches} patches fit none of the buckets "
            f"{self.shapes}"
        )


def open_ladder(steps: int, tokens: int = 32_768, patches: int = 65_536) -> Buckets:
    """Shapes for rollouts of sizes that are not known beforehand.

    Tokens are rounded up to 32, 48, 64, 96, 128, ..., patches to powers of two, so
    padding never doubles either. Only shapes that occur are compiled: a corpus whose
    batches' longest rollouts differ by a factor f has at most 2 log2(f) + 2 of them.

    Args:
        steps: of the rollout with most.
        tokens: a rollout of the corpus may have.
        patches: a rollout of the corpus may have.
    """
    doubled = [1 << power for power in range(max(tokens, patches).bit_length() + 1)]
    lengths = sorted({n * m for n in doubled for m in (32, 48) if n * m < 2 * tokens})
    counts = [0, *(n for n in doubled if n < 2 * patches)]
    shapes = tuple(Bucket(length, count) for length in lengths for count in counts)
    return Buckets(shapes, max(steps, 1))


def buckets_for(examples: Iterable[Example], count: int = 2) -> Buckets:
    """At most ``count`` shapes: the tokens L of the longest example, L / 2, ..., but at
    least 32, in multiples of 16, each with room for the patches of the one with most.

    Args:
        examples: at least one.
        count: shapes at most, hence compilations at most.

    Raises:
        ValueError: there is no example, or no shape.
    """
    sizes = [
        (len(example.tokens_L), len(example.marker_S), len(example.images_PxD))
        for example in examples
    ]
    if not sizes or count < 1:
        raise ValueError("no example to make buckets for, or no bucket")
    tokens, steps, patches = (max(column) for column in zip(*sizes, strict=True))
    # Rounded up.
    lengths = {
        -(-max(tokens >> halving, _SMALLEST) // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE
        for halving in range(count)
    }
    # Two rollouts of a batch share its S, so at least one place is always there.
    shapes = tuple(Bucket(length, patches) for length in sorted(lengths))
    return Buckets(shapes, max(steps, 1))


class Sizes(NamedTuple):
    """What must be known of rollouts to plan batches of them, ``[N]`` each.

    Attributes:
        tokens: of the prompt.
        patches: rows of the images.
        steps: whose loss counts.
        weight: sum of the steps' loss weights, float64.
        truncated: steps that were cut off.
    """

    tokens: np.ndarray
    patches: np.ndarray
    steps: np.ndarray
    weight: np.ndarray
    truncated: np.ndarray

    @classmethod
    def of(cls, columns: Iterable[Any]) -> Sizes:
        """Of columns of numbers of any type."""
        kinds = np.int64, np.int64, np.int64, np.float64, np.int64
        return cls(*map(np.asarray, columns, kinds))

    @classmethod
    def joined(cls, parts: Iterable[Sizes]) -> Sizes:
        """Of the rollouts of all parts, at least one, in order."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def take(self, places: np.ndarray | slice) -> Sizes:
        """Of the rollouts at these places."""
        return Sizes(*(column[places] for column in self))

    def batches(self, size: int) -> list[Sizes]:
        """Of so many rollouts each; the last may have fewer."""
        starts = range(0, len(self.tokens), size)
        return [self.take(slice(start, start + size)) for start in starts]


def sizes_of(examples: Iterable[Example], labeller: Labeller = unlabelled) -> Sizes:
    """Sizes of rollouts that are in memory."""
    rows = []
    for example in examples:
        weight_S = labeller(example.successes_S, example.trials_S).weight_S
        weight_S = np.float32(example.weight) * weight_S.astype(np.float32)
        sizes = len(example.tokens_L), len(example.images_PxD), (weight_S > 0).sum()
        rows.append((*sizes, weight_S.sum(dtype=np.float64), example.truncated))
    return Sizes.of(np.array(rows, np.float64).reshape(-1, len(Sizes._fields)).T)


class MicroBatch(NamedTuple):
    """One micro-batch of a global batch.

    Attributes:
        rows: places in the global batch of its rollouts.
        shape: that they are padded to.
    """

    rows: np.ndarray
    shape: Bucket


def plan_micro_batches(
    sizes: Sizes, buckets: Buckets, count: int, rows: int
) -> list[MicroBatch]:
    """A global batch in micro-batches of rollouts of like length.

    Sorted by the shape that each rollout needs, patches first, then cut; so padding is
    what lengths within a micro-batch differ, not within the batch. A single micro-batch
    keeps the order. There are fewer where the rollouts fill fewer.

    Args:
        sizes: of the batch's rollouts, at least one.
        buckets: shapes to choose from.
        count: micro-batches at most.
        rows: rollouts of each at most.

    Raises:
        ValueError: the rollouts are too many, or one fits no bucket.
    """
    found = len(sizes.tokens)
    if not 0 < found <= count * rows:
        raise ValueError(f"{found} rollouts do not make {count} x {rows}")
    order = np.arange(found)
    if count > 1:
        patches = [buckets.choose(0, int(n)).patches for n in sizes.patches]
        order = np.lexsort((sizes.tokens, np.array(patches)))
    parts = [order[start : start + rows] for start in range(0, found, rows)]
    return [
        MicroBatch(
            part,
            buckets.choose(
                int(sizes.tokens[part].max()), int(sizes.patches[part].max())
            ),
        )
        for part in parts
    ]


def collate(
    examples: Sequence[Example | None],
    buckets: Buckets,
    rows: int,
    labeller: Labeller = unlabelled,
    like: Example | None = None,
) -> Batch:
    """Pad examples to a bucket's shape and to ``rows`` rows.

    Args:
        examples: at most ``rows``; None and missing ones become empty rows, without
            steps.
        buckets: the shapes to choose from.
        rows: B.
        labeller: what the loss of the steps is made from.
        like: has images of the kind that the batch shall have; None: the first has.

    Raises:
        ValueError: there are more examples than rows, or none, or one fits no bucket.
    """
    found = [example for example in examples if example is not None]
    like = like or (found[0] if found else None)
    if like is None or len(examples) > rows:
        raise ValueError(f"{len(found)} examples do not make {rows} rows")
    shape = buckets.choose(
        max((len(example.tokens_L) for example in found), default=0),
        max((len(example.images_PxD) for example in found), default=0),
    )
    batch = empty_batch(like.images_PxD, shape, rows, buckets.steps)
    for row, example in enumerate(examples):
        if example is not None:
            fill(batch, row, [example], labeller)
    return batch


def fill(
    batch: Batch, row: int, examples: Sequence[Example], labeller: Labeller
) -> list[int]:
    """Write examples into a row, one behind the other; the first token of each.

    Raises:
        ValueError: their steps have no room.
    """
    begins, tokens, patches, steps = [], 0, 0, 0
    for example in examples:
        begins.append(tokens)
        at_L = slice(tokens, tokens := tokens + len(example.tokens_L))
        at_P = slice(patches, patches := patches + len(example.images_PxD))
        at_S = slice(steps, steps := steps + len(example.marker_S))
        if steps > batch.marker_BxS.shape[1]:
            raise ValueError(
                f"{steps} steps do not fit {batch.marker_BxS.shape[1]} places"
            )
        target = labeller(example.successes_S, example.trials_S)
        batch.tokens_BxL[row, at_L] = example.tokens_L
        batch.images_BxPxD[row, at_P] = example.images_PxD
        batch.marker_BxS[row, at_S] = example.marker_S + at_L.start
        batch.successes_BxS[row, at_S] = example.successes_S
        batch.trials_BxS[row, at_S] = example.trials_S
        batch.label_BxS[row, at_S] = target.target_S
        batch.weight_BxS[row, at_S] = example.weight * target.weight_S
    return begins


def empty_batch(kind: np.ndarray, shape: Bucket, rows: int, steps: int) -> Batch:
    """A batch of padding alone, whose images are of a kind."""
    counts = (np.zeros((rows, steps), np.int32) for _ in range(3))
    losses = (np.zeros((rows, steps), np.float32) for _ in range(2))
    return Batch(
        np.full((rows, shape.tokens), PAD_ID, np.int32),
        np.zeros((rows, shape.patches, kind.shape[1]), kind.dtype),
        *counts,
        *losses,
    )
