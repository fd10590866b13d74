"""Which rollouts are shown, and the reasons given for each rule."""

import base64
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.page.corpus import read_world
from experiments.page.rollouts import cases, choose_examples, view_examples, why
from mprm_jax.records.problems import DataError
from tests.report_run import RULES, TRIALS, write_subsets, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "plentiful"
    write_world(path, np.random.default_rng(2), mixed=0.4)
    return path


@pytest.fixture(scope="module")
def world(folder):
    return read_world(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """A world of one's own to change."""
    return shutil.copytree(folder, tmp_path / "plentiful")


def test_every_case_that_exists_is_shown_and_no_rollout_twice(world):
    chosen = choose_examples(world, 20)
    assert len(chosen) == 20
    present = {name for name, mask in cases(world).items() if mask.any()}
    masks = cases(world)
    assert all(masks[name][row] for row, name in chosen.items())
    covered = {name for row in chosen for name, mask in masks.items() if mask[row]}
    assert covered == present
    assert len(present) > 8
    # The cases take turns, so none is crowded out by a larger one.
    counts = [list(chosen.values()).count(name) for name in set(chosen.values())]
    assert max(counts) <= 4


def test_cases_are_what_their_names_say(world):
    rollouts = world.rollouts
    starts = rollouts.offsets[:-1]
    some = np.logical_or.reduceat(rollouts.successes > 0, starts)
    every = np.logical_and.reduceat(rollouts.successes > 0, starts)
    wrong = (rollouts.successes > 0) & (world.correct == -1)
    kinds = {
        "mixed": some & ~every,
        "pseudo-positive": np.logical_or.reduceat(wrong, starts),
        "all steps positive": every,
        "no step positive": ~some,
    }
    bis = world.subsets["bis"].kept
    masks = cases(world)
    for kind, of in kinds.items():
        assert np.array_equal(masks.pop(f"{kind}, kept by BIS"), of & bis)
        assert np.array_equal(masks.pop(f"{kind}, left out by BIS"), of & ~bis)
    for rule in ("random", "mixed", "low-mc", "reliable"):
        mask = masks.pop(f"kept by {rule}, not by BIS")
        assert np.array_equal(mask, world.subsets[rule].kept & ~bis)
    assert not masks


def test_a_small_corpus_is_shown_whole(world):
    n = world.rollouts.n_rollouts
    union = np.any(list(cases(world).values()), axis=0)
    assert set(choose_examples(world, 10 * n)) == set(np.flatnonzero(union).tolist())


def test_the_choice_does_not_depend_on_the_order_of_the_lines(world, copy):
    for folder in ("annotations", "truth"):
        file = copy / "corpus" / folder / "bars.jsonl"
        file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    write_subsets(copy)
    shuffled = read_world(copy)

    def shown(of):
        chosen = choose_examples(of, 20)
        return {(of.corpus.content[row], name) for row, name in chosen.items()}

    assert shown(shuffled) == shown(world)


def test_views_hold_what_the_files_hold(world):
    masks = cases(world)
    for view in view_examples(world, 48):
        name, line = view.where.removeprefix("annotations/").split(":")
        text = (world.folder / "annotations" / name).read_text().splitlines()
        record = json.loads(text[int(line) - 1])
        truths = (world.folder / "truth" / name).read_text().splitlines()
        truth = json.loads(truths[int(line) - 1])
        assert view.question == record["question"]
        assert view.source == name.removesuffix(".jsonl")
        assert [s.text for s in view.steps] == [
            s["step"] for s in record["steps_with_score"]
        ]
        k = [s["num_mc_correct"] for s in record["steps_with_score"]]
        assert [s.successes for s in view.steps] == k
        assert {s.trials for s in view.steps} == {TRIALS}
        assert [s.r for s in view.steps] == truth["r"]
        assert [s.truth for s in view.steps] == truth["correct"]
        wrong = [a > 0 and c == -1 for a, c in zip(k, truth["correct"], strict=True)]
        assert [s.pseudo_positive for s in view.steps] == wrong
        assert view.pseudo_positive == any(wrong)
        positive = [a / TRIALS for a in k if a]
        p = len(positive) / len(k)
        r = sum(positive) / len(positive) if positive else 1
        mixture, slips = p * (1 - p), truth["slip_rate"]
        found = list(view.scores.values())
        assert found == pytest.approx([p, mixture, r, (mixture + 0.05) * r, slips])
        assert view.mixed == (0 < p < 1)
        assert masks[view.case][view.row]
        assert [rule.rule for rule in view.rules] == list(world.subsets)
        for rule in view.rules:
            assert rule.kept == world.subsets[rule.rule].kept[view.row]
        assert view.kept_by_bis == world.subsets["bis"].kept[view.row]


def test_images_are_redrawn_pixel_by_pixel(world):
    view = view_examples(world, 3)[0]
    (image,) = view.images
    line = view.where.partition(":")[2]
    original = world.folder / "images" / view.source / f"{int(line) - 1:06d}.png"
    data = base64.b64decode(image.removeprefix("data:image/png;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(shown, np.asarray(Image.open(original)))


def test_reasons_agree_with_the_picks_for_every_rollout_and_rule(world):
    from theory.selection import rule_key

    for rule in RULES:
        subset = world.subsets[rule]
        keys = rule_key(subset.options.rule, world.rollouts, subset.options.alpha)
        for row in range(world.rollouts.n_rollouts):
            source = world.rollouts.source_names[world.rollouts.source[row]]
            reason, kept = why(subset, keys, row, source), bool(subset.kept[row])
            cut = subset.cuts[source]
            if rule == "random":
                expected = "drawn: 4 of 16" if kept else "not drawn"
            elif rule == "mixed":
                label = "both labels" if keys[row] else "one label only"
                assert reason.startswith(label)
                continue
            elif keys[row] == cut.cut_value:
                expected = "at the cut" if kept else "at the cut, not chosen"
            else:
                # Low-MC ranks by the negative mean, and is told by the mean itself.
                above = (keys[row] > cut.cut_value) == (rule != "low-mc")
                assert kept == (keys[row] > cut.cut_value)
                expected = "above the cut" if above else "below the cut"
            assert expected in reason
            assert "--" not in reason
            assert "−0." not in reason
            assert "-0." not in reason


def one_cut(world, rule, kept, cut_value, tied=0):
    """A subset of the first rollout alone, or of none, with a given cut."""
    subset = world.subsets[rule]
    mask = np.zeros(world.rollouts.n_rollouts, bool)
    mask[0] = kept
    cuts = {
        name: dataclasses.replace(cut, cut_value=cut_value, tied_kept=tied)
        for name, cut in subset.cuts.items()
    }
    return dataclasses.replace(subset, kept=mask, cuts=cuts)


@pytest.mark.parametrize(
    ("rule", "key", "cut", "tied", "kept", "reason"),
    [
        ("bis", 0.2, 0.1, 0, True, "BIS 0.2000: above the cut 0.1000"),
        ("bis", 0.05, 0.1, 0, False, "BIS 0.0500: below the cut 0.1000"),
        ("bis", 0.1, 0.1, 3, True, "BIS 0.1000: at the cut and chosen among equals"),
        ("bis", 0.1, 0.1, 0, True, "BIS 0.1000: at the cut"),
        ("bis", 0.1, 0.1, 3, False, "BIS 0.1000: at the cut, not chosen among equals"),
        ("reliable", 0.9, 0.8, 0, True, "R 0.9000: above the cut 0.8000"),
        ("low-mc", -0.2, -0.3, 0, True, "mean MC 0.2000: below the cut 0.3000"),
        ("low-mc", -0.4, -0.3, 0, False, "mean MC 0.4000: above the cut 0.3000"),
        ("mixed", 1.0, 0.0, 2, True, "both labels: kept before the random fill"),
        ("mixed", 0.0, 0.0, 2, True, "one label only: random fill"),
        ("mixed", 0.0, 0.0, 2, False, "one label only: not drawn"),
        ("mixed", 0.0, 1.0, 2, False, "one label only: not drawn"),
        (
            "mixed",
            1.0,
            1.0,
            2,
            False,
            "both labels: not drawn among more mixed rollouts than the budget",
        ),
    ],
)
def test_reasons_by_hand(world, rule, key, cut, tied, kept, reason):
    subset = one_cut(world, rule, kept, cut, tied)
    assert why(subset, np.array([key]), 0, "bars") == reason


@pytest.mark.parametrize(("key", "kept"), [(0.05, True), (0.2, False)])
def test_rows_that_contradict_the_cut_are_refused(world, key, kept):
    subset = one_cut(world, "bis", kept, 0.1)
    with pytest.raises(DataError, match="contradict the manifest"):
        why(subset, np.array([key]), 0, "bars")


@pytest.mark.parametrize("content", [None, b"GIF89a", b"\x89PNG\r\n\x1a\n broken"])
def test_missing_and_damaged_images_are_named_in_one_line(content, copy):
    for file in (copy / "corpus" / "images" / "bars").iterdir():
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    with pytest.raises(DataError, match=r"bars\.jsonl:\d+: .*image") as failure:
        view_examples(read_world(copy), 48)
    assert "\n" not in str(failure.value)
