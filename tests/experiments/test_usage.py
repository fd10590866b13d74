"""Wrong usage exits with 2, failures are one JSON object, inputs stay as they are."""

import itertools
import re
from dataclasses import asdict

import pytest
import tyro

from experiments.cli.train import OPTIONS
from experiments.console.corpus import CorpusOptions
from experiments.console.options import given, option
from experiments.console.training import TrainingOptions
from mprm_jax.train.config import TrainConfig
from tests.cli import run
from tests.raw_files import line, record, write_corpus

GOOD = [record(number=i) for i in range(8)]
RATIO = "--keep-ratio must lie in (0, 1]"
NEITHER = "give either --checkpoint DIR with"

# Command line -> what the one line says. "none" is not there: what is wrong is told
# before anything is read.
WRONG = {
    **{f"select none --keep-ratio={x}": RATIO for x in ("0", "-0.5", "25", "nan")},
    "select none --compat official --keep-ratio=inf": RATIO,
    "select none --rule ccs --budget steps": "rule ccs has no budget of steps",
    **{
        f"{command} none --alpha={x}": "--alpha must be finite and at least 0, not"
        for command in ("select", "stats", "score")
        for x in ("nan", "-0.1", "inf")
    },
    "select none --global --per-source": "--per-source and --global exclude each",
    "select none --max-bad=-1": "--max-bad must be at least 0, not -1",
    "select none --workers=0": "--workers must be at least 1, not 0",
    "select none --trials=0": "--trials must lie in [1, 65535], not 0",
    "select none --label-threshold=1": "--label-threshold must lie in [0, 1), not 1.0",
    "select none --format raw --labels soft": "--format raw keeps the counts",
    **{
        f"select none --compat official {given}": f"has no {given.split()[0]}"
        for given in (
            "--rule random",
            "--format trl",
            "--labels soft",
            "--global",
            "--seed 1",
            "--budget steps",
            "--source-from kind",
            "--label-threshold 0.5",
        )
    },
    "select none --compat official --input-format trl": "--input-format raw alone",
    "convert none --format trl --labels soft": "holds no soft labels",
    "stats none --keep-ratio 0.5": "--keep-ratio needs --rule",
    "stats none --global": "--global needs --rule",
    "stats none --budget steps": "--budget needs --rule",
    "score none --output scores.csv": "--output must end in .jsonl or .parquet",
    "advise none --batch 0": "--batch must be at least 1",
    "advise none --passes 0": "--passes must be at least 1",
    "pretrain scenes --problems 99": "--problems must be at least 100",
    "pretrain scenes --updates 299": "--updates must be at least 300",
    "pretrain scenes --seed=-1": "--seed must be at least 0",
    **{
        f"simulate scenes --{name}={few}": f"--{name} must be at least {least}"
        for name, few, least in (
            ("rollouts", 4, 5),
            ("judged", 0, 5),
            ("problems", -1, 5),
            ("seed", -1, 0),
        )
    },
    **{
        f"simulate corpus --all-negative-share={x}": "must lie in [0, 1)"
        for x in ("1", "-0.1", "nan", "inf")
    },
    "demo --keep-ratio=0": RATIO,
    "demo --seed=-1": "--seed must be at least 0",
    "run theory --seed=-1": "--seed must be at least 0",
    "figures --only nope": "known: information, ",
    "train none --subset x --rule bis": "--subset and --rule exclude each other",
    "train none --keep-ratio 0.5": "--keep-ratio needs --rule",
    "train none --alpha 0.5": "--alpha needs --rule",
    "train none --global": "--global needs --rule",
    "train none --labels soft --label-threshold 0.5": "soft have no --label-threshold",
    "train none --label-threshold 1.5": "--label-threshold must lie in [0, 1)",
    "train none --learning-rate 0": "--learning-rate must be finite and positive",
    "train none --learning-rate nan --dry-run": "--learning-rate must be finite",
    "train none --accumulate 0": "--accumulate must be at least 1",
    "train none --keep-checkpoints 0": "--keep-checkpoints must be at least 1",
    "train none --mfu 0.5": "--mfu needs --dry-run",
    "train none --peak-tflops 5": "--peak-tflops needs --dry-run",
    "train none --weight-decay -1": "--weight-decay must be finite and at least 0",
    "train none --head-multiplier 0": "--head-multiplier must be finite and positive",
    "train none --batch-size 0": "--batch-size must be at least 1",
    "train none --seed -1": "--seed must be at least 0",
    "train none --optimizer adafactor --first-moment bfloat16": "no --first-moment",
    "train none --coordinator a:1": "--coordinator, --hosts and --host together",
    "train none --join-hosts --host 0": "--join-hosts alone",
    "train none --answers new": "--answers needs a backbone",
    "train none --lora-rank 2": "--lora-rank needs a backbone",
    "train none --model x --lora-alpha 8": "--lora-alpha needs --lora-rank",
    "train none --model x --max-length 0": "--max-length must be at least 1",
    "rerank": "give either --checkpoint DIR with --candidates FILE",
    "rerank --checkpoint=c": "--checkpoint needs --candidates FILE",
    "evaluate": NEITHER,
    "evaluate --predictions=p --checkpoint=c": NEITHER,
    "evaluate --checkpoint=c": "--checkpoint needs --benchmark FILE",
    "evaluate --predictions=p --benchmark=b": "--benchmark is for --checkpoint only",
    "evaluate --predictions=p --output=o": "--output is for --checkpoint only",
    "evaluate --predictions=p --threshold=nan": "--threshold must be finite",
    "evaluate --predictions=p --threshold=1 --threshold-on=test": "exclude each other",
    "evaluate --predictions=p --prior-file=f": "--prior-file needs --prior",
    "evaluate --predictions=p --replicates=-1": "--replicates must be at least 0",
    "evaluate --predictions=p --batch-size=0": "--batch-size must be at least 1",
    "run nope": "no experiment 'nope'; known: all, theory",
    "selct": "no command 'selct'; known: demo",
}

