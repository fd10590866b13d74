"""`mprm run`: what it lists, and how it runs one experiment or all of them."""

import dataclasses
import json
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli import run as run_module
from experiments.page import figures
from mprm_jax.records.problems import DataError


def test_experiments_keep_to_the_shape_that_all_needs():
    for name, (path, _) in run_module.EXPERIMENTS.items():
        experiment = pkgutil.resolve_name(f"experiments.{path}")
        options = experiment.OPTIONS
        assert {"output", "json"} <= {f.name for f in dataclasses.fields(options)}, name
        assert options.__dataclass_params__.frozen, name
        assert options().output == run_module.Everything().output, name
        assert f"Example: mprm run {name}" in options.__doc__, name
        assert callable(experiment.run)


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


def test_all_passes_each_experiment_its_options_and_draws(
    tmp_path, capsys, monkeypatch
):
    planned = figures.Source("subsets:subsets", ("planned",))
    two = {"bis-order": figures.FIGURES["bis-order"], "planned": planned}
    monkeypatch.setattr(figures, "FIGURES", two)
    ran = []

    def note(options):
        print("table")
        ran.append(options)

    modules = {"first": module(WithSize, note), "second": module(WithoutSize, note)}
    everything = run_module.Everything(output=tmp_path, seed=4, json=True)
    run_module.run_all(everything, modules)
    assert ran == [WithSize(tmp_path, "small", 4), WithoutSize(tmp_path)]
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["figures"] == str(tmp_path / "figures")
    assert told["experiments"] == ["first", "second"]
    assert len(told["drawn"]) == 3
    assert set(told["left_out"]) == {"planned"}
    assert captured.err.count("table") == 2
    run_module.run_all(run_module.Everything(output=tmp_path), modules)
    *lines, _, drawn = capsys.readouterr().out.splitlines()
    assert lines == [
        "== mprm run first", "table", "== mprm run second", "table", "== figures"
    ]  # fmt: skip
    assert drawn.startswith("nothing newer to draw")


def test_all_stops_at_an_experiment_that_fails(tmp_path):
    def fail(options):
        raise DataError("no room")

    modules = {"first": module(WithSize, fail)}
    with pytest.raises(DataError, match="no room"):
        run_module.run_all(run_module.Everything(output=tmp_path), modules)
