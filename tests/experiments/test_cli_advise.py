"""`mprm advise` as a user meets it: on worlds whose gains are planted."""

import dataclasses
import functools
import json

import msgspec
import numpy as np
import pytest

from experiments.cli import main
from experiments.cli.advise import KEEP_RATIOS, load_advisor
from experiments.map.advisor import fit_advisor
from experiments.map.design import ARMS
from experiments.map.judged import Assumed
from experiments.map.worlds import read_worlds
from experiments.store.results import REFERENCE, append_results, store_path
from mprm_jax.records.problems import DataError
from tests.cli import run
from tests.experiments.map_worlds import lossy_world, write_worlds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advised") / "corpus"
    assert main(["simulate", "corpus", "--output", str(folder)]) == 0
    return folder


def test_a_rule_that_surely_gains_is_recommended(corpus, tmp_path, capsys):
    worlds = write_worlds(tmp_path, lambda keep: 0.02 - 0.01 * np.log(keep))
    asked = ["advise", corpus, "--results", tmp_path, "--batch", "16"]
    found = run(capsys, *asked, "--json").json
    assert (found["worlds"], found["results"]) == (480, str(tmp_path))
    best = found["recommended"]
    assert best["told_apart"]
    # BIS gains most at the smallest keep ratio, and all others lose.
    assert (best["rule"], best["alpha"]) == ("bis", 0.05)
    assert best["keep_ratio"] == min(KEEP_RATIOS)
    assert best["over_all_data"]["gain"] == pytest.approx(
        0.02 - 0.01 * np.log(0.05), abs=0.004
    )
    # The same numbers as the library's, from the measures that were printed.
    advisor = fit_advisor(worlds)
    for advice in found["keep_ratios"]:
        assert not advice["outside"]
        of, keep = found["measures"], advice["keep_ratio"]
        logs = [of["mixed_share"], of["error_step_ratio"]]
        plain = ("mean_mc", "between_share", "low_positive_share", "mixed_reliability")
        last = [keep, keep / of["mixed_share"], advice["updates"]]
        x = np.array([*np.log(logs), *map(of.get, plain), *np.log(last)])
        for treated, baseline in (("bis", "random"), ("low-mc", "full")):
            expected = advisor.predict((treated, baseline), x)._asdict()
            assert advice["gains"][f"{treated} - {baseline}"] == pytest.approx(expected)
    page = run(capsys, *asked).out
    assert f"compared with 480 simulated worlds: {tmp_path}\n" in page
    assert "recommended: --rule bis --keep-ratio 0.05 --alpha 0.05" in page
    lines = [line for line in page.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 100


def test_where_no_rule_surely_gains_all_data_are_recommended(corpus, tmp_path, capsys):
    write_worlds(tmp_path, lambda keep: -0.02)
    asked = ["advise", corpus, "--results", tmp_path, "--batch", "16"]
    found = run(capsys, *asked, "--json").json["recommended"]
    assert (found["rule"], found["keep_ratio"]) == (None, 1.0)
    assert not found["told_apart"]
    assert {one["rule"] for one in found["if_a_share"]} == {"bis"}
    page = run(capsys, *asked).out
    assert "recommended: all data" in page
    assert "if only a share can be trained on" in page


def test_a_corpus_outside_is_not_guessed_at(corpus, tmp_path, capsys):
    write_worlds(tmp_path, lambda keep: 0.01)
    far = ["advise", corpus, "--results", tmp_path, "--batch", "1", "--passes", "5000"]
    found = run(capsys, *far)
    assert found.status == 1
    assert "outside what was simulated (log updates on the subset)" in found.err
    assert "recommended" not in found.out
    assert run(capsys, *far, "--json").json["recommended"] is None


def test_too_few_worlds_everywhere_are_refused(tmp_path):
    write_worlds(tmp_path, lambda keep: 0.0, count=10)
    message = f"{tmp_path}: .* at least 20 worlds, not 8; mprm run regimes makes them"
    with pytest.raises(DataError, match=message):
        load_advisor(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("count", [0, 10, 40])
def test_a_store_with_fewer_worlds_does_not_hide_the_reference(
    count, corpus, tmp_path, capsys
):
    write_worlds(tmp_path, lambda keep: 0.2, count)
    asked = ["advise", corpus, "--results", tmp_path]
    found = run(capsys, *asked, "--json").json
    assert (found["worlds"], found["results"]) == (410, str(REFERENCE))
    page = run(capsys, *asked).out
    assert f"compared with 410 simulated worlds: {REFERENCE}\n" in page


def test_held_out_worlds_do_not_decide_which_folder_is_read(tmp_path):
    training = write_worlds(tmp_path / "a", lambda keep: 0.0, 100)
    rng = np.random.default_rng(1)
    held_out = [lossy_world(i, rng, lambda keep: 0.0) for i in range(4, 1000, 5)]
    append_results(tmp_path / "b", [*training[:30], *held_out])
    _, worlds, used = load_advisor(tmp_path / "b", tmp_path / "a")
    assert (worlds, used) == (80, tmp_path / "a")
    assert load_advisor(tmp_path / "a", tmp_path / "a")[2] == tmp_path / "a"


def test_the_advisor_has_each_world_once_and_of_one_seed(tmp_path):
    training = write_worlds(tmp_path, lambda keep: 0.01, 100)
    alone = load_advisor(tmp_path, tmp_path)[0]
    rng = np.random.default_rng(1)
    other = [lossy_world(i, rng, lambda keep: -0.1) for i in range(500)]
    append_results(tmp_path, [msgspec.structs.replace(w, seed=2) for w in other])
    # The first world again, under a configuration that makes it another cell.
    again = msgspec.structs.replace(
        training[0], config=training[0].config | {"seeds": 20}
    )
    append_results(tmp_path, [again])
    found, worlds, _ = load_advisor(tmp_path, tmp_path)
    assert worlds == 80
    np.testing.assert_array_equal(found.seen, alone.seen)
    x = alone.seen[0]
    assert found.predict(("bis", "full"), x) == alone.predict(("bis", "full"), x)


@pytest.mark.parametrize(("seeds", "readable"), [(20, True), (19, False)])
def test_worlds_may_have_the_arm_that_was_added_later(tmp_path, seeds, readable):
    rng = np.random.default_rng(1)
    worlds = [lossy_world(i, rng, lambda keep: 0.0) for i in range(2)]
    worlds[1].metrics["arms"]["contrast"] = {"micro_f1": [0.5] * seeds}
    append_results(tmp_path, worlds)
    if readable:
        assert len(read_worlds(tmp_path)) == 2
        return
    with pytest.raises(DataError, match="unequal numbers of seeds"):
        read_worlds(tmp_path)


# Where in a world, and what stands there instead; None: the key is missing.
DAMAGES = [
    ("metrics.updates", "many"),
    ("metrics.updates", 0),
    ("metrics.arms.bis.micro_f1", [None] * 20),
    ("metrics.arms.bis.micro_f1", [0.5] * 19),
    ("metrics.arms", {name: {"micro_f1": [0.5]} for name in ARMS}),
    ("metrics.arms", []),
    ("metrics.arms.mixed", None),
    ("metrics.measures", None),
    ("metrics.measures.mean_mc", "null"),
    ("metrics.measures.mixed_share", 0),
    ("metrics", {}),
    ("config.held_out", None),
    ("config.index", None),
    ("config.axes.keep_ratio", 0),
    ("seed", "null"),
]


@pytest.mark.parametrize(("where", "value"), DAMAGES)
def test_damaged_results_are_refused_by_file_and_cell(
    where, value, corpus, tmp_path, capsys
):
    write_worlds(tmp_path, lambda keep: 0.0, 40)
    path = store_path(tmp_path, "regimes")
    lines = path.read_bytes().splitlines()
    world = json.loads(lines[6])
    *path_to, key = where.split(".")
    part = functools.reduce(dict.__getitem__, path_to, world)
    part.pop(key)
    if value is not None:
        part[key] = None if value == "null" else value
    lines[6] = json.dumps(world).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = run(capsys, "advise", corpus, "--results", tmp_path)
    assert (done.status, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert f"{path}: cell 7 is no world of the map (" in last
    assert "Traceback" not in done.err
    assert "makes them" not in done.err


@pytest.fixture(scope="module")
def truth(corpus, tmp_path_factory):
    """Every 40th rollout of the corpus, judged: right iff K > 4 of 16."""
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    records, right = [], []
    for file in sorted((corpus / "annotations").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[::40]:
            record = json.loads(line)
            steps = record["steps_with_score"]
            labels = [step["num_mc_correct"] > 4 for step in steps]
            texts = [step["step"] for step in steps]
            question = record.get("question_orig") or record["question"]
            row = {"prompt": question, "completions": texts, "labels": labels}
            records.append(json.dumps(row))
            right += labels
    path.write_text("\n".join(records) + "\n", encoding="utf-8")
    return path, len(records), np.array(right)


def test_judged_rollouts_tell_what_labels_are_worth(corpus, truth, tmp_path, capsys):
    path, count, right = truth
    asked = ["advise", corpus, "--judged", path, "--results", tmp_path]
    # At the default batch all is outside; the formula answers all the same.
    done = run(capsys, *asked, "--json")
    assert done.status == 0, done.err
    judged = done.json["judged"]
    assert (judged["rollouts"], judged["steps"]) == (count, len(right))
    assert (judged["wrong"], judged["left_out"]) == ((~right).sum(), {})
    assert judged["assumed"] == dataclasses.asdict(Assumed()) | {"stated": False}
    # K = 0 is always wrong, and 1 <= K <= 4 the wrong positives; both a little shrunk.
    assert judged["npv"] > 0.97
    low, high = judged["ppv_interval"]
    assert low < judged["ppv"] < high < 1
    for advice in done.json["keep_ratios"]:
        of = advice["judged"]
        assert of["both"] is None
        assert of["formula"]["low"] < of["sampled"][0] < of["sampled"][1]
    # At 5 % BIS keeps mixed rollouts, whose positives err more often.
    assert done.json["keep_ratios"][0]["judged"]["ppv"] < judged["ppv"]
    page = run(capsys, *asked).out
    assert max(map(len, page.splitlines())) <= 100
    # Of the reference's worlds, which tmp_path does not hide.
    assert set(done.json["signs"]) == {
        "none",
        "25",
        "50",
        "100",
        "200",
        "100, half mixed",
    }


def test_inside_counts_and_judged_rollouts_predict_together(
    corpus, truth, tmp_path, capsys
):
    path, *_ = truth
    asked = ["advise", corpus, "--judged", path, "--results", tmp_path, "--batch", 4]
    found = run(capsys, *asked, "--json").json["keep_ratios"]
    for advice in found:
        both = advice["judged"]["both"]
        assert both["low"] < both["gain"] < both["high"]
    # Where all is known no label changes anything.
    known = run(capsys, *asked, "--json", "--knowledge", 1e4).json["keep_ratios"]
    for advice, other in zip(found, known, strict=True):
        gains = [of["judged"]["formula"]["gain"] for of in (advice, other)]
        assert abs(gains[1]) < 1e-3 < abs(gains[0])
        assert other["judged"]["both"] != advice["judged"]["both"]


def test_without_judged_rollouts_the_subset_is_described(corpus, tmp_path, capsys):
    done = run(capsys, "advise", corpus, "--results", tmp_path)
    assert done.status == 1
    assert "counts alone do not tell whether BIS gains or loses" in done.out
    asked = ["advise", corpus, "--results", tmp_path, "--json"]
    for advice in run(capsys, *asked).json["keep_ratios"]:
        of = advice["subset"]
        asked_of = ["stats", corpus, "--rule", "bis", "--json"]
        asked_of += ["--keep-ratio", advice["keep_ratio"]]
        stats = run(capsys, *asked_of).json["overall"]
        assert {name: of[name] for name in of if name in stats} == pytest.approx(
            {name: stats[name] for name in of if name in stats}
        )
        assert {"tied_share", "mixed_share", "rollouts"} <= stats.keys() & of.keys()
        shares = [one["bis"]["wrong_positives"] for one in of["expected"]]
        # The more steps are wrong, the more positives are.
        assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "a"], "--judge needs --judged"),
        (["--knowledge", "1"], "--knowledge needs --judged"),
        (
            ["--judged", "x", "--clean-auroc", "0.5"],
            "--clean-auroc must lie in (0.5, 1)",
        ),
        (["--judged", "x", "--knowledge=-1"], "--knowledge must be at least 0"),
        (["--judged", "x", "--dimension", "3"], "--dimension must be at least 4"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(options, message, capsys):
    done = run(capsys, "advise", "none", *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_a_file_of_other_rollouts_is_refused(corpus, tmp_path, capsys):
    path = tmp_path / "other.jsonl"
    row = {"prompt": "Who?", "completions": ["I."], "labels": [True]}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    done = run(capsys, "advise", corpus, "--judged", path, "--json")
    assert done.status == 1
    assert f"{path}: none of 1 judged rollouts is in" in done.json["error"]
