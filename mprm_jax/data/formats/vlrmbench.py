"""VLRMBench: reasoning about pictures with errors of one class (read only).

``{"id", "image": [paths], "question", "step_list": [s1, s2], "reasoning_error":
"STEP1: s1\\nSTEP2: s2", "task_gt": [0, 1], "category"}``

- ``reasoning_error``, cut before each ``STEPn:``, or a list, is judged; ``step_list``,
  from which it was made, only where it stands alone: its steps have no labels.
- ``task_gt`` is 1 where a step has the error of ``category``, which is the source, else
  0 (one trial each). Of ``redundant_det`` such a step is superfluous.
- The tasks whose ``task_gt`` is no such list judge answers or texts and are refused:
  foresight, multi_solution, error_reason_analysis, error_correction.

Source: Ruan et al. 2025, their files and evaluation code.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured, check_paired
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

_MARK = re.compile(r"^[ \t]*STEP ?(\d+) ?:", re.MULTILINE | re.IGNORECASE)


class _Task(Pictured, frozen=True):
    question: str
    task_gt: Any = None
    reasoning_error: str | tuple[str, ...] | None = None
    step_list: str | tuple[str, ...] | None = None
    category: str | None = None


def _read(value: _Task, options: ReadOptions) -> Record:
    labels = value.task_gt
    if not isinstance(labels, list) or not all(
        type(label) is int and label in (0, 1) for label in labels
    ):
        raise BadRecord(
            "judges no steps",
            f"task_gt of {(value.category or '')[:40]!r} is not one 0 or 1 a step; "
            "step_correctness and the other step tasks have that",
        )
    judged = value.reasoning_error or value.step_list or ()
    texts = _split(judged) if isinstance(judged, str) else judged
    check_paired(len(texts), len(labels))
    steps = tuple(
        Step(text.strip(), 1 - label, 1)
        for text, label in zip(texts, labels, strict=True)
    )
    source = value.category or None
    return Record(value.question.strip(), steps, value.paths(), source=source)


def _split(text: str) -> list[str]:
    """Steps of ``STEP1: ... STEP2: ...``; a mark out of turn is text."""
    starts: list[int] = []
    for mark in _MARK.finditer(text):
        if int(mark[1][:9]) == len(starts) + 1:
            starts.append(mark.start())
    if not starts or text[: starts[0]].strip():
        raise BadRecord("steps not marked", "the text does not begin with STEP1:")
    ends = [*starts[1:], len(text)]
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]


VLRMBENCH = Format(
    name="vlrmbench",
    meaning="VLRMBench's step tasks: 1 where a step has the error; read only",
    decoder=msgspec.json.Decoder(_Task),
    read=_read,
    write=None,
    recognise=lambda keys: (
        "question" in keys and bool(keys.keys() & {"task_gt", "reasoning_error"})
    ),
    human=True,
    benchmark=True,
)
