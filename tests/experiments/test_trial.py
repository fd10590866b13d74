"""A trial by heads on hidden states: its sign, its arithmetic, what it never sees."""

import itertools
import shutil

import numpy as np
import pytest

from experiments.corpora.scenes import read_truth, write_world
from experiments.phase import trial
from experiments.phase.trial import Judges, try_rules
from mprm_jax.data.batches import Example
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.images import read_images
from mprm_jax.data.prompt import QWEN_TEMPLATE
from mprm_jax.evaluate import Scoring, marker_states
from mprm_jax.models import tiny
from sim.scenes.world import WORLDS
from tests.cli import run
from tests.mprm_jax.backbone_folder import layout_folder, text_tokenizer
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.raw_files import read_lines, write_lines
from theory.rollouts import Rollouts

STEPS = 4


def planted(mixed_err, n=1200, seed=0):
    """Rollouts half mixed, half pure, whose labels are wrong in one of the halves."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, STEPS)) < 0.5
    right[: n // 2] = right[: n // 2, :1]
    right[n // 2 :, 0] = ~right[n // 2 :, 1]
    mixed = np.arange(n) >= n // 2
    wrong = mixed if mixed_err else ~mixed
    features = rng.normal(size=(n * STEPS, 6))
    features[:, 0] += 2.0 * right.ravel()
    positive = right ^ wrong[:, None]
    order = rng.permutation(n)
    counts = np.where(positive[order], 8, 0).ravel()
    rollouts = Rollouts(
        counts, np.full(n * STEPS, 16), STEPS * np.arange(n + 1),
        np.zeros(n, int), ("a",),
    )  # fmt: skip
    features = features.reshape(n, STEPS, -1)[order].reshape(n * STEPS, -1)
    return rollouts, right[order].ravel(), features


def tried(rollouts, right, hidden, rows, keep_ratios=(0.1, 0.25)):
    row = rollouts.rollout
    of = np.isin(row, rows)
    judges = Judges(hidden[of], right[of], np.unique(row[of], return_inverse=True)[1])
    kept = rollouts.take(np.setdiff1d(np.arange(rollouts.n_rollouts), rows))
    return judges, try_rules(kept, hidden[~of], [judges], keep_ratios, seed=1)[0]


@pytest.mark.parametrize(("mixed_err", "sign"), [(True, -1), (False, 1)])
def test_where_only_bis_errs_it_loses_and_where_only_the_others_err_it_gains(
    mixed_err, sign
):
    # BIS keeps the mixed half alone; of Random's labels half are wrong.
    found = tried(*planted(mixed_err), np.arange(0, 1200, 12))[1]
    for of in found:
        assert of is not None
        assert np.sign(of.low) == np.sign(of.high) == sign


def test_gain_and_interval_are_those_of_pairs_counted_one_by_one(monkeypatch):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 6, (trial.SEEDS, 4, 40)).astype(float)
    following = iter(scores)

    def given(tasks, arms, seeds, lesson):
        assert [(arm.rule, arm.keep_ratio) for arm in arms] == [
            ("random", 0.1), ("bis", 0.1), ("random", 0.5), ("bis", 0.5),
        ]  # fmt: skip
        facts = [[{"error_step_ratio": 0.5}]] * 3 + [[{"error_step_ratio": 0.0}]]
        return facts, [next(following)[:, None]]

    monkeypatch.setattr(trial, "arm_scores", given)
    rollouts, right, features = planted(True, n=100)
    judges, found = tried(rollouts, right, features, np.arange(0, 100, 10), (0.1, 0.5))
    # A subset without a negative teaches nothing.
    assert found[1] is None

    def area(of, steps):
        pairs = itertools.product(
            of[steps][judges.right_S[steps]], of[steps][~judges.right_S[steps]]
        )
        return np.mean([(a > b) + (a == b) / 2 for a, b in pairs])

    whole = np.arange(40)
    gains = [area(of[1], whole) - area(of[0], whole) for of in scores]
    assert found[0] is not None
    assert found[0].gain == pytest.approx(np.mean(gains))
    # Resampled by drawing whole rollouts, of a stream of its own.
    means = []
    for drawn in rng.integers(0, 10, (trial.REPLICATES, 10)):
        steps = np.concatenate([np.flatnonzero(judges.rollout_S == i) for i in drawn])
        means.append(
            np.mean([area(of[1], steps) - area(of[0], steps) for of in scores])
        )
    # t of 3 degrees and z, both of 90 %; two standard deviations from 400 resamples
    # differ by under a tenth in nearly all cases.
    half = np.hypot(2.3534 * np.std(gains, ddof=1) / 2, 1.6449 * np.std(means))
    assert (found[0].high - found[0].low) / 2 == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("right", [True, False])
def test_judges_who_say_one_thing_alone_are_refused(right):
    rollouts, truth, features = planted(True, n=100)
    with pytest.raises(ValueError, match="AUROC is undefined: every judged step"):
        tried(rollouts, np.full(len(truth), right), features, np.arange(5))


def test_one_judged_rollout_has_no_interval_and_states_must_be_finite():
    rollouts, truth, features = planted(True, n=100)
    with pytest.raises(ValueError, match="one judged rollout"):
        tried(rollouts, np.arange(len(truth)) % 2 == 0, features, np.arange(3, 4))
    for step in (0, -1):
        broken = features.copy()
        broken[step, 0] = np.inf
        with pytest.raises(ValueError, match="not finite"):
            tried(rollouts, truth, broken, np.arange(5))


def test_nothing_is_left_beside_the_judged():
    rollouts, truth, features = planted(True, n=20)
    with pytest.raises(ValueError, match="no rollout is left"):
        tried(rollouts, truth, features, np.arange(20))


# --- the command ----------------------------------------------------------------------


def files_of(folder):
    return sorted((folder / "annotations").glob("*.jsonl"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A corpus of 150 rollouts, every fifth judged; the first stands there twice."""
    folder = tmp_path_factory.mktemp("tried") / "world"
    write_world(
        folder, WORLDS["plentiful"], rollouts=150, judged=10, problems=5, seed=20_000
    )
    truth = read_truth(folder, read_corpus(folder))
    records = [one for file in files_of(folder) for one in read_lines(file)]
    judged = [
        {
            "prompt": one["question"],
            "completions": [step["step"] for step in one["steps_with_score"]],
            "labels": [label != -1 for label in of.correct],
        }
        for one, of in list(zip(records, truth, strict=True))[::5]
    ]
    write_lines(folder.parent / "judged.jsonl", *judged)
    last = files_of(folder)[-1]
    write_lines(last, *read_lines(last), records[0])
    return folder


