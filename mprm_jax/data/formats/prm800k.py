"""PRM800K: human ratings of proposed next steps, as a trajectory (read only).

``{"question": {"problem", "ground_truth_answer"}, "label": {"steps": [{"completions":
[{"text", "rating"}], "human_completion", "chosen_completion"}]}}``

Choices, made because a line is a session of a labeler and not one solution:

- The trajectory follows the chosen completion of each step.
- Where none was chosen and the labeler wrote a step, it follows the labeler's. It has
  no rating, so it counts as never sampled (trials 0).
- Where none was chosen or written, the first completion rated -1 ends the trajectory;
  if there is none, the trajectory ends before this step. Whatever follows is left out.
- Ratings 1 and 0 (neutral) count as positive, as in the main results of Lightman et al.
  2023; -1 is negative; null counts as never sampled. One trial each.
- The final ``"\\n\\n# Answer\\n\\n…"`` stays in the last step's text.
- Screening and quality-control sessions are read like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step

# (successes, trials) of a rating.
_COUNTS = {1: (1, 1), 0: (1, 1), -1: (0, 1), None: (0, 0)}


class _Completion(msgspec.Struct, frozen=True):
    text: str
    rating: Literal[-1, 0, 1] | None = None


class _Turn(msgspec.Struct, frozen=True):
    completions: tuple[_Completion, ...] | None = None
    human_completion: _Completion | None = None
    chosen_completion: int | None = None


class _Question(msgspec.Struct, frozen=True):
    problem: str
    ground_truth_answer: str | None = None


class _Label(msgspec.Struct, frozen=True):
    steps: tuple[_Turn, ...]


class _Session(msgspec.Struct, frozen=True):
    question: _Question
    label: _Label


def _trajectory(turns: Sequence[_Turn]) -> Iterator[_Completion]:
    for number, turn in enumerate(turns, 1):
        completions = turn.completions or ()
        if turn.chosen_completion is not None:
            if not 0 <= turn.chosen_completion < len(completions):
                raise BadRecord(
                    "not a prm800k record",
                    f"step {number} chooses completion "
                    f"{str(turn.chosen_completion)[:20]} of {len(completions)}",
                )
            yield completions[turn.chosen_completion]
        elif turn.human_completion is not None:
            yield turn.human_completion
        else:
            yield from [said for said in completions if said.rating == -1][:1]
            return


def _read(value: _Session, options: ReadOptions) -> Record:
    steps = tuple(
        Step(said.text.strip(), *_COUNTS[said.rating])
        for said in _trajectory(value.label.steps)
    )
    return Record(
        question=value.question.problem.strip(),
        steps=steps,
        answer=value.question.ground_truth_answer,
    )


def _recognise(keys: dict) -> bool:
    match keys:
        case {"question": {"problem": _}, "label": {"steps": _}}:
            return True
    return False


PRM800K = Format(
    name="prm800k",
    meaning="PRM800K labelling sessions: human ratings -1, 0, 1; read only",
    decoder=msgspec.json.Decoder(_Session),
    read=_read,
    write=None,
    recognise=_recognise,
)
