"""`mprm pretrain`: the tiny backbone, on the simulated world's own solutions."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.console.command import answer
from experiments.console.compilation import compiling
from experiments.console.errors import UsageError
from experiments.console.options import CompileOption, SeedOption, check_least
from experiments.console.progress import progress
from experiments.console.text import size

if TYPE_CHECKING:
    from experiments.corpora.pretraining import Pretrained


@dataclasses.dataclass(frozen=True)
class Options(CompileOption, SeedOption):
    """Pretrain the tiny backbone that `mprm demo` and `mprm train --model tiny` use.

    On pictures and solutions of all ten sources it learns to name what cells show, to
    predict values and results, and to check steps of solutions that err anywhere. The
    reward head is not trained. The result that ships with the package was made by the
    defaults.

    Example: mprm pretrain scenes --output runs/tiny_base.safetensors

    Attributes:
        world: What to pretrain on.
        output: File for weights, tokeniser and how they were made.
        problems: Distinct pictures.
        updates: Of the optimiser.
        stages: Also write the backbone as it is after so many updates, each into a file
            of its own beside the output: less pretrained, it knows less.
        resume: Go on with a run of the same settings that was stopped, bit for bit;
            begin it if there is none.
    """

    world: tyro.conf.Positional[Literal["scenes"]]
    output: Path = Path("runs/tiny_base.safetensors")
    problems: int = 30_000
    updates: int = 6_000
    stages: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, problems=100, updates=300)
        if not all(0 < stage < self.updates for stage in self.stages):
            raise UsageError(f"--stages must lie between 0 and {self.updates}")


OPTIONS = Options


def run(options: Options) -> None:
    """Pretrain and write."""
    # Imported here: JAX would slow down --help.
    from experiments.corpora.pretraining import Keep, PretrainingConfig, pretrain_tiny
    from experiments.store.provenance import versions
    from mprm_jax.data.outputs import OutputSet
    from mprm_jax.models.tiny import weights_bytes
    from mprm_jax.records.problems import DataError
    from mprm_jax.train.checkpoint import updates_kept

    config = PretrainingConfig(
        problems=options.problems, updates=options.updates, seed=options.seed
    )
    # Beside the output, until that is written.
    folder = options.output.with_name(f"{options.output.name}.checkpoints")
    if updates_kept(folder) and not options.resume:
        raise DataError(
            f"{folder}: holds a run that was stopped; go on with --resume, or remove it"
        )

    def say(message: str) -> None:
        print(f"mprm pretrain: {message}", file=sys.stderr)

    def write(of: Pretrained) -> None:
        last = of.updates == options.updates
        name = "" if last else f"-{of.updates}"
        file = options.output.with_stem(options.output.stem + name)
        stage = "" if last else f" --stages {of.updates}"
        facts = {
            "command": f"mprm pretrain scenes --problems {options.problems} "
            f"--updates {options.updates} --seed {options.seed}{stage}",
            "after update": str(of.updates),
            **{name: f"{value:.4f}" for name, value in of.metrics.items()},
            **{f"version of {name}": version for name, version in versions().items()},
        }
        with OutputSet() as outputs:
            outputs.add(file).write(weights_bytes(of.model, of.params, facts))
        written.append(file)

    written: list[Path] = []
    keep = Keep(folder, say=say)
    with progress("pretraining", options.updates, "updates", compiling()) as tick:
        made = pretrain_tiny(config, tick, write, options.stages, keep)
    write(made)
    shutil.rmtree(folder, ignore_errors=True)
    lines = [f"{name:<40} {value:.4f}" for name, value in made.metrics.items()]
    lines += [f"wrote {file} ({size(file.stat().st_size)})" for file in written]
    value = {"output": str(options.output), "metrics": made.metrics}
    value |= {"written": [str(file) for file in written]}
    answer(options.json, value, "\n".join(lines))
