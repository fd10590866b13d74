"""Images as the processors of ``transformers`` prepare them."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mprm_jax.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PatchGrid,
    Tiling,
    patch_images,
    tile_images,
)
from mprm_jax.models.internvl import normalise
from mprm_jax.models.qwen import unpack_patches
from tests.parity.references import random_image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

SIZES = [(56, 84), (1, 1), (300, 57), (13, 700), (480, 640), (1000, 333), (448, 448)]
SIZES += [
    tuple(map(int, size)) for size in np.random.RandomState(0).randint(20, 900, (8, 2))
]


def pictures():
    rng = np.random.default_rng(0)
    return tuple(random_image(rng, *size) for size in SIZES)


def test_qwen_patches_are_those_of_its_processor():
    grid, images = PatchGrid(), pictures()
    size = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
    expected = Qwen2VLImageProcessorPil(size=size)(list(images), return_tensors="np")
    pixels, places = unpack_patches(jnp.asarray(patch_images(images, grid)[None]))
    # Two equal frames of each patch: [channel, frame, row, column].
    frames = expected["pixel_values"].reshape(-1, 3, 2, 196)
    np.testing.assert_array_equal(frames[:, :, 0], frames[:, :, 1])
    ours = np.asarray(pixels[0]).reshape(-1, 3, 196)
    np.testing.assert_allclose(ours, frames[:, :, 0], atol=2e-6)
    for number, (_, rows, columns) in enumerate(expected["image_grid_thw"], 1):
        of_image = np.asarray(places[0])[np.asarray(places[0, :, 0]) == number]
        assert len(of_image) == rows * columns
        assert (of_image[-1, 1:] + 1).tolist() == [rows, columns]


@pytest.mark.parametrize("most", [1, 6, 12])
def test_internvl_tiles_are_those_of_its_processor(most):
    side = 56
    processor = GotOcr2ImageProcessorPil(
        crop_to_patches=True,
        min_patches=1,
        max_patches=most,
        size={"height": side, "width": side},
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        resample=Image.Resampling.BICUBIC,
    )
    for image in pictures():
        expected = processor([image], return_tensors="np")
        tiles, counts = tile_images((image,), Tiling(side, most))
        assert counts == list(expected["num_patches"])
        ours = np.asarray(normalise(jnp.asarray(tiles), side)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, expected["pixel_values"], atol=2e-6)
