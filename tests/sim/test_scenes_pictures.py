"""Pictures: every value can be read off, and nothing else is in them."""

import inspect
from itertools import combinations, product

import numpy as np
import pytest

from sim.scenes.grammar import VALUES
from sim.scenes.pictures import CELL_PX, IMAGE_PX, draw, glyph
from tests.scene_reader import ink, read_picture

KINDS = tuple(VALUES)


def values_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice(np.array(VALUES[kind]), size=(n, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_shows_its_value_where_it_lies(kind):
    values = values_of(kind, 40)
    pictures = draw(kind, values, np.random.default_rng(1))
    assert pictures.dtype == np.uint8
    assert pictures.shape == (40, IMAGE_PX, IMAGE_PX, 3) == (40, 48, 48, 3)
    for row, picture in zip(values.tolist(), pictures, strict=True):
        assert read_picture(kind, picture) == row


@pytest.mark.parametrize("kind", KINDS)
def test_figures_keep_a_pixel_to_move_in(kind):
    """So that a shifted figure stays whole and in its own cell."""
    for value in VALUES[kind]:
        ink = glyph(kind, value)
        assert ink.shape == (CELL_PX, CELL_PX)
        assert ink.any()
        inner = ink[1:-1, 1:-1]
        assert inner.sum() == ink.sum()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "colours"])
def test_figures_differ_wherever_they_lie(kind):
    shifts = list(product((-1, 0, 1), repeat=2))
    figures = np.stack(
        [
            [np.roll(glyph(kind, value), shift, (0, 1)).ravel() for shift in shifts]
            for value in VALUES[kind]
        ]
    ).astype(int)
    for a, b in combinations(range(len(figures)), 2):
        agree = figures[a] @ figures[b].T + (1 - figures[a]) @ (1 - figures[b]).T
        assert agree.max() <= CELL_PX**2 - 2, (a, b)


def test_figures_move_both_ways():
    pictures = draw("digits", np.full((20, 16), 8), np.random.default_rng(0))
    cells = np.concatenate([ink(picture) for picture in pictures])
    places = {
        (int(cell.any(axis=1).argmax()), int(cell.any(axis=0).argmax()))
        for cell in cells
    }
    assert len(places) == 9


def test_pictures_depend_on_values_and_noise_alone():
    """Neither the problem's difficulty nor the rates of the policy can show."""
    assert list(inspect.signature(draw).parameters) == ["kind", "values", "rng"]


def test_noise_does_not_depend_on_the_values():
    """The same noise goes into the pictures of any values: palette and paper agree."""
    one = draw("bars", np.full((30, 16), 1), np.random.default_rng(5)).astype(int)
    other = draw("bars", np.full((30, 16), 9), np.random.default_rng(5)).astype(int)
    # A bar of 1 lies within a bar of 9 at the same place: elsewhere nothing differs.
    differs = np.any(one != other, axis=3).reshape(30, 4, 12, 4, 12)
    per_cell = differs.transpose(0, 1, 3, 2, 4).reshape(-1, 144).sum(axis=1)
    assert per_cell.max() <= 8 * 4
    assert per_cell.min() > 0


@pytest.mark.parametrize("kind", ["bars", "colours"])
def test_equal_generators_draw_equal_pictures(kind):
    values = values_of(kind, 5)
    first, again, other = (
        draw(kind, values, np.random.default_rng(s)) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other, axis=(1, 2, 3)).all()


def test_the_palette_varies_between_pictures():
    pictures = draw("dice", values_of("dice", 200), np.random.default_rng(2))
    papers = np.median(pictures.reshape(200, -1, 3), axis=1).mean(axis=1)
    assert 0.3 < np.mean(papers < 128) < 0.7
    assert len(np.unique(papers.round())) > 30
