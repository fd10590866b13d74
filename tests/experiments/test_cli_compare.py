"""`mprm compare` as a user meets it."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.raw_files import write_lines


def records(seed, better=0.0, n=60):
    """Judged alike whatever the model."""
    judge, model = np.random.default_rng(0), np.random.default_rng(seed)
    for i in range(n):
        labels = judge.choice([1, 1, -1, 0], int(judge.integers(1, 8)))
        scores = model.normal(size=len(labels)) + (1 + better) * labels
        judged = {"labels_per_step": labels.tolist(), "scores": scores.tolist()}
        yield {"id": f"r{i}", "data_source": "abc"[i % 3], **judged}


@pytest.fixture
def files(tmp_path):
    return [
        write_lines(tmp_path / f"{name} scores.jsonl", *records(seed, better))
        for name, seed, better in (("one", 1, 0.0), ("other", 2, 3.0))
    ]


def test_a_better_model_is_told_from_another(files, mprm):
    value = mprm("compare --json", *files).json
    assert value["metrics"]["auroc"]["difference"] > 0
    assert value["metrics"]["auroc"]["adjusted_p"] < 0.05
    for name, path in zip(("first", "second"), files, strict=True):
        alone = mprm("evaluate --json --predictions", path).json
        for metric in ("micro_f1", "auroc", "aurc", "processbench_f1"):
            found = value["metrics"][metric][name]
            assert found == pytest.approx(alone[metric])
        assert alone["rollouts"] == value["rollouts"]
    back = mprm("compare --json", *files[::-1]).json
    ends = value["metrics"]["aurc"]["interval"]
    drawn = mprm("compare --json --seed 1", *files).json["metrics"]["aurc"]
    assert drawn["difference"] == value["metrics"]["aurc"]["difference"]
    assert drawn["interval"] != ends
    assert back["metrics"]["aurc"]["interval"] == pytest.approx(
        [-x for x in ends[::-1]]
    )


@pytest.mark.parametrize("options", ["", "--threshold-on test", "--replicates 0"])
def test_the_table_fits_80_columns(options, files, mprm):
    done = mprm("compare", options, *files)
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("micro-F1", "AURC", "AUROC by source", "matched by id"):
        assert word in done.out


def test_the_page_shows_both_and_needs_nothing_from_elsewhere(files, tmp_path, mprm):
    page = tmp_path / "page.html"
    for seed, path in enumerate(files, 1):
        write_lines(path, *records(seed, 3.0 * (seed - 1), 200))
    value = mprm("compare --json --page", page, *files).json
    html = page.read_text()
    # Differences, risk against coverage, AUROC by position.
    assert html.count("<svg") == 3
    assert f"{value['metrics']['auroc']['second']:.3f}" in html
    assert value["metrics"]["auroc"]["adjusted_p"] < 0.001
    assert "&lt;.001" in html
    assert "one scores.jsonl&#39;" in html
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in html
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    failed = mprm("compare --page", files[0], *files)
    assert (failed.status, f"{files[0]}: " in failed.err) == (1, True)
    assert json.loads(files[0].read_text().splitlines()[0])["id"] == "r0"


def test_benchmark_records_with_scores_are_matched_by_what_they_judge(tmp_path, mprm):
    pair = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        lines = [
            {
                "id": f"gsm8k-{i}",
                "problem": f"q{i}",
                "steps": ["a", "b", "c"],
                "label": i % 3 - 1,
                "scores": rng.random(3).tolist(),
            }
            for i in range(40)
        ]
        pair.append(
            write_lines(tmp_path / f"{seed}", *(lines[::-1] if seed == 2 else lines))
        )
    value = mprm("compare --json --threshold-on cross-fitted", *pair).json
    assert value["matched"]["by"] == "id"
    assert value["rollouts"] == 40
    assert value["sources"] == {}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"id": "r0"}, "other scores.jsonl: record 3: "),
        ({"labels_per_step": [1] * 9, "scores": [1.0] * 9}, "scores.jsonl: record 3: "),
        ({"id": "new"}, "one scores.jsonl: record 3: "),
        ({"scores": [1.0] * 9}, "other scores.jsonl:3: record 3: "),
        ({"labels_per_step": [1], "scores": [float("nan")]}, "scores.jsonl:3: "),
    ],
)
@pytest.mark.parametrize("as_json", ["", "--json"])
def test_bad_pairs_fail_in_one_line(change, where, as_json, files, mprm):
    lines = list(records(2))
    write_lines(files[1], *lines[:2], lines[2] | change, *lines[3:])
    failed = mprm("compare", as_json, *files)
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert where in failed.err
    assert not as_json or where in failed.json["error"]


def test_what_both_have_is_compared_and_the_rest_counted(files, mprm):
    write_lines(files[1], *list(records(2))[7:])
    refused = mprm("compare", *files)
    assert (refused.status, "--common" in refused.err) == (1, True)
    value = mprm("compare --json --common", *files).json
    assert value["matched"]["only_first"] == 7
    assert value["matched"]["rollouts"] == 53
    assert any("7 rollouts of A" in note for note in value["notes"])
    value = mprm("compare --json --common", *files[::-1]).json
    assert value["matched"]["only_second"] == 7
    assert any("7 rollouts of B" in note for note in value["notes"])


def test_one_file_twice_is_a_slip(files, mprm):
    assert mprm("compare", files[0], files[0]).status == 2
    assert mprm("compare", *files, "--threshold=0.5 --threshold-on test").status == 2


def test_comparing_starts_without_jax(files):
    code = (
        "import sys; from experiments.cli import main;"
        f"given = ['compare', *{[str(path) for path in files]!r}];"
        "assert main(given) == 0;"
        "assert not {'jax', 'flax', 'scipy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
