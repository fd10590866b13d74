import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from mprm_jax.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    PatchGrid,
    Tiling,
    most_patches,
    patch_images,
    patches_per_image,
    smart_size,
    tile_grid,
    tile_images,
)
from mprm_jax.models import decoder, families, qwen
from mprm_jax.models.decoder import DecoderConfig, insert_features
from mprm_jax.models.internvl import pixel_shuffle
from mprm_jax.models.layers import Compute
from mprm_jax.models.qwen import (
    QwenVisionConfig,
    QwenVLConfig,
    unpack_patches,
)
from mprm_jax.models.rope import Rope
from mprm_jax.records.problems import BadRecord
from tests.mprm_jax.backbone_folder import picture
from tests.mprm_jax.quick import quick_compilation as quick_compilation

GRID = PatchGrid()
PLAIN = Compute("float32", remat="none")
VISION = QwenVisionConfig(
    width=16, layers=1, heads=2, hidden=12, output=8, window=56, full_layers=()
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((448, 448), (448, 448)),  # 200,704 pixels exactly
        ((449, 449), (448, 448)),
        ((1000, 500), (616, 308)),  # sqrt(500000 / 200704) = 1.578: 633, 316
        ((20, 20), (28, 28)),
        ((1, 1), (28, 28)),
        ((28, 5600), (28, 5600)),
        ((42, 70), (56, 56)),  # 1.5 and 2.5 blocks: halves to even
    ],
)
def test_smart_size(size, expected):
    assert smart_size(size[0], size[1], GRID) == expected


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_sides_are_whole_blocks_within_bounds(height, width):
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(BadRecord, match="too long"):
            smart_size(height, width, GRID)
        return
    tall, wide = smart_size(height, width, GRID)
    assert tall % 28 == wide % 28 == 0
    assert GRID.min_pixels <= tall * wide
    # Very long images keep one block on their short side.
    assert tall * wide <= GRID.max_pixels or min(tall, wide) == 28


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([(784, 200_704), (784, 3136), (3136, 3136), (50_000, 50_176)]),
)
def test_no_image_has_more_patches_than_is_said(height, width, limits):
    """In blocks of which a longer image than said would lose keys."""
    grid = PatchGrid(min_pixels=limits[0], max_pixels=limits[1])
    assume(max(height, width) <= 200 * min(height, width))
    tall, wide = smart_size(height, width, grid)
    assert tall * wide // 14**2 <= most_patches(grid)


def test_at_the_paper_s_limits_no_image_has_more_patches_than_pixels_allow():
    assert most_patches(GRID) == 200_704 // 14**2 == 1024
    # Below them a long image has: its short side keeps a block.
    narrow = PatchGrid(min_pixels=784, max_pixels=3136)
    tall, wide = smart_size(20, 4000, narrow)
    assert 3136 // 14**2 < tall * wide // 14**2 <= most_patches(narrow)


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (40_000, 40_000)])
def test_images_of_no_or_a_billion_pixels_are_refused(sizes):
    with pytest.raises(BadRecord):
        smart_size(sizes[0], sizes[1], GRID)
    with pytest.raises(BadRecord):
        tile_grid(sizes[0], sizes[1], Tiling())


