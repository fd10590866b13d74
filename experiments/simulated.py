"""A simulated corpus on disk: counts from `sim`, files as the real corpus has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mprm_jax.data.outputs import OutputSet
from sim.corpus_text import file_stem, placeholder_records
from theory.rollouts import Rollouts


def write_raw_corpus(
    folder: Path,
    rollouts: Rollouts,
    rng: np.random.Generator,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Write ``folder/annotations/<source>.jsonl``; all files appear together.

    Args:
        folder: made if need be.
        rollouts: the counts.
        rng: of the placeholder text.
        progress: called with the number of rollouts written, now and then.

    Returns:
        the files, in the order of the sources.

    Raises:
        DataError: a file cannot be written.
    """
    paths = {
        name: folder / "annotations" / f"{file_stem(name)}.jsonl"
        for name in rollouts.source_names
    }
    with OutputSet() as outputs:
        files = {name: outputs.add(path) for name, path in paths.items()}
        for count, (source, record) in enumerate(placeholder_records(rollouts, rng), 1):
            line = json.dumps(record, ensure_ascii=False)
            files[source].write(line.encode() + b"\n")
            if count % 4096 == 0:
                progress(count)
    return list(paths.values())


def order_on_disk(rollouts: Rollouts) -> np.ndarray:
    """Row in ``rollouts`` of each rollout as a reader of the written corpus meets it.

    Files are read in the order of their names, which is not that of the sources.
    """
    names = [f"{file_stem(name)}.jsonl" for name in rollouts.source_names]
    rank = np.argsort(np.argsort(names))
    return np.argsort(rank[rollouts.source], kind="stable")
