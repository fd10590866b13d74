"""Rollouts one after another in rows of one length: little of a batch is padding.

Which rollout stands in which row is planned from sizes alone: every host that knows the
sizes of a global batch comes to the same plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mprm_jax.data.batches import PAD_ID, Batch, Example
from mprm_jax.data.images import number_images, patches_per_image

# Row of the sizes of a rollout.
_TOKENS, _PATCHES, _STEPS = range(3)


@dataclasses.dataclass(frozen=True)
class PackedShape:
    """Shape of a packed batch; one compilation serves all batches that share it.

    Attributes:
        rows: B.
        tokens: L of a row.
        documents: K, most rollouts in a row.
        document_tokens: of the longest rollout.
        patches: P of a row.
        steps: S of a row.
    """

    rows: int
    tokens: int
    documents: int
    document_tokens: int
    patches: int
    steps: int

    def holds(self, sizes_Nx3: np.ndarray) -> bool:
        """Whether each rollout alone fits a row."""
        most = self.document_tokens, self.patches, self.steps
        return bool((sizes_Nx3 <= most).all())


def sizes_of(examples: Sequence[Example]) -> np.ndarray:
    """Tokens, image rows and steps of each example [N, 3]."""
    return np.array(
        [(len(e.tokens_L), len(e.images_PxD), len(e.marker_S)) for e in examples],
        np.int64,
    ).reshape(-1, 3)


def plan_rows(sizes_Nx3: np.ndarray, shape: PackedShape) -> list[list[int]]:
    """Which rollouts each row holds, in order, by first-fit decreasing.

    Each rollout, from the longest on, goes into the first row with room for its tokens,
    patches and steps; of equal ones the earlier comes first. At most 11/9 of the fewest
    rows, and one, where tokens alone decide (Johnson 1973).

    Args:
        sizes_Nx3: tokens, patches and steps of each rollout.
        shape: of a row; its number of rows is not looked at.

    Raises:
        ValueError: a rollout fits no row.
    """
    if not shape.holds(sizes_Nx3):
        raise ValueError(f"{sizes_Nx3.max(axis=0)} fits no row of {shape}")
    room = shape.tokens, shape.patches, shape.steps, shape.documents
    left_Rx4 = np.empty((0, 4), np.int64)
    rows: list[list[int]] = []
    for place in np.argsort(-sizes_Nx3[:, _TOKENS], kind="stable").tolist():
        need = np.append(sizes_Nx3[place], 1)
        fits = np.flatnonzero((left_Rx4 >= need).all(axis=1))
        row = int(fits[0]) if len(fits) else len(rows)
        if row == len(rows):
            rows.append([])
            left_Rx4 = np.vstack([left_Rx4, room])
        left_Rx4[row] -= need
        rows[row].append(place)
    return rows


def fit_shape(sizes_Nx3: np.ndarray, tokens: int) -> PackedShape:
    """The smallest shape in which these rollouts need no more rows of ``tokens``.

    Args:
        sizes_Nx3: at least one rollout.
        tokens: L, at least the longest rollout's.

    Raises:
        ValueError: a rollout is longer.
    """
    count, longest = len(sizes_Nx3), int(sizes_Nx3[:, _TOKENS].max())
    if longest > tokens:
        raise ValueError(f"a rollout of {longest} tokens in rows of {tokens}")
    patches, steps = sizes_Nx3[:, [_PATCHES, _STEPS]].sum(axis=0).tolist()
    shape = PackedShape(0, tokens, count, longest, patches, steps)
    rows = len(plan_rows(sizes_Nx3, shape))
    largest = {"documents": 1, "patches": int(sizes_Nx3[:, _PATCHES].max())}
    for name, low in largest.items():

        def enough(size: int, shape: PackedShape = shape, name: str = name) -> bool:
            smaller = dataclasses.replace(shape, **{name: size})
            return len(plan_rows(sizes_Nx3, smaller)) == rows

        least = _least(enough, low, getattr(shape, name))
        shape = dataclasses.replace(shape, **{name: least})
    plan = plan_rows(sizes_Nx3, shape)
    steps = max(int(sizes_Nx3[row, _STEPS].sum()) for row in plan)
    return dataclasses.replace(shape, rows=rows, steps=steps)


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
    examples: Sequence[Example],
    plan: Sequence[Sequence[int]],
    shape: PackedShape,
    *,
    numbered: bool,
) -> Batch:
    """The rows of a plan, padded to a shape.

    Markers are places in the row. Image rows follow each other as their rollouts do.

    Args:
        examples: rollouts.
        plan: of :func:`plan_rows`.
        shape: at least as many rows as the plan; the others are empty.
        numbered: image rows say of which image they are (``place_bytes`` of a family);
            then no two images of a row have one number.

    Raises:
        ValueError: the shape has too few rows.
    """
    if len(plan) > shape.rows:
        raise ValueError(f"{len(plan)} rows of a plan do not fit {shape.rows}")
    first = examples[0].images_PxD
    tokens_BxL = np.full((shape.rows, shape.tokens), PAD_ID, np.int32)
    images_BxPxD = np.zeros((shape.rows, shape.patches, first.shape[1]), first.dtype)
    place_BxKxL = np.full(
        (shape.rows, shape.documents, shape.document_tokens), -1, np.int32
    )
    marker_BxS, successes_BxS, trials_BxS = (
        np.zeros((shape.rows, shape.steps), np.int32) for _ in range(3)
    )
    for row, chosen in enumerate(plan):
        token = patch = step = image = 0
        for document, place in enumerate(chosen):
            example = examples[place]
            length, steps = len(example.tokens_L), len(example.marker_S)
            images_PxD = example.images_PxD
            if numbered and len(images_PxD):
                images_PxD = number_images(images_PxD, image + 1)
                image += len(patches_per_image(example.images_PxD))
            tokens_BxL[row, token : token + length] = example.tokens_L
            place_BxKxL[row, document, :length] = np.arange(token, token + length)
            images_BxPxD[row, patch : patch + len(images_PxD)] = images_PxD
            at = slice(step, step + steps)
            marker_BxS[row, at] = example.marker_S + token
            successes_BxS[row, at] = example.successes_S
            trials_BxS[row, at] = example.trials_S
            token, step = token + length, step + steps
            patch += len(images_PxD)
    return Batch(
        tokens_BxL, images_BxPxD, marker_BxS, successes_BxS, trials_BxS, place_BxKxL
    )