def test_a_patch_row_is_its_pixels_and_its_place():
    """Resizing is the identity here, so each patch must be a cut of the image."""
    images = picture(56, 84, 1), picture(28, 28, 2)
    rows = patch_images(images, GRID)
    assert rows.shape == (4 * 6 + 2 * 2, 3 * 14 * 14 + 6)
    assert patches_per_image(rows) == [24, 4]
    pixels, places = (np.asarray(x) for x in unpack_patches(jnp.asarray(rows[None])))
    # Blocks of two by two, each row by row.
    assert places[0, :5, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
    assert places[0, :, 0].tolist() == [1] * 24 + [2] * 4
    for row, (number, i, j) in zip(pixels[0], places[0], strict=True):
        image = np.asarray(images[number - 1], float)
        cut = image[14 * i : 14 * i + 14, 14 * j : 14 * j + 14].transpose(2, 0, 1)
        mean = np.array(CLIP_MEAN)[:, None, None]
        std = np.array(CLIP_STD)[:, None, None]
        expected = (cut / 255 - mean) / std
        np.testing.assert_allclose(row.reshape(3, 14, 14), expected, atol=1e-5)


def test_places_beyond_a_byte_survive():
    rows = patch_images((picture(28, 28 * 150),), GRID)
    _, places = unpack_patches(jnp.asarray(rows[None]))
    assert int(places[..., 2].max()) == 299


def test_tokens_of_another_window_or_image_have_exactly_no_influence():
    config = QwenVLConfig(LANGUAGE, VISION, image_token=5)
    params = families.init(config, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim >= 2 else leaf, params)
    # Windows of 4 x 4 patches: 6 x 8 patches make four, the lower ones half empty.
    rows = patch_images((picture(84, 112, 1), picture(28, 28, 2)), GRID)
    pixels = jnp.asarray(rows, jnp.float32)

    @jax.jit
    @jax.grad
    def influence(pixels, index):
        states = qwen.tower_states(config, params, pixels[None], PLAIN)
        return qwen.project(config, params, states, PLAIN)[0, index].sum()

    _, places = unpack_patches(jnp.asarray(rows[None]))
    window = np.asarray(places[0]) // [1, 4, 4]
    for index in (0, 3, 11, 12):
        seen = np.asarray(influence(pixels, index))[:, :-6].any(axis=1)
        same = (window == window[4 * index]).all(axis=1)
        np.testing.assert_array_equal(seen, same)


def test_many_images_in_a_row_are_seen_as_each_alone():
    """By layers that attend to the whole image too, in blocks that know no other."""
    vision = dataclasses.replace(VISION, full_layers=(0,))
    config = QwenVLConfig(LANGUAGE, vision, image_token=5)
    params = families.init(config, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim >= 2 else leaf, params)
    sides = [(56, 84), (28, 28), (84, 84), (28, 56), (56, 56), (84, 28), (84, 84)]
    images = [picture(*side, seed) for seed, side in enumerate(sides)]
    rows = jnp.asarray(patch_images(tuple(images), GRID)[None])
    in_blocks = dataclasses.replace(PLAIN, image_rows=36)
    assert rows.shape[1] > 3 * 36
    see = jax.jit(qwen.tower_states, static_argnums=(0, 3))
    found = see(config, params, rows, in_blocks)
    np.testing.assert_allclose(found, see(config, params, rows, PLAIN), atol=1e-4)
    alone = [
        see(config, params, jnp.asarray(patch_images((image,), GRID)[None]), PLAIN)[0]
        for image in (images[0], images[-1])
    ]
    np.testing.assert_allclose(found[0, :24], alone[0], atol=1e-4)
    np.testing.assert_allclose(found[0, -36:], alone[1], atol=1e-4)


LANGUAGE = DecoderConfig(
    vocabulary=30,
    width=8,
    layers=1,
    heads=1,
    kv_heads=1,
    head_width=8,
    hidden=8,
    norm_eps=1e-6,
    rope=Rope(1e4, (1, 1, 2)),
    qkv_bias=True,
    tied=True,
)


def test_m_rope_positions_by_hand():
    """Two text tokens, an image of 2 x 3 blocks, one token, one of 1 x 1, one token."""
    config = QwenVLConfig(LANGUAGE, VISION, image_token=5)
    tokens = [7, 7, *[5] * 6, 7, 5, 7]
    rows = patch_images((picture(56, 84), picture(28, 28)), GRID)
    found = qwen.rope_positions(config, jnp.asarray([tokens]), jnp.asarray(rows[None]))[
        :, 0
    ]
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7],
    ]


def test_a_row_without_images_beside_one_with_images_counts_as_text():
    config = QwenVLConfig(LANGUAGE, VISION, image_token=5)
    tokens = jnp.asarray([[7, 5, 8, 9], [7, 8, 9, 9]])
    rows = np.zeros((2, 4, 594), np.uint8)
    rows[0] = patch_images((picture(28, 28),), GRID)
    found = qwen.rope_positions(config, tokens, jnp.asarray(rows))
    np.testing.assert_array_equal(found, decoder.text_positions(tokens))


def test_the_ith_image_token_becomes_the_ith_feature():
    embedded, features = jnp.zeros((2, 5, 1)), jnp.arange(1.0, 7).reshape(2, 3, 1)
    is_image = jnp.asarray([[0, 1, 1, 0, 1], [0, 0, 0, 1, 0]], bool)
    found = insert_features(embedded, is_image, features)[..., 0]
    assert found.tolist() == [[0, 1, 2, 0, 3], [0, 0, 0, 4, 0]]


def closest(height, width, side, most):
    """Brute force: least difference of aspect ratios, ties to the largest filled."""
    grids = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1)]
    grids = [grid for grid in grids if grid[0] * grid[1] <= most]
    least = min(abs(width / height - c / r) for r, c in grids)
    tied = [(r, c) for r, c in grids if abs(width / height - c / r) == least]
    tied.sort(key=lambda grid: grid[0] * grid[1])
    filled = [g for g in tied if height * width > 0.5 * side**2 * g[0] * g[1]]
    return filled[-1] if filled else tied[0]


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_grid_of_tiles_has_the_closest_aspect_ratio(height, width):
    found = tile_grid(height, width, Tiling())
    assert found == closest(height, width, 448, 6)


def test_tiles_are_cuts_of_the_image_and_a_thumbnail():
    image = picture(112, 168)
    tiles, counts = tile_images((image,), Tiling(56))
    assert counts == [7]
    for number in range(6):
        i, j = divmod(number, 3)
        cut = np.asarray(image)[56 * i : 56 * i + 56, 56 * j : 56 * j + 56]
        np.testing.assert_array_equal(tiles[number].reshape(56, 56, 3), cut)
    thumbnail = image.resize((56, 56), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tiles[6].reshape(56, 56, 3), thumbnail)


def test_several_images_share_the_tiles():
    wide = picture(56, 6 * 56)
    assert tile_images((wide,), Tiling(56))[1] == [7]
    assert tile_images((wide, wide), Tiling(56))[1] == [4, 4]
    assert tile_images((wide,) * 7, Tiling(56))[1] == [1] * 7


def test_pixel_shuffle_joins_squares_row_by_row():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    assert pixel_shuffle(x, 2)[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]
