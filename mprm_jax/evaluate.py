"""Scores of a model on judged solutions: encode, batch, score, in any order alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jax
import msgspec
import numpy as np
from PIL.Image import Image
from scipy.special import expit

from mprm_jax.data.batches import Batch, Bucket, Buckets, Example, collate, open_ladder
from mprm_jax.data.images import read_images
from mprm_jax.data.loader import Source
from mprm_jax.data.scored import Candidate, CandidateSet, Prediction, Solution
from mprm_jax.models.model import Model, Params
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot

# Examples are encoded, sorted by length and scored this many batches at a time: images
# of a whole benchmark need not fit the memory, and lengths in a batch are near alike.
_WINDOW = 16

# Shapes as in training: pictures come in hundreds of sizes.
_LADDER = open_ladder(1, tokens=1 << 20, patches=1 << 20)
_SMALLEST_STEPS = 8


class Prompt(NamedTuple):
    """What is asked and said, as it stands on disk; ``where`` is for messages."""

    where: str
    question: str
    steps: Sequence[str]
    images: tuple[str, ...]


def of_solutions(solutions: Sequence[Solution]) -> list[Prompt]:
    """The prompts of a benchmark."""
    return [
        Prompt(
            of.where, asked.question, [step.text for step in asked.steps], asked.images
        )
        for of in solutions
        for asked in [of.record]
    ]


def of_candidates(sets: Sequence[CandidateSet]) -> list[Prompt]:
    """The prompts of all candidates, set by set."""
    return [
        Prompt(of.where, of.question, one.steps, of.images)
        for of in sets
        for one in of.candidates
    ]


class Prompts:
    """Prompts without labels, encoded one by one when asked for.

    Args:
        model: encodes.
        prompts: those of one problem follow one another.
        root: of their images.
        tick: told how many have been encoded, where they are taken in order.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        root: Path | ImageRoot,
        tick: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._model, self._prompts, self._root = model, prompts, root
        self._tick = tick
        self._opened: tuple[tuple[str, ...], tuple[Image, ...]] = ((), ())

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, place: int) -> Example:
        """A prompt as the model reads it, with a trial at every step.

        Raises:
            DataError: it cannot be encoded; the message names it.
        """
        where, question, steps, names = self._prompts[place]
        try:
            if self._opened[0] != names:
                self._opened = names, read_images(self._root, names)
            encoded = self._model.encode(question, steps, self._opened[1])
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        tokens_L, images_PxD, marker_S, truncated = encoded
        self._tick(place + 1)
        # A step without trials is padding.
        ones_S = np.ones(len(marker_S), np.int32)
        return Example(tokens_L, images_PxD, marker_S, 0 * ones_S, ones_S, truncated)


def predictions(
    model: Model,
    params: Params,
    solutions: Sequence[Solution],
    examples: Source,
    batch_size: int,
) -> list[Prediction]:
    """The model's scores of all solutions, in their order; ``examples`` are the same,
    encoded, and taken one by one.

    Raises:
        DataError: a score is not a number; the message names the solution.
    """
    scores = score_prompts(model, params, examples, batch_size)
    rows = []
    for one, found in zip(solutions, scores, strict=True):
        of, source = _finite(found, one.where), one.record.source or ""
        labels, cut = one.labels[: len(of)], len(one.labels) - len(of)
        rows.append(Prediction(source, labels, of, one.id, one.number, cut))
    return rows


def _finite(scores: np.ndarray, where: str) -> tuple[float, ...]:
    if not np.isfinite(scores).all():
        raise DataError(f"{where}: the model's score is not a number")
    return tuple(scores.tolist())


