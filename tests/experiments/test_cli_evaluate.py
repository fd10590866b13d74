"""`mprm evaluate` as a user meets it."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from experiments.cli.evaluate import Options
from experiments.console.errors import UsageError
from mprm_jax.data.scored import columns, read_predictions
from mprm_jax.decision import decide
from mprm_jax.records.problems import DataError
from tests.mprm_jax.stub_model import StubModel
from tests.raw_files import benchmark, solution, write_lines, write_pictures

SCORE = "evaluate --json --predictions"


def random_predictions(rollouts=60, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(rollouts):
        labels = rng.choice([1, 1, -1, 0], int(rng.integers(1, 8)))
        scores = 1 / (1 + np.exp(-rng.normal(size=len(labels)) - labels))
        judged = {"labels_per_step": labels.tolist(), "prm_scores": scores.tolist()}
        yield {"data_source": "abc"[i % 3], **judged}


@pytest.fixture
def scores(tmp_path):
    return write_lines(tmp_path / "scores.jsonl", *random_predictions())


def test_the_json_has_the_promised_keys_and_values(scores, mprm):
    done = mprm(SCORE, scores, "--threshold 0.5")
    assert (done.status, done.err) == (0, "")
    value = done.json
    columns = {}
    for record in random_predictions():
        pairs = zip(record["labels_per_step"], record["prm_scores"], strict=True)
        counted = [(label, score) for label, score in pairs if label]
        columns.setdefault(record["data_source"], []).extend(counted)
    weighted = 0.0
    for name, pairs in columns.items():
        y, z = [a for a, _ in pairs], [1 if s >= 0.5 else -1 for _, s in pairs]
        expected = f1_score(y, z, average="macro")
        assert value["per_source"][name] == pytest.approx(expected)
        weighted += len(y) * expected
    y, s = zip(*(pair for pairs in columns.values() for pair in pairs), strict=True)
    z = [1 if one >= 0.5 else -1 for one in s]
    assert value["steps"] == len(y)
    assert value["micro_f1"] == pytest.approx(weighted / len(y))
    assert value["macro_f1_pooled"] == pytest.approx(f1_score(y, z, average="macro"))
    assert value["f1_positive"] == pytest.approx(f1_score(y, z, pos_label=1))
    assert value["f1_negative"] == pytest.approx(f1_score(y, z, pos_label=-1))
    assert value["auroc"] == pytest.approx(roc_auc_score(y, s))
    assert value["threshold"]["chosen_on"] == "fixed"


@pytest.mark.parametrize("options", ["", "--threshold-on test", "--threshold 0.5"])
def test_the_table_fits_80_columns(options, scores, mprm):
    record = next(random_predictions()) | {"data_source": "attribute_hallucination"}
    with scores.open("a") as file:
        file.write(json.dumps(record) + "\n")
    done = mprm("evaluate", options, "--predictions", scores)
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert ("ON THE TEST SET" in done.out) == ("test" in options)


def test_where_the_threshold_was_chosen_is_marked(scores, mprm):
    held_out = mprm(SCORE, scores).json
    test = mprm(SCORE, scores, "--threshold-on=test").json
    fixed = mprm(SCORE, scores, "--threshold-on=fixed").json
    assert fixed["threshold"]["threshold"] == 0.5
    assert held_out["threshold"]["chosen_on"] == "held-out"
    assert held_out["threshold"]["steps"] + held_out["steps"] == test["steps"]
    assert any("test set" in note for note in test["notes"])
    assert test["micro_f1"] >= fixed["micro_f1"]


def test_the_seed_draws_the_intervals(scores, mprm):
    once, other, again = (
        mprm(SCORE, scores, "--replicates 20 --seed", seed).json["intervals"]["auroc"]
        for seed in (0, 1, 0)
    )
    assert once == again != other


def test_a_prior_beside_the_scores_is_judged(scores, tmp_path, mprm):
    rates = ({"slip_rate": i / 60} for i in range(60))
    truth = write_lines(tmp_path / "truth.jsonl", *rates)
    given = ("--predictions", scores, "--prior slip_rate")
    value = mprm("evaluate --json", *given, "--prior-file", truth).json
    assert value["prior"]["field"] == "slip_rate"
    rows = read_predictions(scores)
    _, left = decide(columns(rows), "held-out")
    evaluated = [(i / 60, label) for i in left for label in rows[i].labels]
    rate, label = np.array([pair for pair in evaluated if pair[1]]).T
    area = roc_auc_score(label, rate)
    assert value["prior"]["auroc"] == pytest.approx(max(area, 1 - area))
    assert value["steps_neutral"] == len(evaluated) - len(label)
    assert "slip_rate" in mprm("evaluate", *given, "--prior-file", truth).out
    failed = mprm("evaluate", *given)
    assert (failed.status, "slip_rate" in failed.err) == (1, True)
    before = truth.read_bytes()
    assert mprm("evaluate", *given, "--prior-file", truth, "--page", truth).status == 1
    assert truth.read_bytes() == before


ONE = {"data_source": "a", "labels_per_step": [1, -1], "prm_scores": [3.0, -2.0]}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, "Scores outside [0, 1] are no probabilities"),
        ({"labels_per_step": [1, 0]}, "no label is -1 (0 is neutral"),
        ({"labels_per_step": [-1, -1]}, "Every counted step is wrong"),
        ({"prm_scores": [1, 1]}, "Every score is the same"),
    ],
)
def test_what_makes_numbers_odd_is_said(change, note, tmp_path, mprm):
    path = write_lines(tmp_path / "p", ONE | change)
    done = mprm(SCORE, path, "--threshold=0")
    assert done.status == 0
    assert note in " ".join(done.json["notes"])
    plain = mprm("evaluate --threshold=0 --predictions", path)
    assert note.split(" (")[0] in " ".join(plain.out.split())


def test_one_class_has_no_auroc(tmp_path, mprm):
    path = write_lines(tmp_path / "p", ONE | {"labels_per_step": [1, 1]})
    value = mprm(SCORE, path, "--threshold 0.5").json
    assert (value["auroc"], value["f1_negative"]) == (None, 0)
    assert value["per_source"] == {"a": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("records", "where"),
    [
        ([ONE, {**ONE, "prm_scores": [1]}], "p.jsonl:2: record 2: "),
        ([{**ONE, "prm_scores": [1, float("nan")]}], "p.jsonl:1: record 1: "),
        ([{**ONE, "labels_per_step": [0, 0]}], "p.jsonl: "),
        ([], "p.jsonl: "),
    ],
)
@pytest.mark.parametrize("as_json", ["", "--json"])
def test_bad_predictions_fail_in_one_line(records, where, as_json, tmp_path, mprm):
    path = write_lines(tmp_path / "p.jsonl", *records)
    failed = mprm("evaluate", as_json, "--predictions", path)
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert where in failed.err
    assert not as_json or where in failed.json["error"]


def test_a_checkpoint_is_scored_and_its_scores_are_judged_again(stub, tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(i, 1 + i % 3) for i in range(30)])
    output = tmp_path / "out" / "scores.jsonl"
    given = (f"--checkpoint={tmp_path} --benchmark={file}", f"--output={output}")
    done = mprm("evaluate --json", *given)
    assert done.status == 0
    names = ["scores.html", "scores.jsonl", "scores.jsonl.manifest.json"]
    names.append("scores.metrics.json")
    assert sorted(path.name for path in output.parent.iterdir()) == names
    first = done.json
    assert first.pop("predictions") == str(output)
    assert first.pop("judged")["folder"] == str(tmp_path)
    assert first.pop("page") == str(output.with_suffix(".html"))
    assert mprm(SCORE, output).json == first
    kept = json.loads((output.parent / "scores.metrics.json").read_text())
    assert kept["micro_f1"] == first["micro_f1"]
    manifest = json.loads((output.parent / names[2]).read_text())
    assert manifest["inputs"][0]["file"] == str(file)


PAIR = {
    "question": "q",
    "original_process": ["a", "b"],
    "modified_process": ["a", "c"],
    "error_steps": [2],
}


def test_a_checkpoint_is_judged_on_every_benchmark(stub, tmp_path, mprm):
    write_pictures(tmp_path / "b" / "images", 1)
    first = {"id": "math-1", "problem": "q", "steps": ["a", "b"], "label": 1}
    task = {"question": "q", "image": ["0.png"], "category": "location_error"}
    task |= {"reasoning_error": "STEP1: a\nSTEP2: b", "task_gt": [0, 1]}
    folder = tmp_path / "b"
    write_lines(folder / "1.jsonl", first, first | {"label": -1, "images": ["0.png"]})
    write_lines(
        folder / "2.jsonl",
        *(PAIR | {"classification": of} for of in ("circular", "redundency")),
    )
    write_lines(folder / "3.jsonl", task, solution(0, 2))
    output = tmp_path / "out" / "scores.jsonl"
    given = f"--checkpoint={tmp_path} --benchmark={folder} --threshold=0.5"
    done = mprm("evaluate --json", given, f"--output={output}")
    assert done.status == 0, done.err
    value = done.json
    rollouts = {name: of["rollouts"] for name, of in value["sources"].items()}
    assert rollouts == {
        **dict.fromkeys(("a", "circular", "redundency", "location_error"), 1),
        **{"math": 2, "correct": 1},
    }
    # Both pairs have the same original process.
    assert value["repeats"] == 1
    assert value["steps"] == 2 * 7
    manifest = json.loads((output.parent / "scores.jsonl.manifest.json").read_text())
    assert len(manifest["inputs"]) == 3


def processbench(labels, scores):
    """One record of each, in ProcessBench's shape with scores beside."""
    for i, (label, of) in enumerate(zip(labels, scores, strict=True)):
        texts = [f"step {j}" for j in range(len(of))]
        judged = {"problem": f"q{i}", "steps": texts, "label": label, "scores": of}
        yield {"id": f"{'gsm8k' if i % 2 else 'math'}-{i}", **judged}


