"""What a selection grid is run on: corpus, benchmark, candidates and model, by content.

The store keeps these beside every cell, so that results of another corpus, benchmark or
model are never compared with, or taken for, those of this one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from experiments.console.text import count_of
from experiments.corpora.scenes import read_truth
from experiments.corpora.simulated import made_here
from experiments.grid.plan import CONTROLS
from experiments.store.provenance import file_sha256
from experiments.store.results import Result
from experiments.store.write_subset import corpus_reading
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OUTPUT_SCHEMA
from mprm_jax.data.scored import (
    CandidateSet,
    Solution,
    read_benchmark,
    read_candidates,
    solutions_root,
)
from mprm_jax.data.write import picture_root
from mprm_jax.decision import decide
from mprm_jax.models.folder import model_folder
from mprm_jax.records.problems import DataError, faults_of
from mprm_jax.records.record import ImageRoot
from theory.agreement import step_scores

TINY = "tiny"

# Weights are gigabytes; training changes the end of every file as much as its middle.
_ENDS = 1 << 20


@dataclass(frozen=True)
class InputPaths:
    """Where a grid's inputs lie.

    Attributes:
        benchmark: file of judged solutions.
        candidates: file of candidate solutions; None: there are none.
        images: root of the corpus's image paths; None: where ``mprm train`` looks.
        benchmark_images: root of the others; None: where ``mprm evaluate`` looks.
        model: as the user named it.
        backbone: of the tiny model, see :func:`mprm_jax.models.tiny.pretrained`.
        name: of the corpus; None: its folder's, or the simulated world's.
        follow_links: symbolic links may lead out of the roots.
    """

    benchmark: Path
    candidates: Path | None = None
    images: Path | None = None
    benchmark_images: Path | None = None
    model: str = TINY
    backbone: str = "full"
    name: str | None = None
    follow_links: bool = False


@dataclass(frozen=True, eq=False)
class Inputs:
    """What all cells share, before the model is opened.

    Attributes:
        usable: the corpus.
        images: root of its image paths; None: the model sees none.
        solutions: the benchmark.
        benchmark_images: root of its image paths, and of the candidates'.
        sets: candidates; None where none are given.
        settings: what determines every cell beside its arm and seed, JSON values.
        prior: file of what error rate and position alone say of the benchmark's steps.
    """

    usable: SelectableCorpus
    images: ImageRoot | None
    solutions: Sequence[Solution]
    benchmark_images: ImageRoot
    sets: Sequence[CandidateSet] | None
    settings: dict[str, Any]
    prior: Path | None = None

    def truth_folder(self) -> Path:
        """The corpus's folder, in which the truth lies, too.

        Raises:
            DataError: it does not.
        """
        folder = _corpus_folder(self.usable)
        if not (folder / "truth").is_dir():
            raise DataError(
                f"{folder}: no truth/, without which there are no labels "
                f"{', '.join(CONTROLS)}; mprm simulate scenes writes it"
            )
        return folder

    @functools.cached_property
    def truth(self) -> list[np.ndarray]:
        """Of every usable rollout the true label of each step: 1, 0 (neutral) or -1.

        Raises:
            DataError: it is not known, or does not fit the rollouts.
        """
        of_lines = read_truth(self.truth_folder(), self.usable.corpus)
        return [np.array(of_lines[row].correct) for row in self.usable.row.tolist()]


def read_inputs(
    usable: SelectableCorpus, paths: InputPaths, training: dict[str, Any]
) -> Inputs:
    """Read and check all but the pictures and the weights.

    Args:
        usable: the corpus.
        paths: of all else.
        training: settings of the training, JSON values.

    Raises:
        DataError: a file or folder is missing or cannot be used.
    """
    benchmark, candidates = paths.benchmark, paths.candidates
    solutions = read_benchmark(benchmark)
    _check_split(solutions, benchmark)
    for root in (paths.images, paths.benchmark_images):
        if root is not None and not root.is_dir():
            raise DataError(f"{root}: no such folder of images")
    sets = None
    if candidates is not None:
        sets = read_candidates(candidates, scored=False)
    folder = _corpus_folder(usable)
    made = made_here(folder)
    synthetic = made.get("schema") == OUTPUT_SCHEMA
    settings = {
        "world": {
            "name": paths.name or (synthetic and made.get("world")) or folder.name,
            "synthetic": synthetic,
            "reading": corpus_reading(usable),
            "benchmark": file_sha256(benchmark),
            "candidates": None if candidates is None else file_sha256(candidates),
        },
        # Beside the world, which may have several.
        "corpus": xxhash.xxh3_128_hexdigest("".join(usable.corpus.sha256).encode()),
        "model": fingerprint(paths.model, paths.backbone),
        "training": training,
        "threshold": "cross-fitted",
    }
    every, follow = np.arange(len(usable.row)), paths.follow_links
    images = picture_root(usable, every, paths.images)._replace(follow_links=follow)
    root = paths.benchmark_images or solutions_root(benchmark, solutions)
    judged = ImageRoot(root, follow)
    return Inputs(usable, images, solutions, judged, sets, settings)


def _check_split(solutions: Sequence[Solution], benchmark: Path) -> None:
    """Before hours of training: both halves must be able to choose a threshold."""
    labels = [solution.labels for solution in solutions]
    steps = step_scores(
        [solution.record.source or "" for solution in solutions],
        labels,
        [[0.5] * len(of) for of in labels],
        [solution.id for solution in solutions],
    )
    if not steps.n_steps:
        raise DataError(f"{benchmark}: every label is 0 (neutral): nothing to judge by")
    try:
        decide(steps, "cross-fitted")
    except DataError:
        raise DataError(
            f"{benchmark}: {count_of(len(solutions), 'solution')}: too few to choose "
            "the decision threshold of each half on the other"
        ) from None


def _corpus_folder(usable: SelectableCorpus) -> Path:
    folder = corpus_files(usable.corpus.path)[0].path.resolve().parent
    return folder.parent if folder.name == "annotations" else folder


def fingerprint(model: str, backbone: str = "full") -> str:
    """Hash of a model's weights and configuration, without opening it.

    Of files beyond 2 MiB the size and both ends count. ``backbone`` as in
    :class:`InputPaths`.

    Raises:
        DataError: there is no model of that name.
    """
    digest = xxhash.xxh3_128()
    if model == TINY:
        from mprm_jax.models.tiny import pretrained_bytes

        digest.update(pretrained_bytes(backbone))
        return digest.hexdigest()
    folder = model_folder(model)
    patterns = ("*.json", "*.safetensors", "checkpoints/*/*.json")
    for path in sorted(path for of in patterns for path in folder.glob(of)):
        with faults_of(path), open(path, "rb") as file:
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
            digest.update(file.read(_ENDS))
            file.seek(max(file.tell(), path.stat().st_size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


def refuse_another_run(
    found: Sequence[Result], settings: dict[str, Any], store: Path
) -> None:
    """One table and one figure compare only what shares corpus, benchmark and model.

    Raises:
        DataError: a cell has other settings; the message names them.
    """
    mine = _flat(settings)
    for result in found:
        theirs = _flat({k: v for k, v in result.config.items() if k != "arm"})
        changed = [
            name
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        if changed:
            raise DataError(
                f"{store}: holds another run: {', '.join(changed)} differ; choose "
                "another --output, or the settings of that run"
            )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{part}.{name}": of for name, of in value.items()}
        else:
            flat[part] = value
    return flat
