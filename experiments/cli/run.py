"""`mprm run`: one experiment, or all of them, into the results store."""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import sys
from typing import Any

from experiments.console.command import answer, run_command
from experiments.console.text import count_of
from experiments.store.experiment import SizedOptions

# name -> (module of experiments, or object in it, and what it answers), in the order of
# `mprm run all`. It has OPTIONS, a frozen dataclass whose docstring is its help, and
# run(options), which skips the cells that experiments.store.results finds in
# options.output. It is imported for --help, so JAX and scipy belong inside functions.
EXPERIMENTS = {
    "theory": ("theory_table.table", "every statement of the theory, four ways"),
    "kept": ("corpora.kept", "what the paper's rules keep of a simulated corpus"),
    "corpus_models": ("corpora.corpus_models", "what do corpus models predict?"),
    "plateau": ("students.sweeps:PLATEAU", "how much data, and how many updates?"),
    "rules": ("students.sweeps:RULES", "which rule's subset teaches a student best?"),
    "labels": ("students.sweeps:LABELS", "which labels teach best?"),
    "alpha": ("students.sweeps:ALPHA", "which alpha should BIS have?"),
    "mc_budget": ("students.sweeps:MC_BUDGET", "many rollouts, or many continuations?"),
    "ties": ("students.sweeps:TIES", "what do ties decide, and does it matter?"),
    "regimes": ("map.run", "where does BIS pay?"),
    "recipe": ("grid.recipe", "at which rates does the tiny model learn?"),
    "better_rule": ("map.candidates", "is there a rule, with labels, better than BIS?"),
    "gain": ("map.gain", "does one formula predict where BIS pays?"),
    "judged_map": ("map.judged_map", "do judged rollouts tell where BIS pays?"),
    "phase": ("phase.run", "knowledge and placement of errors: where does BIS pay?"),
    "judged_scenes": (
        "phase.prediction",
        "do judged rollouts tell it in visual worlds?",
    ),
    "better_rule_scenes": (
        "phase.candidates",
        "which rule, with labels, in probes and nets?",
    ),
    "annotate": ("phase.annotation", "where should continuations go?"),
}

# These need what only the user has, so `mprm run all` leaves them out.
WITH_DATA = {
    "selection": ("grid.run", "does selection beat random on your own corpus?"),
    "judges": ("corpora.judges", "how often are steps wrong, by judges and counts?"),
}


class Everything(SizedOptions):
    """Every experiment that needs no data of yours; what is done is skipped.

    At the end the figures are drawn into the folder figures of --output, each as PDF,
    PNG and CSV; one that is there and not older than its results is left as it is.

    Example: mprm run all --size small
    """


OPTIONS = Everything


def usage() -> str:
    """What there is to run."""
    listed = {"all": ("", "all of these that need no data of yours")}
    listed |= EXPERIMENTS | WITH_DATA
    return "\n".join(
        [
            "usage: mprm run EXPERIMENT [options]",
            "",
            "One experiment, resumable, into the results store.",
            "",
            *(f"  {name:<18}  {meaning}" for name, (_, meaning) in listed.items()),
            "",
            "mprm run EXPERIMENT --help explains an experiment.",
        ]
    )


def main(arguments: list[str]) -> int:
    """Run the experiment that the first argument names; returns the exit status."""
    name = arguments[0] if arguments else None
    if name in (None, "-h", "--help"):
        print(usage(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    known = EXPERIMENTS | WITH_DATA
    if name != "all" and name not in known:
        names = ", ".join(["all", *known])
        print(f"mprm run: no experiment {name!r}; known: {names}", file=sys.stderr)
        return 2
    path = __name__ if name == "all" else f"experiments.{known[name][0]}"
    return run_command(f"run {name}", pkgutil.resolve_name(path), arguments[1:])


def run(options: Everything) -> None:
    """Run everything."""
    modules = {
        name: pkgutil.resolve_name(f"experiments.{path}")
        for name, (path, _) in EXPERIMENTS.items()
    }
    run_all(options, modules)


def run_all(options: Everything, modules: dict[str, Any]) -> None:
    """Run every experiment with those of its options that ``options`` has, too; draw.

    Raises:
        UsageError: an option value that an experiment refuses.
        DataError: an experiment or a figure fails; those before it keep their results.
    """
    from experiments.page.figures import draw_stale

    common = {f.name for f in dataclasses.fields(Everything)} - {"json"}
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        for name, module in modules.items():
            print(f"== mprm run {name}")
            known = {f.name for f in dataclasses.fields(module.OPTIONS)} & common
            module.run(module.OPTIONS(**{f: getattr(options, f) for f in known}))
        print("== figures")
        folder = options.output / "figures"
        drawn, left_out = draw_stale(options.output, folder)
        for name, reason in left_out.items():
            print(f"left out: {name}: {reason}")
    done = f"{count_of(len(drawn), 'file')} drawn" if drawn else "nothing newer to draw"
    value = {"output": str(options.output), "experiments": list(modules)}
    value |= {"figures": str(folder), "drawn": [str(path) for path in drawn]}
    value |= {"left_out": left_out}
    answer(options.json, value, f"{done}; figures lie in {folder}")
