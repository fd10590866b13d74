"""What `mprm evaluate` and `mprm rerank` share: where scores come from and go to."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Optional

import msgspec

from experiments.console.errors import UsageError
from experiments.console.options import (
    CompileOption,
    OptionalStr,
    PictureOptions,
    SeedOption,
    check_least,
    option,
    wrong_usage,
)
from experiments.console.progress import progress
from experiments.store.provenance import file_sha256, package_version, versions
from mprm_jax.data.framing import corpus_files
from mprm_jax.data.outputs import OutputSet, manifest_path
from mprm_jax.records.problems import DataError
from mprm_jax.train.config import Precision
from theory.intervals import REPLICATES

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from mprm_jax.models.model import Model, Params
    from mprm_jax.train.open_backbone import OpeningToScore


# Options that say nothing of scores somebody has.
_OF_CHECKPOINTS = ("images", "follow_links", "output", "mesh", "compute")


@dataclasses.dataclass(frozen=True)
class ScoringOptions(PictureOptions, CompileOption, SeedOption):
    """What a model is judged by: its checkpoint, or scores somebody has already.

    Attributes:
        checkpoint: Folder of a trained model, as `mprm train --output` makes it.
        predictions: File of scores, of any model, instead of --checkpoint, or a folder
            of such files.
        output: Where --checkpoint writes the scores, by default in runs/; a manifest
            and the metrics (.metrics.json) go beside it.
        batch_size: Prompts that --checkpoint scores at a time, on all devices together.
        threads: Threads that read prompts and pictures ahead.
        mesh: Devices as DATAxFSDPxTENSOR, see mprm train. By default every device: a
            copy on each where the model fits, else its parts.
        compute: Precision of a backbone (bfloat16; float32 is exact).
        replicates: Bootstrap replicates behind the intervals; 0 for none.
    """

    checkpoint: Path | None = None
    predictions: Path | None = None
    output: Path | None = None
    batch_size: int = 32
    threads: int = 2
    mesh: OptionalStr = None
    compute: Optional[Precision] = None  # noqa: UP045
    replicates: int = REPLICATES

    # The option of what a checkpoint is to score.
    SCORED: ClassVar[str]

    def __post_init__(self) -> None:
        scored = getattr(self, self.SCORED)
        if (self.checkpoint is None) == (self.predictions is None):
            raise UsageError(
                f"give either --checkpoint DIR with {option(self.SCORED)} FILE, or "
                "--predictions FILE"
            )
        if self.checkpoint is not None and scored is None:
            raise UsageError(f"--checkpoint needs {option(self.SCORED)} FILE to score")
        if self.predictions is not None:
            for name in (self.SCORED, *_OF_CHECKPOINTS):
                if getattr(self, name):
                    raise UsageError(f"{option(name)} is for --checkpoint only")
        super().__post_init__()
        check_least(self, batch_size=1, threads=0, replicates=0)

    def opening(self) -> OpeningToScore:
        """How --checkpoint is opened: the mesh by --mesh, or else by the price."""
        import jax

        from mprm_jax.models.backbone import Backbone
        from mprm_jax.models.lora import base_of
        from mprm_jax.train.open_backbone import OpeningToScore
        from mprm_jax.train.price import Devices, device_memory, scoring_mesh
        from mprm_jax.train.sharding import make_mesh, parse_mesh

        def mesh_for(model: Model, shapes: Params) -> Mesh | None:
            if self.compute and not isinstance(base_of(model), Backbone):
                raise UsageError("--compute needs a backbone")
            if self.mesh is not None:
                with wrong_usage("--mesh"):
                    return make_mesh(parse_mesh(self.mesh))
            if (devices := jax.device_count()) == 1:
                return None
            here = Devices(devices, device_memory())
            return make_mesh(scoring_mesh(model, shapes, self.batch_size, here))

        return OpeningToScore(self.compute or OpeningToScore.compute, mesh_for)


class Checkpoint(NamedTuple):
    """A model, and which it is.

    Attributes:
        model: pure functions.
        params: its parameters.
        facts: folder, update of the checkpoint that was read and T of its run (None of
            released weights), and a hash of the parameters
            (:func:`mprm_jax.train.run_files.fingerprint`).
    """

    model: Any
    params: Any
    facts: dict[str, Any]


def load_checkpoint(folder: Path, opening: OpeningToScore | None = None) -> Checkpoint:
    """A trained model's best or newest checkpoint, or released weights.

    Args:
        folder: of either.
        opening: precision and mesh; None: as they are, on one device.

    Raises:
        DataError: there is no such folder, or no whole checkpoint in it.
    """
    if not folder.is_dir():
        from mprm_jax.models.folder import no_folder

        raise no_folder(str(folder))
    from mprm_jax.evaluate import mesh_of
    from mprm_jax.train.checkpoint import Progress
    from mprm_jax.train.open_model import load_model, open_model
    from mprm_jax.train.run_files import fingerprint

    facts = {"folder": str(folder.resolve()), "update": None, "updates": None}

    def found(progress: Progress) -> None:
        facts.update(update=progress.update, updates=progress.updates)

    released = (folder / "config.json").is_file()
    with progress("loading the model", None):
        if released and not (folder / "model.json").is_file():
            opened = opening.released if opening else lambda at: open_model(str(at))
            model, params = opened(folder)
        elif opening is None:
            model, params = load_model(folder, found=found)
        else:
            model, params = load_model(folder, found=found, place=opening.place)
            model = opening.changed(model, mesh_of(params))
    return Checkpoint(model, params, facts | {"parameters": fingerprint(params)})


def write_scored(
    output: Path,
    options: ScoringOptions,
    scored: Path,
    lines: Iterable[bytes],
    metrics: dict[str, Any] | None,
    judged: dict[str, Any],
) -> None:
    """Write scores, their manifest (with the facts of the checkpoint that was judged),
    and the metrics if there are any, all or none.

    Raises:
        DataError: a file cannot be written, or is an input.
    """
    if output.resolve() in {file.path.resolve() for file in corpus_files(scored)}:
        raise DataError(f"{output}: is the file to be scored; choose another --output")
    manifest = {
        "versions": versions() | {"jax": package_version("jax")},
        "checkpoint": str(options.checkpoint and options.checkpoint.resolve()),
        "judged": judged,
        "inputs": [
            {"file": str(file.path), "sha256": file_sha256(file.path)}
            for file in corpus_files(scored)
        ],
        "batch_size": options.batch_size,
    }
    with OutputSet() as outputs:
        file = outputs.add(output)
        for line in lines:
            file.write(line)
        manifest["sha256"] = file.sha256.hexdigest()
        outputs.add_manifest(manifest_path(output), manifest)
        if metrics is not None:
            path = output.with_suffix(".metrics.json")
            told = outputs.add(path, describes=True)
            told.write(msgspec.json.format(msgspec.json.encode(metrics)) + b"\n")


def number(value: float | None) -> str:
    """Four decimals, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def between(ends: tuple[float, float] | None) -> str:
    """The ends of an interval, or a dash."""
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def closing(value: dict[str, Any]) -> list[str]:
    """The notes on a result, and where its scores were written."""
    lines = [textwrap.fill(note, 80) for note in value["notes"]]
    if (judged := value.get("judged")) and judged["update"] is not None:
        lines.append(f"judged: update {judged['update']:,} of {judged['updates']:,}")
    if "predictions" in value:
        lines.append(f"wrote {value['predictions']}")
    return lines
