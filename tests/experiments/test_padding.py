"""The committed distribution of lengths, and the shares that are counted of it."""

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks.padding import READERS, draw, shares, sizes
from mprm_jax.data.batches import open_ladder
from mprm_jax.data.images import PatchGrid, Tiling, patch_images, tile_images
from theory.paper import FULL_DATA, TRAINING

BATCH = TRAINING.batch_size


@pytest.fixture(scope="module")
def drawn():
    return draw(4 * BATCH, seed=0)


def test_rollouts_are_as_long_as_it_is_said(drawn):
    steps = [len(rollout.steps) for rollout in drawn]
    assert np.mean(steps) == pytest.approx(FULL_DATA.steps_per_rollout, abs=0.15)
    words = np.concatenate([rollout.steps for rollout in drawn])
    assert words.mean() == pytest.approx(28, rel=0.03)


def test_pictures_are_counted_as_they_are_cut(drawn):
    """Against the cutting itself, of pictures that exist."""
    several = next(r.pictures for r in drawn if len(r.pictures) == 3)
    for pictures in (several, *((size,) for size in several)):
        images = tuple(Image.new("RGB", size) for size in pictures)
        tiles, _ = tile_images(images, Tiling(max_tiles=TRAINING.max_tiles))
        patches = patch_images(images, PatchGrid())
        assert READERS["InternVL2.5"](pictures) == (len(tiles), 256 * len(tiles))
        assert READERS["Qwen2.5-VL"](pictures) == (len(patches), len(patches) // 4)


@pytest.mark.parametrize("backbone", READERS)
def test_a_share_is_real_entries_over_computed_ones(backbone, drawn):
    of = sizes(drawn[:20], backbone)
    ladder = open_ladder(int(of.steps.max()))
    longest = [
        ladder.choose(int(of.tokens[part].max()), int(of.patches[part].max()))
        for part in (slice(0, 10), slice(10, 20))
    ]
    expected = (
        of.tokens.sum() / sum(10 * shape.tokens for shape in longest),
        of.patches.sum() / sum(10 * shape.patches for shape in longest),
    )
    assert shares(of, 10, 1) == pytest.approx(expected)


@pytest.mark.parametrize("backbone", READERS)
def test_the_loader_computes_three_quarters_of_real_tokens(backbone, drawn):
    of = sizes(drawn, backbone)
    longest, planned = (shares(of, BATCH, parts) for parts in (1, 64))
    assert min(planned) > 0.75
    assert all(b > 1.4 * a for a, b in zip(longest, planned, strict=True))