def test_processbench_f1_is_the_harmonic_mean_of_two_accuracies(tmp_path, mprm):
    labels = [1, 0, 1, 0, -1, -1, -1, -1]
    found, late, early = [0.9, 0.1, 0.9], [0.9, 0.1], [0.1, 0.1]
    scores = [found, [0.1, 0.9], early, late, [0.9], [0.9, 0.9], [0.1], [0.9, 0.1]]
    path = write_lines(tmp_path / "p.jsonl", *processbench(labels, scores))
    value = mprm(SCORE, path, "--threshold=0.5").json
    # math: 1 of 2 found, 1 of 2 passed; gsm8k: 1 of 2, 1 of 2.
    assert value["processbench_f1"] == 0.5
    first = value["processbench"]["sources"]
    assert first["math"] == {"f1": 0.5, "wrong_found": 0.5, "right_passed": 0.5}
    assert value["steps_neutral"] == 3
    # What lies behind the first wrong step was never judged, whatever its score.
    scores[0], scores[1] = [0.9, 0.1, 0.2], [0.1, 0.3]
    again = write_lines(tmp_path / "again.jsonl", *processbench(labels, scores))
    told = mprm(SCORE, again, "--threshold=0.5").json
    assert told["processbench"] == value["processbench"]
    chosen = mprm(SCORE, path, "--threshold-source=gsm8k").json
    assert chosen["processbench"]["threshold"]["source"] == "gsm8k"
    assert chosen["rollouts"] == 8
    failed = mprm(SCORE, path, "--threshold-source=nowhere")
    assert (failed.status, "'gsm8k', 'math'" in failed.json["error"]) == (1, True)


