"""`mprm run phase`: where selection pays, by knowledge and by where labels err."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.console.command import answer
from experiments.console.progress import progress
from experiments.console.text import count_of
from experiments.phase.cells import Cell, cell_of
from experiments.phase.design import (
    KEEP_RATIOS,
    NETS,
    POSITION,
    PROBES,
    STUDENTS,
    Nets,
    Probes,
)
from experiments.phase.report import Diagram, as_json, as_text
from experiments.store.experiment import ExperimentOptions, SizedOptions, complete
from experiments.store.results import Result

# Stage of the backbone that ships as the full one.
FULL_STAGE = 6000

DIAGRAMS = ("students", "probes", "nets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SizedOptions):
    """Where does selection pay? BIS - Random over knowledge and placement of errors.

    Three diagrams, each a table of knowledge (rows) by how far wrong labels follow the
    position of a step (columns), for keep ratios of 5, 10, 25 and 50 %: linear students
    that start at c times the truth; linear probes on frozen hidden states of the tiny
    backbone at stages of its pretraining; and that backbone trained whole. Small shows
    the corners; full is what claims rest on. The design was written down before it was
    run (experiments/phase/design.py).

    Example: mprm run phase --size small --only students

    Attributes:
        only: Of the three diagrams.
        backbones: Folder with the backbone at earlier stages of its pretraining, as
            mprm pretrain scenes --stages 300 600 1200 2400 writes them; stages that are
            not there are left out.
    """

    only: Annotated[
        tuple[Literal["students", "probes", "nets"], ...],
        tyro.conf.arg(metavar="DIAGRAM ..."),
    ] = ()
    backbones: Path = Path("runs")


OPTIONS = Options


def run(options: Options) -> None:
    """Run the cells that the store does not hold, and print the diagrams."""
    diagrams, ran = [], 0
    for name in DIAGRAMS:
        if not options.only or name in options.only:
            found, new = _RUN[name](options)
            diagrams += found
            ran += new
    value = {"seed": options.seed, "size": options.size, "ran": ran}
    value |= {"diagrams": [as_json(diagram) for diagram in diagrams]}
    text = "\n\n".join(as_text(diagram) for diagram in diagrams)
    answer(
        options.json,
        value,
        f"{text}\n\n{count_of(ran, 'cell')} run; store: {options.output}",
    )


def store_name(diagram: str) -> str:
    """Of a diagram's results."""
    return f"phase_{diagram}"


def _complete(
    options: Options,
    cells: Sequence[Cell],
    more: Callable[[Cell], dict[str, Any]],
    compute: Callable[[Sequence[Cell]], list[dict[str, Any]]],
) -> tuple[list[Diagram], int]:
    """The diagrams of these cells of one kind, one a world; see :func:`completed`."""
    name = cells[0].diagram
    results, ran = completed(options, store_name(name), cells, more, compute)
    by_world: dict[str, dict[Cell, Any]] = {}
    for result in results:
        cell = cell_of(result)
        by_world.setdefault(cell.world, {})[cell] = result.metrics
    return [Diagram(name, *of) for of in by_world.items()], ran


def completed(
    options: ExperimentOptions,
    name: str,
    cells: Sequence[Cell],
    more: Callable[[Cell], dict[str, Any]],
    compute: Callable[[Sequence[Cell]], list[dict[str, Any]]],
) -> tuple[list[Result], int]:
    """All cells of a store, and how many it lacked; those of one training together.

    Args:
        options: of the command.
        name: of the store.
        cells: wanted, those of one training beside each other.
        more: what determines a cell beside its place.
        compute: metrics of cells that differ in their keep ratio alone.
    """

    def run(chosen: list[int]) -> list[dict[str, Any]]:
        groups = itertools.groupby(
            (cells[i] for i in chosen), lambda cell: cell._replace(keep_ratio=0)
        )
        return [metrics for _, group in groups for metrics in compute(list(group))]

    configs = [{"cell": cell._asdict()} | more(cell) for cell in cells]
    return complete(options, name, configs, run, together=len(KEEP_RATIOS))


