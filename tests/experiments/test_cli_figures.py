"""`mprm figures`: three forms and a manifest of each, from store or reference."""

import csv
import hashlib
import json
import os
import pkgutil

import msgspec
import pytest

from experiments.page import figures
from experiments.store.results import Result, append_results, read_results

DOCUMENT = {
    "rules": {
        "bis": {
            "mixed_share": 0.5,
            "all_positive_share": 0.4,
            "all_negative_share": 0.1,
            "tied_share": 0.25,
            "false_positive_share": 0.125,
        }
    }
}


def kept(scale, metrics):
    return Result("kept", {"scale": scale, "keep_ratio": 0.1}, 0, metrics)


def test_every_figure_is_a_function_that_says_what_it_shows():
    for name, source in figures.FIGURES.items():
        assert pkgutil.resolve_name(f"paper_figures.{source.drawing}").__doc__, name
        assert name == name.lower().replace("_", "-")


def test_a_figure_comes_in_three_forms_with_its_hashes(tmp_path, mprm):
    done = mprm("figures", "--only", "bis-order", "--output", tmp_path)
    assert done.status == 0
    assert len(done.out.splitlines()) == 3
    assert (tmp_path / "bis-order.pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "bis-order.png").read_bytes()[1:4] == b"PNG"
    with open(tmp_path / "bis-order.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"panel", "series", "x", "y"} == set(rows[0])
    manifest = json.loads((tmp_path / "bis-order.manifest.json").read_text())
    assert len(manifest["files"]) == 3
    for name, digest in manifest["files"].items():
        data = (tmp_path / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"bis-order.{suffix}" for suffix in ("csv", "manifest.json", "pdf", "png")
    ]


def test_a_figure_is_the_same_bytes_every_time(tmp_path, mprm):
    for folder in ("a", "b"):
        mprm("figures", "--only", "subsets", "--output", tmp_path / folder)
    for name in ("subsets.pdf", "subsets.png", "subsets.csv"):
        first, second = ((tmp_path / x / name).read_bytes() for x in "ab")
        assert first == second
        assert b"CreationDate" not in first


def test_results_of_the_user_come_before_the_reference(tmp_path, mprm):
    results = tmp_path / "results"
    other = {"rules": {"bis": dict.fromkeys(DOCUMENT["rules"]["bis"], 0.0)}}
    append_results(results, [kept(0.2, DOCUMENT), kept(0.02, other)])
    command = ["figures", "--only", "subsets", "--output", tmp_path, "--json"]
    done = mprm(*command, "--results", results).json
    assert len(done["files"]) == 3
    rows = (tmp_path / "subsets.csv").read_text().splitlines()
    assert rows[1] == "bis,mixed: both labels,50"
    assert len(rows) == 6
    manifest = json.loads((tmp_path / "subsets.manifest.json").read_text())
    assert list(manifest["results"]) == [str(results / "kept.jsonl")]
    # Elsewhere there is nothing, so the reference that comes with the package is drawn.
    mprm(*command, "--results", tmp_path / "none")
    assert len((tmp_path / "subsets.csv").read_text().splitlines()) == 26


def other_keep_ratios(cells):
    return [c for c in cells if c.config["arm"]["keep_ratio"] != 0.02]


def unequal(cells):
    for cell in cells:
        if "arms" in cell.metrics:
            cell.metrics["arms"]["bis"]["micro_f1"].pop()
        elif cell.config["arm"]["rule"] == "bis":
            cell.metrics["micro_f1"].pop()
    return cells


def one_coverage_short(cells):
    for cell in cells:
        cell.metrics["coverage_R"]["coverage"].pop()
    return cells


def everywhere(**config):
    def damage(cells):
        for cell in cells:
            cell.config.update(config)
        return cells

    return damage


@pytest.mark.parametrize(
    ("name", "what", "damage"),
    [
        ("subsets", "kept", lambda _: [kept(0.2, {})]),
        ("subsets", "kept", lambda _: [kept(0.2, {"rules": 3})]),
        ("subsets", "kept", lambda _: [kept(0.2, {"rules": {"bis": {}}})]),
        ("subsets", "kept", lambda _: [kept(0.2, {"rules": {"bis": 3}})]),
        ("regime-map", "regimes", unequal),
        ("rules", "rules", unequal),
        ("figure-3", "corpus_models", one_coverage_short),
        ("alpha", "alpha", other_keep_ratios),
        ("figure-1", "plateau", everywhere(world=3)),
        # A name that only the layout of the text finds wrong.
        ("coverage", "corpus_models", everywhere(model="$\\frac$")),
    ],
)
def test_results_that_cannot_be_drawn_are_named(name, what, damage, tmp_path, mprm):
    append_results(tmp_path, damage(read_results(figures.REFERENCE, what)))
    output = tmp_path / "figures"
    failed = mprm("figures --only", name, "--results", tmp_path, "--output", output)
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert f"{tmp_path / what}.jsonl: " in failed.err
    assert not output.exists()


def test_a_figure_of_results_that_share_no_world_is_left_out(tmp_path):
    """As of a map that was run with another seed than the judged rollouts."""
    said = read_results(figures.REFERENCE, "judged_map")
    append_results(tmp_path, [msgspec.structs.replace(one, seed=9) for one in said[:3]])
    drawn, left_out = figures.draw_all(["judged", "alpha"], tmp_path, tmp_path / "out")
    assert {path.stem for path in drawn} == {"alpha"}
    assert list(left_out) == ["judged"]


def test_a_fault_of_a_figure_without_results_stays_a_traceback(tmp_path, monkeypatch):
    def draw():
        raise ValueError("programming error")

    monkeypatch.setattr("paper_figures.information.bis_order", draw)
    with pytest.raises(ValueError, match="programming error"):
        figures.draw_all(["bis-order"], tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["figure-1", "figure-2"])
def test_numbers_of_the_paper_are_told_apart_in_the_csv(name, tmp_path, mprm):
    arguments = ["--results", tmp_path / "none", "--output", tmp_path]
    assert mprm("figures", "--only", name, *arguments).status == 0
    with open(tmp_path / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"simulated", "paper"}
    for row in rows:
        of_paper = row["source"] == "paper"
        assert row["series"].startswith("paper: ") == of_paper
        assert bool(row["published_micro_f1_percent"]) == of_paper


def test_only_what_is_older_than_its_results_is_drawn_again(
    tmp_path, mprm, monkeypatch
):
    sources = {name: figures.FIGURES[name] for name in ("bis-order", "subsets")}
    monkeypatch.setattr(figures, "FIGURES", sources)
    output = tmp_path / "figures"
    append_results(tmp_path, [kept(0.2, DOCUMENT)])
    drawn, left_out = figures.draw_stale(tmp_path, output)
    assert ({path.stem for path in drawn}, left_out) == (set(sources), {})
    assert figures.draw_stale(tmp_path, output) == ([], {})
    # Results that are newer, then a form that is gone.
    os.utime(tmp_path / "kept.jsonl", (4e9, 4e9))
    drawn, _ = figures.draw_stale(tmp_path, output)
    assert {path.stem for path in drawn} == {"subsets"}
    os.utime(tmp_path / "kept.jsonl", (1e9, 1e9))
    (output / "bis-order.csv").unlink()
    drawn, _ = figures.draw_stale(tmp_path, output)
    assert {path.stem for path in drawn} == {"bis-order"}


@pytest.fixture
def planned(monkeypatch):
    """Two figures, one of an experiment without results."""
    sources = {
        "bis-order": figures.FIGURES["bis-order"],
        "planned": figures.Source("corpus:subsets", ("planned",)),
    }
    monkeypatch.setattr(figures, "FIGURES", sources)


def test_a_figure_without_results_is_left_out_and_named(planned, tmp_path, mprm):
    command = ["figures", "--results", tmp_path, "--output", tmp_path]
    done = mprm(*command)
    assert done.status == 0
    assert "left out: planned: no results of planned" in done.out
    assert "mprm run planned" in done.out
    assert (tmp_path / "bis-order.png").exists()
    assert set(mprm(*command, "--json").json["left_out"]) == {"planned"}
    failed = mprm(*command, "--only", "planned")
    assert (failed.status, "no results of planned" in failed.err) == (1, True)


def test_an_experiment_is_drawn_from_its_latest_cells(
    planned, tmp_path, mprm, monkeypatch
):
    from paper_figures import corpus as drawings

    drawn = []

    def draw(cells):
        drawn.extend(cells)
        return subsets_of([{"config": {"scale": 1.0}, "metrics": DOCUMENT}])

    subsets_of = drawings.subsets
    monkeypatch.setattr(drawings, "subsets", draw)
    for value in (1, 2):
        append_results(tmp_path, [Result("planned", {"a": 1}, 0, {"value": value})])
    command = ["figures", "--only=planned", "--results", tmp_path]
    assert mprm(*command, "--output", tmp_path).status == 0
    assert [cell["metrics"] for cell in drawn] == [{"value": 2}]
    assert drawn[0]["config"] == {"a": 1}