@pytest.mark.parametrize(
    "options",
    [
        "--threshold-on=source",
        "--threshold-source=a --threshold=0.5",
        "--threshold-source=a --threshold-on=test",
    ],
)
def test_thresholds_come_from_one_place(options, scores, mprm):
    assert mprm("evaluate --predictions", scores, options).status == 2


def test_the_page_holds_what_the_command_prints_and_nothing_from_elsewhere(
    scores, tmp_path, mprm
):
    page = tmp_path / "out" / "page.html"
    record = next(random_predictions()) | {"data_source": "<script>x</script>"}
    with scores.open("a") as file:
        file.write(json.dumps(record) + "\n")
    given = ("--predictions", scores, "--page", page)
    value = mprm("evaluate --json", *given).json
    assert value["page"] == str(page)
    html = page.read_text()
    for name in ("micro_f1", "processbench_f1", "auroc", "ece"):
        assert f"{value[name]:.3f}" in html
    for word in ("Micro-F1", "ProcessBench F1", "AUROC", "calibrated", "harmonic mean"):
        assert word in html
    assert html.count("<svg") == 3
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert html.count("<img") == 0
    # The same evaluation gives the same page, but is never written over its input.
    mprm("evaluate --json", *given)
    assert page.read_text() == html
    failed = mprm("evaluate --predictions", scores, "--page", scores)
    assert (failed.status, f"{scores}: " in failed.err) == (1, True)
    logits = write_lines(tmp_path / "logits", ONE)
    mprm(SCORE, logits, "--threshold=0 --page", page)
    assert "no calibration" in page.read_text()
    huge = write_lines(tmp_path / "huge", ONE | {"prm_scores": [1e308, -1e308]})
    mprm(SCORE, huge, "--threshold=0 --page", page)
    assert "too large to be drawn" in page.read_text()


