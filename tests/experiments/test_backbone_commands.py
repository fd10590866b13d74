"""Both backbones, in all three layouts, as a user of the commands meets them."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.cli import main
from mprm_jax.data.prompt import INTERNVL_TEMPLATE, QWEN_TEMPLATE
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.families import tower_params
from mprm_jax.models.reward_head import detach
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.train.open_model import load_model
from tests.mprm_jax.backbone_folder import LAYOUTS, layout_folder, text_tokenizer
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.raw_files import read_lines as records
from tests.raw_files import write_lines

SIZES = ["--rollouts", "48", "--judged", "10", "--problems", "5"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "world"
    arguments = ["simulate", "scenes", *SIZES, "--world", "plentiful", "--output"]
    assert main([*arguments, str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def words(world):
    """A tokenizer that has learned to read the world."""
    read = [
        text
        for path in sorted((world / "annotations").glob("*.jsonl"))
        for value in records(path)
        for text in (value["question"], *(s["step"] for s in value["steps_with_score"]))
    ]
    return text_tokenizer([*read, QWEN_TEMPLATE.before, INTERNVL_TEMPLATE.before])


def train(mprm, world, folder, output, *arguments):
    given = ("--model", folder, "--batch-size", 12, "--output", output, *arguments)
    return mprm("train", world, *given)


def evaluate(mprm, checkpoint, benchmark, output, world, *arguments):
    done = mprm("evaluate", "--checkpoint", checkpoint, "--benchmark", benchmark,
        "--images", world / "benchmark" / "images", "--output", output, "--json",
        "--threshold", "0.5", "--replicates", 0, "--batch-size", 10,
        *arguments,
    )  # fmt: skip
    assert done.status == 0, done.err
    scores = [value["prm_scores"] for value in records(output)]
    return done.json, np.concatenate(scores)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_released_weights_to_scores_and_out_again(
    mprm, world, words, layout, tmp_path
):
    weights = layout_folder(tmp_path / "weights", layout, words)
    done = train(mprm, world, weights, tmp_path / "run", "--json")
    assert done.status == 0, done.err
    assert (done.json["rollouts"], done.json["updates"]) == (48, 4)
    assert done.json["last_update"]["truncated_steps"] == 0
    assert done.json["last_update"]["gradient_norm"] > 0
    again = train(mprm, world, weights, tmp_path / "run", "--resume")
    assert "nothing was left to do" in again.out, again.err

    model, params = load_model(tmp_path / "run")
    assert isinstance(model, Backbone)
    _, before = load_backbone(weights)
    jax.tree.map(
        np.testing.assert_array_equal, tower_params(params), tower_params(before)
    )
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), params["language"], before["language"]
    )
    assert all(jax.tree.leaves(moved["layers"])), moved
    assert moved["embedding"]
    if "lm_head" in params["language"]:
        # Frozen; the row of <prm> is new.
        rows = [of["language"]["lm_head"][:-1] for of in (params, before)]
        np.testing.assert_array_equal(*rows)

    test = world / "benchmark" / "test.jsonl"
    found, scores = evaluate(mprm, tmp_path / "run", test, tmp_path / "a", world)
    assert found["rollouts"] == 10
    assert found["steps_truncated"] == 0
    assert len(scores) == found["steps"] + found["steps_neutral"]
    assert ((scores > 0) & (scores < 1)).all()
    assert len(np.unique(scores)) > len(scores) / 2
    if layout == "internvl":
        parts = ("--compute", "float32", "--mesh", "1x2x1")
        whole, exact = evaluate(
            mprm, tmp_path / "run", test, tmp_path / "c", world, *parts
        )
        assert 0 < np.abs(exact - scores).max() < 0.05
        assert whole["judged"]["parameters"] != found["judged"]["parameters"]
    # The model looks: other pictures, other scores.
    rows = records(test)
    others = [row["image"] for row in rows[1:] + rows[:1]]
    turned = [row | {"image": path} for row, path in zip(rows, others, strict=True)]
    path = write_lines(tmp_path / "turned.jsonl", *turned)
    _, other = evaluate(mprm, tmp_path / "run", path, tmp_path / "b", world)
    assert (scores != other).mean() > 0.5

    out = tmp_path / "out"
    done = mprm("export", tmp_path / "run", "--output", out, "--json")
    assert done.status == 0, done.err
    assert done.json["yes_no"] == [words.token_to_id(w) for w in ("Yes", "No")]
    _, same = load_backbone(out)
    # The head's rows are where the language model has them, too.
    expected = detach(model.head, params) | {"head": params["head"]}
    jax.tree.map(np.testing.assert_array_equal, same, expected)
    assert model.tokenizer.token_to_id("<prm>") == done.json["step_marker"]
    refused = mprm("export", tmp_path / "run", "--output", out)
    assert (refused.status, "holds files already" in refused.err) == (1, True)


def test_only_backbones_are_exported(mprm, tmp_path):
    refused = mprm("export", tmp_path / "nothing", "--output", tmp_path / "out")
    assert (refused.status, "no such model" in refused.err) == (1, True)
    assert not (tmp_path / "out").exists()


def changed_json(name, change):
    def damage(folder):
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return damage


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_answers(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"Yes"', '"Oui"'))


def without(name):
    return lambda folder: (folder / name).unlink()


# What is damaged, and the file that the one line names.
BAD_FOLDERS = {
    "no config": (without("config.json"), "nor config.json"),
    "truncated": (truncated, "model.safetensors: "),
    "no reward tokens": (without_answers, "tokenizer.json: "),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json: "),
    "short context": (
        changed_json(
            "config.json",
            lambda v: v["text_config"].update(max_position_embeddings=6),
        ),
        "its images alone take 4 of 6 tokens",
    ),
    "no folder": (shutil.rmtree, "weights: no such model"),
}


@pytest.mark.parametrize("fault", BAD_FOLDERS)
def test_a_folder_that_cannot_be_used_is_one_line(mprm, world, words, fault, tmp_path):
    damage, message = BAD_FOLDERS[fault]
    folder = layout_folder(tmp_path / "weights", "qwen2_5_vl", words)
    damage(folder)
    refused = train(mprm, world, folder, tmp_path / "run")
    assert refused.status == 1
    assert message in refused.err
    # A table of refused rollouts may stand before it.
    assert refused.err.count("mprm train: ") == 1, refused.err
    assert refused.out == ""
