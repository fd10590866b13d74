"""The example scripts run, in any folder, and say what they are named after."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import experiments.examples as examples
from experiments.store.read_subset import read_subset
from tests.cli import run
from tests.mprm_jax.quick import quick_compilation as quick_compilation

FOLDER = Path(examples.__file__).parent
ROOT = FOLDER.parents[1]
# A line that is there only if the example got so far.
SAID = {
    "which_of_my_rollouts": r"(?m)^bis +\d+\.\d%",
    "does_it_pay_here": r"what BIS \(alpha .05\) keeps",
    "my_own_rule": r"evenness > random at 10 %",
    "check_a_formula": r"standard errors",
    "judge_my_prms_scores": r"micro-F1 0\.\d+",
    "train_on_a_subset": r"trained +AUROC 0\.\d+",
    "hand_a_subset_to_another_trainer": r"prompt, completions, labels",
}


def example(name, capsys, *arguments):
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_module(f"experiments.examples.{name}", run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SAID)
def test_it_runs_in_a_folder_of_one_s_own(
    name, tmp_path, monkeypatch, capsys, quick_compilation
):
    monkeypatch.chdir(tmp_path)
    shown = example(name, capsys)
    assert re.search(SAID[name], shown)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(path.name.startswith("example-") for path in tmp_path.iterdir())


def test_it_takes_a_corpus(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "150 rollouts" in example("which_of_my_rollouts", capsys, corpus)
    assert len(read_subset(tmp_path / "example-subset.jsonl").rows) == 14
    assert run(capsys, "verify", "example-subset.jsonl").status == 0


def test_every_example_is_run_here_and_linked_from_the_readme():
    names = {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert names == set(SAID)
    readme = (ROOT / "README.md").read_text()
    for name in names:
        assert f"experiments/examples/{name}.py" in readme
        usage = f"python -m experiments.examples.{name}"
        assert usage in (FOLDER / f"{name}.py").read_text()