# What the parser itself refuses, in a box.
UNPARSED = [
    "select none --rule=best", "select none --format=csv", "select none --keep-ratio=x",
    "select none --unknown=1", "run theory --nope", "evaluate --threshold-on=train",
    "run selection --benchmark b", "stats --corpus", "demo --size=huge",
    "simulate dreams", "simulate scenes --world=easy", "simulate scenes --scale=1",
    "pretrain numbers", "run theory --draws=9999",
]  # fmt: skip


@pytest.mark.parametrize("command", WRONG)
def test_wrong_usage_is_one_line_that_names_the_option(command, mprm, tmp_path):
    failed = mprm(command)
    assert (failed.status, failed.err.count("\n"), failed.out) == (2, 1, "")
    assert WRONG[command] in failed.err


@pytest.mark.parametrize("command", UNPARSED)
def test_what_cannot_be_parsed_is_wrong_usage(command, mprm):
    failed = mprm(command)
    assert failed.status == 2
    assert "Traceback" not in failed.err


def test_wrong_usage_is_one_object_too(mprm):
    failed = mprm("select none --workers 0 --json")
    assert failed.status == 2
    assert "--workers" in failed.json["error"]


def test_what_was_given_is_named_as_it_is_typed():
    words = "c --rule bis --global --model m --optimizer adafactor --lora-rank 2 "
    words += "--keep-checkpoints 1 --labels soft --seed 3"
    flags = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    options = tyro.cli(OPTIONS, args=words.split(), config=flags)
    assert given(options) == {
        "--rule": "bis", "--global": True, "--model": "m",
        "--optimizer": "adafactor", "--lora-rank": 2, "--keep-checkpoints": 1,
        "--labels": "soft", "--seed": 3,
    }  # fmt: skip
    config = options.training.config()
    assert (config.seed, config.objective.labels) == (3, "soft")
    assert (config.optimizer.kind, config.keep_checkpoints) == ("adafactor", 1)


