"""`mprm run`: what it lists, what it imports, and how it runs everything."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli import figures, run_experiment
from experiments.console.command import run_command
from experiments.store.results import Result, append_results
from mprm_jax.data.problems import DataError
from tests.cli import run


def test_help_lists_every_experiment_and_teaches_each(capsys):
    listed = run(capsys, "run", "--help")
    assert listed.status == 0
    for name in ["all", *run_experiment.EXPERIMENTS]:
        assert f"• {name}" in listed.out
        taught = run(capsys, "run", name, "--help")
        assert taught.status == 0
        assert f"mprm run {name}" in taught.out
        assert "--output" in taught.out
    assert "Example: mprm run theory" in run(capsys, "run", "theory", "--help").out


@pytest.mark.parametrize("arguments", [[], ["nope"], ["theory", "--nope"]])
def test_unknown_experiments_and_options_are_wrong_usage(arguments, capsys):
    failed = run(capsys, "run", *arguments)
    assert failed.status == 2
    assert "Traceback" not in failed.err


def test_experiments_keep_to_the_shape_that_all_needs():
    for name, experiment in run_experiment._MODULES.items():
        options = experiment.OPTIONS
        assert {"output", "json"} <= {f.name for f in dataclasses.fields(options)}, name
        assert options.__dataclass_params__.frozen, name
        assert options().output == run_experiment.Everything().output, name
        assert f"Example: mprm run {name}" in options.__doc__, name
        assert callable(experiment.run)


def test_help_imports_nothing_heavy():
    code = """
import sys
from experiments.cli import main
try:
    main(["run", "--help"])
except SystemExit:
    pass
heavy = {"jax", "jaxlib", "flax", "optax", "scipy", "matplotlib"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def module(options, run) -> Any:
    """What stands for the module of an experiment."""
    return SimpleNamespace(OPTIONS=options, run=run)


@dataclasses.dataclass(frozen=True)
class WithSize:
    output: Path = Path("x")
    size: str = "full"
    seed: int = 0
    json: bool = False


@dataclasses.dataclass(frozen=True)
class WithoutSize:
    output: Path = Path("x")
    draws: int = 3
    json: bool = False


@pytest.fixture
def one_figure(monkeypatch):
    """The quickest figure alone, which needs no results."""
    monkeypatch.setattr(figures, "FIGURES", {"bis-order": figures.FIGURES["bis-order"]})


def test_all_passes_each_experiment_the_options_it_has(one_figure, tmp_path, capsys):
    ran = []

    def note(options):
        print("table")
        ran.append(options)

    modules = {
        "first": module(WithSize, note),
        "second": module(WithoutSize, note),
    }
    everything = run_experiment.Everything(tmp_path, seed=4, json=True)
    run_experiment.run_all(everything, modules)
    assert ran == [WithSize(tmp_path, "small", 4), WithoutSize(tmp_path)]
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out)["figures"] == str(tmp_path / "figures")
    assert '"experiments": ["first", "second"]' in captured.out
    assert captured.err.count("table") == 2
    run_experiment.run_all(run_experiment.Everything(tmp_path), modules)
    assert capsys.readouterr().out.splitlines() == [
        "== mprm run first",
        "table",
        "== mprm run second",
        "table",
        "== figures",
        f"nothing newer to draw; figures lie in {tmp_path / 'figures'}",
    ]


def test_all_draws_at_its_end_and_only_what_is_older(tmp_path, capsys, monkeypatch):
    sources = {
        "subsets": figures.FIGURES["subsets"],
        "planned": figures.Source("subsets", "subsets", ("planned",)),
    }
    monkeypatch.setattr(figures, "FIGURES", sources)
    shares = dict.fromkeys(
        ("mixed_share", "all_positive_share", "all_negative_share", "tied_share",
         "false_positive_share"), 0.5,
    )  # fmt: skip
    cell = Result("kept", {"scale": 1.0}, 0, {"rules": {"bis": shares}})
    cells = [cell]

    def add(options):
        append_results(options.output, cells)

    everything = run_experiment.Everything(tmp_path)
    counts = []
    for again in (False, False, True):
        cells[:] = [cell] if again or not counts else []
        run_experiment.run_all(everything, {"kept": module(WithSize, add)})
        out = capsys.readouterr().out
        assert "left out: planned: no results of planned" in out
        assert f"figures lie in {tmp_path / 'figures'}" in out
        counts.append(out.splitlines()[-1].split(";")[0])
    # Drawn; nothing ran; a cell ran again.
    assert counts == ["3 files drawn", "nothing newer to draw", "3 files drawn"]
    assert (tmp_path / "figures" / "subsets.csv").read_text().count("\nbis,") == 5
    help_text = " ".join(run(capsys, "run", "all", "--help").out.split())
    assert "figures" in help_text.split("Example:")[0]


def test_all_stops_at_an_experiment_that_fails(tmp_path):
    def fail(options):
        raise DataError("no room")

    modules = {"first": module(WithSize, fail)}
    with pytest.raises(DataError, match="no room"):
        run_experiment.run_all(run_experiment.Everything(tmp_path), modules)


def test_each_options_type_goes_to_its_own_module(monkeypatch):
    ran = []
    modules = {
        name: module(options, ran.append)
        for name, options in (("first", WithSize), ("second", WithoutSize))
    }
    monkeypatch.setattr(run_experiment, "_MODULES", modules)
    run_experiment.run(WithoutSize())
    run_experiment.run(WithSize())
    assert ran == [WithoutSize(), WithSize()]
    both = module(run_experiment._options_type(modules), run_experiment.run)
    assert run_command("run", both, ["second", "--draws", "7"]) == 0
    assert ran[-1] == WithoutSize(draws=7)
