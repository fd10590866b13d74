"""Image files of unknown origin to pixels: few formats, capped, whole or refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from PIL import Image

from mprm_jax.data.images import resolve_image
from mprm_jax.data.problems import BadRecord

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


def read_images(root: Path, paths: tuple[str, ...]) -> tuple[Image.Image, ...]:
    """The images of one record, decoded, RGB.

    Raises:
        BadRecord: as :func:`mprm_jax.data.images.resolve_image` and
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
                return image.convert("RGB")
    except BadRecord:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRecord("image too large", f"{shown}: over {_cap()}") from None
    except Image.UnidentifiedImageError:
        raise BadRecord(
            "unknown image format",
            f"{shown}: not one of {', '.join(FORMATS)}, or without pixels",
        ) from None
    except _DAMAGE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadRecord("damaged image", f"{shown}: {reason}") from None


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