def test_a_backbone_is_trained_as_the_library_does_by_default():
    config = TrainingOptions(model="weights").config()
    assert asdict(config) == asdict(TrainConfig(threads=2, checkpoint_every=100))


def test_an_empty_argument_is_no_name_for_the_current_folder(capsys):
    for arguments in ([""], ["corpus", "--output", ""]):
        failed = run(capsys, "select", *arguments)
        assert (failed.status, failed.err.count("\n")) == (2, 1)


def test_verify_takes_the_subset_or_its_manifest_and_no_folder(tmp_path, mprm):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD})
    output = tmp_path / "o.jsonl"
    assert mprm("select", folder, "--output", output).status == 0
    assert mprm("verify", output).status == 0
    assert mprm("verify", f"{output}.manifest.json").status == 0
    for wrong in (".", "/", tmp_path, tmp_path / "none", tmp_path / ".manifest.json"):
        failed = mprm("verify", wrong)
        assert (failed.status, failed.err.count("\n")) == (1, 1)


@pytest.mark.parametrize("words", ["stats", "stats x --bogus", "stats x --seed a"])
def test_wrong_arguments_are_one_object_too(words, mprm):
    failed = mprm(words, "--json")
    assert (failed.status, bool(failed.json["error"])) == (2, True)
    empty = mprm(*words.split(), "", "--json")
    assert (empty.status, bool(empty.json["error"])) == (2, True)


def test_json_failures_are_one_object_too(tmp_path, mprm):
    folder = write_corpus(tmp_path, {"a.jsonl": b"null\n" + line(GOOD[0]).encode()})
    failed = mprm("stats", folder, "--json")
    assert failed.status == 1
    assert failed.json["bad_lines"][0]["count"] == 1
    assert failed.json["error"]
    failed = mprm("stats", tmp_path / "none", "--json")
    assert (failed.status, failed.json["bad_lines"]) == (1, [])


def test_an_output_among_the_inputs_is_refused(tmp_path, mprm):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    before = (folder / "a.jsonl").read_bytes()
    names, modes = ("a.jsonl", "b.jsonl"), ("", "--compat official")
    for name, mode in itertools.product(names, modes):
        failed = mprm("select", folder, mode, "--output", folder / name)
        assert (failed.status, f"{folder / name}: " in failed.err) == (1, True)
    failed = mprm("convert", folder, "--output", folder)
    assert (failed.status, f"{folder}: " in failed.err) == (1, True)
    assert (folder / "a.jsonl").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["a.jsonl"]


@pytest.mark.parametrize("named", ["--corpus {}", "--corpus={}"])
def test_the_corpus_may_be_named(named, tmp_path, mprm):
    folder = write_corpus(tmp_path, {"a.jsonl": GOOD})
    by_name = mprm("stats --rule random --json", named.format(folder))
    by_place = mprm("stats --rule random --json", folder)
    assert by_name.status == by_place.status == 0
    assert by_name.json == by_place.json


@pytest.mark.parametrize("command", ["train", "demo", "simulate scenes", "run phase"])
def test_help_fits_a_terminal(capsys, command):
    shown = run(capsys, *command.split(), "--help")
    assert shown.status == 0
    assert "--output" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_of_training_has_reading_last(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    shown = run(capsys, "train", "--help").out
    reading = {option(name) for name in vars(CorpusOptions)["__annotations__"]}
    own = re.findall(r"^│ (--[\w-]+)", shown, re.MULTILINE)
    at = own.index("--input-format")
    assert {*own[at:]} == reading - {"--corpus", "--seed"}
    assert len(own) == len({*own})
    assert own.index("--model") < own.index("--eval-every") < at


@pytest.mark.parametrize("words", ["simulate", "simulate scene", "simulate --seed 1"])
def test_simulate_asks_which(capsys, words):
    asked = run(capsys, *words.split())
    assert (asked.status, asked.out, asked.err.count("\n")) == (2, "", 1)
