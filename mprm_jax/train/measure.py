"""What all hosts must know of the rollouts before they train on them together."""

from __future__ import annotations

from collections.abc import Callable

import jax
import msgspec

from mprm_jax.data.batches import Sizes
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.train.config import Objective
from mprm_jax.train.objective import StepLabeller
from mprm_jax.train.sharding import gather_bytes


class _Share(msgspec.Struct):
    """What one host found: how many rollouts it has, (row, reason, detail) of refused
    ones, the columns of the sizes, and why it could not go on.
    """

    rollouts: int
    refused: list[tuple[int, str, str]]
    sizes: list[list[float]]
    failure: str = ""


def measure(
    source: CorpusExamples,
    objective: Objective,
    threads: int,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[dict[int, BadRecord], Sizes]:
    """Encode every rollout once, each on one of the hosts; all hosts must ask.

    Args:
        source: the same on every host.
        objective: which steps count.
        threads: that read.
        progress: called with the number of rollouts that this host has read.

    Returns:
        why rollouts cannot be encoded, by row of ``usable.rollouts``, and the sizes of
        the others in order; the same on every host.

    Raises:
        DataError: a file changed since it was indexed, on any host; or they do not read
            the same rollouts.
    """
    host, hosts = jax.process_index(), jax.process_count()
    labeller = StepLabeller(objective)
    if hosts == 1:
        return source.measure(labeller, threads, progress=progress)
    count = -(-len(source) // hosts)
    share = slice(host * count, (host + 1) * count)
    try:
        refused, sizes = source.measure(labeller, threads, share, progress)
        told = [(row, e.reason, e.detail) for row, e in refused.items()]
        columns = [column.tolist() for column in sizes]
        mine = _Share(len(source), told, columns)
    except DataError as error:
        mine = _Share(len(source), [], [], str(error))
    said = gather_bytes(msgspec.msgpack.encode(mine))
    shares = [msgspec.msgpack.decode(data, type=_Share) for data in said]
    for of in shares:
        if of.failure:
            raise DataError(of.failure)
    counts = [of.rollouts for of in shares]
    if len(set(counts)) > 1:
        raise DataError(f"the hosts disagree: they read {counts} rollouts")
    everywhere = {
        row: BadRecord(reason, detail)
        for of in shares
        for row, reason, detail in of.refused
    }
    return everywhere, Sizes.joined(Sizes.of(of.sizes) for of in shares)
