"""A world of scenes on disk, in the formats of real corpora and benchmarks.

``annotations/<source>.jsonl`` (raw records), ``images/``, and what only a simulator
knows in ``truth/<source>.jsonl``, line by line; ``benchmark/`` holds judged solutions
of held-out sources (``test.jsonl``, ``truth.jsonl``), candidate sets
(``candidates.jsonl``) and their ``images/``.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from PIL import Image

from experiments.corpora.scene_text import questions, step_texts
from experiments.corpora.simulated import MADE_HERE
from experiments.store.provenance import versions
from mprm_jax.data.corpus import Corpus
from mprm_jax.data.outputs import OUTPUT_SCHEMA, alone, manifest_bytes
from mprm_jax.records.problems import DataError, faults_of
from sim.scenes.pictures import draw
from sim.scenes.policy import Problems
from sim.scenes.solutions import Solutions
from sim.scenes.world import (
    Judged,
    Labelled,
    World,
    sample_benchmark,
    sample_candidates,
    sample_corpus,
)

CANDIDATES = 16
# Pictures drawn at a time: those of a source of any size need not fit the memory.
_BLOCK = 1024


def write_world(
    folder: Path,
    world: World,
    *,
    rollouts: int,
    judged: int,
    problems: int,
    seed: int,
    number: int = 0,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Labelled]:
    """Simulate and write a world; the folder appears whole or not at all.

    A world has any number of corpora, and one benchmark with its candidates, which is
    written beside the first.

    Args:
        folder: to write; a world that was written there before is replaced.
        world: which.
        rollouts: of the corpus.
        judged: solutions of the benchmark.
        problems: with candidates.
        seed: of the world: same seed, same bytes.
        number: of the corpus in its world, from 0.
        tick: told how many pictures have been drawn.

    Returns:
        the corpus, source by source.

    Raises:
        DataError: it cannot be written, or ``folder`` holds files that no simulation
            wrote.
    """
    streams = _streams(seed, number)
    corpus = world_corpus(world, rollouts, seed, number)
    arguments = {
        "world": world.name,
        "rollouts": rollouts,
        "judged": judged,
        "problems": problems,
        "seed": seed,
        "number": number,
    }
    with _new_folder(folder) as new:
        pictures = _Pictures(streams[-1], tick)
        for part in corpus:
            _write_source(new, part, world, pictures)
        if not number:
            benchmark = sample_benchmark(judged, streams[1])
            sets = sample_candidates(problems, CANDIDATES, streams[2])
            _write_benchmark(new / "benchmark", benchmark, sets, pictures)
        manifest = {"versions": versions(), **arguments}
        (new / MADE_HERE).write_bytes(manifest_bytes(manifest, OUTPUT_SCHEMA))
    return corpus


def world_corpus(
    world: World, rollouts: int, seed: int, number: int = 0
) -> list[Labelled]:
    """A world's corpus as :func:`write_world` writes it, source by source."""
    stream = _streams(seed, number)[-2 if number else 0]
    return sample_corpus(world, rollouts, stream)


def _streams(seed: int, number: int) -> list[np.random.Generator]:
    # The first four are of the first corpus, the benchmark, the candidates, and the
    # pictures of all these; each further corpus has two of its own.
    return np.random.default_rng(seed).spawn(4 + 2 * number)


class Truth(msgspec.Struct, frozen=True):
    """What only the simulator knows of a rollout.

    Attributes:
        r: exact one-shot success probability of each step.
        correct: 1 right, -1 wrong, 0 neutral, of each step.
        slip_rate: the policy's.
    """

    r: tuple[float, ...]
    correct: tuple[Literal[-1, 0, 1], ...]
    slip_rate: float


def read_truth(folder: Path, corpus: Corpus) -> list[Truth]:
    """The truth of every rollout of a world's corpus, in the corpus's order.

    Raises:
        DataError: it is missing, or does not fit the rollouts.
    """
    decoder = msgspec.json.Decoder(Truth)
    found = {}
    lengths = corpus.rollouts.lengths
    for number, file in enumerate(corpus.files):
        path = folder / "truth" / file.path.name.removesuffix(".gz")
        with faults_of(path):
            lines = path.read_bytes().split(b"\n")
        for row in np.flatnonzero(corpus.file == number).tolist():
            line = int(corpus.line[row])
            where = f"{path}:{line}"
            if line > len(lines):
                raise DataError(f"{where}: no truth for {corpus.where(row)}")
            with faults_of(where, "no truth"):
                truth = decoder.decode(lines[line - 1])
            if not len(truth.r) == len(truth.correct) == lengths[row]:
                raise DataError(
                    f"{where}: truth of {len(truth.r)} and {len(truth.correct)} steps, "
                    f"the rollout has {lengths[row]}"
                )
            found[row] = truth
    return [found[row] for row in range(len(lengths))]


class _Pictures:
    def __init__(self, rng: np.random.Generator, tick: Callable[[int], None]) -> None:
        self._rng, self._tick, self._done = rng, tick, 0

    def write(self, root: Path, problems: Problems, prefix: str) -> None:
        folder = root / problems.source.name
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(problems), _BLOCK):
            values = problems.values[start : start + _BLOCK]
            for i, pixels in enumerate(draw(problems.source.kind, values, self._rng)):
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "png", compress_level=0)
                name = _picture_name(start + i, prefix)
                (folder / name).write_bytes(data.getvalue())
            self._done += len(values)
            self._tick(self._done)


def _picture_name(row: int, prefix: str) -> str:
    return f"{prefix}{row:06d}.png"


