"""What the page says of a corpus, against the files counted by hand."""

import json
import shutil

import numpy as np
import pytest

from experiments.page.corpus import (
    mixture_bins,
    read_world,
    reliability_bins,
    subset_facts,
)
from mprm_jax.data.problems import DataError
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
        assert sum(one.total for one in bins) == len(table)
        assert sum(one.kept for one in bins) == len(kept)
        for one in bins:

            def holds(x, one=one, closed=closed):
                if one.low == one.high:
                    return abs(x - one.low) < 1e-12
                if closed == "[)":
                    return one.low <= x < min(one.high, 1)
                return one.low < x <= one.high + 1e-12

            rows = [
                i for i, (counts, _, _) in enumerate(table) if holds(quantity(counts))
            ]
            assert (one.total, one.kept) == (len(rows), len(kept & set(rows)))
            expected = len(kept & set(rows)) / len(rows) if rows else None
            assert one.coverage == expected
    assert any(one.coverage not in (None, 0, 1) for one in cases[0][0])


def test_truth_is_aligned_with_its_steps(folder):
    world = read_world(folder)
    table = by_hand(folder)
    assert world.r.tolist() == [r for _, truth, _ in table for r in truth["r"]]
    assert world.correct.tolist() == [c for _, t, _ in table for c in t["correct"]]
    words = [len(text.split()) for _, _, texts in table for text in texts]
    assert world.words_per_step == pytest.approx(sum(words) / len(words))


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
        assert facts.pseudo_positive_share == pytest.approx(wrong / len(positive))
        assert facts.summary.rollouts == len(chosen)
        assert facts.mean_reliability == pytest.approx(
            np.mean([reliability(counts) for counts, _, _ in chosen])
        )
        if rule is None:
            assert facts.tied_share is None
            assert wrong > 0
        else:
            manifest = folder / "subsets" / f"{rule}.jsonl.manifest.json"
            assert facts.tied_share == json.loads(manifest.read_text())["tied_share"]


def test_of_several_seeds_the_lowest_is_shown(copy):
    for rule in RULES:
        for path in (copy / "subsets").glob(f"{rule}.*"):
            path.rename(path.with_name("7-" + path.name))
    write_subsets(copy, seed=3)
    for path in (copy / "subsets").glob("7-*.manifest.json"):
        value = json.loads(path.read_text())
        value["selection"]["seed"] = 7
        path.write_text(json.dumps(value))
    assert {s.seed for s in read_world(copy).subsets.values()} == {3}


def damage_truth_length(folder):
    path = folder / "corpus" / "truth" / "bars.jsonl"
    lines = path.read_text().splitlines()
    value = json.loads(lines[2])
    value["r"] = value["r"][:-1]
    lines[2] = json.dumps(value)
    path.write_text("\n".join(lines))
    return "bars.jsonl:3: truth of"


def damage_truth_value(folder):
    path = folder / "corpus" / "truth" / "bars.jsonl"
    path.write_text(path.read_text().replace('"correct": [1', '"correct": [2', 1))
    return "no truth"


def remove_truth(folder):
    (folder / "corpus" / "truth" / "digits.jsonl").unlink()
    return "digits.jsonl: No such file"


def shorten_truth(folder):
    path = folder / "corpus" / "truth" / "digits.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    return "no truth for"


def change_corpus(folder):
    path = folder / "corpus" / "annotations" / "bars.jsonl"
    path.write_text(path.read_text().replace("Bar 1 is", "Bar 1 was"))
    return "selected from other files"


def remove_bis(folder):
    (folder / "subsets" / "bis.jsonl.manifest.json").unlink()
    return "no manifest of a subset kept by bis"


def edit_manifest(folder, edit):
    path = folder / "subsets" / "bis.jsonl.manifest.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def rows_outside(folder):
    edit_manifest(folder, lambda value: value["rows"].append(10_000))
    return "rows do not ascend"


def rows_twice(folder):
    edit_manifest(folder, lambda value: value["rows"].append(value["rows"][-1]))
    return "rows do not ascend"


def rows_negative(folder):
    edit_manifest(folder, lambda value: value["rows"].insert(0, -1))
    return "rows do not ascend"


def cut_missing(folder):
    edit_manifest(folder, lambda value: value["cuts"].pop())
    return "no cut for"


def rule_unknown(folder):
    edit_manifest(folder, lambda value: value["selection"].update(rule="best"))
    return "bis.jsonl.manifest.json: Invalid enum"


@pytest.mark.parametrize(
    "harm",
    [
        damage_truth_length,
        damage_truth_value,
        remove_truth,
        shorten_truth,
        change_corpus,
        remove_bis,
        rows_outside,
        rows_twice,
        rows_negative,
        cut_missing,
        rule_unknown,
    ],
)
def test_what_is_missing_or_does_not_fit_is_said_in_one_line(harm, copy):
    message = harm(copy)
    with pytest.raises(DataError) as failure:
        read_world(copy)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
