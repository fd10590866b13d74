"""What the page says of a corpus, against the files counted by hand."""

import json
import re
import shutil

import numpy as np
import pytest

from experiments.page.corpus import (
    mixture_bins,
    read_world,
    reliability_bins,
    subset_facts,
)
from mprm_jax.records.problems import DataError
from tests.report_run import KEEP_RATIO, RULES, write_subsets, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "scarce"
    write_world(path, np.random.default_rng(1), mixed=0.5)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A world of one's own to damage."""
    return shutil.copytree(folder, tmp_path / "scarce")


def by_hand(folder):
    """[(steps as (K, N), truth)] of all rollouts in the order of the files."""
    found = []
    for path in sorted((folder / "corpus" / "annotations").glob("*.jsonl")):
        truths = (folder / "corpus" / "truth" / path.name).read_text().splitlines()
        lines = path.read_text().splitlines()
        for line, truth in zip(lines, truths, strict=True):
            steps = json.loads(line)["steps_with_score"]
            counts = [(s["num_mc_correct"], s["num_mc_total"]) for s in steps]
            found.append((counts, json.loads(truth), [s["step"] for s in steps]))
    return found


def reliability(counts):
    positive = [k / n for k, n in counts if k]
    return sum(positive) / len(positive) if positive else 1.0


def mixture(counts):
    p = sum(k > 0 for k, _ in counts) / len(counts)
    return p * (1 - p)


def kept_rows(folder, rule):
    path = folder / "subsets" / f"{rule}.jsonl.manifest.json"
    return set(json.loads(path.read_text())["rows"])


def test_coverage_is_kept_of_all_in_every_bin(folder):
    world = read_world(folder)
    subset = world.subsets["bis"]
    table, kept = by_hand(folder), kept_rows(folder, "bis")
    assert len(kept) == KEEP_RATIO * len(table)
    cases = (
        (reliability_bins(world, subset), reliability, "[)"),
        (mixture_bins(world, subset), mixture, "(]"),
    )
    for bins, quantity, closed in cases:
        assert sum(bins.total) == len(table)
        assert sum(bins.kept) == len(kept)
        columns = (bins.labels, bins.total, bins.kept, bins.coverage)
        for label, total, of_subset, coverage in zip(*columns, strict=True):
            low, high = ([float(end) for end in re.findall(r"[\d.]+", label)] * 2)[:2]

            def holds(x, low=low, high=high, closed=closed):
                if low == high:
                    return abs(x - low) < 1e-12
                if closed == "[)":
                    return low <= x < min(high, 1)
                return low < x <= high + 1e-12

            rows = {i for i, (of, _, _) in enumerate(table) if holds(quantity(of))}
            assert (total, of_subset) == (len(rows), len(kept & rows))
            assert coverage == (len(kept & rows) / len(rows) if rows else None)
    assert set(cases[0][0].coverage) - {None, 0, 1}


def test_truth_is_aligned_with_its_steps(folder):
    world = read_world(folder)
    table = by_hand(folder)
    assert world.r.tolist() == [r for _, truth, _ in table for r in truth["r"]]
    assert world.correct.tolist() == [c for _, t, _ in table for c in t["correct"]]
    words = [len(text.split()) for _, _, texts in table for text in texts]
    found = subset_facts(world, None)["words_per_step"]
    assert found == pytest.approx(sum(words) / len(words))


def test_subset_facts_are_those_of_the_rows(folder):
    world = read_world(folder)
    table = by_hand(folder)
    assert list(world.subsets) == ["random", "bis", "mixed", "low-mc", "reliable"]
    for rule in (None, *RULES):
        rows = range(len(table)) if rule is None else sorted(kept_rows(folder, rule))
        facts = subset_facts(world, None if rule is None else world.subsets[rule])
        chosen = [table[i] for i in rows]
        positive = [
            (k, c)
            for counts, truth, _ in chosen
            for (k, _), c in zip(counts, truth["correct"], strict=True)
            if k
        ]
        wrong = sum(c == -1 for _, c in positive)
        assert facts["pseudo_positive_share"] == pytest.approx(wrong / len(positive))
        assert facts["rollouts"] == len(chosen)
        assert facts["mean_reliability"] == pytest.approx(
            np.mean([reliability(counts) for counts, _, _ in chosen])
        )
        if rule is None:
            assert "tied_share" not in facts
            assert wrong > 0
        else:
            manifest = folder / "subsets" / f"{rule}.jsonl.manifest.json"
            assert facts["tied_share"] == json.loads(manifest.read_text())["tied_share"]


def test_of_several_seeds_the_lowest_is_shown(copy):
    for rule in RULES:
        for path in (copy / "subsets").glob(f"{rule}.*"):
            path.rename(path.with_name("7-" + path.name))
    write_subsets(copy, seed=3)
    for path in (copy / "subsets").glob("7-*.manifest.json"):
        value = json.loads(path.read_text())
        value["selection"]["seed"] = 7
        path.write_text(json.dumps(value))
    assert {of.options.seed for of in read_world(copy).subsets.values()} == {3}


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def shorten_truth(folder, line):
    """Drop a step of a line's truth; of line 0 the whole last line."""
    path = folder / "corpus" / "truth" / "bars.jsonl"
    lines = path.read_text().splitlines()
    if line:
        value = json.loads(lines[line - 1])
        lines[line - 1] = json.dumps(value | {"r": value["r"][:-1]})
    path.write_text("\n".join(lines if line else lines[:-1]))


def edit(folder, change):
    value = json.loads((folder / MANIFEST).read_text())
    change(value)
    (folder / MANIFEST).write_text(json.dumps(value))


MANIFEST = "subsets/bis.jsonl.manifest.json"
TRUTH, CORPUS = "corpus/truth/bars.jsonl", "corpus/annotations/bars.jsonl"
DAMAGES = [
    ("bars.jsonl:3: truth of", lambda at: shorten_truth(at, 3)),
    ("no truth for", lambda at: shorten_truth(at, 0)),
    (
        "bars.jsonl:1: no truth",
        lambda at: rewrite(at / TRUTH, '"correct": [', '"correct": [2, '),
    ),
    ("bars.jsonl: No such file", lambda at: (at / TRUTH).unlink()),
    (
        "selected from other files",
        lambda at: rewrite(at / CORPUS, "Bar 1 is", "Bar 1 was"),
    ),
    ("no manifest of a subset kept by bis", lambda at: (at / MANIFEST).unlink()),
    ("rows do not ascend", lambda at: edit(at, lambda of: of["rows"].append(10_000))),
    ("rows do not ascend", lambda at: edit(at, lambda of: of["rows"].append(0))),
    ("rows do not ascend", lambda at: edit(at, lambda of: of["rows"].insert(0, -1))),
    ("no cut for", lambda at: edit(at, lambda of: of["cuts"].pop())),
    (
        "bis.jsonl.manifest.json: Invalid enum",
        lambda at: edit(at, lambda of: of["selection"].update(rule="best")),
    ),
]


@pytest.mark.parametrize(("message", "harm"), DAMAGES)
def test_what_is_missing_or_does_not_fit_is_said_in_one_line(message, harm, copy):
    harm(copy)
    with pytest.raises(DataError) as failure:
        read_world(copy)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
