"""Rollouts one after another in rows of one length: little of a batch is padding.

Which rollout stands in which row is planned from sizes alone: every host that knows the
sizes of a global batch comes to the same plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mprm_jax.data.batches import (
    Batch,
    Bucket,
    Example,
    Labeller,
    Sizes,
    empty_batch,
    fill,
    unlabelled,
)
from mprm_jax.data.images import number_images, patches_per_image


@dataclasses.dataclass(frozen=True)
class PackedShape:
    """Shape of a packed batch; one compilation serves all batches that share it.

    Attributes:
        rows: B.
        row: L and P.
        documents: K, most rollouts in a row.
        document_tokens: of the longest rollout.
        steps: S of a row (padding it costs next to nothing).
    """

    rows: int
    row: Bucket
    documents: int
    document_tokens: int
    steps: int


def plan_rows(sizes: Sizes, shape: PackedShape) -> list[list[int]]:
    """Which rollouts each row holds, in order, by first-fit decreasing.

    Each rollout, from the longest on, goes into the first row with room for its tokens
    and patches; of equal ones the earlier comes first. At most 11/9 of the fewest rows,
    and four, where tokens alone decide (Johnson 1973).

    Args:
        sizes: of the rollouts.
        shape: of a row; how many there are is not looked at.

    Raises:
        ValueError: a rollout fits no row.
    """
    need_Nx3 = np.stack(
        [sizes.tokens, sizes.patches, np.ones_like(sizes.tokens)], axis=1
    )
    most = min(shape.document_tokens, shape.row.tokens), shape.row.patches
    for tokens, patches, _ in need_Nx3.tolist():
        if tokens > most[0] or patches > most[1]:
            raise ValueError(f"{tokens} tokens, {patches} patches: no room in {shape}")
    room = shape.row.tokens, shape.row.patches, shape.documents
    left_Rx3 = np.empty((0, 3), np.int64)
    rows: list[list[int]] = []
    for place in np.argsort(-sizes.tokens, kind="stable").tolist():
        fits = np.flatnonzero((left_Rx3 >= need_Nx3[place]).all(axis=1))
        row = int(fits[0]) if len(fits) else len(rows)
        if row == len(rows):
            rows.append([])
            left_Rx3 = np.vstack([left_Rx3, room])
        left_Rx3[row] -= need_Nx3[place]
        rows[row].append(place)
    return rows


def fit_shape(sizes: Sizes, tokens: int, steps: int) -> PackedShape:
    """The smallest shape in which these rollouts need no more rows of ``tokens``.

    Args:
        sizes: of at least one rollout.
        tokens: L.
        steps: of the rollout with most.

    Raises:
        ValueError: a rollout is longer than a row.
    """
    count, longest = len(sizes.tokens), int(sizes.tokens.max())
    free = PackedShape(0, Bucket(tokens, int(sizes.patches.sum())), count, longest, 0)
    rows = len(plan_rows(sizes, free))

    def narrow(shape: PackedShape, documents: int, patches: int) -> PackedShape:
        row = Bucket(tokens, patches)
        return dataclasses.replace(shape, row=row, documents=documents)

    def enough(documents: int, patches: int) -> bool:
        return len(plan_rows(sizes, narrow(free, documents, patches))) == rows

    patches, most = free.row.patches, int(sizes.patches.max())
    documents = _least(lambda size: enough(size, patches), 1, count)
    patches = _least(lambda size: enough(documents, size), most, patches)
    shape = narrow(free, documents, patches)
    return dataclasses.replace(shape, rows=rows, steps=steps * documents)


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the batches of a run are packed.

    Attributes:
        shape: of a part's share of a micro-batch, which is one row.
        numbered: see :func:`pack`.
    """

    shape: PackedShape
    numbered: bool


def row_shape(first: Sizes, every: Sizes, tokens: int, steps: int) -> PackedShape:
    """One row for all batches of a run, so that one program computes them all.

    Args:
        first: sizes of the first batches, which say how many rollouts and image rows
            make a full row.
        every: sizes of all rollouts, each of which fits.
        tokens: L.
        steps: of the rollout with most.

    Raises:
        ValueError: a rollout is longer than a row.
    """
    longest = int(every.tokens.max())
    if longest > tokens:
        raise ValueError(
            f"a packed row of {tokens} tokens does not hold the longest rollout, of "
            f"{longest}"
        )
    full = fit_shape(first, tokens, steps)
    row = Bucket(tokens, max(full.row.patches, int(every.patches.max())))
    return dataclasses.replace(full, rows=1, row=row, document_tokens=longest)


def _least(enough: Callable[[int], bool], low: int, high: int) -> int:
    """The least size that is enough, by bisection; ``high`` is, and so is what is above
    one that is.
    """
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def pack(
    examples: Sequence[Example] | Mapping[int, Example],
    plan: Sequence[Sequence[int]],
    shape: PackedShape,
    labeller: Labeller = unlabelled,
    like: Example | None = None,
    *,
    numbered: bool,
) -> Batch:
    """The rows of a plan, padded to a shape.

    Markers are places in the row; images follow each other as their rollouts do.

    Args:
        examples: by place.
        plan: of :func:`plan_rows`: places of examples, the longest of a row first.
        shape: with at least as many rows as the plan; the others are empty.
        labeller: what the loss of the steps is made from.
        like: has images of the kind that the batch shall have; None: the first has.
        numbered: image rows say of which image they are (``place_bytes`` of a family);
            then no two images of a row have one number.

    Raises:
        ValueError: the plan has too many rows or another order, a row too many steps.
    """
    if len(plan) > shape.rows:
        raise ValueError(f"{len(plan)} rows of a plan do not fit {shape.rows}")
    kind = (like or examples[0]).images_PxD
    batch = empty_batch(kind, shape.row, shape.rows, shape.steps)
    sizes = shape.rows, shape.documents, shape.document_tokens
    place_BxKxL = np.full(sizes, -1, np.int32)
    for row, chosen in enumerate(plan):
        held = [examples[place] for place in chosen]
        lengths = [len(example.tokens_L) for example in held]
        if lengths != sorted(lengths, reverse=True):
            raise ValueError(f"row {row} of a plan: a longer rollout comes later")
        if numbered:
            held = _numbered(held)
        begins = fill(batch, row, held, labeller)
        for at, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            place_BxKxL[row, at, :length] = np.arange(begin, begin + length)
    return batch._replace(place_BxKxL=place_BxKxL)


def _numbered(held: Sequence[Example]) -> list[Example]:
    """The rollouts of a row, whose images count on from one to the next."""
    found, images = [], 0
    for example in held:
        if len(example.images_PxD):
            on_PxD = number_images(example.images_PxD, images + 1)
            images += len(patches_per_image(example.images_PxD))
            example = example._replace(images_PxD=on_PxD)
        found.append(example)
    return found
