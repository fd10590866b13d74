"""A device that runs out of memory: advice instead of a traceback."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import jax

from mprm_jax.data.problems import DataError

_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")

_ADVICE = (
    "more --accumulate changes nothing but memory; --mesh over more devices splits the "
    "model; --optimizer adafactor or --lora-rank keep less beside it; a smaller "
    "--batch-size or --max-length is another experiment; --dry-run tells the bytes"
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is the accelerator's, or its compiler's, way to say so."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(
        sign in str(error) for sign in _SIGNS
    )


@contextlib.contextmanager
def advised() -> Iterator[None]:
    """Turn running out of a device's memory into one line with ways out.

    Raises:
        DataError: it happened.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # "... Out of memory while trying to allocate 17.24GiB", or the same in bytes.
        size = re.search(r"allocat\w* ([\d.]+ ?(?:bytes|[KMGT]i?B))", str(error))
        wanted = f" ({size[1]} more were wanted)" if size else ""
        raise DataError(f"out of device memory{wanted}: {_ADVICE}") from error
