"""The page and its command: the numbers it shows are those it was given."""

import itertools
import json
import re
from dataclasses import asdict, replace

import matplotlib as mpl
import numpy as np
import pytest

from experiments.grid.plan import Arm
from experiments.grid.results import NAMES
from experiments.page.corpus import read_world
from experiments.page.place import place
from experiments.page.report import gather, render, write_report
from experiments.store.manifests import RunManifest
from experiments.store.results import REFERENCE, Result, append_results, store_path
from paper_figures.page import SETTINGS
from tests.cli import run
from tests.report_document import Document
from tests.report_run import (
    CONTROLS,
    GAINS,
    KEEP_RATIO,
    LEVELS,
    RULES,
    metrics,
    write_manifest,
)
from theory.paper import BIS, FULL_DATA, RANDOM

NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def page(demo_run):
    return render(gather(demo_run))


@pytest.fixture(scope="module")
def document(page):
    return Document(page)


def cells_of(folder, world):
    lines = (folder / "results" / "demo.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [cell for cell in found if cell["config"]["world"]["name"] == world]


@pytest.mark.parametrize(("number", "world"), [*enumerate(GAINS)])
def test_every_number_of_the_results_is_the_mean_of_its_cells(
    number, world, demo_run, document
):
    table = document.table(["within-position AUROC", "updates"], number)
    found = [
        cell
        for cell in cells_of(demo_run, world)
        if cell["config"]["arm"]["labels"] not in CONTROLS
    ]
    for arm, name in NAMES.items():
        row = table[name]
        of = [c["metrics"] for c in found if c["config"]["arm"]["rule"] == arm]
        assert len(of) == (1 if arm == "base" else 3)
        assert (row["rollouts"], row["updates"]) == (
            str(of[0]["rollouts"]),
            str(of[0]["updates"]),
        )
        for column, name in {
            "micro-F1": "micro_f1",
            "AUROC": "auroc",
            "within-position AUROC": "within_position_auroc",
            "position-only AUROC": "position_auroc",
            "slip-prior AUROC": "slip_prior_auroc",
        }.items():
            mean = sum(metrics[name] for metrics in of) / len(of)
            assert row[column].split(" ±")[0] == f"{mean:.3f}"
        assert " ± 0.0" in row["micro-F1"]
        best = sum(metrics["best_of_n"]["mean"] for metrics in of) / len(of)
        assert row["best-of-16"].split(" ±")[0] == f"{100 * best:.1f}{NBSP}%"
    assert f"every rule keeps {100 * KEEP_RATIO:g}" in document.text
    assert f"between 40.0{NBSP}% (a random candidate) and 93.0{NBSP}%" in document.text


def test_rules_come_first_and_references_apart(document):
    table = next(of for of in document.tables if "updates" in of[0])
    heads = [row[0].strip() for row in table[1:]]
    names = [*NAMES.values()]
    both = ("Random", "BIS")
    controls = [f"{rule}, {control} labels" for control in CONTROLS for rule in both]
    assert heads == [
        *(*names[:5], "labels from the truth", *controls),
        *("for reference", *names[5:]),
    ]


def test_seeds_and_sources_are_shown_as_they_are(demo_run, document):
    rows = next(t for t in document.tables if "decision threshold" in t[0])[1:]
    expected = {
        (
            NAMES[cell["config"]["arm"]["rule"]]
            + (f", {labels} labels" if labels in CONTROLS else ""),
            "–" if cell["seed"] is None else str(cell["seed"]),
            *(
                f"{cell['metrics'][name]:.3f}"
                for name in ("micro_f1", "macro_f1_pooled", "auroc", "threshold")
            ),
            *(f"{cell['metrics']['per_source'][name]:.3f}" for name in "ab"),
        )
        for cell in cells_of(demo_run, "scarce")
        for labels in (cell["config"]["arm"]["labels"],)
    }
    assert {tuple(c.strip() for c in row) for row in rows} == expected
    sources = document.table(["a", "b"])
    values = [LEVELS["mixed"] + 0.005 * ((14 + seed) % 3 - 1) for seed in (0, 1, 2)]
    assert sources["Mixed"]["b"] == f"{sum(values) / 3 + 0.01:.3f}"


def test_differences_stand_with_their_intervals_and_verdicts(document):
    first = document.table(["Holm’s p", "verdict"])
    assert "Random" not in first
    assert first["BIS"]["micro-F1"] == "+0.0550"
    assert first["BIS"]["verdict"] == "ahead"
    assert first["BIS"]["seeds"] == "3"
    # The demo asks of BIS alone, so only BIS is corrected; references have no verdict.
    assert first["BIS"]["Holm’s p"] != "–" == first["Mixed"]["Holm’s p"]
    assert first["full data"]["verdict"] == "–"
    second = document.table(["Holm’s p", "verdict"], 1)
    assert second["BIS"]["verdict"] == "open"


def test_why_is_told_in_terms_that_add_up(document):
    table = document.table(["term", "what"])
    found = {
        name: float(row["micro-F1"].replace("−", "-")) for name, row in table.items()
    }
    gain = sum(GAINS["scarce"]) / 3
    clean, blind = CONTROLS["clean"], CONTROLS["blind"]
    for name, expected in {
        "BIS − Random": gain,
        "composition": gain + clean[1] - clean[0],
        "noise of BIS": -clean[1],
        "noise of BIS: blind part": blind[1] - clean[1],
        "noise of BIS: placement": -blind[1],
        "noise of Random": -clean[0],
        "noise of Random: blind part": blind[0] - clean[0],
        "noise of Random: placement": -blind[0],
        "noise, BIS − Random": clean[0] - clean[1],
        "noise, BIS − Random: blind part": blind[1] - clean[1] - blind[0] + clean[0],
        "noise, BIS − Random: placement": blind[0] - blind[1],
    }.items():
        assert found.pop(name) == pytest.approx(expected, abs=1e-4), name
    assert not found
    levels = document.table(["labels", "BIS"])
    assert list(levels) == ["hard", *CONTROLS]
    assert levels["blind"]["Random"].startswith(f"{LEVELS['random'] + blind[0]:.3f}")


def position_auroc(folder, world, rows):
    """Over all pairs of a wrong step labelled right and one labelled wrong."""
    places = {True: [], False: []}
    lines = [
        (json.loads(record)["steps_with_score"], json.loads(truth)["correct"])
        for path in sorted((folder / world / "corpus" / "annotations").glob("*.jsonl"))
        for record, truth in zip(
            path.read_text().splitlines(),
            (folder / world / "corpus" / "truth" / path.name).read_text().splitlines(),
            strict=True,
        )
    ]
    for row in rows if rows is not None else range(len(lines)):
        for i, (step, correct) in enumerate(zip(*lines[row], strict=True)):
            if correct == -1:
                positive = step["num_mc_correct"] > 0
                places[positive].append(i / max(len(lines[row][0]) - 1, 1))
    pairs = [*itertools.product(places[True], places[False])]
    return sum((a < b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_the_run_stands_in_the_phase_diagram_where_it_was_measured(demo_run):
    world = gather(demo_run).worlds[0]
    chart = world.why[-1]
    assert chart.numbers is not None
    manifest = demo_run / "scarce" / "subsets" / "bis.jsonl.manifest.json"
    kept = json.loads(manifest.read_text())["rows"]
    cells = [
        cell
        for line in store_path(REFERENCE, "phase_probes").read_text().splitlines()
        for cell in [json.loads(line)]
        if cell["config"]["cell"]["world"] == "scarce"
        and cell["config"]["cell"]["keep_ratio"] == KEEP_RATIO
    ]
    gains, follows = {}, {}
    for cell in cells:
        at, found = cell["config"]["cell"], cell["metrics"]
        gap = np.subtract(*(found["arms"][rule]["auroc"] for rule in ("bis", "random")))
        placement = {"hard": "as they are"}.get(at["placement"], at["placement"])
        gains[f"{at['knowledge']:g}", placement] = f"{100 * gap.mean():+.2f}"
        if found["position_auroc"]:
            follows[f"{np.mean(found['position_auroc']):.2f}".lstrip("0")] = np.mean(
                found["position_auroc"]
            )
    rows = {tuple(row[:2]): row[3].replace("−", "-") for row in chart.numbers.rows}
    assert rows == gains
    texts = re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([^<]+)</text>', chart.markup)
    x = {text: float(at) for at, text in texts}
    for mark, of in (("▼", None), ("▽", kept)):
        measured = position_auroc(demo_run, "scarce", of)
        assert f"{measured:.2f} ({mark}" in chart.note
        at = np.interp(measured, [*follows.values()], [x[text] for text in follows])
        # Coordinates have two decimals; a column is 54 wide.
        assert x[mark] == pytest.approx(at, abs=0.02)
    assert "2,400 updates" in chart.note
    # Half-way between half-blind and as they are lies .74.
    expected = float(gains["2400", "half-blind"])
    assert f"predicts {expected:+.1f} points".replace("-", "−") in chart.note


@pytest.mark.parametrize("damage", [None, b"{}\n", b"[1", "metrics", "placement"])
def test_without_reference_results_there_is_no_diagram(
    damage, demo_run, tmp_path, monkeypatch
):
    if damage is not None:
        path = store_path(tmp_path, "phase_probes")
        whole = store_path(REFERENCE, "phase_probes").read_text()
        text = damage if isinstance(damage, bytes) else whole.replace(damage, "x")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr("experiments.page.place.REFERENCE", tmp_path)
    for world in gather(demo_run).worlds:
        assert [chart.title[:12] for chart in world.why] == ["BIS − Random"]
        assert len(world.labels) == 1


def test_what_masked_labels_gained_is_that_of_nets_from_the_nearest_backbone(demo_run):
    """Of the faster of the two rates, AUROC of corpora less Random's, paired."""
    table = gather(demo_run).worlds[0].labels[-1]
    lines = store_path(REFERENCE, "better_rule_scenes").read_text().splitlines()
    nets = [json.loads(line) for line in lines if '"diagram":"nets"' in line]
    place = {"world": "scarce", "knowledge": 2400, "rate": 5e-4}
    (arms,) = [
        {name: np.array(of["auroc"]) for name, of in net["metrics"]["arms"].items()}
        for net in nets
        if place.items() <= net["config"]["cell"].items()
    ]
    gains = [
        f"{100 * (arms[name] - arms['random']).mean():+.2f}".replace("-", "−")
        for name in ("bis", "random masked", "bis masked", "contrast masked")
    ]
    assert [row[2] for row in table.rows] == gains


def test_what_is_not_in_the_diagram_is_replaced_and_said(demo_run):
    folder, manifest = demo_run / "plentiful", RunManifest((), "")
    corpus, outcome = read_world(folder), gather(demo_run).worlds[1].outcome
    with mpl.rc_context(SETTINGS):
        (chart,) = place("k", replace(outcome, world="forgiving"), corpus, manifest)
    # Its errors follow position least, as those of scarce do: .820 against .822.
    assert "no world “forgiving”: “scarce”" in chart.note
    assert "nothing is predicted" in chart.note


def test_the_answers_come_first_and_agree_with_the_command(
    demo_run, document, capsys, tmp_path
):
    page = tmp_path / "again.html"
    done = run(capsys, "report", demo_run, "--output", page, "--json")
    assert done.status == 0
    first, second = done.json["answers"]
    assert "beat Random by 0.055" in first["sentence"]
    assert first["difference"]["mean"] == pytest.approx(0.055)
    assert "it is not decided" in second["sentence"]
    text = document.text
    assert text.index(first["sentence"]) < text.index(second["sentence"])
    assert text.index(second["sentence"]) < text.index("within-position AUROC")
    assert f"BIS {BIS[KEEP_RATIO][1]} against Random {RANDOM[KEEP_RATIO][1]}" in text
    printed = run(capsys, "report", demo_run, "--output", page)
    assert first["sentence"] in printed.out
    assert str(page) in printed.out


@pytest.mark.parametrize(("number", "world"), [*enumerate(GAINS)])
def test_corpus_and_subsets_stand_as_their_files_have_them(
    number, world, demo_run, document
):
    table = document.table(["statistic", "paper"])
    assert table["rollouts"]["paper"] == f"{FULL_DATA.rollouts:,}"
    files = (demo_run / world / "corpus" / "annotations").glob("*.jsonl")
    counts = [
        [step["num_mc_correct"] for step in json.loads(line)["steps_with_score"]]
        for path in files
        for line in path.read_text().splitlines()
    ]
    steps = [k for of in counts for k in of]
    mixed = sum(0 < sum(k > 0 for k in of) < len(of) for of in counts)
    for name, value in {
        "rollouts": str(len(counts)),
        "steps": str(len(steps)),
        "error-step ratio (K = 0)": f"{100 * steps.count(0) / len(steps):.2f}{NBSP}%",
        "mean MC score per step": f"{sum(steps) / 16 / len(steps):.4f}",
        "mixed rollouts": f"{100 * mixed / len(counts):.2f}{NBSP}%",
    }.items():
        assert table[name][world] == value
    kept = document.table(["tied share", "wrong positives"], number)
    for rule in RULES:
        path = demo_run / world / "subsets" / f"{rule}.jsonl.manifest.json"
        tied = json.loads(path.read_text())["tied_share"]
        assert kept[NAMES[rule]]["tied share"] == f"{100 * tied:.1f}{NBSP}%"
        assert kept[NAMES[rule]]["rollouts"] == "12"
    assert kept["all rollouts"]["tied share"] == "–"


def test_the_page_loads_nothing_and_runs_nothing(document, page):
    assert not {"script", "iframe", "object"} & {tag for tag, _ in document.tags}
    assert all(link.startswith(("data:", "#")) for link in document.links)
    assert "default-src 'none'" in page
    assert "@import" not in page
    # Charts refer to their own shapes.
    assert not re.search(r"url\((?!#w)", page)
    handlers = [k for _, values in document.tags for k in values if k.startswith("on")]
    assert not handlers


def test_the_page_is_accessible(document, page):
    assert document.headings[0] == 1
    assert document.headings.count(1) == 1
    for before, after in zip(document.headings, document.headings[1:], strict=False):
        assert after <= before + 1
    ids = [values["id"] for _, values in document.tags if "id" in values]
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in document.links if link.startswith("#")}
    assert targets <= set(ids)
    for tag, values in document.tags:
        if tag == "img":
            assert values["alt"].startswith("Picture of the question: ")
        if tag == "th":
            assert values["scope"] in ("col", "row", "rowgroup")
        if tag == "svg":
            assert values.get("aria-label") or values.get("aria-hidden") == "true"
        if tag == "input":
            assert ("label", {"for": values["id"]}) in document.tags
    assert page.count("<table") == page.count("<caption")
    regions = [v["aria-label"] for _, v in document.tags if v.get("role") == "region"]
    assert len(regions) == len(set(regions)) >= 20


def test_what_the_backbone_has_seen_is_told(document):
    told = document.text.split("The backbone, and what it has seen")[1]
    assert "read the worlds’ own solutions" in told
    assert "AUROC of its step check0.9812" in told
    assert "Learnability in “scarce”" in told
    gate = document.table(["with images permuted"])["bars"]
    assert list(gate.values()) == ["bars", "0.871", "0.823", "0.641"]


def test_the_same_run_gives_the_same_page(demo_run, page):
    assert render(gather(demo_run)) == page


def test_about_sixty_rollouts_are_shown(document, page):
    cards = [
        v for t, v in document.tags if t == "details" and "card" in v.get("class", "")
    ]
    assert len(cards) == 60
    kept = [values for values in cards if "is-kept" in values["class"]]
    counts = re.findall(r'kept by BIS <span class="n">(\d+)', page)
    assert sum(map(int, counts)) == len(kept) > 0


def selection_run(folder, alphas=(0.05,), others=("mixed",), **manifest):
    """The page of a grid of two keep ratios; other rules were run at the lower one."""
    found = []
    for seed, keep in itertools.product((0, 1, 2), (0.1, 0.3)):
        arms = [("random", None), *(("bis", alpha) for alpha in alphas)]
        arms += [(rule, None) for rule in others if keep == 0.1]
        for rule, alpha in arms:
            level = 0.6 + 0.01 * ((seed * len(rule)) % 3) + 0.05 * (rule == "bis")
            config = {"world": {"name": "<b>corpus</b>", "synthetic": False}}
            config |= {"model": "m", "training": {}}
            config["arm"] = asdict(Arm(rule, keep, alpha, "hard", 0.0))
            value = metrics(level, np.random.default_rng(1), 100)
            value |= {"curve": [], "f1_curve": [[4, 0.5], [8, level]]}
            value["subset"] = {"steps": 500, "mixed_share": 0.2, "tied_share": 0.4}
            found.append(Result("selection", config, seed, value))
    append_results(folder / "results", found)
    made = {"commands": ["mprm run selection --seeds 3"], "backbone": "tiny"}
    write_manifest(folder, **made, **manifest)
    report = write_report(folder)
    return report, Document((folder / "report.html").read_text(encoding="utf-8"))


def test_a_selection_run_has_the_same_page_less_what_needs_its_world(tmp_path):
    report, document = selection_run(tmp_path)
    (answer, _) = (row["sentence"] for row in report.answers)
    assert f"BIS 10{NBSP}%" in answer
    assert answer in document.text
    assert "the real corpus “<b>corpus</b>”" in document.text
    assert "b" not in {tag for tag, _ in document.tags}
    assert "mprm run selection --seeds 3" in document.text
    assert "mprm advise --judged" in document.text
    ids = {values["id"] for tag, values in document.tags if tag == "section"}
    assert ids == {
        *("answer", "results", "learning", "kept"),
        *("backbone", "reproduce", "glossary"),
    }
    kept = document.table(["tied share"])[f"BIS 30{NBSP}%"]
    assert (kept["steps"], kept["tied share"]) == ("500", f"40.0{NBSP}%")
    levels = document.table(["keep ratio, %", "BIS"])
    assert (levels["10"]["Mixed"], levels["30"]["Mixed"]) == ("0.610", "–")
    assert document.table(["updates", "Random"])["4"]["BIS"] == "0.500"


def test_the_page_says_whether_an_overlap_was_looked_for(tmp_path):
    _, document = selection_run(tmp_path)
    assert "was not checked" in document.text
    told = "Of 5 solutions <i>2</i> answer"
    _, document = selection_run(tmp_path, overlap={"told": told})
    assert told in document.text
    assert "was not checked" not in document.text


def test_random_alone_is_shown_without_an_answer(tmp_path):
    _, document = selection_run(tmp_path, (), ())
    assert "nothing is said" in document.text
    titles = [v["aria-label"] for tag, v in document.tags if "aria-label" in v]
    assert not any(title.startswith("difference to") for title in titles)
    assert document.table(["rollouts", "micro-F1"])[f"Random 10{NBSP}%"]


def test_arms_of_several_alphas_are_told_apart(tmp_path):
    _, document = selection_run(tmp_path, (0.05, 0.2))
    (chart, *_) = (
        values["aria-label"] for tag, values in document.tags if tag == "svg"
    )
    assert chart.count(f"BIS 10{NBSP}%") == 2
    assert f"BIS 10{NBSP}%, alpha 0.2 " in chart
    levels = document.table(["keep ratio, %"])["10"]
    assert {"BIS, alpha 0.05", "BIS, alpha 0.2"} <= set(levels)
    assert "…" not in chart
