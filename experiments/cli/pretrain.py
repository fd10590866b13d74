"""`mprm pretrain`: the tiny backbone, on the simulated world's own solutions."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Literal

import tyro

from experiments.console.command import answer
from experiments.console.options import SeedOption, check_least
from experiments.console.progress import progress


@dataclasses.dataclass(frozen=True)
class Options(SeedOption):
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
        resume: Go on with a run of the same settings that was stopped, bit for bit;
            begin it if there is none.
    """

    world: tyro.conf.Positional[Literal["scenes"]]
    output: Path = Path("runs/tiny_base.safetensors")
    problems: int = 30_000
    updates: int = 6_000
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, problems=100, updates=300)


OPTIONS = Options


def run(options: Options) -> None:
    """Pretrain and write."""
    # Imported here: JAX would slow down --help.
    from experiments.corpora.pretraining import Keep, PretrainingConfig, pretrain_tiny
    from experiments.store.provenance import versions
    from mprm_jax.data.outputs import OutputSet
    from mprm_jax.models.tiny import weights_bytes
    from mprm_jax.records.problems import DataError

    config = PretrainingConfig(
        problems=options.problems, updates=options.updates, seed=options.seed
    )
    # Beside the output, until that is written.
    folder = options.output.with_name(f"{options.output.name}.checkpoints")
    if folder.exists() and not options.resume:
        raise DataError(
            f"{folder}: holds a run that was stopped; go on with --resume, or remove it"
        )

    def say(message: str) -> None:
        print(f"mprm pretrain: {message}", file=sys.stderr)

    with progress("pretraining", options.updates, "updates") as tick:
        model, params, metrics = pretrain_tiny(config, tick, Keep(folder, say=say))
    facts = {
        "command": f"mprm pretrain scenes --problems {options.problems} "
        f"--updates {options.updates} --seed {options.seed}",
        **{name: f"{value:.4f}" for name, value in metrics.items()},
        **{f"version of {name}": version for name, version in versions().items()},
    }
    with OutputSet() as outputs:
        outputs.add(options.output).write(weights_bytes(model, params, facts))
    shutil.rmtree(folder, ignore_errors=True)
    lines = [f"{name:<40} {value:.4f}" for name, value in metrics.items()]
    size = f"{options.output.stat().st_size / 1e6:.2f} MB"
    value = {"output": str(options.output), "metrics": metrics}
    answer(options.json, value, "\n".join([*lines, f"wrote {options.output} ({size})"]))