def _students(options: Options) -> tuple[list[Diagram], int]:
    from experiments.phase import students

    cells = students.cells(STUDENTS[options.size])
    return _complete(
        options,
        cells,
        lambda cell: {"position": POSITION},
        lambda group: students.compute(group, 1000 * options.seed),
    )


def _probes(options: Options) -> tuple[list[Diagram], int]:
    from experiments.phase import probes

    design = PROBES[options.size]
    backbones = find_backbones(options.backbones, design.stages)
    folder = options.output / "hidden_states"
    seed = 1000 * options.seed

    def more(cell: Cell) -> dict[str, Any]:
        return of_scenes(design, backbones[int(cell.knowledge)])

    def compute(group: Sequence[Cell]) -> list[dict[str, Any]]:
        backbone = backbones[int(group[0].knowledge)]
        return probes.compute(group, design, backbone, folder, seed)

    diagrams, ran = [], 0
    for world in design.worlds:
        make_hidden_states(design, world, backbones, folder, seed)
        cells = probes.cells(design, world, tuple(backbones))
        found, new = _complete(options, cells, more, compute)
        diagrams += found
        ran += new
    return diagrams, ran


def make_hidden_states(
    design: Probes, world: str, backbones: dict[int, str], folder: Path, seed: int
) -> None:
    """Those that the folder lacks, with progress."""
    from experiments.phase import probes

    with progress(f"hidden states of {world}", design.units, "corpora") as tick:
        made = probes.keep_hidden_states(design, world, backbones, folder, seed)
        for number, _ in enumerate(made, 1):
            tick(number)


def of_scenes(design: Probes | Nets, backbone: str) -> dict[str, Any]:
    """What determines a cell beside its place."""
    from experiments.phase.probes import fingerprint

    sizes = {"rollouts": design.rollouts, "judged": design.judged}
    return sizes | {"backbone": fingerprint(backbone)}


def find_backbones(folder: Path, stages: Sequence[int]) -> dict[int, str]:
    """The stages that ship or lie in the folder, as the model's loader takes them.

    What is missing is said on stderr, with the command that makes it.
    """
    from mprm_jax.models import tiny
    from mprm_jax.records.problems import DataError

    found: dict[int, str] = {}
    for stage in stages:
        files = sorted(folder.glob(f"*-{stage}.safetensors"))
        named = tiny.FULL if stage == FULL_STAGE else str(stage)
        for name in (named, *map(str, files)):
            try:
                tiny.pretrained_bytes(name)
            except DataError:
                continue
            found[stage] = name
            break
    if missing := [stage for stage in stages if stage not in found]:
        made, quoted = " ".join(map(str, missing)), shlex.quote(str(folder))
        print(
            f"mprm run phase: left out: stages {made}, which are neither shipped nor "
            f"in {folder} (mprm pretrain scenes --stages {made} --output "
            f"{quoted}/tiny_base.safetensors; then --backbones {quoted})",
            file=sys.stderr,
        )
    return found


def _nets(options: Options) -> tuple[list[Diagram], int]:
    from experiments.phase import nets

    design = NETS[options.size]
    backbones = find_backbones(options.backbones, design.stages)
    cells = nets.cells(design, tuple(backbones))
    seed = 1000 * options.seed
    train_nets(design, backbones, options.output, seed)

    def more(cell: Cell) -> dict[str, Any]:
        of = backbones[int(cell.knowledge)]
        training = nets.TRAINING | {"learning_rate": cell.rate}
        return of_scenes(design, of) | {"training": training}

    def compute(group: Sequence[Cell]) -> list[dict[str, Any]]:
        return nets.compute(group, design, backbones, options.output, seed)

    return _complete(options, cells, more, compute)


def train_nets(
    design: Nets, backbones: dict[int, str], folder: Path, seed: int
) -> None:
    """The models that the folder's store lacks, with progress."""
    from experiments.phase import nets

    given = folder, design, list(backbones.values()), seed
    left = nets.missing(*given).values()
    total = sum(len(cells) for of in left for cells in of.values())
    with progress("training", total, "models") as tick:
        for number, line in enumerate(nets.train(*given), 1):
            print(line, file=sys.stderr, flush=True)
            tick(number)


_RUN = {"students": _students, "probes": _probes, "nets": _nets}
