"""Image files of unknown origin to what the backbones see.

Files are decoded to pixels: few formats, capped, whole or refused. Qwen2.5-VL resizes
an image and cuts it into patches that carry their own place: a row of ``images_PxD`` is
the pixels of one patch, then its place (image, row, column) as bytes. So one array says
everything, several images of several sizes fit in one prompt, and padding (rows of
zeros) is image 0: real images count from 1. InternVL cuts it into square tiles of equal
size, plus a thumbnail.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mprm_jax.records.problems import BadRecord, what_instead
from mprm_jax.records.record import ImageRoot, resolve_image
from theory.paper import TRAINING

# Decoders of rare formats are where image libraries break.
FORMATS = ("PNG", "JPEG", "WEBP")

# Four times the largest image that either backbone's preprocessing keeps any detail
# of; a decoded one takes 3 bytes a pixel.
MAX_PIXELS = 1 << 25
MAX_FILE_BYTES = 64 << 20

# What RGB conversion represents faithfully: 16-bit and floating-point modes are clipped
# by it without a word.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# What the decoders raise on damaged files, beside OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    OverflowError,
)

# Image, row and column of a patch, two bytes each.
PLACE_BYTES = 6
# Means and deviations of CLIP's training images, in units of the full scale.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# The same of ImageNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# An image longer than this many times its height tells nothing after resizing.
MAX_ASPECT = 200


def read_images(
    root: Path | ImageRoot, paths: tuple[str, ...]
) -> tuple[Image.Image, ...]:
    """The images of one record, decoded, RGB.

    Raises:
        BadRecord: as :func:`mprm_jax.records.record.resolve_image` and
            :func:`decode_image`.
    """
    return tuple(decode_image(resolve_image(root, path), path) for path in paths)


def decode_image(file: Path, name: str | None = None) -> Image.Image:
    """One image as 8-bit RGB, as both backbones' own preprocessing converts it.

    Args:
        file: an existing file.
        name: what messages call it; by default the path.

    Raises:
        BadRecord: it is no PNG, JPEG or WebP, is truncated or damaged, has more than
            ``MAX_PIXELS`` pixels, ``MAX_FILE_BYTES`` bytes, several frames or 16 bits.
    """
    shown = repr(str(name if name is not None else file)[:80])
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > MAX_FILE_BYTES:
                raise BadRecord(
                    "image too large", f"{shown}: over {MAX_FILE_BYTES >> 20} MiB"
                )
            with Image.open(stream, formats=FORMATS) as image:
                _check(image, shown)
                # Decoding a PNG stops at the last pixel; only this misses its end.
                image.verify()
            stream.seek(0)
            with Image.open(stream, formats=FORMATS) as image:
                image.load()
                # Ignored by the conversion, which would only warn of it.
                image.info.pop("transparency", None)
                return _rgb(image)
    except BadRecord:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRecord("image too large", f"{shown}: over {_cap()}") from None
    except Image.UnidentifiedImageError:
        with open(file, "rb") as stream:
            instead = what_instead(stream.read(64))
        kinds = f"not one of {', '.join(FORMATS)}, or without pixels"
        raise BadRecord(
            "unknown image format", f"{shown}: {instead or kinds}"
        ) from None
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadRecord("damaged image", f"{shown}: {reason}") from None


def _rgb(image: Image.Image) -> Image.Image:
    # Converting RGB copies it, which costs more than decoding a JPEG.
    return image if image.mode == "RGB" else image.convert("RGB")


def _check(image: Image.Image, shown: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadRecord(
            "image too large", f"{shown}: {image.width} x {image.height}, over {_cap()}"
        )
    if image.mode not in _MODES:
        raise BadRecord(
            "unsupported pixels", f"{shown}: mode {image.mode}; convert it to 8-bit RGB"
        )
    if getattr(image, "n_frames", 1) != 1:
        raise BadRecord("several frames", f"{shown}: an animation; keep one frame")


def _cap() -> str:
    return f"{MAX_PIXELS >> 20} Mi pixels"


# --- patches


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


def most_patches(grid: PatchGrid) -> int:
    """No image has more patches, whatever its sides: ``max_pixels``, but where one side
    is held at ``factor`` or small images are enlarged, by

    max(max_pixels, factor sqrt(a max_pixels), (sqrt(a min_pixels) + factor)
    (sqrt(min_pixels) + factor)) / patch^2, a the largest ratio of the sides.
    """
    unit, least, most = grid.factor, grid.min_pixels, grid.max_pixels
    narrow = unit * math.sqrt(MAX_ASPECT * most)
    grown = (math.sqrt(MAX_ASPECT * least) + unit) * (math.sqrt(least) + unit)
    return math.ceil(max(most, narrow, grown) / grid.patch**2)


def patch_image(image: Image.Image, number: int, grid: PatchGrid) -> np.ndarray:
    """One image as rows [P, 3 patch^2 + 6], uint8, in blocks of merge x merge.

    Pixels are [channel, row, column] within a patch. ``number`` counts from 1.

    Raises:
        BadRecord: see ``smart_size``.
    """
    tall, wide = smart_size(image.height, image.width, grid)
    image = _rgb(image).resize((wide, tall), Image.Resampling.BICUBIC)
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
    return np.bincount(_numbers(images_PxD))[1:].tolist()


def number_images(patches_PxD: np.ndarray, first: int = 1) -> np.ndarray:
    """Patches of images that follow each other as they are where they count from here.

    Raises:
        ValueError: a number needs more than its two bytes.
    """
    number_P = _numbers(patches_PxD).astype(np.int64)
    number_P += first - number_P[0]
    if number_P[-1] > np.iinfo(np.uint16).max:
        raise ValueError(f"image {number_P[-1]} of a row cannot be numbered")
    patches_PxD = patches_PxD.copy()
    patches_PxD[:, -PLACE_BYTES:][:, :2] = (
        number_P.astype("<u2").view(np.uint8).reshape(-1, 2)
    )
    return patches_PxD


def _numbers(patches_PxD: np.ndarray) -> np.ndarray:
    """Which image each patch is of."""
    return patches_PxD[:, -PLACE_BYTES:][:, :2].copy().view("<u2")[:, 0]


# --- tiles


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


def tile_count(height: int, width: int, tiling: Tiling) -> int:
    """Tiles of one image: those of its grid, and where there are several a thumbnail.

    Raises:
        BadRecord: an empty or enormous image.
    """
    cells = math.prod(tile_grid(height, width, tiling))
    return cells + (cells > 1)


def tile_images(
    images: tuple[Image.Image, ...], tiling: Tiling
) -> tuple[np.ndarray, list[int]]:
    """Tiles of every image, one after another, and how many each has.

    Several images share the budget, at least one tile each, as InternVL trains. Tiles
    run along rows; those of an image end with a thumbnail of the whole, if several.

    Returns:
        uint8 ``[T, 3 side^2]``, as [row, column, channel]; ``[n_images]`` counts.

    Raises:
        BadRecord: an empty or enormous image.
    """
    share = share_of(tiling, len(images))
    counts = [tile_count(image.height, image.width, share) for image in images]
    tiles_TxD = np.empty((sum(counts), 3 * tiling.side**2), np.uint8)
    end = 0
    for image, count in zip(images, counts, strict=True):
        _fill(tiles_TxD[end : end + count], image, share)
        end += count
    return tiles_TxD, counts


def share_of(tiling: Tiling, n_images: int) -> Tiling:
    """What each of several images of a prompt may take."""
    return Tiling(tiling.side, max(1, tiling.max_tiles // max(1, n_images)))


def _fill(tiles_TxD: np.ndarray, image: Image.Image, tiling: Tiling) -> None:
    rows, columns = tile_grid(image.height, image.width, tiling)
    image, side = _rgb(image), tiling.side
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.uint8).reshape(rows, side, columns, side, 3)
    tiles = tiles_TxD[: rows * columns].reshape(rows, columns, side, side, 3)
    tiles[...] = pixels.transpose(0, 2, 1, 3, 4)
    if rows * columns > 1:
        thumbnail = image.resize((side, side), Image.Resampling.BICUBIC)
        tiles_TxD[-1] = np.asarray(thumbnail, np.uint8).reshape(-1)
