"""What `mprm report` makes of hostile, missing and wrong input."""

import hashlib
import json
import shutil

import msgspec
import pytest

from experiments.page.html import visible
from experiments.page.report import gather, render, write_report
from experiments.store.results import append_results
from mprm_jax.records.problems import DataError
from tests.cli import run
from tests.report_document import Document
from tests.report_run import (
    KEEP_RATIO,
    SOURCES,
    cells,
    write_manifest,
    write_subsets,
)

HOSTILE = (
    '</p><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}\u202e&amp;'
)


RESULTS = "results/demo.jsonl"


@pytest.fixture
def copy(demo_run, tmp_path):
    """A run of one's own to damage."""
    return shutil.copytree(demo_run, tmp_path / "demo")


def edit_results(folder, edit):
    path = folder / RESULTS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_hostile_text_stays_text(copy):
    for name in SOURCES:
        path = copy / "scarce" / "corpus" / "annotations" / f"{name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            record["question"] = HOSTILE + "x" * 9000
            record["steps_with_score"][0]["step"] = HOSTILE
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_subsets(copy / "scarce")
    write_manifest(
        copy,
        backbone=HOSTILE,
        commands=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        arguments={HOSTILE: [HOSTILE]},
    )
    strange = cells("scarce", (0.1, 0.1, 0.1))[-1]
    config = strange.config | {"arm": {"rule": HOSTILE}}
    named = msgspec.structs.replace(strange, config=config)
    append_results(copy / "results", [named])
    page = render(gather(copy))
    document = Document(page)
    assert not [tag for tag, _ in document.tags if tag == "script"]
    assert not [v for _, v in document.tags if any(k.startswith("on") for k in v)]
    assert all(link.startswith(("data:", "#")) for link in document.links)
    shown = HOSTILE.replace("\u202e", "�")
    # Backbone, command, version (name and value), argument name, arm, steps.
    assert document.text.count(shown) > 10
    assert "\u202e" not in page
    assert "49" not in document.text.split("what it has seen")[1].split("Reproduce")[0]
    assert "more characters)" in document.text


def test_what_must_not_act_is_made_visible():
    assert visible("a\x00b\x1b[31m\u202ec\ud800\u2066") == "a�b�[31m�c��"
    assert visible("line\n\ttab é − ✓ שלום") == "line\n\ttab é − ✓ שלום"
    assert visible("x" * 5000) == "x" * 4000 + " … (1,000 more characters)"
    assert visible(3) == 3


def test_the_page_is_written_whole_with_its_manifest(copy, tmp_path):
    output = tmp_path / "out" / "page.html"
    write_report(copy, output)
    data = output.read_bytes()
    manifest = json.loads((tmp_path / "out" / "page.html.manifest.json").read_text())
    assert manifest["output"] == {
        "file": "page.html",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    expected = hashlib.sha256((copy / RESULTS).read_bytes()).hexdigest()
    assert manifest["inputs"][RESULTS] == expected
    assert expected in data.decode()
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError):
        write_report(copy, output)
    assert output.read_bytes() == data
    assert len(list(output.parent.iterdir())) == 2


def test_damaged_lines_of_the_store_are_told_by_the_page(copy, capsys):
    path = copy / RESULTS
    lines = path.read_text().splitlines(keepends=True)
    lines[1:3] = ["{broken\n", "\n"]
    path.write_text("".join(lines))
    done = run(capsys, "report", copy, "--json")
    assert done.status == 0
    (sentence,) = done.json["damaged"]
    assert f"{RESULTS}:2: " in sentence
    assert done.err.count(sentence) == 1
    page = Document((copy / "report.html").read_text()).text
    assert f"{RESULTS}:2: " in page
    manifest = json.loads((copy / "report.html.manifest.json").read_text())
    assert manifest["damaged"] == [sentence]
    # Of the next command it is not said.
    path.write_text("".join(lines[:1] + lines[2:]))
    assert "damaged" not in run(capsys, "report", copy, "--json").json


