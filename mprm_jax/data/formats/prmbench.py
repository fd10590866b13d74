"""PRMBench: solutions into which one class of error was written (read only).

``{"idx", "question", "original_question", "modified_question", "original_process":
[s1, s2], "modified_process": [s1, s2], "modified_steps": [2], "error_steps": [2],
"reason", "classification"}``

- The modified process is judged: the steps that ``error_steps`` counts from 1 are
  wrong, the others right (one trial each). Its source is the class of error, so that a
  source's macro-F1 is what the benchmark calls the PRMScore of that class.
- The original process is a second rollout, all right, of source ``correct``.
- ``modified_steps`` and ``reason`` are not read: a step may be modified and right.

Of the class ``redundency`` (the benchmark's spelling) a wrong step is superfluous.
Source: Song et al. 2025 and their evaluation code.
"""

from __future__ import annotations

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

CORRECT = "correct"

# The class whose solutions have no wrong step: another way to the answer.
NEVER_WRONG = "multi_solutions"

# Classes of error by what they ask of a model.
DIMENSIONS = {
    "simplicity": ("redundency", "circular"),
    "soundness": (
        "counterfactual", "step_contradiction", "domain_inconsistency", "confidence",
    ),
    "sensitivity": ("missing_condition", "deception", NEVER_WRONG),
}  # fmt: skip


class _Pair(Pictured, frozen=True):
    modified_process: tuple[str, ...]
    error_steps: tuple[int, ...]
    original_process: tuple[str, ...] | None = None
    modified_question: str | None = None
    original_question: str | None = None
    question: str | None = None
    classification: str | None = None


def _read(value: _Pair, options: ReadOptions) -> tuple[Record, ...]:
    n = len(value.modified_process)
    for number in value.error_steps:
        if not 1 <= number <= n:
            raise BadRecord(
                "error step names no step",
                f"{str(number)[:20]} of {n} steps (counted from 1)",
            )
    image, original = value.paths(), value.original_question or value.question or ""

    def record(
        question: str, texts: tuple[str, ...], wrong: tuple[int, ...], source: str
    ) -> Record:
        steps = tuple(
            Step(text.strip(), int(number not in wrong), 1)
            for number, text in enumerate(texts, 1)
        )
        return Record(question.strip(), steps, image, source=source or None)

    modified = record(
        value.modified_question or value.question or original,
        value.modified_process,
        value.error_steps,
        value.classification or "",
    )
    if not value.original_process:
        return (modified,)
    return modified, record(original, value.original_process, (), CORRECT)


PRMBENCH = Format(
    name="prmbench",
    meaning="PRMBench: a process with errors of one class, and the original; read only",
    decoder=msgspec.json.Decoder(_Pair),
    read=_read,
    write=None,
    recognise=lambda keys: keys.keys() >= {"modified_process", "error_steps"},
    human=True,
    benchmark=True,
)
