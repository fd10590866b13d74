"""Reads the visual world as a person would: texts word by word, pictures by matching.

Nothing here knows how solutions are simulated, so it can judge what the simulator says
of them.
"""

import re
from functools import cache

import numpy as np

from sim.scenes.grammar import VALUES
from sim.scenes.pictures import glyph

_NAMES = {"red": 0, "green": 1, "blue": 2, "yellow": 3}
_NAMES |= {"circle": 0, "square": 1, "triangle": 2, "cross": 3}
_COLOURS = np.array([(215, 40, 45), (40, 160, 60), (45, 80, 215), (230, 190, 30)])
_ASKED = {"last": "sum", "largest": "max", "smallest": "min", "how": "count"}
_RESULT = {"sum": "total", "max": "largest", "min": "smallest", "count": "count"}


def words(text):
    """Lower-case words without signs: what a tokeniser leaves of a text."""
    return re.sub("[.,:?]", " ", text.lower()).split()


def number(word):
    """The value behind a word."""
    return _NAMES[word] if word in _NAMES else int(word)


def cell_index(name):
    """Place of a cell such as b3 in reading order."""
    return 4 * (int(name[1]) - 1) + "abcd".index(name[0])


def read_question(asked):
    """(operation, places of the cells, value to count or None) that words ask for."""
    cells = [cell_index(word) for word in asked if re.fullmatch("[a-d][1-4]", word)]
    operation = _ASKED[asked[0]]
    return operation, cells, number(asked[-1]) if operation == "count" else None


def combine(operation, before, value, target):
    """The running result after one more value; ``before`` is None for the first."""
    if operation == "sum":
        return ((before or 0) + value) % 10
    if operation == "count":
        return min((before or 0) + int(value == target), 9)
    if before is None:
        return value
    return max(before, value) if operation == "max" else min(before, value)


def running(operation, values, target):
    """Right results after each of the values."""
    results, result = [], None
    for value in values:
        result = combine(operation, result, value, target)
        results.append(result)
    return results


def judge(question, steps, shown):
    """[(truth 1 | -1 | 0, whether it follows)] of each step's words.

    Args:
        question: words.
        steps: words of each.
        shown: true value of each of the 16 cells.
    """
    operation, cells, target = read_question(question)
    name = _RESULT[operation]
    right = running(operation, [shown[cell] for cell in cells], target)
    judged, done, stated = [], 0, None
    for step in steps:
        if step == ["now", "look", "at", "the", "next", "cell"]:
            judged.append((0, True))
            continue
        fine = True
        if step[0] == "wait":
            assert step[1] == name
            stated, again = int(step[3]), step[2]
            assert again == ("is" if step[4] == "final" else "was")
            fine = stated == right[done - 1]
            step = step[4:]
        if step[0] == "final":
            assert done == len(cells)
            assert step[1] == "answer"
            answer = int(step[2])
            judged.append((1 if fine and answer == right[-1] else -1, answer == stated))
            continue
        assert cell_index(step[0]) == cells[done]
        assert step[2] == name
        read, result = number(step[1]), int(step[3])
        seen = read == shown[cells[done]]
        follows = seen and result == combine(operation, stated, read, target)
        judged.append((1 if fine and seen and result == right[done] else -1, follows))
        done, stated = done + 1, result
    assert steps[-1][-3:-1] == ["final", "answer"]
    return judged


def ink(pixels):
    """Which pixels are not paper, by cell: bool [16, CELL_PX, CELL_PX]."""
    grey = pixels.astype(float).mean(axis=2)
    low, high = np.percentile(grey, [0.5, 99.5])
    bright = grey > (low + high) / 2
    figures = bright if bright.mean() < 0.5 else ~bright
    return by_cell(figures)


def by_cell(picture):
    """[48, 48, ...] as [16, CELL_PX, CELL_PX, ...] in reading order."""
    rows = np.stack(np.split(picture, 4))
    return np.concatenate([np.stack(np.split(row, 4, axis=1)) for row in rows])


@cache
def _templates(kind):
    """(values, ink) of every value at every place it may have in its cell."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    values = [value for value in VALUES[kind] for _ in shifts]
    figures = [
        np.roll(glyph(kind, value), shift, (0, 1))
        for value in VALUES[kind]
        for shift in shifts
    ]
    return np.array(values), np.stack(figures)


def read_picture(kind, pixels):
    """Values of the 16 cells: each is told by exactly one template, to the pixel."""
    if kind == "colours":
        return [_colour(cell) for cell in by_cell(pixels)]
    values, figures = _templates(kind)
    read = []
    for cell in ink(pixels):
        found = values[np.all(figures == cell, axis=(1, 2))].tolist()
        assert len(found) == 1, (kind, len(read), found)
        read += found
    return read


def _colour(cell):
    middle = cell[4:8, 4:8].reshape(-1, 3).astype(float).mean(axis=0)
    distance = np.linalg.norm(_COLOURS - middle, axis=1)
    assert np.sort(distance)[0] < 15 < np.sort(distance)[1]
    return int(np.argmin(distance))
