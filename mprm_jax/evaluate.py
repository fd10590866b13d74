"""Scores of a model on judged solutions: encode, batch, score, in any order alike.

Threads encode what comes next while the devices compute. Parameters that lie on a mesh
are computed with there: every batch is split over its copies and parts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh, NamedSharding
from PIL.Image import Image
from scipy.special import expit

from mprm_jax.data.batches import Batch, Bucket, Buckets, Example, collate, open_ladder
from mprm_jax.data.images import read_images
from mprm_jax.data.loader import Source
from mprm_jax.data.scored import Candidate, CandidateSet, Prediction, Solution
from mprm_jax.models.model import Model, Params
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import ImageRoot
from mprm_jax.train.objective import MAX_LOG_CONCENTRATION
from mprm_jax.train.sharding import batch_parts, place_batch

# Examples are encoded, sorted by length and scored this many batches at a time: images
# of a whole benchmark need not fit the memory, and lengths in a batch are near alike.
_WINDOW = 16

# Prompts that a thread encodes in one go: those of one problem share their pictures.
_IN_A_GO = 4

# Shapes as in training: pictures come in hundreds of sizes.
_LADDER = open_ladder(1, tokens=1 << 20, patches=1 << 20)
_SMALLEST_STEPS = 8


@dataclass(frozen=True)
class Scoring:
    """How prompts are scored; but for rounding, nothing here changes a score.

    Attributes:
        batch_size: prompts scored at a time, at least 1; on a mesh rounded up to a
            multiple of the parts that share them.
        threads: that encode ahead; 0 encodes in the caller's, between batches.
        tick: told how many prompts have been scored.
    """

    batch_size: int
    threads: int = 0
    tick: Callable[[int], None] = lambda done: None


class Prompt(NamedTuple):
    """What is asked and said, as it stands on disk; ``where`` is for messages."""

    where: str
    question: str
    steps: Sequence[str]
    images: tuple[str, ...]


def of_solutions(solutions: Sequence[Solution]) -> list[Prompt]:
    """The prompts of a benchmark."""
    found = []
    for of in solutions:
        texts = [step.text for step in of.record.steps]
        found.append(Prompt(of.where, of.record.question, texts, of.record.images))
    return found


def of_candidates(sets: Sequence[CandidateSet]) -> list[Prompt]:
    """The prompts of all candidates, set by set."""
    return [
        Prompt(of.where, of.question, one.steps, of.images)
        for of in sets
        for one in of.candidates
    ]


class Prompts:
    """Prompts without labels, encoded one by one when asked for, by any thread.

    Args:
        model: encodes.
        prompts: those of one problem follow one another.
        root: of their images.
    """

    def __init__(
        self, model: Model, prompts: Sequence[Prompt], root: Path | ImageRoot
    ) -> None:
        self._model, self._prompts, self._root = model, prompts, root
        # The pictures opened last, of each thread.
        self._opened = threading.local()

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, place: int) -> Example:
        """A prompt as the model reads it, with a trial at every step.

        Raises:
            DataError: it cannot be encoded; the message names it.
        """
        where, question, steps, names = self._prompts[place]
        try:
            encoded = self._model.encode(question, steps, self._images(names))
        except BadRecord as error:
            raise DataError(f"{where}: {error}") from None
        tokens_L, images_PxD, marker_S, truncated = encoded
        # A step without trials is padding.
        ones_S = np.ones(len(marker_S), np.int32)
        return Example(tokens_L, images_PxD, marker_S, 0 * ones_S, ones_S, truncated)

    def _images(self, names: tuple[str, ...]) -> tuple[Image, ...]:
        before, images = getattr(self._opened, "last", ((), ()))
        if before != names:
            images = read_images(self._root, names)
            self._opened.last = names, images
        return images


def predictions(
    model: Model,
    params: Params,
    solutions: Sequence[Solution],
    examples: Source,
    how: Scoring,
) -> list[Prediction]:
    """The model's scores of all solutions, in their order; ``examples`` are the same,
    encoded.

    Raises:
        DataError: a score is not a number; the message names the solution.
    """
    scores = score_prompts(model, params, examples, how)
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
    how: Scoring,
) -> list[Prediction]:
    """As :func:`predictions`, of solutions whose images lie below ``root``.

    Raises:
        DataError: a solution cannot be encoded or scored; the message names it.
    """
    prompts = Prompts(model, of_solutions(solutions), root)
    return predictions(model, params, solutions, prompts, how)


def score_candidates(
    model: Model,
    params: Params,
    sets: Sequence[CandidateSet],
    root: Path | ImageRoot,
    how: Scoring,
) -> list[CandidateSet]:
    """The sets with the model's scores of all candidates, whose images lie below
    ``root``, and with their concentrations where the model was trained to give them.

    A candidate that is too long is judged by the steps that fit; its scores are fewer
    than its steps.

    Raises:
        DataError: a candidate cannot be encoded or scored; the message names it.
    """
    prompts = Prompts(model, of_candidates(sets), root)
    return with_scores(sets, step_beliefs(model, params, prompts, how))


def with_scores(
    sets: Sequence[CandidateSet], beliefs: Sequence[StepBeliefs]
) -> list[CandidateSet]:
    """The sets with what is believed of all candidates' steps, candidate by candidate.

    The row of the log concentration begins at zero and stays there unless it is
    trained; then the concentrations, all 1, say nothing and are left out.

    Raises:
        DataError: a candidate has no score, or one that is not a number.
    """
    following = iter(beliefs)
    trained = any((of.concentrations != 1).any() for of in beliefs)

    def scored(of: CandidateSet) -> Iterator[Candidate]:
        for number, one in enumerate(of.candidates, 1):
            where = f"{of.where}: candidate {number}"
            belief = next(following)
            found = _finite(belief.scores, where)
            if not found:
                raise DataError(f"{where}: not one step fits the model")
            spread = tuple(belief.concentrations.tolist()) if trained else None
            yield msgspec.structs.replace(
                one,
                scores=found,
                concentrations=spread,
                truncated=len(one.steps) - len(found),
            )

    return [msgspec.structs.replace(of, candidates=tuple(scored(of))) for of in sets]


def score_prompts(
    model: Model, params: Params, examples: Source, how: Scoring
) -> list[np.ndarray]:
    """Score sigma(Yes - No) of each example's steps, float64 ``[S]``, in order.

    Batches hold examples of like length; tokens are padded to 32, 48, 64, 96, 128, ...,
    steps to 8, 16, 32, ..., patches to powers of two, and a last batch with empty rows.
    So a model is compiled for each such shape that occurs, a handful. A causal model
    gives the same scores whatever an example is batched with.
    """
    return [of.scores for of in step_beliefs(model, params, examples, how)]


class StepBeliefs(NamedTuple):
    """What a model believes of the success rates of an example's steps.

    Attributes:
        scores: their means m, float64 ``[S]``.
        concentrations: c of Beta(c m, c (1 - m)), float64 ``[S]``; 1 of every step
            unless the model was trained on counts.
    """

    scores: np.ndarray
    concentrations: np.ndarray


def step_beliefs(
    model: Model, params: Params, examples: Source, how: Scoring
) -> list[StepBeliefs]:
    """As :func:`score_prompts`, with the concentrations."""
    found = []
    for logits_Sx3 in _at_markers(_logits, model, params, examples, how):
        yes_S, no_S, log_S = logits_Sx3.astype(np.float64).T
        log_S = log_S.clip(-MAX_LOG_CONCENTRATION, MAX_LOG_CONCENTRATION)
        found.append(StepBeliefs(expit(yes_S - no_S), np.exp(log_S)))
    return found


def marker_states(
    model: Model, params: Params, examples: Source, how: Scoring
) -> Iterator[np.ndarray]:
    """What the reward head reads at each example's markers, float32 ``[S, D]``, in
    order, in batches as :func:`score_prompts` makes them.
    """
    for states_SxD in _at_markers(_states, model, params, examples, how):
        yield states_SxD.astype(np.float32)


class _Dispatched(NamedTuple):
    """A batch that the devices compute.

    Attributes:
        places: of its examples in the source.
        steps: of each.
        read_BxSxX: to be waited for.
    """

    places: list[int]
    steps: list[int]
    read_BxSxX: jax.Array


def _at_markers(
    read: Callable[[Model, Params, Batch], jax.Array],
    model: Model,
    params: Params,
    examples: Source,
    how: Scoring,
) -> Iterator[np.ndarray]:
    """What ``read`` gives at each example's markers, in order.

    A batch is waited for once the next one has been dispatched.
    """
    mesh = mesh_of(params)
    parts = 1 if mesh is None else batch_parts(mesh)
    batch_size = -(-how.batch_size // parts) * parts

    def put(batch: Batch) -> Batch:
        return batch if mesh is None else place_batch(mesh, batch)

    def dispatched() -> Iterator[_Dispatched]:
        start = 0
        for window in _windows(examples, _WINDOW * batch_size, how.threads):
            plan = list(_plan(window, batch_size))
            # Taken out as they are used: the next window needs the memory.
            left = dict(enumerate(window))
            window.clear()
            for rows, buckets in plan:
                of = [left.pop(i) for i in rows]
                batch = put(collate(of, buckets, batch_size))
                places = [start + i for i in rows]
                steps = [len(one.marker_S) for one in of]
                yield _Dispatched(places, steps, read(model, params, batch))
            start += _WINDOW * batch_size

    found: dict[int, np.ndarray] = {}
    following = done = 0
    for one, _ in pairwise(chain(dispatched(), [None])):
        assert one is not None
        read_BxSxX = np.asarray(one.read_BxSxX)
        for b, (place, steps) in enumerate(zip(one.places, one.steps, strict=True)):
            found[place] = read_BxSxX[b, :steps]
        done += len(one.places)
        how.tick(done)
        while following in found:
            yield found.pop(following)
            following += 1


def mesh_of(params: Params) -> Mesh | None:
    """The mesh that the parameters lie on; None: one device, or none yet."""
    for leaf in jax.tree.leaves(params):
        where = getattr(leaf, "sharding", None)
        if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh):
            return where.mesh
    return None


def _windows(examples: Source, size: int, threads: int) -> Iterator[list[Example]]:
    """The examples, so many at a time; threads read the next while one is used.

    Raises:
        DataError: of the first example that cannot be read, whatever else cannot.
    """

    def read(places: range) -> list[Example]:
        return [examples[place] for place in places]

    def cut(places: range, size: int) -> Iterator[range]:
        return (places[start : start + size] for start in range(0, len(places), size))

    windows = cut(range(len(examples)), size)
    if not threads:
        yield from map(read, windows)
        return
    pool = ThreadPoolExecutor(threads)

    def ahead(window: range) -> list[Future[list[Example]]]:
        return [pool.submit(read, few) for few in cut(window, _IN_A_GO)]

    try:
        for window, _ in pairwise(chain(map(ahead, windows), [None])):
            yield [one for few in window or () for one in few.result()]
    finally:
        pool.shutdown(cancel_futures=True)


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