def _picture_path(problems: Problems, row: int, prefix: str = "") -> str:
    return f"{problems.source.name}/{_picture_name(row, prefix)}"


def _write_source(
    folder: Path, part: Labelled, world: World, pictures: _Pictures
) -> None:
    solutions = part.solutions
    name = solutions.problems.source.name
    _write_lines(
        folder / "annotations" / f"{name}.jsonl", _raw_records(part, world.trials)
    )
    slip = world.solver.misread(solutions.problems)
    correct = solutions.correct()
    _write_lines(
        folder / "truth" / f"{name}.jsonl",
        (
            {
                "r": [round(r, 6) for r in part.r[start:end].tolist()],
                "correct": correct[start:end].tolist(),
                "slip_rate": round(float(slip[row]), 6),
            }
            for row, (start, end) in enumerate(_spans(solutions))
        ),
    )
    pictures.write(folder / "images", solutions.problems, "")


def _write_benchmark(
    folder: Path, benchmark: list[Judged], sets: list[Solutions], pictures: _Pictures
) -> None:
    test, truth, lines = [], [], []
    for part in benchmark:
        for record, fact in _judged_records(part.solutions, part.prior):
            test.append(record)
            truth.append(fact)
        pictures.write(folder / "images", part.solutions.problems, "")
    for solutions in sets:
        lines.extend(_candidate_records(solutions))
        firsts = np.arange(0, len(solutions.problems), CANDIDATES)
        pictures.write(folder / "images", solutions.problems.take(firsts), "c")
    _write_lines(folder / "test.jsonl", test)
    _write_lines(folder / "truth.jsonl", truth)
    _write_lines(folder / "candidates.jsonl", lines)


def _spans(solutions: Solutions) -> Iterator[tuple[int, int]]:
    ends = solutions.offsets.tolist()
    return itertools.pairwise(ends)


def _raw_records(part: Labelled, trials: int) -> Iterator[dict[str, Any]]:
    solutions = part.solutions
    problems = solutions.problems
    answers = problems.true_results()[:, -1].tolist()
    successes = part.successes.tolist()
    for row, (question, texts, (start, end)) in enumerate(
        zip(questions(solutions), step_texts(solutions), _spans(solutions), strict=True)
    ):
        yield {
            "image": _picture_path(problems, row),
            "question": question,
            "answer": str(answers[row]),
            "response": "\n\n".join(texts),
            "steps_with_score": [
                {
                    "step": text,
                    "score": k / trials,
                    "num_mc_correct": k,
                    "num_mc_total": trials,
                }
                for text, k in zip(texts, successes[start:end], strict=True)
            ],
            "num_mc_sequences": trials,
        }


def _judged_records(
    solutions: Solutions, prior: np.ndarray
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    problems = solutions.problems
    correct = solutions.correct().tolist()
    answers = problems.true_results()[:, -1].tolist()
    for row, (question, texts, (start, end)) in enumerate(
        zip(questions(solutions), step_texts(solutions), _spans(solutions), strict=True)
    ):
        record = {
            "image": [_picture_path(problems, row)],
            "question": question,
            "response": {"steps": texts, "process_correctness": correct[start:end]},
            "answer": str(answers[row]),
            "data_source": problems.source.name,
        }
        yield record, {"slip_prior": [round(p, 6) for p in prior[start:end].tolist()]}


def _candidate_records(solutions: Solutions) -> Iterator[dict[str, Any]]:
    problems = solutions.problems
    asked = questions(solutions)
    texts = list(step_texts(solutions))
    truth = problems.true_results()[:, -1].tolist()
    answers = solutions.result[solutions.offsets[1:] - 1].tolist()
    for first in range(0, len(problems), CANDIDATES):
        rows = range(first, first + CANDIDATES)
        yield {
            "image": _picture_path(problems, first // CANDIDATES, "c"),
            "question": asked[first],
            "answer": str(truth[first]),
            "data_source": problems.source.name,
            "candidates": [
                {"steps": texts[row], "answer": str(answers[row])} for row in rows
            ],
        }


def _write_lines(path: Path, records: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place when the block ends well."""
    if folder.exists() and _occupied(folder):
        raise DataError(
            f"{folder}: holds files that no simulation wrote; choose another --output"
        )
    with faults_of(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent):
            _sweep(folder)
            prefix = f".{folder.name}."
            named = tempfile.mkdtemp(".partial", prefix, folder.parent)
            held = _hold(Path(named))
    new = Path(named)
    try:
        with faults_of(folder):
            yield new
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(new, 0o777 & ~umask)
            with alone(folder.parent):
                _exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if held is not None:
            os.close(held)


def _exchange(new: Path, folder: Path) -> None:
    old = new.with_suffix(".old")
    try:
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed runs left of a folder; one that was taken away comes back."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}\.(old|partial)")
    for path in sorted(folder.parent.iterdir()):
        if not left.fullmatch(path.name) or (held := _hold(path)) is None:
            continue
        if path.suffix == ".old" and not folder.exists():
            os.rename(path, folder)
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def _hold(folder: Path) -> int | None:
    """Descriptor of a folder that is now locked; None: a living run has it."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


# All that a world's folder holds; anything else in it is somebody's work.
_PARTS = {"annotations", "images", "truth", "benchmark", MADE_HERE}


def _occupied(folder: Path) -> bool:
    if not folder.is_dir():
        return True
    names = {path.name for path in folder.iterdir()}
    return bool(names) and (MADE_HERE not in names or not names <= _PARTS)
