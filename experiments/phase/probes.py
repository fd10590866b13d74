"""Diagram (b): linear probes on frozen hidden states of the tiny backbone."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xxhash

from experiments.corpora.scene_text import questions, step_texts
from experiments.phase.cells import METRICS, Cell, follows, gains_of
from experiments.phase.design import CLEAN, HARD, KEEP_RATIOS, RULES, Nets, Probes
from experiments.students.arms import Arm
from experiments.students.runs import GivenTask, Lesson, SeenSteps, train_arms
from experiments.students.worlds import BATCH
from mprm_jax.data.outputs import OutputSet
from mprm_jax.data.prompt import encode_prompt
from mprm_jax.models import tiny
from mprm_jax.records.problems import DataError, faults_of
from sim.scenes.pictures import draw
from sim.scenes.solutions import Solutions
from sim.scenes.world import WORLDS, World, sample_benchmark, sample_corpus
from sim.students.evaluation import Split
from sim.students.train import Student
from theory.rollouts import Rollouts

# Rollouts that go through the backbone together, alike in length.
_TOGETHER, _TOKEN_MULTIPLE = 200, 16

# Names of streams: a seed alone would be that of the scenes.
_PICTURES = zlib.crc32(b"pictures of a probe")
_TIES = zlib.crc32(b"ties of a probe")


def cells(design: Probes, world: str, stages: Sequence[int]) -> list[Cell]:
    """A diagram's cells at these stages; those of one training stand together."""
    return [
        Cell("probes", world, stage, placement, keep_ratio, design.units, design.seeds)
        for stage in stages
        for placement in design.placements
        for keep_ratio in KEEP_RATIOS
    ]


class Scenes(NamedTuple):
    """A corpus of scenes and its benchmark.

    Attributes:
        solutions: of each source, the corpus's first.
        rollouts: counts of the corpus.
        right_S: truth of its steps.
        r_S: exact success probability of a continuation from each.
        judged: steps of the benchmark that are not neutral.
        split: their truth and source.
        held_out: whether the threshold is chosen on them.
    """

    solutions: Sequence[Solutions]
    rollouts: Rollouts
    right_S: np.ndarray
    r_S: np.ndarray
    judged: np.ndarray
    split: Split
    held_out: np.ndarray


@cache
def drawn(world: World, rollouts: int, judged: int, seed: int) -> Scenes:
    """A corpus and a benchmark of a visual world, those that
    :func:`experiments.corpora.scenes.write_world` writes for this seed.
    """
    streams = np.random.default_rng(seed).spawn(2)
    parts = sample_corpus(world, rollouts, streams[0])
    test = [part.solutions for part in sample_benchmark(judged, streams[1])]
    train = [part.solutions for part in parts]
    successes = np.concatenate([part.successes for part in parts])
    lengths = np.concatenate([np.diff(of.offsets) for of in train])
    counts = Rollouts(
        successes,
        np.full(len(successes), world.trials),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.repeat(np.arange(len(train)), [len(of.problems) for of in train]),
        tuple(of.problems.source.name for of in train),
    )
    correct = np.concatenate([of.correct() for of in test])
    judged_steps = np.flatnonzero(correct != 0)
    source = np.repeat(np.arange(len(test)), [len(of.action) for of in test])
    sizes = np.concatenate([np.diff(of.offsets) for of in test])
    # Every second solution, as of the students' benchmark.
    held_out = np.repeat(np.arange(len(sizes)) % 2 == 0, sizes)
    return Scenes(
        (*train, *test),
        counts,
        np.concatenate([truth_of(of) for of in train]),
        np.concatenate([part.r for part in parts]),
        judged_steps,
        Split(correct[judged_steps] == 1, source[judged_steps]),
        held_out[judged_steps],
    )


def scenes_of(design: Probes | Nets, world: str, seed: int) -> Scenes:
    """The scenes of a diagram."""
    return drawn(WORLDS[world], design.rollouts, design.judged, seed)