def advise(capsys, folder, *more, judged=None):
    judged = judged or folder.parent / "judged.jsonl"
    return run(capsys, "advise", folder, "--judged", judged, *more)


def test_a_trial_by_the_command(world, capsys, monkeypatch):
    seen = {}

    def spy(rollouts, hidden, judges, keep_ratios, seed):
        seen.update(rollouts=rollouts, hidden=hidden, judges=judges[0])
        return try_rules(rollouts, hidden, judges, keep_ratios, seed)

    monkeypatch.setattr(trial, "try_rules", spy)
    done = advise(capsys, world, "--model", "tiny", "--json")
    assert done.status == 0, done.err
    value = done.json
    usable = usable_rollouts(read_corpus(world))
    # Of 151 rollouts neither the 30 judged are trained on nor the copy of the first.
    assert value["judged"]["trial"]["rollouts"] == seen["rollouts"].n_rollouts == 120
    rest = np.setdiff1d(np.arange(150), np.arange(0, 150, 5))
    expected = usable.rollouts.take(rest)
    for name in ("successes", "trials", "offsets", "source"):
        found = getattr(seen["rollouts"], name)
        np.testing.assert_array_equal(found, getattr(expected, name))
    # Hidden states are each rollout's own, read alone.
    model, params = tiny.pretrained()
    records = [one for file in files_of(world) for one in read_lines(file)]
    for hidden, rows in (
        (seen["hidden"], rest),
        (seen["judges"].hidden_SxD, np.arange(0, 150, 5)),
    ):
        at = 0
        for row in rows[:3].tolist():
            one = records[row]
            texts = [step["step"] for step in one["steps_with_score"]]
            images = read_images(world / "images", (one["image"],))
            tokens, pixels, marker, _ = model.encode(one["question"], texts, images)
            ones = np.ones(len(marker), np.int32)
            example = Example(tokens, pixels, marker, 0 * ones, ones)
            (alone,) = marker_states(model, params, [example], Scoring(1))
            there = hidden[at : at + len(marker)]
            np.testing.assert_allclose(there, alone, atol=2e-4)
            at += len(marker)
    assert any(advice["judged"]["trial"] for advice in value["keep_ratios"])
    page = advise(capsys, world, "--model", "tiny", "--trial-rollouts", "100").out
    assert "100 rollouts that nobody judged" in page
    assert page.index("trial: heads") < page.index("by the formula")