def predict(
    model: Model,
    params: Params,
    solutions: Sequence[Solution],
    root: Path | ImageRoot,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """As :func:`predictions`, of solutions whose images lie below ``root``; ``tick`` is
    told how many have been encoded.

    Raises:
        DataError: a solution cannot be encoded or scored; the message names it.
    """
    prompts = Prompts(model, of_solutions(solutions), root, tick)
    return predictions(model, params, solutions, prompts, batch_size)


def score_candidates(
    model: Model,
    params: Params,
    sets: Sequence[CandidateSet],
    root: Path | ImageRoot,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[CandidateSet]:
    """The sets with the model's scores of all candidates, whose images lie below
    ``root``; ``tick`` is told how many have been encoded.

    A candidate that is too long is judged by the steps that fit; its scores are fewer
    than its steps.

    Raises:
        DataError: a candidate cannot be encoded or scored; the message names it.
    """
    prompts = Prompts(model, of_candidates(sets), root, tick)
    return with_scores(sets, score_prompts(model, params, prompts, batch_size))


def with_scores(
    sets: Sequence[CandidateSet], scores: Iterable[np.ndarray]
) -> list[CandidateSet]:
    """The sets with the scores of all candidates' steps, candidate by candidate.

    Raises:
        DataError: a candidate has no score, or one that is not a number.
    """
    following = iter(scores)

    def scored(of: CandidateSet) -> Iterator[Candidate]:
        for number, one in enumerate(of.candidates, 1):
            where = f"{of.where}: candidate {number}"
            found = _finite(next(following), where)
            if not found:
                raise DataError(f"{where}: not one step fits the model")
            truncated = len(one.steps) - len(found)
            yield msgspec.structs.replace(one, scores=found, truncated=truncated)

    return [msgspec.structs.replace(of, candidates=tuple(scored(of))) for of in sets]


def score_prompts(
    model: Model, params: Params, examples: Source, batch_size: int
) -> list[np.ndarray]:
    """Score sigma(Yes - No) of each example's steps, float64 ``[S]``, in order.

    Batches hold examples of like length; tokens are padded to 32, 48, 64, 96, 128, ...,
    steps to 8, 16, 32, ..., patches to powers of two, and a last batch with empty rows.
    So a model is compiled for each such shape that occurs, a handful. A causal model
    gives the same scores whatever an example is batched with.
    """
    scores = []
    for logits_Sx3 in _at_markers(_logits, model, params, examples, batch_size):
        yes_S, no_S, _ = logits_Sx3.astype(np.float64).T
        scores.append(expit(yes_S - no_S))
    return scores


def marker_states(
    model: Model, params: Params, examples: Source, batch_size: int
) -> Iterator[np.ndarray]:
    """What the reward head reads at each example's markers, float32 ``[S, D]``, in
    order, in batches as :func:`score_prompts` makes them.
    """
    for states_SxD in _at_markers(_states, model, params, examples, batch_size):
        yield states_SxD.astype(np.float32)


def _at_markers(
    read: Callable[[Model, Params, Batch], jax.Array],
    model: Model,
    params: Params,
    examples: Source,
    batch_size: int,
) -> Iterator[np.ndarray]:
    places, size = range(len(examples)), _WINDOW * batch_size
    for start in places[::size]:
        window = [examples[place] for place in places[start : start + size]]
        found: dict[int, np.ndarray] = {}
        for rows, buckets in _plan(window, batch_size):
            batch = collate([window[i] for i in rows], buckets, batch_size)
            read_BxSxX = np.asarray(read(model, params, batch))
            for b, i in enumerate(rows):
                found[i] = read_BxSxX[b, : len(window[i].marker_S)]
        yield from (found[i] for i in range(len(window)))


@partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Params, batch: Batch) -> jax.Array:
    return model.reward_logits(params, batch)


@partial(jax.jit, static_argnums=0)
def _states(model: Model, params: Params, batch: Batch) -> jax.Array:
    return model.marker_states(params, batch)


def _plan(
    window: Sequence[Example], batch_size: int
) -> Iterator[tuple[list[int], Buckets]]:
    """Rows of each batch, and the shape it is padded to."""

    def shape(i: int) -> tuple[int, int, int]:
        example = window[i]
        bucket = _LADDER.choose(len(example.tokens_L), len(example.images_PxD))
        steps = max(_SMALLEST_STEPS, 1 << (len(example.marker_S) - 1).bit_length())
        return bucket.patches, bucket.tokens, steps

    order = sorted(range(len(window)), key=shape)
    for patches, same in groupby(order, key=lambda i: shape(i)[0]):
        rows = list(same)
        for start in range(0, len(rows), batch_size):
            of = rows[start : start + batch_size]
            _, tokens, steps = np.max([shape(i) for i in of], axis=0).tolist()
            yield of, Buckets((Bucket(tokens, patches),), steps)
