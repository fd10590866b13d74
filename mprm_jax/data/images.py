"""Image files: from the path a record gives to a file below the image root."""

from __future__ import annotations

import os
from pathlib import Path

from mprm_jax.data.problems import BadRecord
from mprm_jax.data.record import check_image_path


def resolve_image(root: Path, image: str) -> Path:
    """The file that ``image`` names below ``root``, symbolic links resolved.

    Raises:
        BadRecord: the path could leave the root or does so by a symbolic link, or there
            is no such file.
    """
    check_image_path(image)
    base = Path(os.path.realpath(root))
    file = Path(os.path.realpath(base / image))
    if not file.is_relative_to(base):
        raise BadRecord(
            "unsafe image path", f"{image[:80]!r} leaves {root} by a symbolic link"
        )
    # Unlike Path.is_file, this is false for a name too long for the file system.
    if not os.path.isfile(file):
        raise BadRecord("image not found", f"{image[:80]!r} below {root}")
    return file
