"""Solutions of the visual world as text: what is written to disk and tokenised."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sim.scenes.grammar import NEUTRAL_STEP, final_text, question_text, step_text
from sim.scenes.solutions import NEUTRAL, READ, Solutions


def questions(solutions: Solutions) -> list[str]:
    """The question of each solution."""
    problems = solutions.problems
    return [
        question_text(problems.source, cells[:n], int(target))
        for cells, n, target in zip(
            problems.cells, problems.n_items, problems.target, strict=True
        )
    ]


def step_texts(solutions: Solutions) -> Iterator[list[str]]:
    """The steps of each solution, in order."""
    problems = solutions.problems
    texts = [
        _text(solutions, problems.cells[row], index)
        for index, row in enumerate(solutions.rollout)
    ]
    for start, end in itertools.pairwise(solutions.offsets):
        yield texts[start:end]


def _text(solutions: Solutions, cells, index: int) -> str:
    action = solutions.action[index]
    result = int(solutions.result[index])
    if action == NEUTRAL:
        return NEUTRAL_STEP
    source = solutions.problems.source
    repaired = bool(solutions.repaired[index])
    if action == READ:
        return step_text(
            source,
            int(cells[solutions.item[index]]),
            int(solutions.read[index]),
            result,
            int(solutions.earlier[index]) if repaired else None,
        )
    return final_text(source, result, repaired)
