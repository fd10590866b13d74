"""Scores of a model on judged solutions: encode, batch, score, in any order alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import jax
import msgspec
import numpy as np
import xxhash
from PIL.Image import Image
from scipy.special import expit

from mprm_jax.data.batches import Batch, Bucket, Buckets, Example, collate
from mprm_jax.data.formats.base import ReadOptions
from mprm_jax.data.formats.visualprocessbench import VISUALPROCESSBENCH
from mprm_jax.data.images import read_images
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import Record
from mprm_jax.data.scored import Prediction, read_records
from mprm_jax.models.model import Model, Params

# Examples are encoded, sorted by length and scored this many batches at a time: images
# of a whole benchmark need not fit the memory, and lengths in a batch are near alike.
_WINDOW = 16

_SMALLEST_TOKENS = 32
_SMALLEST_STEPS = 8


class Solution(msgspec.Struct, frozen=True):
    """One solution of a benchmark.

    Attributes:
        where: ``FILE:LINE: record NUMBER``, for messages.
        record: question, steps, images, source.
        labels: judgement of each step: 1 correct, -1 wrong, 0 neutral.
    """

    where: str
    record: Record
    labels: tuple[int, ...]

    @property
    def id(self) -> str:
        """Hash of what is judged (question, steps, image paths), not of how."""
        texts = [step.text for step in self.record.steps]
        content = [self.record.question, texts, self.record.images]
        return xxhash.xxh3_64_hexdigest(msgspec.json.encode(content))


def read_benchmark(path: Path) -> list[Solution]:
    """The solutions of a file in VisualProcessBench's format, JSON lines or a list.

    Raises:
        DataError: the file cannot be used; the message names the record.
    """

    def read(where: str, _: int, data: bytes) -> Solution:
        record = VISUALPROCESSBENCH.decode(data, ReadOptions())
        labels = tuple(2 * step.successes - step.trials for step in record.steps)
        return Solution(where, record, labels)

    return list(read_records(path, read))


def image_root(path: Path, images: Sequence[str]) -> Path:
    """Where the images of a file lie if nobody says: ``images/`` beside it, or beside
    it if the first of them is there and not below ``images/``.
    """
    roots = (path.parent / "images", path.parent)
    found = (root for root in roots if images and os.path.isfile(root / images[0]))
    return next(found, roots[0] if roots[0].is_dir() else roots[1])


def encode_example(
    model: Model, question: str, steps: Sequence[str], images: tuple[Image, ...]
) -> Example:
    """One prompt as the model reads it, without labels.

    Raises:
        BadRecord: a text cannot stand in a prompt.
    """
    tokens_L, images_PxD, marker_S, truncated = model.encode(question, steps, images)
    # A trial at every step: a step without trials is padding.
    counts_S = np.ones(len(marker_S), np.int32)
    return Example(tokens_L, images_PxD, marker_S, 0 * counts_S, counts_S, truncated)


def predict(
    model: Model,
    params: Params,
    solutions: Sequence[Solution],
    root: Path,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The model's scores of all solutions, in their order.

    Args:
        model: any model.
        params: of the model.
        solutions: to score.
        root: of their images.
        batch_size: B.
        tick: told how many solutions have been encoded.

    Raises:
        DataError: a solution cannot be encoded or scored; the message names it.
    """
    truncated: list[int] = []

    def examples() -> Iterator[Example]:
        for done, solution in enumerate(solutions, 1):
            record = solution.record
            texts = [step.text for step in record.steps]
            try:
                images = read_images(root, record.images)
                example = encode_example(model, record.question, texts, images)
            except BadRecord as error:
                raise DataError(f"{solution.where}: {error}") from None
            truncated.append(example.truncated)
            tick(done)
            yield example

    scores = score_prompts(model, params, examples(), batch_size)
    rows = []
    for number, (solution, of_steps) in enumerate(
        zip(solutions, scores, strict=True), 1
    ):
        if not np.isfinite(of_steps).all():
            raise DataError(f"{solution.where}: the model's score is not a number")
        rows.append(
            Prediction(
                solution.record.source or "",
                solution.labels[: len(of_steps)],
                tuple(of_steps.tolist()),
                solution.id,
                number,
                truncated[number - 1],
            )
        )
    return rows


def score_prompts(
    model: Model, params: Params, examples: Iterable[Example], batch_size: int
) -> list[np.ndarray]:
    """Score sigma(Yes - No) of each example's steps, float64 ``[S]``, in order.

    Batches hold examples of like length; tokens are padded to 32, 48, 64, 96, 128, ...,
    steps to 8, 16, 32, ..., patches never, and a last batch with empty rows. So a model
    is compiled for each such shape that occurs, a handful. A causal model gives the
    same scores whatever an example is batched with.
    """
    scores: list[np.ndarray] = []
    stream = iter(examples)
    while window := list(islice(stream, _WINDOW * batch_size)):
        found: dict[int, np.ndarray] = {}
        for rows, buckets in _plan(window, batch_size):
            batch = collate([window[i] for i in rows], buckets, batch_size)
            logits_BxSx3 = np.asarray(_logits(model, params, batch), np.float64)
            scores_BxS = expit(logits_BxSx3[..., 0] - logits_BxSx3[..., 1])
            for b, i in enumerate(rows):
                found[i] = scores_BxS[b, : len(window[i].marker_S)]
        scores.extend(found[i] for i in range(len(window)))
    return scores


@partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Params, batch: Batch) -> jax.Array:
    return model.reward_logits(params, batch)


def _plan(
    window: Sequence[Example], batch_size: int
) -> Iterator[tuple[list[int], Buckets]]:
    """Rows of each batch, and the shape it is padded to."""

    def shape(i: int) -> tuple[int, int, int]:
        example = window[i]
        steps = _round_up(len(example.marker_S), _SMALLEST_STEPS, halves=False)
        tokens = _round_up(len(example.tokens_L), _SMALLEST_TOKENS, halves=True)
        patches = len(example.images_PxD)
        # To powers of two, as in training: pictures come in hundreds of sizes.
        return patches and _round_up(patches, 1, halves=False), tokens, steps

    order = sorted(range(len(window)), key=shape)
    for patches, same in groupby(order, key=lambda i: shape(i)[0]):
        rows = list(same)
        for start in range(0, len(rows), batch_size):
            of = rows[start : start + batch_size]
            _, tokens, steps = np.max([shape(i) for i in of], axis=0).tolist()
            yield of, Buckets((Bucket(tokens, patches),), steps)


def _round_up(length: int, smallest: int, halves: bool) -> int:
    """The next of ``smallest`` times 1, 2, 4, ..., with halves 1, 1.5, 2, 3, 4, ..."""
    rounded = smallest
    while rounded < length:
        if halves and 3 * rounded // 2 >= length:
            return 3 * rounded // 2
        rounded *= 2
    return rounded