def truth_of(solutions: Solutions) -> np.ndarray:
    """Whether each step is right; a neutral one as the result that it carries on."""
    correct = solutions.correct()
    return np.where(correct == 0, solutions.result_is_right(), correct == 1)


# --- hidden states --------------------------------------------------------------------


class Prompts(NamedTuple):
    """What a backbone reads of each rollout.

    Attributes:
        images_RxPxD: uint8 patches.
        tokens: of each, int32.
        markers: where its steps end.
    """

    images_RxPxD: np.ndarray
    tokens: Sequence[np.ndarray]
    markers: Sequence[np.ndarray]


def prompts_of(model: tiny.TinyModel, scenes: Scenes, seed: int) -> Prompts:
    """Pictures drawn from a stream of the seed, and tokens, corpus first."""
    rng = np.random.default_rng([seed, _PICTURES])
    images = [
        tiny.patchify(draw(of.problems.source.kind, of.problems.values, rng))
        for of in scenes.solutions
    ]
    encoded = [
        encode_prompt(model.tokenizer, question, steps, tiny.MAX_TOKENS)
        for of in scenes.solutions
        for question, steps in zip(questions(of), step_texts(of), strict=True)
    ]
    tokens, markers, _ = zip(*encoded, strict=True)
    return Prompts(np.concatenate(images), tokens, markers)


_at_markers = jax.jit(tiny.marker_states, static_argnums=0)


