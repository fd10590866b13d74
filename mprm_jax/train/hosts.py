"""Several hosts, each with its own process, in one run."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

# The host that writes files.
FIRST = 0


def in_turn() -> Iterator[bool]:
    """Yields once: on the first host at once, on the others when it is done there.

    The value says whether this is the first. An error on the first host ends the
    others' wait, because its process ends.
    """
    first = jax.process_index() == FIRST
    if jax.process_count() == 1:
        yield True
        return
    if first:
        yield True
    _wait("the first host's turn")
    if not first:
        yield False


def any_host(here: bool) -> bool:
    """Whether it is so on any host; every host must ask."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def _wait(name: str) -> None:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