def test_a_failed_evaluation_leaves_no_output(stub, tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(0, 2), solution(1, 2)])
    (tmp_path / "b" / "images" / "1.png").unlink()
    output = tmp_path / "out" / "scores.jsonl"
    given = f"--checkpoint={tmp_path} --output={output} --benchmark={file}"
    for extra, where in (("", f"{file}:2: "), (f"--images={tmp_path}", f"{file}:1: ")):
        failed = mprm("evaluate", given, extra)
        assert (failed.status, where in failed.err) == (1, True)
        assert not output.parent.exists()


def test_a_benchmark_is_never_written_over(stub, tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(i, 2) for i in range(3)])
    before = file.read_bytes()
    given = f"--checkpoint={tmp_path} --benchmark={file} --output={file}"
    failed = mprm("evaluate --threshold=0.5", given)
    assert (failed.status, f"{file}: " in failed.err) == (1, True)
    assert file.read_bytes() == before


def test_a_missing_checkpoint_is_said(tmp_path, mprm):
    file = benchmark(tmp_path / "b", [solution(0, 2)])
    for folder in (tmp_path / "none", tmp_path / "b"):
        failed = mprm("evaluate --benchmark", file, "--checkpoint", folder)
        assert (failed.status, failed.err.count("\n")) == (1, 1)
        assert str(folder) in failed.err


def test_judging_scores_starts_without_jax(scores):
    code = (
        "import sys; from experiments.cli import main;"
        f"given = ['evaluate', '--predictions', {str(scores)!r}, '--json'];"
        "assert main(given) == 0;"
        "assert not {'jax', 'flax', 'scipy', 'PIL'} & set(sys.modules);"
        f"assert main([*given, '--page', {str(scores) + '.html'!r}]) == 0;"
        "assert not {'jax', 'flax', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_devices_and_precision_are_those_asked_for(tmp_path):
    shapes = jax.eval_shape(StubModel().init, jax.random.key(0))

    def placed(**asked):
        options = Options(checkpoint=tmp_path, benchmark=tmp_path / "b", **asked)
        return jax.tree.leaves(options.opening().place(StubModel(), shapes))

    # A copy on each of the two devices of these tests, unless parts are asked for.
    for mesh, sizes in ((None, (2, 1, 1)), ("1x2x1", (1, 2, 1))):
        for leaf in placed(mesh=mesh):
            assert tuple(leaf.sharding.mesh.shape.values()) == sizes
    with pytest.raises(UsageError, match="--compute needs a backbone"):
        placed(compute="float32")
    with pytest.raises(UsageError, match="--mesh"):
        placed(mesh="2x")
    with pytest.raises(DataError, match="does not use 2 devices"):
        placed(mesh="1x3x1")


@pytest.mark.parametrize("given", ["--mesh 1x2x1", "--compute float32", "--threads -1"])
def test_what_says_nothing_of_given_scores_is_refused(given, scores, mprm):
    refused = mprm("evaluate --predictions", scores, given)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert given.split()[0] in refused.err
