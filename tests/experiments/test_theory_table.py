"""The table of the theory: its verdicts, what makes it fail, and what it remembers."""

import dataclasses
import importlib
import math

import pytest

from experiments.store.results import read_results
from experiments.theory_table import table
from experiments.theory_table.statement import Statement
from tests.cli import run

DRAWS = 10_000

# What the paper states too generally, or with a number that another takes the place of.
LOOSE = {
    "second_moment_is_not_signal": "counterexample",
    "information_at_one_half": "corrected",
    "information_elsewhere": "counterexample",
    "information_under_heavy_noise": "counterexample",
    "slope_of_the_information": "corrected",
    "lemma_3_in_float64": "counterexample",
    "mean_score_does_not_order_noise": "counterexample",
    "headroom_is_not_information": "counterexample",
    "equation_24": "corrected",
    "dependence": "counterexample",
    "mixed_share": "counterexample",
    "equation_4": "corrected",
    "noise_floor": "counterexample",
    "share kept by soft, judged, q .5": "counterexample",
    "share kept by soft, r >= .5": "counterexample",
    "share kept by soft, r >= .1": "counterexample",
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The options and results of one run of all statements."""
    options = table.Options(output=tmp_path_factory.mktemp("theory"), draws=DRAWS)
    return options, table.compute(options)


def test_every_statement_holds_or_is_put_right(computed):
    _, results = computed
    verdicts = {r.config["statement"]: r.metrics["verdict"] for r in results}
    assert {k: v for k, v in verdicts.items() if v != "holds"} == LOOSE
    # One statement, one row; every claim that is put right says why.
    assert len(verdicts) == len(results) >= 50
    for result in results:
        assert result.metrics["verdict"] == "holds" or result.metrics["note"]


def test_every_number_is_there_three_ways(computed):
    rows = [result.metrics for result in computed[1]]
    assert all(math.isfinite(row["exact"] + row["oracle"]) for row in rows)
    assert sum(row["simulation"] is not None for row in rows) > 0.6 * len(rows)
    # An oracle that shared its code with the formulas would agree to the last bit.
    assert sum(row["exact"] != row["oracle"] for row in rows) > 0.4 * len(rows)


def test_the_table_fits_a_terminal_and_says_everything(computed):
    _, results = computed
    text = table.format_rows(results)
    assert max(map(len, text.splitlines())) <= 100
    flat = " ".join(text.split())
    for result in results:
        assert len(result.metrics["statement"]) <= 30
        assert result.metrics["statement"] in text
        assert " ".join(result.metrics["note"].split()) in flat


def test_rows_in_the_store_are_not_computed_again(computed, monkeypatch):
    options, results = computed

    def refuse():
        raise AssertionError("computed again")

    learning = importlib.import_module("experiments.theory_table.learning")
    lemma = Statement("lemma_1", "", "enumeration", exact=refuse, oracle=refuse)
    monkeypatch.setattr(learning, "STATEMENTS", (lemma,))
    again = table.compute(options)
    assert again == [r for r in results if r in again]
    assert len(again) == len(results) - 7
    # Another seed, another number of draws and other code are other rows.
    for other in ({"seed": 1}, {"draws": DRAWS + 1}):
        monkeypatch.setattr(table, "_SECTIONS", {"learning": learning.__name__})
        with pytest.raises(AssertionError, match="computed again"):
            table.compute(dataclasses.replace(options, **other))
    monkeypatch.setattr(table, "fingerprint", lambda: "other code")
    with pytest.raises(AssertionError, match="computed again"):
        table.compute(options)


def test_a_row_does_not_depend_on_the_others(computed, monkeypatch, tmp_path):
    options, results = computed
    labels = importlib.import_module("experiments.theory_table.labels")
    monkeypatch.setattr(table, "_SECTIONS", {"alone": labels.__name__})
    monkeypatch.setattr(labels, "STATEMENTS", labels.STATEMENTS[5:6])
    (alone,) = table.compute(dataclasses.replace(options, output=tmp_path))
    assert alone.metrics in [result.metrics for result in results]


@pytest.fixture
def one_section(monkeypatch):
    """A table of the scores only, which needs no autodiff."""
    path = "experiments.theory_table.scores"
    monkeypatch.setattr(table, "_SECTIONS", {"scores": path})


def test_the_command_prints_stores_and_answers_in_json(one_section, tmp_path, capsys):
    command = ["run", "theory", "--draws", "10000", "--output", tmp_path]
    done = run(capsys, *command)
    assert (done.status, "5 holds" in done.out) == (0, True)
    rows = run(capsys, *command, "--json").json["rows"]
    assert [row["exact"] for row in rows[:2]] == pytest.approx([0.25828125, 0.15])
    assert len(read_results(tmp_path, "theory")) == len(rows) == 5


def test_a_wrong_formula_fails_by_name(one_section, tmp_path, capsys, monkeypatch):
    from theory import scores

    right = scores.bis
    monkeypatch.setattr(scores, "bis", lambda *x: right(*x) * (1 + 1e-6))
    failed = run(capsys, "run", "theory", "--output", tmp_path)
    assert failed.status == 1
    assert "BIS, worked example 1; BIS, worked example 2" in failed.err
    assert failed.out.count("FAILS") == 3


NUMBERS = ("exact", "oracle", "simulation", "se")


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "holds"),
        ({"oracle": 1 + 1e-10}, "holds"),
        ({"oracle": 1 + 1e-8}, "FAILS"),
        ({"oracle": 1 + 1e-8, "tolerance": 1e-7}, "holds"),
        ({"exact": 1e6, "oracle": 1e6 + 1e-5}, "holds"),
        ({"exact": 1e-6, "oracle": 1.1e-6}, "FAILS"),
        ({"oracle": math.nan}, "FAILS"),
        ({"exact": math.nan, "oracle": math.nan}, "FAILS"),
        ({"simulation": 1.04, "se": 0.01 + 1e-9}, "holds"),
        ({"simulation": 0.96, "se": 0.01 - 1e-9}, "FAILS"),
        ({"simulation": 1.0, "se": 0.0}, "holds"),
        ({"simulation": 1.001}, "FAILS"),
        ({"simulation": math.nan, "se": 1.0}, "FAILS"),
        ({"paper": 1.0}, "holds"),
        ({"paper": 2.0}, "corrected"),
        ({"paper": 2.0, "otherwise": "counterexample"}, "counterexample"),
        ({"paper": 2.0, "claim": lambda exact: exact > 0}, "holds"),
        ({"paper": "> 1", "claim": lambda exact: exact > 1}, "corrected"),
        ({"paper": 2.0, "oracle": 3.0}, "FAILS"),
        ({"oracle": 0.5, "bound": True}, "holds"),
        ({"oracle": 1.5, "bound": True}, "FAILS"),
        ({"oracle": 0.5, "simulation": 1.5, "bound": True}, "FAILS"),
        ({"oracle": 0.5, "simulation": 0.7, "bound": True}, "holds"),
    ],
)
def test_a_verdict_follows_from_the_numbers(fields, verdict):
    numbers = {"exact": 1.0, "oracle": 1.0}
    numbers |= {k: v for k, v in fields.items() if k in NUMBERS}
    claims = {k: v for k, v in fields.items() if k not in NUMBERS}
    made_up = Statement("x", "x", "mpmath", exact=float, oracle=float, **claims)
    assert made_up.verdict(**numbers) == verdict
