"""What annotating one corpus by every arm costs, and what its labels are worth."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from experiments.phase.allocations import (
    CAPPED,
    PLANNED,
    Allocation,
    Outcomes,
    checked,
    counted,
    plan,
    read,
    spend,
)
from experiments.phase.annotation_design import (
    BUDGETS,
    FULL,
    KEEP_RATIO,
    RAISES,
    READINGS,
    RULES,
    STAGE,
    Annotation,
)
from experiments.phase.probes import (
    Scenes,
    drawn,
    hidden_states,
    prompts_of,
    standardised,
    task_of,
)
from experiments.students.arms import Arm
from experiments.students.runs import GivenTask, Lesson, train_arms
from experiments.students.worlds import BATCH
from mprm_jax.models import tiny
from sim.scenes.world import UNREPAIRED, WORLDS
from sim.students.train import Student
from theory.rollouts import Rollouts
from theory.selection import select

# Names streams: a seed alone would be that of the scenes.
_OUTCOMES = zlib.crc32(b"outcomes of continuations")
_CHECKER = zlib.crc32(b"exceptions of a checker")

# Corpora whose features lie in memory together.
_TOGETHER = 12

_TAUGHT = {"all": Arm("full"), RULES[0]: Arm(RULES[0], KEEP_RATIO)}


class Corpus(NamedTuple):
    """One corpus, and what all arms are compared with.

    Attributes:
        scenes: with the truth.
        outcomes: of its continuations.
        task: of a student.
        full: the full annotation.
        seed: of everything.
    """

    scenes: Scenes
    outcomes: Outcomes
    task: GivenTask
    full: Allocation
    seed: int


def annotate(world: str, design: Annotation, seed: int) -> dict[str, Any]:
    """Metrics of every arm at every budget, of the controls and of the checker.

    Args:
        world: name.
        design: sizes.
        seed: of the corpus, its benchmark, continuations and trainings.
    """
    corpus = corpus_of(world, design, seed)
    spent = _allocations(corpus)
    tasks = [
        replace(corpus.task, rollouts=read(corpus.outcomes, of, reading))
        for of in spent.values()
        for reading in READINGS
    ]
    taught = iter(_train(tasks, list(_TAUGHT.values()), seed))
    arms: dict[str, dict[str, Any]] = {}
    for (arm, level), of in spent.items():
        arms.setdefault(arm, {})[level] = _measure(corpus, of) | {
            reading: _quality(corpus, of, reading)
            | {f"auroc_{x}": y for x, y in zip(_TAUGHT, next(taught), strict=True)}
            for reading in READINGS
        }
    clean = [replace(arm, labels="clean") for arm in _TAUGHT.values()]
    full = replace(corpus.task, rollouts=counted(corpus.scenes.rollouts, corpus.full))
    (true_labels,) = _train([full], clean, seed)
    return {
        "arms": arms,
        "clean": dict(zip(_TAUGHT, true_labels, strict=True)),
        "corpus": _facts(corpus),
    }


def corpus_of(world: str, design: Annotation, seed: int) -> Corpus:
    """The corpus of a seed, with what a student sees of it."""
    of = UNREPAIRED if world == UNREPAIRED.name else WORLDS[world]
    scenes = drawn(of, design.rollouts, design.judged, seed)
    outcomes = Outcomes.draw(
        scenes.rollouts, scenes.r_S, np.random.default_rng([seed, _OUTCOMES])
    )
    model, params = tiny.pretrained(STAGE)
    hidden = hidden_states(model, params, prompts_of(model, scenes, seed))
    task = task_of(scenes, standardised(hidden, scenes.rollouts.n_steps), seed)
    full = spend("uniform", outcomes, FULL * scenes.rollouts.n_steps)
    return Corpus(scenes, outcomes, task, full, seed)


def _allocations(corpus: Corpus) -> dict[tuple[str, str], Allocation]:
    """By arm and budget; of the checker, by share of exceptions."""
    steps = corpus.scenes.rollouts.n_steps
    found = {
        (arm, f"{level}"): spend(arm, corpus.outcomes, level * steps)
        for arm in CAPPED
        for level in BUDGETS
    }
    found |= {
        (arm, f"{level}"): plan(
            arm, corpus.outcomes, level * steps, corpus.task.content
        )
        for arm in PLANNED
        for level in BUDGETS[1:]
    }
    return found | {
        (f"checker {counts}", f"{raises:g}"): checked(
            corpus.outcomes, raises, counts,
            np.random.default_rng([corpus.seed, _CHECKER]),
        )
        for counts in ("wrong", "skipped")
        for raises in RAISES
    }  # fmt: skip


def _train(
    tasks: Sequence[GivenTask], arms: Sequence[Arm], seed: int
) -> list[list[float]]:
    """AUROC of each arm on each task, a few tasks at a time."""
    found: list[list[float]] = []
    lesson = Lesson(Student(), BATCH)
    for begin in range(0, len(tasks), _TOGETHER):
        some = list(tasks[begin : begin + _TOGETHER])
        trained = train_arms(some, arms, [seed] * len(some), lesson)
        found += np.transpose([of["auroc"] for of in trained]).tolist()
    return found


# --- what labels are worth ------------------------------------------------------------


def _measure(corpus: Corpus, of: Allocation) -> dict[str, Any]:
    """Cost a step; how far K/N is off, of steps that were continued."""
    rollouts = corpus.scenes.rollouts
    last = np.repeat(rollouts.offsets[1:] - 1, rollouts.lengths)
    seen = of.trials > 0
    shift = of.successes[seen] / of.trials[seen] - corpus.scenes.r_S[seen]
    return _rounded(
        {
            "cost": of.trials.mean(),
            "written": (of.trials * (last - np.arange(len(last)))).mean(),
            "bias": shift.mean(),
        }
    )


def _quality(corpus: Corpus, of: Allocation, reading: str) -> dict[str, Any]:
    """Wrong labels, and how much of a selection full annotation keeps as well."""
    told, full, again = (
        read(corpus.outcomes, x, reading)
        for x in (of, corpus.full, corpus.outcomes.again)
    )
    right, label = corpus.scenes.right_S, told.successes > 0
    found = {
        "error": np.mean(label != right),
        "differs": np.mean(label != (full.successes > 0)),
        "false_positives": np.mean(label[~right]),
        "false_negatives": np.mean(~label[right]),
    }
    return _rounded(found | {rule: _kept(corpus, told, again, rule) for rule in RULES})


def _kept(corpus: Corpus, told: Rollouts, again: Rollouts, rule: Any) -> float | None:
    """Share of the subset that another full annotation keeps, too; None where the rule
    finds no prior: first successes alone do not vary as a Beta prior would make them.
    """
    try:
        ours, theirs = (
            select(of, rule, KEEP_RATIO, corpus.task.content).rows
            for of in (told, again)
        )
    except ValueError:
        return None
    return float(np.isin(ours, theirs).mean())


def _facts(corpus: Corpus) -> dict[str, Any]:
    """What kind of world it is."""
    rollouts, right = corpus.scenes.rollouts, corpus.scenes.right_S
    rises = np.diff(right.astype(int), prepend=0) > 0
    rises[rollouts.offsets[:-1]] = False
    full = counted(rollouts, corpus.full)
    mixed = (full.n_positive > 0) & (full.n_positive < full.n_measured)
    return _rounded(
        {
            "steps": rollouts.n_steps,
            "wrong": np.mean(~right),
            "mixed": mixed.mean(),
            "r_wrong": corpus.scenes.r_S[~right].mean(),
            "r_right": corpus.scenes.r_S[right].mean(),
            # A right step after a wrong one: no search for a first error finds it.
            "right_again": np.mean(rollouts.total(rises) > 0),
        }
    )


def _rounded(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Six digits: more would say nothing and fill the store."""
    return {k: None if x is None else round(float(x), 6) for k, x in values.items()}
