"""PRM800K: human ratings of proposed next steps (read only).

``{"question": {"problem", "ground_truth_answer"}, "label": {"steps": [{"completions":
[{"text", "rating"}], "human_completion", "chosen_completion"}]}}``

A line is a session of a labeler, who rated several proposals for every step, so it
holds several rollouts, and every rating stands in one of them:

- the path that was followed: of each step the chosen completion, or where none was
  chosen the labeler's own, which has no rating. It ends where there is neither.
- for each rated completion that was not followed, the path up to it and this one.

Ratings 1 and 0 (neutral) count as positive, as in the main results of Lightman et al.
2023; -1 is negative; null is no label. One trial each. The final ``"\\n\\n# Answer…"``
stays in the last step's text. Screening and quality-control sessions are read like any
other. Ratings behind the end of the path are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mprm_jax.data.formats.base import Format, ReadOptions
from mprm_jax.data.formats.json_record import Pictured
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


class _Session(Pictured, frozen=True):
    question: _Question
    label: _Label


def _followed(turn: _Turn, number: int) -> _Completion | None:
    """The completion that the labeler went on from; None: the session ends here."""
    chosen, completions = turn.chosen_completion, turn.completions or ()
    if chosen is None:
        return turn.human_completion
    if not 0 <= chosen < len(completions):
        raise BadRecord(
            "not a prm800k record",
            f"step {number} chooses completion {str(chosen)[:20]} of "
            f"{len(completions)}",
        )
    return completions[chosen]


def _paths(turns: Sequence[_Turn]) -> list[list[_Completion]]:
    """The path that was followed, and those to each other rated completion."""
    path: list[_Completion] = []
    others = []
    for number, turn in enumerate(turns, 1):
        followed = _followed(turn, number)
        rated = [one for one in turn.completions or () if one.rating is not None]
        others += [[*path, one] for one in rated if one is not followed]
        if followed is None:
            if any(later.completions for later in turns[number:]):
                raise BadRecord(
                    "ratings behind the end", f"nothing leads on from step {number}"
                )
            # Where the others go on from here, they hold all that it holds.
            return others if rated else [path, *others]
        path.append(followed)
    return [path, *others]


def _read(value: _Session, options: ReadOptions) -> tuple[Record, ...]:
    return tuple(
        Record(
            question=value.question.problem.strip(),
            steps=tuple(
                Step(said.text.strip(), *_COUNTS[said.rating]) for said in path
            ),
            image=value.paths(),
            answer=value.question.ground_truth_answer,
        )
        for path in _paths(value.label.steps)
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
    human=True,
)
