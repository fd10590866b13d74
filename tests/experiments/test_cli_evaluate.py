"""`mprm evaluate` as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from tests.mprm_jax.scoring_model import PARAMS, StubModel, benchmark, solution


def write(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def random_predictions(rollouts=60, seed=0):
    rng = np.random.default_rng(seed)
    records = []
    for i in range(rollouts):
        n = int(rng.integers(1, 8))
        labels = rng.choice([1, 1, -1, 0], n)
        scores = 1 / (1 + np.exp(-rng.normal(size=n) - labels))
        records.append(
            {
                "data_source": ("a", "b", "c")[i % 3],
                "labels_per_step": labels.tolist(),
                "prm_scores": scores.tolist(),
            }
        )
    return records


@pytest.fixture
def scores(tmp_path):
    return write(tmp_path / "scores.jsonl", random_predictions())


def test_the_json_has_the_promised_keys_and_values(scores, mprm):
    done = mprm("evaluate", "--predictions", scores, "--threshold", "0.5", "--json")
    assert (done.status, done.err) == (0, "")
    value = done.json
    columns = {}
    for record in map(json.loads, scores.read_text().splitlines()):
        for label, score in zip(
            record["labels_per_step"], record["prm_scores"], strict=True
        ):
            if label:
                columns.setdefault(record["data_source"], []).append((label, score))
    weighted = 0.0
    for name, pairs in columns.items():
        y, z = [a for a, _ in pairs], [1 if s >= 0.5 else -1 for _, s in pairs]
        expected = f1_score(y, z, average="macro")
        assert value["per_source"][name] == pytest.approx(expected)
        weighted += len(y) * expected
    y = [a for pairs in columns.values() for a, _ in pairs]
    s = [b for pairs in columns.values() for _, b in pairs]
    z = [1 if one >= 0.5 else -1 for one in s]
    assert value["steps"] == len(y)
    assert value["micro_f1"] == pytest.approx(weighted / len(y))
    assert value["macro_f1_pooled"] == pytest.approx(f1_score(y, z, average="macro"))
    assert value["f1_positive"] == pytest.approx(f1_score(y, z, pos_label=1))
    assert value["f1_negative"] == pytest.approx(f1_score(y, z, pos_label=-1))
    assert value["auroc"] == pytest.approx(roc_auc_score(y, s))
    assert value["threshold"]["chosen_on"] == "fixed"


def test_the_table_fits_80_columns_and_says_what_is_what(scores, mprm):
    for options, words in (
        ([], "best micro-F1 on"),
        (["--threshold-on", "test"], "ON THE TEST SET"),
        (["--threshold", "0.5"], "decision threshold 0.5: given"),
    ):
        done = mprm("evaluate", "--predictions", scores, *options)
        assert done.status == 0
        assert words in done.out
        assert "mean of the sources' macro-F1, weighted by their steps" in done.out
        assert max(map(len, done.out.splitlines())) <= 80


def test_where_the_threshold_was_chosen_is_marked(scores, mprm):
    held_out = mprm("evaluate", "--predictions", scores, "--json").json
    test = mprm(
        "evaluate", "--predictions", scores, "--threshold-on=test", "--json"
    ).json
    fixed = mprm(
        "evaluate", "--predictions", scores, "--threshold-on=fixed", "--json"
    ).json
    assert fixed["threshold"]["threshold"] == 0.5
    assert held_out["threshold"]["chosen_on"] == "held-out"
    assert held_out["threshold"]["steps"] + held_out["steps"] == test["steps"]
    assert any("test set" in note for note in test["notes"])
    assert test["micro_f1"] >= fixed["micro_f1"]


def test_a_prior_beside_the_scores_is_judged(scores, tmp_path, mprm):
    truth = write(tmp_path / "truth.jsonl", [{"slip_rate": i / 60} for i in range(60)])
    arguments = ["evaluate", "--predictions", scores, "--prior", "slip_rate"]
    value = mprm(*arguments, "--prior-file", truth, "--json").json
    assert value["prior"]["field"] == "slip_rate"
    assert 0.5 <= value["prior"]["auroc"] <= 1
    assert "AUROC of slip_rate alone" in mprm(*arguments, "--prior-file", truth).out
    failed = mprm(*arguments)
    assert (failed.status, "no usable field 'slip_rate'" in failed.err) == (1, True)


ONE = {"data_source": "a", "labels_per_step": [1, -1], "prm_scores": [3.0, -2.0]}


@pytest.mark.parametrize(
    ("records", "note"),
    [
        ([ONE], "Scores outside [0, 1] are no probabilities"),
        ([{**ONE, "labels_per_step": [1, 0]}], "no label is -1 (0 is neutral"),
        ([{**ONE, "labels_per_step": [-1, -1]}], "Every counted step is wrong"),
        ([{**ONE, "prm_scores": [1, 1]}], "Every score is the same"),
    ],
)
def test_what_makes_numbers_odd_is_said(records, note, tmp_path, mprm):
    path = write(tmp_path / "p", records)
    done = mprm("evaluate", "--predictions", path, "--threshold=0", "--json")
    assert done.status == 0
    assert note in " ".join(done.json["notes"])
    plain = mprm("evaluate", "--predictions", path, "--threshold=0")
    assert note.split(" (")[0] in " ".join(plain.out.split())


def test_one_class_has_no_auroc(tmp_path, mprm):
    path = write(tmp_path / "p", [{**ONE, "labels_per_step": [1, 1]}])
    value = mprm("evaluate", "--predictions", path, "--threshold", "0.5", "--json").json
    assert value["auroc"] is None
    assert value["f1_negative"] == 0
    assert value["per_source"] == {"a": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([ONE, {**ONE, "prm_scores": [1]}], ":2: record 2: labels and scores differ"),
        ([{**ONE, "prm_scores": [1, float("nan")]}], ":1: record 1: score is not fin"),
        ([{**ONE, "labels_per_step": [0, 0]}], "no counted steps"),
        ([], "holds no record"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_predictions_fail_in_one_line(records, words, as_json, tmp_path, mprm):
    path = write(tmp_path / "p.jsonl", records)
    failed = mprm("evaluate", "--predictions", path, *(["--json"] if as_json else []))
    assert failed.status == 1
    assert words in failed.err
    assert failed.err.count("\n") == 1
    if as_json:
        assert words in failed.json["error"]


@pytest.fixture
def stub(monkeypatch):
    """Any folder is a checkpoint of the stand-in model."""
    monkeypatch.setattr(
        "mprm_jax.train.checkpoint.load_model",
        lambda *_, **__: (StubModel(), PARAMS),
    )


def test_a_checkpoint_is_scored_and_its_scores_can_be_judged_again(
    stub, tmp_path, mprm
):
    file = benchmark(tmp_path / "b", [solution(i, 1 + i % 3) for i in range(30)])
    output = tmp_path / "out" / "scores.jsonl"
    done = mprm(
        "evaluate",
        f"--checkpoint={tmp_path}",
        f"--benchmark={file}",
        f"--output={output}",
        "--json",
    )
    assert done.status == 0
    names = ["scores.jsonl", "scores.jsonl.manifest.json", "scores.metrics.json"]
    assert sorted(path.name for path in output.parent.iterdir()) == names
    again = mprm("evaluate", "--predictions", output, "--json").json
    first = done.json
    assert first.pop("predictions") == str(output)
    assert again == first
    kept = json.loads((output.parent / "scores.metrics.json").read_text())
    assert kept["micro_f1"] == first["micro_f1"]
    manifest = json.loads((output.parent / names[1]).read_text())
    assert manifest["inputs"][0]["file"] == str(file)


def test_a_failed_evaluation_leaves_no_output(stub, tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(0, 2), solution(1, 2)])
    (tmp_path / "b" / "images" / "1.png").unlink()
    output = tmp_path / "out" / "scores.jsonl"
    arguments = ["evaluate", f"--checkpoint={tmp_path}", f"--output={output}"]
    failed = mprm(*arguments, f"--benchmark={file}")
    assert failed.status == 1
    assert f"{file}:2: record 2: image not found" in failed.err
    assert not output.parent.exists()
    failed = mprm(*arguments, f"--benchmark={file}", f"--images={tmp_path}")
    assert f"{file}:1: record 1: image not found" in failed.err


def test_a_benchmark_is_never_written_over(stub, tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(i, 2) for i in range(3)])
    before = file.read_bytes()
    arguments = [f"--checkpoint={tmp_path}", f"--benchmark={file}", f"--output={file}"]
    failed = mprm("evaluate", *arguments, "--threshold=0.5")
    assert (failed.status, "is the file to be scored" in failed.err) == (1, True)
    assert file.read_bytes() == before


def test_a_missing_checkpoint_is_said(tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(0, 2)])
    arguments = ["evaluate", "--benchmark", file, "--checkpoint"]
    failed = mprm(*arguments, tmp_path / "none")
    assert (failed.status, "no such checkpoint folder" in failed.err) == (1, True)
    failed = mprm(*arguments, tmp_path / "b")
    assert (failed.status, "no model.json" in failed.err) == (1, True)


def test_judging_scores_starts_without_jax(scores):
    code = (
        "import sys; from experiments.cli import main;"
        f"status = main(['evaluate', '--predictions', {str(scores)!r}, '--json']);"
        "assert status == 0;"
        "assert not {'jax', 'flax', 'scipy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
