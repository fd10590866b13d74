"""`--labels masked`: what is written, counted, verified and trained on."""

import json

import numpy as np
import pytest

from mprm_jax.data.corpus import read_corpus, usable_rollouts
from tests.experiments.test_cli_train import train, weights, world
from tests.raw_files import read_lines, record, write_corpus
from theory.labelling import step_targets

# So that pyright and ruff see them used.
_ = train, world

# Doubtful positives of a mixed rollout; of a perfect one; and none.
MIXED = [(3, 16), (16, 16), (1, 16), (0, 16), (2, 16)]
PERFECT = [(1, 16), (16, 16)]
FIRM = [(4, 16), (0, 16)]
COUNTS = MIXED, PERFECT, FIRM


@pytest.fixture
def select(mprm, tmp_path):
    records = [record(of, i, note={"x": i}) for i, of in enumerate(COUNTS)]
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": records})

    def command(*arguments):
        given = ("--labels masked --keep-ratio 1 --output", tmp_path / "s.jsonl")
        return mprm("select", corpus, *given, *arguments)

    return command


def test_raw_says_never_sampled_and_keeps_all_else(select, mprm, tmp_path):
    done = select("--format raw --json")
    assert done.json["subset"]["masked_steps"] == 3
    assert "3 of 9 steps" in select("--format raw").out
    mixed, *others = read_lines(tmp_path / "s.jsonl")
    assert others == [
        record(of, i, note={"x": i}) for i, of in ((1, PERFECT), (2, FIRM))
    ]
    wanted = record([(0, 0), (16, 16), (0, 0), (0, 16), (0, 0)], 0, note={"x": 0})
    assert mixed == wanted
    assert mprm("verify", tmp_path / "s.jsonl").status == 0
    again = read_corpus(tmp_path / "s.jsonl")
    assert usable_rollouts(again, "keep").rollouts.trials.sum() == 16 * 6
    told = mprm("stats", tmp_path / "s.jsonl", "--unmeasured keep --json --no-words")
    assert told.json["overall"]["unmeasured_steps"] == 3


def test_prm_has_no_marker_where_there_is_no_label(select, mprm, tmp_path):
    assert select("--format prm").status == 0
    mixed, perfect, _ = (
        line["conversations"] for line in read_lines(tmp_path / "s.jsonl")
    )
    text, labels = mixed[0]["value"], mixed[1]["value"]
    process = "step 0 of 0\n\nstep 1 of 0<prm>\n\nstep 2 of 0\n\nstep 3 of 0<prm>"
    assert text.partition("\nProcess: ")[2] == process
    assert labels == [1.0, 0.0]
    assert perfect[1]["value"] == [1.0, 1.0]
    assert mprm("verify", tmp_path / "s.jsonl").status == 0
    assert read_corpus(tmp_path / "s.jsonl").rollouts.lengths.tolist() == [2, 2, 2]
    manifest = tmp_path / "s.jsonl.manifest.json"
    value = json.loads(manifest.read_text())
    value["subset"]["masked_steps"] += 1
    manifest.write_text(json.dumps(value))
    assert mprm("verify", tmp_path / "s.jsonl").status == 1


@pytest.mark.parametrize("form", ["trl", "math-shepherd", "visualprm"])
def test_a_format_with_a_label_for_every_step_is_refused(form, select, tmp_path):
    refused = select("--format", form)
    assert refused.status == 2
    assert form in refused.err
    assert "--format raw" in refused.err
    assert not (tmp_path / "s.jsonl").exists()
    assert select("--label-threshold 0.1").status == 2


def test_every_way_to_train_on_masked_labels_is_the_same(train, mprm, world):
    chosen = "--rule bis --keep-ratio 0.4 --seed 3"
    masked = f"{chosen} --labels masked"
    raw, rows = world.parent / "raw.jsonl", world.parent / "rows"
    for output, form in ((raw, "raw"), (rows, "rows")):
        done = mprm("select", world, masked, "--format", form, "--output", output)
        assert done.status == 0, done.err
    again = train(masked, output="rule")
    assert again.status == 0, again.err
    for output, subset in (("file", raw), ("rows", rows)):
        assert train("--seed 3 --subset", subset, output=output).status == 0
    given = ("--batch-size 8 --seed 3 --unmeasured keep --images", world)
    alone = mprm("train", raw, *given, "--output", world.parent / "alone")
    assert alone.status == 0, alone.err
    same = {weights(world, name) for name in ("rule", "file", "rows", "alone")}
    assert len(same) == 1
    assert train(chosen, output="hard").status == 0
    assert weights(world, "hard") not in same
    assert train("--labels soft --subset", raw, output="soft").status == 2
    usable = usable_rollouts(read_corpus(world))
    of = usable.rollouts.take(
        np.searchsorted(
            usable.row,
            json.loads(raw.with_name("raw.jsonl.manifest.json").read_text())["rows"],
        )
    )
    steps = [
        json.loads(line)["steps"]
        for line in (world.parent / "rule" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(steps) == step_targets(of, "masked").weight_S.sum() < of.n_steps


@pytest.mark.parametrize("rule", ["bis", "low-mc", "contrast", "max-drop", "ccs"])
def test_rules_see_the_steps_that_were_sampled(rule, mprm, tmp_path):
    gap, short = [(16, 16), (0, 0), (0, 16)], [(16, 16), (0, 16)]
    scores = []
    for of in (gap, short):
        others = [record(c, i) for i, c in enumerate([[(16, 16)], FIRM, MIXED])]
        empty = record([(0, 0)], 8)
        corpus = tmp_path / str(len(of))
        write_corpus(corpus, {"a.jsonl": [record(of, 9), *others, empty]})
        told = mprm(
            "select",
            corpus,
            "--unmeasured keep --format rows --json --rule",
            rule,
            "--keep-ratio 0.5 --output",
            tmp_path / "r",
        )
        assert told.status == 0, told.err
        assert told.json["counts"]["emptied_rollouts"] == 1
        scores.append([cut["cut_value"] for cut in told.json["cuts"]])
        assert mprm("verify", tmp_path / "r").status == 0
    assert scores[0] == scores[1]
