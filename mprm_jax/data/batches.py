"""Examples of any length, and the padded batch made of them at the device's edge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

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
    """

    tokens_L: np.ndarray
    images_PxD: np.ndarray
    marker_S: np.ndarray
    successes_S: np.ndarray
    trials_S: np.ndarray
    truncated: int = 0


class Batch(NamedTuple):
    """Padded rollouts: the only padded type, a pytree.

    Attributes:
        tokens_BxL: int32 ids, padded at the end with 0.
        images_BxPxD: image patches, uint8 or float32, padded at the end with 0.
        marker_BxS: int32 position in the tokens of each step's ``<prm>``; 0 where
            padded.
        successes_BxS: int32 K.
        trials_BxS: int32 N; 0 = no step here, which weighs nothing.
        place_BxKxL: int32, where in its row each token of a packed rollout stands, -1
            behind its last one; None where a row is one rollout.
    """

    tokens_BxL: Array
    images_BxPxD: Array
    marker_BxS: Array
    successes_BxS: Array
    trials_BxS: Array
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

    @property
    def largest(self) -> Buckets:
        """Only the largest shape: what hosts that cannot see each other's rows use."""
        return Buckets(self.shapes[-1:], self.steps)


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


def collate(examples: Sequence[Example], buckets: Buckets, rows: int) -> Batch:
    """Pad examples to a bucket's shape and to ``rows`` rows.

    Args:
        examples: at most ``rows``; missing rows become empty ones, without steps.
        buckets: the shapes to choose from.
        rows: B.

    Raises:
        ValueError: there are more examples than rows, or none, or one fits no bucket.
    """
    if not 0 < len(examples) <= rows:
        raise ValueError(f"{len(examples)} examples do not make {rows} rows")
    shape = buckets.choose(
        max(len(example.tokens_L) for example in examples),
        max(len(example.images_PxD) for example in examples),
    )
    first = examples[0].images_PxD
    tokens_BxL = np.full((rows, shape.tokens), PAD_ID, np.int32)
    images_BxPxD = np.zeros((rows, shape.patches, first.shape[1]), first.dtype)
    marker_BxS, successes_BxS, trials_BxS = (
        np.zeros((rows, buckets.steps), np.int32) for _ in range(3)
    )
    for row, example in enumerate(examples):
        length, steps = len(example.tokens_L), len(example.marker_S)
        if steps > buckets.steps:
            raise ValueError(f"{steps} steps do not fit {buckets.steps} places")
        tokens_BxL[row, :length] = example.tokens_L
        images_BxPxD[row, : len(example.images_PxD)] = example.images_PxD
        marker_BxS[row, :steps] = example.marker_S
        successes_BxS[row, :steps] = example.successes_S
        trials_BxS[row, :steps] = example.trials_S
    return Batch(tokens_BxL, images_BxPxD, marker_BxS, successes_BxS, trials_BxS)
