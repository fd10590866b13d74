"""A simulated corpus on disk: counts from `sim`, files as the real corpus has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from experiments.store.provenance import versions
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.outputs import OutputSet
from mprm_jax.records.problems import DataError
from sim.corpus.fit import ModelFit, fit
from sim.corpus.sources import Source
from sim.corpus.text import file_stem, placeholder_records
from theory.rollouts import Rollouts

# Beside annotations/; says how the corpus was made.
MADE_HERE = "manifest.json"


def write_raw_corpus(
    folder: Path,
    rollouts: Rollouts,
    rng: np.random.Generator,
    arguments: dict[str, Any],
    progress: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Write ``folder/annotations/<source>.jsonl``; all files appear together.

    Args:
        folder: made if need be.
        rollouts: the counts.
        rng: of the placeholder text.
        arguments: what the counts were made with, for the manifest.
        progress: called with the number of rollouts written, now and then.

    Returns:
        the files, in the order of the sources.

    Raises:
        DataError: a file cannot be written, or the folder holds annotations that this
            function has not written, or those of sources that ``rollouts`` has not.
    """
    annotations = folder / "annotations"
    paths = {
        name: annotations / f"{file_stem(name)}.jsonl" for name in rollouts.source_names
    }
    there = sorted(annotations.glob("*.jsonl*"))
    # A corpus of counts lists its files; another world's manifest does not.
    if there and "files" not in made_here(folder):
        raise DataError(
            f"{annotations}: holds files that mprm simulate corpus did not write; "
            "choose another --output"
        )
    if left := [path for path in there if path not in paths.values()]:
        raise DataError(
            f"{annotations}: {left[0].name} of an earlier simulation would stay and be "
            "read as a part of this one; choose another --output"
        )
    with OutputSet() as outputs:
        manifest = {
            "versions": versions(),
            "rollouts": rollouts.n_rollouts,
            "steps": rollouts.n_steps,
            "files": [path.name for path in paths.values()],
            **arguments,
        }
        outputs.add_manifest(folder / MADE_HERE, manifest)
        files = {name: outputs.add(path) for name, path in paths.items()}
        for count, (source, record) in enumerate(placeholder_records(rollouts, rng), 1):
            line = json.dumps(record, ensure_ascii=False)
            files[source].write(line.encode() + b"\n")
            if count % 4096 == 0:
                progress(count)
    return list(paths.values())


def made_here(folder: Path) -> dict[str, Any]:
    """What a simulation of this package wrote beside its corpus; empty: it is real, or
    there is none.
    """
    try:
        value = msgspec.json.decode((folder / MADE_HERE).read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value


def order_on_disk(rollouts: Rollouts) -> np.ndarray:
    """Row in ``rollouts`` of each rollout as a reader of the written corpus meets it.

    Files are read in the order of their names, which is not that of the sources.
    """
    names = [f"{file_stem(name)}.jsonl" for name in rollouts.source_names]
    rank = np.argsort(np.argsort(names))
    return np.argsort(rank[rollouts.source], kind="stable")


class Fitted(NamedTuple):
    """A corpus model with the sources and the N of the corpus it was fitted to."""

    model: ModelFit
    sources: tuple[Source, ...]
    trials: int

    @property
    def sentence(self) -> str:
        """What was estimated, how, and what the model cannot meet."""
        fitted = self.model
        parts = ", ".join(
            f"{name} {value:.4g} [{low:.4g}, {high:.4g}]"
            for name, value, low, high in zip(
                fitted.parameters, fitted.estimate, fitted.low, fitted.high, strict=True
            )
        )
        missed = f"; misses {fitted.misses}" if fitted.misses else ""
        return f"fitted by {fitted.method}: {parts} (95 % intervals){missed}"


def fit_to_corpus(folder: Path, name: str) -> Fitted:
    """One of the corpus models, fitted to a corpus on disk.

    Raises:
        DataError: the corpus cannot be read, or is too small to fit; says why.
    """
    rollouts = usable_rollouts(read_corpus(folder, sha256=False)).rollouts
    try:
        fitted = fit(rollouts, [name])
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from None
    return Fitted(fitted.models[name], fitted.sources, fitted.trials)
