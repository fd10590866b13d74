"""VisualProcessBench: solutions with a human judgement of every step (read only).

``{"image": [paths] or path, "question", "response": {"steps": [s1, s2],
"process_correctness": [1, -1]}, "data_source", "answer"?}``

1 is positive and -1 negative (one trial each). 0 is neutral, which the benchmark leaves
out of its scores: trials 0. The source is ``data_source``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured, check_paired
from mprm_jax.records.record import Record, Step

# (successes, trials) of a judgement.
_COUNTS = {1: (1, 1), -1: (0, 1), 0: (0, 0)}


class _Response(msgspec.Struct, frozen=True):
    steps: tuple[str, ...]
    process_correctness: tuple[Literal[-1, 0, 1], ...]


class _Solution(Pictured, frozen=True):
    question: str
    response: _Response
    data_source: str
    answer: str | int | float | None = None


def _read(value: _Solution, options: ReadOptions) -> Record:
    response = value.response
    check_paired(len(response.steps), len(response.process_correctness))
    steps = tuple(
        Step(text.strip(), *_COUNTS[judgement])
        for text, judgement in zip(
            response.steps, response.process_correctness, strict=True
        )
    )
    return Record(
        question=value.question.strip(),
        steps=steps,
        image=value.paths(),
        answer=None if value.answer is None else str(value.answer),
        source=value.data_source or None,
    )


def _recognise(keys: dict) -> bool:
    match keys:
        case {"response": {"process_correctness": _}}:
            return True
    return False


VISUALPROCESSBENCH = Format(
    name="visualprocessbench",
    meaning="VisualProcessBench: human judgements 1, -1, 0 (neutral); read only",
    decoder=msgspec.json.Decoder(_Solution),
    read=_read,
    write=None,
    human=True,
    benchmark=True,
    recognise=_recognise,
)
