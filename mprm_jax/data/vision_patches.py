"""Qwen2.5-VL's images: smart resize, and patches that carry their own place.

A row of ``images_PxD`` is one patch: its pixels, then its place (image, row, column)
as bytes. So one array says everything, several images of several sizes fit in one
prompt, and padding (rows of zeros) is image 0: real images count from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mprm_jax.data.pixels import MAX_PIXELS
from mprm_jax.data.problems import BadRecord
from theory.paper import TRAINING

# Image, row and column of a patch, two bytes each.
PLACE_BYTES = 6
# Means and deviations of CLIP's training images, in units of the full scale.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# An image longer than this many times its height tells nothing after resizing.
MAX_ASPECT = 200


@dataclass(frozen=True)
class PatchGrid:
    """How an image is cut.

    Attributes:
        patch: side of a patch, pixels.
        merge: patches along a side of the block that becomes one token.
        min_pixels: fewest pixels after resizing.
        max_pixels: most pixels after resizing.
    """

    patch: int = 14
    merge: int = 2
    min_pixels: int = TRAINING.min_pixels
    max_pixels: int = TRAINING.max_pixels

    @property
    def factor(self) -> int:
        """Sides are multiples of this many pixels."""
        return self.patch * self.merge


def check_image_size(height: int, width: int) -> None:
    """Refuse what no backbone can read.

    Raises:
        BadRecord: an empty image, or one of more than ``MAX_PIXELS``.
    """
    if height < 1 or width < 1:
        raise BadRecord("empty image", f"{width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise BadRecord(
            "image too large",
            f"{width} x {height} pixels; at most {MAX_PIXELS} in all",
        )


def smart_size(height: int, width: int, grid: PatchGrid) -> tuple[int, int]:
    """Height and width after resizing: multiples of ``factor``, pixels within bounds.

    The rule of Qwen2-VL's processor: round each side; where the area leaves the bounds
    scale both sides by the same number, rounding towards the inside.

    Raises:
        BadRecord: an empty, enormous or extremely long image.
    """
    check_image_size(height, width)
    longest, shortest = max(height, width), min(height, width)
    if longest / shortest > MAX_ASPECT:
        raise BadRecord(
            "image too long", f"{width} x {height} pixels; sides differ over 200 times"
        )
    factor = grid.factor
    # Python rounds halves to even, as the reference does.
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > grid.max_pixels:
        shrink = math.sqrt(height * width / grid.max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < grid.min_pixels:
        grow = math.sqrt(grid.min_pixels / (height * width))
        tall = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return tall, wide


def patch_image(image: Image.Image, number: int, grid: PatchGrid) -> np.ndarray:
    """One image as rows [P, 3 patch^2 + 6], uint8, in blocks of merge x merge.

    Pixels are [channel, row, column] within a patch. ``number`` counts from 1.

    Raises:
        BadRecord: see ``smart_size``.
    """
    tall, wide = smart_size(image.height, image.width, grid)
    image = image.convert("RGB").resize((wide, tall), Image.Resampling.BICUBIC)
    rows, columns = tall // grid.patch, wide // grid.patch
    pixels = np.asarray(image, np.uint8).reshape(
        rows // grid.merge, grid.merge, grid.patch,
        columns // grid.merge, grid.merge, grid.patch, 3,
    )  # fmt: skip
    blocks = pixels.transpose(0, 3, 1, 4, 6, 2, 5)
    row, column = np.indices((rows, columns), np.uint16)
    place = np.stack([np.full_like(row, number), row, column], axis=-1)
    place = place.reshape(
        rows // grid.merge, grid.merge, columns // grid.merge, grid.merge, 3
    ).transpose(0, 2, 1, 3, 4)
    return pack_patches(
        blocks.reshape(rows * columns, -1), place.reshape(rows * columns, 3)
    )


def patch_images(images: tuple[Image.Image, ...], grid: PatchGrid) -> np.ndarray:
    """Every image of a prompt, one after another [P, D]; P = 0 without images."""
    rows = [patch_image(image, number, grid) for number, image in enumerate(images, 1)]
    return np.concatenate([*rows, np.zeros((0, row_bytes(grid)), np.uint8)])


def row_bytes(grid: PatchGrid) -> int:
    """Bytes of a patch with its place."""
    return 3 * grid.patch**2 + PLACE_BYTES


def pack_patches(pixels_PxC: np.ndarray, place_Px3: np.ndarray) -> np.ndarray:
    """Pixels and places in one array of bytes; ``unpack_patches`` undoes it."""
    places = np.ascontiguousarray(place_Px3, dtype="<u2").view(np.uint8)
    return np.concatenate([pixels_PxC, places], axis=1)


def patches_per_image(images_PxD: np.ndarray) -> list[int]:
    """Patches of each image of a prompt, in order."""
    numbers = images_PxD[:, -PLACE_BYTES:][:, :2].copy().view("<u2")[:, 0]
    return np.bincount(numbers)[1:].tolist()


def as_first_image(patches_PxD: np.ndarray) -> np.ndarray:
    """Patches of one image as they are where it is the first of a prompt."""
    patches_PxD = patches_PxD.copy()
    patches_PxD[:, -PLACE_BYTES:][:, :2] = 1, 0
    return patches_PxD
