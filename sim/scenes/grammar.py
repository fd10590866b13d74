"""What the scenes ask and say: kinds of picture, operations, questions and steps.

A scene is a picture of 4 x 4 cells. A question names some of the cells and an operation
that folds their values into one result, such as the last digit of a sum. A step reads
one cell and states the running result, so that it can be checked by itself against the
picture and against the step before it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

Kind = Literal[
    "digits", "bars", "dice", "segments", "tally", "dial", "blocks", "colours", "shapes"
]
Operation = Literal["sum", "max", "min", "count"]

GRID = 4
CELLS = tuple(f"{column}{row}" for row in range(1, GRID + 1) for column in "abcd")

# Results are digits: sums keep their last one.
N_RESULTS = 10

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "cross")

# The values a cell may hold, by kind of picture. Names are values 0, 1, 2, 3.
VALUES: dict[Kind, range] = {
    "digits": range(10),
    "bars": range(1, 10),
    "dice": range(1, 7),
    "segments": range(1, 10),
    "tally": range(1, 6),
    "dial": range(8),
    "blocks": range(1, 7),
    "colours": range(len(COLOURS)),
    "shapes": range(len(SHAPES)),
}
_SCENE: dict[Kind, str] = {
    "digits": "digits",
    "bars": "bars",
    "dice": "dice",
    "segments": "segments",
    "tally": "tally marks",
    "dial": "dials",
    "blocks": "blocks",
    "colours": "squares",
    "shapes": "figures",
}
_ASKS: dict[Operation, str] = {
    "sum": "Last digit of the total of the {scene} at {cells}?",
    "max": "Largest of the {scene} at {cells}?",
    "min": "Smallest of the {scene} at {cells}?",
    "count": "How many {scene} at {cells} show {target}?",
}
_RESULT: dict[Operation, str] = {
    "sum": "total",
    "max": "largest",
    "min": "smallest",
    "count": "count",
}
RESULT_NAMES = tuple(_RESULT.values())
NEUTRAL_STEP = "Now look at the next cell"


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of problems and how a policy errs on it.

    Attributes:
        name: of the source.
        kind: what the cells show.
        operation: what the question does with them.
        items: least and largest number of cells that a question names.
        misread: h, probability of misreading a cell of average difficulty.
        slip: a, probability of a wrong running result from rightly combined values.
        repair: probability, per later step, that a wrong result is put right, if it
            came from a slip and if it came from a misread cell.
        check: the same two probabilities for the check before the final answer.
    """

    name: str
    kind: Kind
    operation: Operation
    items: tuple[int, int] = (3, 6)
    misread: float = 0.02
    slip: float = 0.01
    repair: tuple[float, float] = (0.01, 0.002)
    check: tuple[float, float] = (0.03, 0.005)

    @property
    def values(self) -> np.ndarray:
        """The values that a cell may hold."""
        return np.array(VALUES[self.kind])

    @property
    def results(self) -> np.ndarray:
        """The running results that a step may state."""
        if self.operation == "sum":
            return np.arange(N_RESULTS)
        if self.operation == "count":
            return np.arange(self.items[1] + 1)
        return self.values

    def start(self) -> int:
        """The running result before the first cell; any first value replaces it."""
        return {"sum": 0, "count": 0, "max": 0, "min": N_RESULTS - 1}[self.operation]


def fold(
    operation: Operation, result: np.ndarray, value: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """The running result after one more cell, elementwise with broadcasting.

    sum: (T + v) mod 10; max, min: the larger, the smaller; count: T + 1[v = target].
    """
    if operation == "sum":
        return (result + value) % N_RESULTS
    if operation == "max":
        return np.maximum(result, value)
    if operation == "min":
        return np.minimum(result, value)
    return np.minimum(result + (value == target), N_RESULTS - 1)


def value_name(kind: Kind, value: int) -> str:
    """The word for a value: a digit, or the name of a colour or a shape."""
    if kind == "colours":
        return COLOURS[value]
    return SHAPES[value] if kind == "shapes" else str(value)


def question_text(source: Source, cells: np.ndarray, target: int) -> str:
    """The question about the named cells."""
    return _ASKS[source.operation].format(
        scene=_SCENE[source.kind],
        cells=" ".join(CELLS[cell] for cell in cells),
        target=value_name(source.kind, target),
    )


def step_text(
    source: Source, cell: int, value: int, result: int, repaired_from: int | None
) -> str:
    """A step: the cell, the value read, the running result.

    ``repaired_from`` is the right result of the steps before, stated anew by a step
    that puts them right.
    """
    name = _RESULT[source.operation]
    recheck = "" if repaired_from is None else f"Wait, {name} was {repaired_from}. "
    read = value_name(source.kind, value)
    return f"{recheck}{CELLS[cell]}: {read}, {name} {result}"


def final_text(source: Source, result: int, checked: bool) -> str:
    """The last step: the final answer, after a check that changed it if ``checked``."""
    name = _RESULT[source.operation]
    recheck = f"Wait, {name} is {result}. " if checked else ""
    return f"{recheck}Final answer: {result}"


def vocabulary() -> tuple[str, ...]:
    """Every word of the world's texts, lower case, in a fixed order."""
    texts = [NEUTRAL_STEP, "Final answer: 0", "Wait, was is", *CELLS, *COLOURS]
    texts += [*SHAPES, *map(str, range(N_RESULTS)), *_RESULT.values(), *_SCENE.values()]
    texts += [ask.format(scene="", cells="", target="") for ask in _ASKS.values()]
    words: dict[str, None] = {}
    for text in texts:
        for sign in ".,:?":
            text = text.replace(sign, " ")
        words.update(dict.fromkeys(text.lower().split()))
    return tuple(words)


# Rates are set so that a corpus at the default care has about the real corpus's share
# of steps without any success, of mixed rollouts, and mean MC score.
TRAINING_SOURCES = (
    Source("digit_table", "digits", "sum", misread=0.05, slip=0.05),
    Source("bar_chart", "bars", "max", misread=0.10, slip=0.025),
    Source("colour_count", "colours", "count", (4, 6), misread=0.04, slip=0.04),
    Source("dice", "dice", "sum", misread=0.06, slip=0.06),
    Source("segment_lengths", "segments", "min", misread=0.12, slip=0.025),
)
# One rate for all: nothing but picture and text tells which steps are wrong.
BENCHMARK_SOURCES = (
    Source("tally_marks", "tally", "sum", misread=0.06, slip=0.06),
    Source("shape_count", "shapes", "count", (4, 6), misread=0.06, slip=0.06),
    Source("dial_readings", "dial", "sum", misread=0.06, slip=0.06),
    Source("table_maximum", "digits", "max", misread=0.06, slip=0.06),
    Source("block_area", "blocks", "sum", misread=0.06, slip=0.06),
)