def test_backbones_and_corpora_without_pictures_are_tried(world, tmp_path, capsys):
    folder = tmp_path / "text"
    texts = []
    for file in files_of(world):
        records = [one | {"image": None} for one in read_lines(file)]
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        write_lines(folder / "annotations" / file.name, *records)
        for one in records:
            texts += [one["question"], *(s["step"] for s in one["steps_with_score"])]
    words = text_tokenizer([*texts, QWEN_TEMPLATE.before])
    backbone = layout_folder(tmp_path / "weights", "qwen2_5_vl", words)
    judged = world.parent / "judged.jsonl"
    done = advise(capsys, folder, "--model", backbone, "--json", judged=judged)
    assert done.status == 0, done.err
    made = done.json["judged"]["trial"]
    assert (made["rollouts"], made["steps_cut_off"]) == (120, 0)


def test_steps_that_were_never_sampled_are_refused_or_left_out(world, tmp_path, capsys):
    folder = tmp_path / "unmeasured"
    shutil.copytree(world, folder)
    file = files_of(folder)[0]
    # The second rollout, which is not judged, ends unmeasured.
    first, second, *rest = read_lines(file)
    second["steps_with_score"][-1] |= {
        "num_mc_total": 0,
        "num_mc_correct": 0,
        "score": 0,
    }
    write_lines(file, first, second, *rest)
    asked = ["--model", "tiny", "--trial-rollouts", "60", "--unmeasured"]
    judged = world.parent / "judged.jsonl"
    done = advise(capsys, folder, *asked, "keep", judged=judged)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "--unmeasured drop" in done.err
    done = advise(capsys, folder, *asked, "drop", "--json", judged=judged)
    assert done.json["judged"]["trial"]["rollouts"] == 60


def test_what_a_trial_cannot_use_is_one_line(world, tmp_path, capsys):
    right = tmp_path / "right.jsonl"
    rows = read_lines(world.parent / "judged.jsonl")
    write_lines(right, *(row | {"labels": [True] * len(row["labels"])} for row in rows))
    cases = {
        "every judged step is right; leave --model out": {"judged": right},
        "no such model": {"model": "nowhere"},
        "000": {"images": tmp_path},
    }
    for message, of in cases.items():
        more = ["--model", of.get("model", "tiny")]
        more += ["--images", of["images"]] if "images" in of else []
        done = advise(capsys, world, *more, judged=of.get("judged"))
        assert (done.status, done.out) == (1, "")
        assert message in done.err.splitlines()[-1]
        assert "Traceback" not in done.err
