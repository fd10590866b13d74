"""`mprm run selection --dry-run`: a price before any cell was run, and its refusals."""

import jax
import numpy as np
import pytest

from experiments.corpora.scenes import write_world
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.loader import CorpusExamples
from mprm_jax.train import open_model
from sim.scenes.world import PLENTIFUL
from tests.cli import run as run_command
from tests.mprm_jax.backbone_folder import qwen_folder

ROLLOUTS, JUDGED = 150, 40
GRID = ("--rules", "random,bis", "--keep-ratios", "0.2,0.4", "--seeds", "0,1")
# One seed: all 150 rollouts, and what BIS keeps of them.
ONE = ("--rules", "bis", "--keep-ratios", "0.2", "--seeds", "0,")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priced") / "world"
    write_world(folder, PLENTIFUL, rollouts=ROLLOUTS, judged=JUDGED, problems=5, seed=0)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A Qwen2.5-VL with a context of 512 tokens, without its weights."""
    folder = qwen_folder(tmp_path_factory.mktemp("backbone"))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def dry(world, capsys, tmp_path):
    """Prices a grid on the world."""
    files = ("--corpus", world, "--benchmark", world / "benchmark" / "test.jsonl")
    files += ("--output", tmp_path / "out", "--dry-run")

    def command(*arguments):
        done = run_command(capsys, "run", "selection", *files, *arguments)
        assert not (tmp_path / "out").exists()
        return done

    return command


def test_the_tiny_model_is_priced_by_its_parameters(dry, world):
    found = dry(*GRID, "--json")
    assert found.status == 0, found.err
    model, params = open_model.open_model("tiny")
    source = CorpusExamples(
        usable_rollouts(read_corpus(world / "annotations", use_cache=False)),
        np.arange(ROLLOUTS),
        model.encode,
        world / "images",
    )
    lengths = [len(source[i].tokens_L) for i in range(ROLLOUTS)]
    presented = 2 * (2 * (30 + 60) + 150)
    updates = 2 * (2 * (2 + 4) + 10)
    grid = found.json["grid"]
    assert (grid["updates"], grid["measured"]) == (updates, 0)
    assert grid["tokens"] == pytest.approx(presented * np.mean(lengths), abs=1)
    # Forward 2 and backward 4 per trained parameter and token, and padding; 11 models
    # are judged by forward passes alone.
    flops = grid["flops"]
    leaves = jax.tree.leaves(params), jax.tree.leaves(model.trainable(params))
    work = sum(
        of.size * (6 if trained else 2) for of, trained in zip(*leaves, strict=True)
    )
    prompts = updates * 16 + 11 * JUDGED / 3
    assert flops >= work * np.mean(lengths) * prompts
    assert flops <= work * 2 * max(lengths) * prompts
    # A CPU's peak is not known, and nothing is said of another device.
    assert grid["seconds"] is None
    assert "--peak-tflops" in dry(*GRID).out
    assert found.json["left"] == grid


def test_shards_share_the_price_at_the_given_rate(dry):
    whole = dry(*GRID, "--json").json["grid"]
    rate = ("--mfu", 0.1, "--peak-tflops", 1e-3)
    parts = [dry(*GRID, *rate, "--json", "--shard", f"{i}/3").json for i in (1, 2, 3)]
    per_second = 0.1 * 1e9 * jax.device_count()
    for part in parts:
        assert part["grid"]["flops"] == whole["flops"]
        assert part["grid"]["seconds"] == pytest.approx(whole["flops"] / per_second)
        left = part["left"]
        assert left["seconds"] == pytest.approx(left["flops"] / per_second)
        assert 0 < left["flops"] < whole["flops"]
    together = sum(part["left"]["flops"] for part in parts)
    assert together == pytest.approx(whole["flops"])
    text = dry(*GRID, *rate, "--shard", "1/3").out
    words = " ".join(text.split())
    assert "unknown" not in text
    assert "left in shard 1/3" in words
    assert f"at 10% of 0.001 TFLOP/s on each of {jax.device_count()} devices" in words
    assert f"FLOPs: {whole['flops']:.3g} for the whole grid" in words
    assert max(map(len, text.splitlines())) <= 80


def test_a_backbone_costs_what_mprm_train_says(dry, world, backbone, capsys):
    given = ("--model", backbone, "--batch-size", 16, "--max-length", 512)
    given += ("--mesh", "2x4x1", "--peak-tflops", 989, "--json")
    found = dry(*ONE, *given)
    assert found.status == 0, found.err
    trained = run_command(capsys, "train", world, "--dry-run", *given).json
    rates = found.json["rates"]
    assert rates["flops_per_update"] == trained["flops_per_update"]
    assert rates["devices"] == trained["devices"] == 8
    judging = trained["flops_per_update"] / 16 / 3 * JUDGED
    # 30 rollouts in 2 updates, all 150 in 10; the model as it is, only judged.
    flops = (2 + 10) * trained["flops_per_update"] + 3 * judging
    assert found.json["grid"]["flops"] == pytest.approx(flops)
    hours = flops / (10 * trained["flops_per_update"]) * trained["hours"]
    assert found.json["grid"]["seconds"] / 3600 == pytest.approx(hours)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--lora-rank", "0"), 2),
        (("--lora-rank", "2", "--lora-targets", "query,head"), 2),
        (("--lora-rank", "2", "--lora-alpha", "0"), 2),
        (("--mesh", "2x3"), 2),
        (("--mesh", "1x3x1"), 2),
        (("--accumulate", "0"), 2),
        (("--max-length", "513"), 1),
        (("--mfu", "0"), 2),
        (("--mfu", "nan"), 2),
        (("--peak-tflops", "-1"), 2),
    ],
)
def test_what_mprm_train_refuses_is_refused_alike(
    arguments, status, dry, world, backbone, capsys
):
    given = ("--model", backbone, "--batch-size", 16, *arguments)
    failed = dry(*ONE, *given)
    alike = run_command(capsys, "train", world, "--dry-run", *given)
    reasons = [
        [line.split(": ", 1)[1] for line in err.splitlines() if line[:5] == "mprm "]
        for err in (failed.err, alike.err)
    ]
    assert (failed.status, alike.status) == (status, status), failed.err
    assert len(reasons[0]) == 1
    assert reasons[0] == reasons[1]
    named = [option[2:] for option in arguments if option[:2] == "--"]
    assert any(name in reasons[0][0].replace("_", "-") for name in named)
    assert not failed.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--labels", "soft", "--label-thresholds", "0.5"), "--labels soft has no"),
        (("--labels", "soft", "--label-thresholds", "7"), "'7' is not a number"),
        (("--seeds", "99999999999"), "99999999999 are too many, at most 1000"),
    ],
)
def test_what_a_grid_cannot_mean_is_one_line(arguments, says, dry):
    failed = dry(*arguments)
    assert failed.status == 2
    (line,) = failed.err.strip().splitlines()
    assert says in line
