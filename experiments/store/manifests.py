"""The parts that manifests of subsets share, and the one way to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mprm_jax.data.outputs import manifest_path
from mprm_jax.data.problems import DataError

T = TypeVar("T")


class InputFile(msgspec.Struct, frozen=True):
    """A file of the corpus, as it was when the subset was selected."""

    file: str
    sha256: str


def typed(output: Path, manifest: dict[str, Any], kind: type[T]) -> T:
    """The manifest of an output as ``kind``, extra keys left out.

    Raises:
        DataError: naming the key that is missing or of another type.
    """
    try:
        return msgspec.convert(manifest, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{manifest_path(output)}: {error}") from error