def hidden_states(model: tiny.TinyModel, params: Any, prompts: Prompts) -> np.ndarray:
    """Last hidden state at every step's marker, float16 ``[S, D]``."""
    lengths = np.array([len(tokens) for tokens in prompts.tokens])
    steps = np.array([len(marker) for marker in prompts.markers])
    first = np.cumsum(steps) - steps
    hidden = np.empty((steps.sum(), model.config.width), np.float16)
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), _TOGETHER):
        rows = np.resize(order[begin : begin + _TOGETHER], _TOGETHER).tolist()
        width = -(-lengths[rows].max() // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE
        tokens = np.zeros((_TOGETHER, width), np.int32)
        at = np.zeros((_TOGETHER, steps.max()), np.int32)
        for i, row in enumerate(rows):
            tokens[i, : lengths[row]] = prompts.tokens[row]
            at[i, : steps[row]] = prompts.markers[row]
        images = prompts.images_RxPxD[rows]
        found = np.asarray(_at_markers(model.config, params, images, tokens, at))
        for row, of in zip(rows, found, strict=True):
            hidden[first[row] : first[row] + steps[row]] = of[: steps[row]]
    return hidden


def _write(path: Path, hidden: np.ndarray) -> None:
    data = io.BytesIO()
    np.save(data, hidden, allow_pickle=False)
    with OutputSet() as outputs:
        outputs.add(path).write(data.getvalue())


def read_hidden(path: Path) -> np.ndarray:
    """The hidden states in a file.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        with faults_of(path):
            return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path}: no hidden states ({error}); remove it") from error


def standardised(hidden_SxD: np.ndarray, corpus_steps: int) -> np.ndarray:
    """Less the mean over the corpus's steps, which come first, divided by their
    standard deviation, coordinate by coordinate, float32.
    """
    hidden_SxD = hidden_SxD.astype(np.float32)
    of_corpus = hidden_SxD[:corpus_steps]
    scale = of_corpus.std(axis=0)
    # A coordinate that never moves says nothing, whatever its scale.
    return (hidden_SxD - of_corpus.mean(axis=0)) / np.where(scale > 0, scale, 1)


def hidden_file(folder: Path, world: str, number: int, backbone: str) -> Path:
    """Where the hidden states of a corpus lie; another backbone, another file."""
    return folder / f"{world}-{number}-{fingerprint(backbone)}.npy"


@cache
def fingerprint(backbone: str) -> str:
    """Hash of the weights of a backbone."""
    return xxhash.xxh3_64_hexdigest(tiny.pretrained_bytes(backbone))


def keep_hidden_states(
    design: Probes, world: str, backbones: Mapping[int, str], folder: Path, seed: int
) -> Iterator[None]:
    """Compute what the folder lacks of a world's corpora at every stage, each file
    whole or not at all; yields after each corpus.

    Raises:
        DataError: a file cannot be written.
    """
    for number in range(seed, seed + design.units):
        missing = {
            file: name
            for name in backbones.values()
            if not (file := hidden_file(folder, world, number, name)).is_file()
        }
        prompts = None
        for file, name in missing.items():
            model, params = tiny.pretrained(name)
            if prompts is None:
                prompts = prompts_of(model, scenes_of(design, world, number), number)
            _write(file, hidden_states(model, params, prompts))
        yield


# --- probes ---------------------------------------------------------------------------


def compute(
    group: Sequence[Cell], design: Probes, backbone: str, folder: Path, seed: int
) -> list[dict[str, Any]]:
    """Metrics of cells that differ in their keep ratio alone.

    Args:
        group: the cells.
        design: of the diagram.
        backbone: of their stage, as :func:`mprm_jax.models.tiny.pretrained` takes it.
        folder: of the hidden states, which are there.
        seed: the first.
    """
    first = group[0]
    labels: Any = "hard-0" if first.placement == HARD else first.placement
    arms = [
        Arm(rule, cell.keep_ratio, labels=labels) for cell in group for rule in RULES
    ]
    found = taught(first, arms, design, backbone, folder, seed)
    return gains_of(group, arms, found, placed(design, first, seed))


def taught(
    at: Cell,
    arms: Sequence[Arm],
    design: Probes,
    backbone: str,
    folder: Path,
    seed: int,
) -> list[dict[str, list[float]]]:
    """Metrics of each arm at a world and a stage, lists over units and seeds; arguments
    as of :func:`compute`.
    """
    found: list[dict[str, list[float]]] = [{name: [] for name in METRICS} for _ in arms]
    for unit in range(at.units):
        number = seed + unit
        scenes = scenes_of(design, at.world, number)
        hidden = read_hidden(hidden_file(folder, at.world, number, backbone))
        hidden = standardised(hidden, scenes.rollouts.n_steps)
        seeds = range(seed + unit * at.seeds, seed + (unit + 1) * at.seeds)
        tasks = [task_of(scenes, hidden, number) for number in seeds]
        trained = train_arms(tasks, arms, seeds, Lesson(Student(), BATCH))
        for of, metrics in zip(found, trained, strict=True):
            for name in METRICS:
                of[name] += metrics[name]
    return found


def placed(design: Probes | Nets, cell: Cell, seed: int) -> list[float] | None:
    """How far noise follows position in each unit's corpus; None: there is none."""
    if cell.placement == CLEAN:
        return None
    numbers = range(seed, seed + cell.units)
    scenes = {number: scenes_of(design, cell.world, number) for number in numbers}
    return [
        follows(of.rollouts, of.right_S, cell.placement, number)
        for number, of in scenes.items()
    ]


def task_of(scenes: Scenes, hidden_SxD: np.ndarray, seed: int) -> GivenTask:
    """What a head is trained and judged on; the seed orders ties."""
    rollouts = scenes.rollouts
    content = np.random.default_rng([seed, _TIES]).integers(
        0, 2**64, rollouts.n_rollouts, np.uint64, endpoint=False
    )
    corpus, test = np.split(hidden_SxD, [rollouts.n_steps])
    return GivenTask(
        rollouts,
        content,
        SeenSteps(corpus, scenes.right_S),
        SeenSteps(test[scenes.judged], scenes.split.right_S),
        scenes.split,
        scenes.held_out,
    )
