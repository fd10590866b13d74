"""Pictures of 4 x 4 cells: what they show, and what is noise in them.

Palette, contrast, pixel noise and the position of a figure in its cell are drawn
without a look at the values or at the slip rate: nothing in a picture betrays how
likely the policy is to err on it.
"""

from __future__ import annotations

import numpy as np

from sim.scenes.grammar import GRID, VALUES, Kind

CELL_PX = 12
IMAGE_PX = GRID * CELL_PX
_FONT_PX = (5, 7)
# A 5 x 7 dot-matrix font, one string of rows per digit.
_DIGITS = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
# Row and column of each pip in a 3 x 3 lattice, as on a die.
_PIPS = {
    1: (4,),
    2: (0, 8),
    3: (0, 4, 8),
    4: (0, 2, 6, 8),
    5: (0, 2, 4, 6, 8),
    6: (0, 2, 3, 5, 6, 8),
}
_SQUARE = 1
_COLOUR_RGB = np.array([(215, 40, 45), (40, 160, 60), (45, 80, 215), (230, 190, 30)])
# How far a figure may lie from the middle of its cell, in pixels.
_JITTER = 1


def glyph(kind: Kind, value: int) -> np.ndarray:
    """Ink of a value in its cell, bool [CELL_PX, CELL_PX]."""
    ink = np.zeros((CELL_PX, CELL_PX), bool)
    if kind == "digits":
        rows = _DIGITS[value].split()
        bits = np.array([[c == "1" for c in row] for row in rows])
        ink[2 : 2 + _FONT_PX[1], 3 : 3 + _FONT_PX[0]] = bits
    elif kind == "bars":
        ink[10 - value : 10, 4:8] = True
        ink[10, 2:10] = True
    elif kind == "segments":
        ink[5:7, 1 : 1 + value] = True
        ink[3:9, 1] = True
    elif kind == "tally":
        for stroke in range(min(value, 4)):
            ink[2:10, 2 + 2 * stroke] = True
        if value == 5:
            ink[np.arange(9, 2, -1), np.arange(2, 9)] = True
    elif kind == "dice":
        for pip in _PIPS[value]:
            row, column = 2 + 3 * (pip // 3), 2 + 3 * (pip % 3)
            ink[row : row + 2, column : column + 2] = True
    elif kind == "blocks":
        for block in range(value):
            row, column = 2 + 5 * (block // 3), 1 + 3 * (block % 3)
            ink[row : row + 4, column : column + 2] = True
    elif kind == "dial":
        angle = np.pi / 4 * value
        for radius in np.linspace(0, 4.5, 12):
            row = round(5.5 - radius * float(np.cos(angle)))
            column = round(5.5 + radius * float(np.sin(angle)))
            ink[row, column] = True
        ink[5:7, 5:7] = True
    else:
        ink = _figure(_SQUARE if kind == "colours" else value)
    return ink


def _figure(shape: int) -> np.ndarray:
    """A filled circle, square, triangle or cross, bool [CELL_PX, CELL_PX]."""
    row, column = np.mgrid[:CELL_PX, :CELL_PX] - (CELL_PX - 1) / 2
    if shape == 0:
        return row**2 + column**2 <= 4.2**2
    if shape == 1:
        return np.maximum(np.abs(row), np.abs(column)) <= 3.5
    if shape == 2:
        return (row <= 3.5) & (row >= -4.5) & (np.abs(column) <= (row + 5.5) / 2)
    return (np.minimum(np.abs(row), np.abs(column)) <= 1) & (
        np.maximum(np.abs(row), np.abs(column)) <= 4.5
    )


def draw(kind: Kind, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures of cells, uint8 [n, IMAGE_PX, IMAGE_PX, 3].

    Args:
        kind: of picture.
        values: of the cells, [n, GRID * GRID].
        rng: of palette, noise and positions.
    """
    n, cells = values.shape
    lowest = VALUES[kind].start
    figures = np.stack([glyph(kind, value) for value in VALUES[kind]])
    padded = np.pad(figures, ((0, 0), (_JITTER, _JITTER), (_JITTER, _JITTER)))
    shifted = np.lib.stride_tricks.sliding_window_view(
        padded, (CELL_PX, CELL_PX), axis=(1, 2)
    )
    dy, dx = rng.integers(2 * _JITTER + 1, size=(2, n, cells))
    ink = shifted[values - lowest, dy, dx].astype(np.float32)

    dark = rng.random(n) < 0.5
    paper = np.where(dark, rng.integers(0, 50, n), rng.integers(205, 256, n))
    if kind == "colours":
        colour = _COLOUR_RGB[values].astype(np.float32)
    else:
        away = np.where(dark, 1, -1)[:, None] * rng.integers(110, 190, size=(n, 3))
        colour = np.broadcast_to((paper[:, None] + away)[:, None], (n, cells, 3))
    back = paper[:, None, None, None, None].astype(np.float32)
    pixels = back + ink[..., None] * (colour[:, :, None, None] - back)
    amplitude = rng.uniform(0, 10, size=(n, 1, 1, 1, 1)).astype(np.float32)
    pixels += amplitude * rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    grid = pixels.reshape(n, GRID, GRID, CELL_PX, CELL_PX, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, IMAGE_PX, IMAGE_PX, 3)
