"""InternVL's images: dynamic tiling into squares of equal size, plus a thumbnail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mprm_jax.data.vision_patches import check_image_size

# Means and deviations of ImageNet, in units of the full scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Attributes:
        side: of a tile, pixels.
        max_tiles: most tiles of one image, the thumbnail not counted; 6 in the paper.
    """

    side: int = 448
    max_tiles: int = 6


def tile_grid(height: int, width: int, tiling: Tiling) -> tuple[int, int]:
    """(rows, columns) of tiles, whose aspect ratio is closest to the image's.

    The rule of InternVL's ``find_closest_aspect_ratio``: grids in order of their number
    of tiles; of two equally close ones the later wins if the image has more than half
    of its pixels.

    Raises:
        BadRecord: an empty or enormous image.
    """
    check_image_size(height, width)
    most = range(1, tiling.max_tiles + 1)
    # The reference sorts a set of (columns, rows) pairs by area alone, so its order
    # among equal areas is that of a set of small tuples; the ratios of such grids
    # differ, so only a tie between mirror images of a square could tell.
    grids = sorted(
        ((columns, rows) for columns in most for rows in most
         if columns * rows <= tiling.max_tiles),
        key=lambda grid: grid[0] * grid[1],
    )  # fmt: skip
    aspect, best, closest = width / height, (1, 1), float("inf")
    for columns, rows in grids:
        distance = abs(aspect - columns / rows)
        roomy = width * height > 0.5 * tiling.side**2 * columns * rows
        if distance < closest or (distance == closest and roomy):
            closest, best = distance, (rows, columns)
    return best


def tile_image(image: Image.Image, tiling: Tiling) -> np.ndarray:
    """Tiles of one image [T, 3 side^2], uint8, as [row, column, channel].

    Tiles run along rows; an image of several tiles ends with a thumbnail of the whole.

    Raises:
        BadRecord: an empty or enormous image.
    """
    rows, columns = tile_grid(image.height, image.width, tiling)
    image, side = image.convert("RGB"), tiling.side
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.uint8).reshape(rows, side, columns, side, 3)
    tiles = pixels.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    if rows * columns == 1:
        return tiles
    thumbnail = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.concatenate([tiles, np.asarray(thumbnail, np.uint8).reshape(1, -1)])


def tile_images(
    images: tuple[Image.Image, ...], tiling: Tiling
) -> tuple[np.ndarray, list[int]]:
    """Tiles of every image, one after another [T, D], and how many each has.

    Several images share the budget, at least one tile each, as InternVL trains.

    Raises:
        BadRecord: an empty or enormous image.
    """
    share = Tiling(tiling.side, max(1, tiling.max_tiles // max(1, len(images))))
    tiles = [tile_image(image, share) for image in images]
    empty = np.zeros((0, 3 * tiling.side**2), np.uint8)
    return np.concatenate([*tiles, empty]), [len(part) for part in tiles]
