"""`mprm run`: one experiment, or all of them, into the results store."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import pkgutil
import sys
from typing import Annotated, Any

import tyro

from experiments.cli import figures
from experiments.console import shared
from experiments.store.experiment import SizedOptions

# name -> module, or module:object, in the order in which `mprm run all` runs them. It
# has OPTIONS, a frozen dataclass whose docstring is its help, and run(options), which
# skips the cells that experiments.store.results finds in options.output. Its imports
# run for every --help, so JAX and scipy belong inside its functions.
EXPERIMENTS = {
    "theory": "experiments.theory_table.table",
    "kept": "experiments.corpora.kept",
    "corpus_models": "experiments.corpora.corpus_models",
    "plateau": "experiments.students.sweeps:PLATEAU",
    "rules": "experiments.students.sweeps:RULES",
    "labels": "experiments.students.sweeps:LABELS",
    "alpha": "experiments.students.sweeps:ALPHA",
    "mc_budget": "experiments.students.sweeps:MC_BUDGET",
    "ties": "experiments.students.sweeps:TIES",
    "regimes": "experiments.map.run",
}

# These need what only the user has, so `mprm run all` leaves them out.
WITH_DATA = {
    "selection": "experiments.grid.run",
    "judges": "experiments.corpora.judges",
}


class Everything(SizedOptions):
    """Every experiment below that needs no data of yours; what is done is skipped.

    At the end the figures are drawn into the folder figures of --output, each as PDF,
    PNG and CSV; one that is there and not older than its results is left as it is.

    Example: mprm run all --size small
    """


def _load(experiments: dict[str, str]) -> dict[str, Any]:
    return {name: pkgutil.resolve_name(path) for name, path in experiments.items()}


def _options_type(modules: dict[str, Any]) -> Any:
    """The subcommands: a union of the experiments' options."""
    types = {"all": Everything} | {
        name: module.OPTIONS for name, module in modules.items()
    }
    return functools.reduce(
        operator.or_,
        (
            Annotated[options, tyro.conf.subcommand(name, prefix_name=False)]
            for name, options in types.items()
        ),
    )


_MODULES = _load(EXPERIMENTS)
_MODULES_WITH_DATA = _load(WITH_DATA)
OPTIONS = _options_type(_MODULES | _MODULES_WITH_DATA)


def run(options: Any) -> None:
    """Run the experiment whose options these are."""
    if isinstance(options, Everything):
        run_all(options, _MODULES)
        return
    for module in (*_MODULES.values(), *_MODULES_WITH_DATA.values()):
        if type(options) is module.OPTIONS:
            module.run(options)


def run_all(options: Everything, modules: dict[str, Any]) -> None:
    """Run every experiment with those of its options that ``options`` has, too; draw.

    Raises:
        UsageError: an option value that an experiment refuses.
        DataError: an experiment or a figure fails; those before it keep their results.
    """
    common = {f.name for f in dataclasses.fields(Everything)} - {"json"}
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        for name, module in modules.items():
            print(f"== mprm run {name}")
            known = {f.name for f in dataclasses.fields(module.OPTIONS)} & common
            module.run(module.OPTIONS(**{f: getattr(options, f) for f in known}))
        print("== figures")
        folder = options.output / "figures"
        drawn, left_out = figures.draw_stale(options.output, folder)
        for name, reason in left_out.items():
            print(f"left out: {name}: {reason}")
        done = f"{len(drawn)} files drawn" if drawn else "nothing newer to draw"
        print(f"{done}; figures lie in {folder}")
    if options.json:
        shared.print_json(
            {
                "output": str(options.output),
                "experiments": list(modules),
                "figures": str(folder),
                "drawn": [str(path) for path in drawn],
                "left_out": left_out,
            }
        )