def test_without_replicates_the_interval_says_that_it_covers_seeds_only(copy):
    edit_results(copy, lambda lines: [of["metrics"].pop("bootstrap") for of in lines])
    text = Document(render(gather(copy))).text
    assert "interval over seeds, +0." in text
    assert "over seeds and rollouts, " not in text


def test_missing_arms_and_metrics_are_dashes_not_failures(copy):
    def edit(lines):
        empty = {"rollouts": 3, "updates": 4, "micro_f1": None, "auroc": None}
        lines[:] = [
            line | {"metrics": empty}
            for line in lines
            if line["config"]["arm"]["rule"] in ("bis", "mixed")
        ]

    edit_results(copy, edit)
    document = Document(render(gather(copy)))
    assert "there is no answer" in document.text
    # What no arm has, is no column; and what no world has, no section.
    table = document.table(["rollouts", "updates"])
    assert table["BIS"] == {"rule": "BIS", "rollouts": "3", "updates": "4"}
    ids = {values.get("id") for _, values in document.tags}
    assert "answer" in ids
    assert "learning" not in ids


def test_curves_of_some_seeds_only_are_drawn(copy):
    def edit(lines):
        for line in lines:
            if line["seed"]:
                line["metrics"] |= {"curve": [], "eval_curve": []}
            elif line["config"]["arm"]["rule"] == "bis":
                line["metrics"]["eval_curve"] = [[0, 0.5], [9, 0.777]]

    edit_results(copy, edit)
    assert render(gather(copy)).count("BIS ends at 0.777") == 2


def test_two_keep_ratios_in_one_folder_are_told_apart(copy):
    def edit(lines):
        for line in list(lines):
            again = json.loads(json.dumps(line))
            if again["config"]["arm"]["keep_ratio"] == KEEP_RATIO:
                again["config"]["arm"]["keep_ratio"] = 0.5
                again["metrics"]["updates"] = 77
                lines.append(again)

    edit_results(copy, edit)
    document = Document(render(gather(copy)))
    table = document.table(["within-position AUROC", "updates"])
    assert table["BIS 25\N{NO-BREAK SPACE}%"]["updates"] == "60"
    assert table["BIS 50\N{NO-BREAK SPACE}%"]["updates"] == "77"
    assert table["Random 50\N{NO-BREAK SPACE}%, clean labels"]["updates"] == "77"
    assert document.text.count("BIS beat Random by 0.055") == 2


def of_first(*path, **values):
    """Change a part of the first cell; None takes a value away."""

    def harm(folder):
        def edit(lines):
            part = lines[0]
            for name in path:
                part = part[name]
            part.update(values)
            for name in [name for name, value in values.items() if value is None]:
                del part[name]

        edit_results(folder, edit)

    return harm


HARMS = [
    ("no results; run: mprm demo", lambda at: (at / RESULTS).unlink()),
    ("manifest.json: No such file", lambda at: (at / "manifest.json").unlink()),
    (
        "missing required field `backbone`",
        lambda at: (at / "manifest.json").write_text('{"commands": []}'),
    ),
    ("Expected `float` <= 1", of_first("metrics", micro_f1=64.5)),
    ("`$.auroc`", of_first("metrics", auroc="high")),
    ("names no world", of_first("config", "world", name="../other")),
    ("keep_ratio must lie in (0, 1]", of_first("config", "arm", keep_ratio=None)),
    ("scarce has results of two runs", of_first("config", "world", seed=1)),
    ("scarce has results of two runs", of_first("config", "world", size="large")),
    ("plentiful", lambda at: shutil.rmtree(at / "plentiful")),
]


@pytest.mark.parametrize(("message", "harm"), HARMS)
def test_bad_input_is_one_line_and_status_1(message, harm, copy, capsys):
    harm(copy)
    failed = run(capsys, "report", copy)
    assert failed.status == 1
    assert failed.err.startswith("mprm report: ")
    assert message in failed.err
    assert failed.err.count("\n") == 1
    assert not (copy / "report.html").exists()
