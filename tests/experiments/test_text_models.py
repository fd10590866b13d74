"""Text models, and vision models on text, as a user of the commands meets them."""

import jax
import numpy as np
import pytest

from experiments.console.training import BackboneOptions
from mprm_jax.data.batches import Example, buckets_for, collate
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.write import has_pictures
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.models.weights.tensors import parameter_count
from mprm_jax.train.open_backbone import open_for_training
from mprm_jax.train.open_model import load_model
from tests.experiments.test_backbone_commands import changed_json
from tests.mprm_jax.backbone_folder import internvl_folder, picture, text_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.raw_files import record, write_lines


def solutions(seed, count):
    """Steps and whether each is right: those that say ``apples`` are, others not."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        right = rng.random(3) < 0.5
        yield [f"so {'apples' if y else 'w50'}" for y in right], right.tolist()


def math_shepherd(number, steps, right):
    marked = "".join(f" Step {i}: {s} ки\n" for i, s in enumerate(steps, 1))
    question = f"w{20 + number % 9} two?"
    judged = marked
    for good in right:
        judged = judged.replace("ки", "+" if good else "-", 1)
    texts = (question + text.rstrip("\n") for text in (marked, judged))
    return dict(zip(("input", "label"), texts, strict=True)) | {"task": "GSM8K"}


def prm800k(number, steps, right):
    rated = [
        {
            "completions": [{"text": text, "rating": 1 if good else -1}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for text, good in zip(steps, right, strict=True)
    ]
    question = {"problem": f"w{20 + number % 9} two?", "ground_truth_answer": "2"}
    return {"question": question, "label": {"steps": rated}}


def processbench(number, steps, right):
    return {
        "id": f"gsm8k-{number}",
        "generator": "g",
        "problem": "two?",
        "steps": steps,
        "label": right.index(False) if False in right else -1,
        "final_answer_correct": all(right),
    }


def write(path, shape, seed, count):
    path.parent.mkdir(exist_ok=True)
    made = enumerate(solutions(seed, count))
    return write_lines(path, *(shape(n, *solution) for n, solution in made))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write(folder / "shepherd" / "train.jsonl", math_shepherd, 0, 96)
    write(folder / "prm800k" / "train.jsonl", prm800k, 1, 96)
    write(folder / "test.jsonl", processbench, 2, 24)
    return folder


def train(mprm, corpus, model, output, *arguments):
    given = ("--model", model, "--batch-size", 8, "--output", output, *arguments)
    return mprm("train", corpus, *given)


def auroc(mprm, texts, folder):
    """Of the run in a folder, on other solutions."""
    files = "--benchmark", texts / "test.jsonl", "--output", folder / "scored.jsonl"
    given = ("--checkpoint", folder / "run", *files, "--threshold", "0.5")
    done = mprm("evaluate", *given, "--replicates", 0, "--json")
    assert done.status == 0, done.err
    return done.json["auroc"]


@pytest.mark.parametrize(
    ("shape", "kind", "lora"),
    [("shepherd", "qwen3", ()), ("prm800k", "llama", ("--lora-rank", 4))],
)
def test_a_text_model_learns_from_published_shapes_and_is_judged(
    mprm, texts, shape, kind, lora, tmp_path
):
    weights = text_folder(tmp_path / "weights", kind=kind)
    fast = ("--learning-rate", "1e-2", "--compute", "float32", "--json")
    done = train(mprm, texts / shape, weights, tmp_path / "run", *fast, *lora)
    assert done.status == 0, done.err
    assert done.json["updates"] == 12
    assert "picture" not in done.err
    assert auroc(mprm, texts, tmp_path) > 0.95

    done = mprm("export", tmp_path / "run", "--output", tmp_path / "out")
    assert done.status == 0, done.err
    model, params = load_backbone(tmp_path / "out")
    assert parameter_count(model.config) == sum(
        leaf.size for name, part in params.items() if name != "head"
        for leaf in jax.tree.leaves(part)
    )  # fmt: skip
    trained, _ = load_model(tmp_path / "run")
    again, before = (m.encode("two?", ["so", "two"], ())[0] for m in (model, trained))
    np.testing.assert_array_equal(again, before)


def test_a_text_model_has_a_price_and_no_tower(mprm, texts, tmp_path):
    weights = text_folder(tmp_path / "weights")
    model, params = load_backbone(weights)
    (weights / "model.safetensors").unlink()
    priced = ("--dry-run", "--peak-tflops", "1", "--json")
    done = train(mprm, texts / "shepherd", weights, tmp_path / "run", *priced)
    assert done.status == 0, done.err
    assert done.json["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    # Six for each weight of a kernel and token, twelve for attention.
    language, length = model.config.language, done.json["padded_tokens_per_update"] / 8
    kernels = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    )
    inner = language.layers * language.heads * language.head_width
    expected = 8 * (6 * kernels * length + 12 * inner * length**2)
    assert done.json["flops_per_update"] == pytest.approx(expected, rel=1e-6)
    assert not (tmp_path / "run").exists()
    text_folder(weights)
    refused = train(mprm, texts / "shepherd", weights, tmp_path / "run",
                    "--feature-cache", tmp_path / "cache")  # fmt: skip
    assert (refused.status, "no vision tower" in refused.err) == (1, True)


def test_pictures_are_refused_by_a_text_model_line_by_line(mprm, tmp_path):
    (tmp_path / "images").mkdir()
    picture(8, 8).save(tmp_path / "images" / "0.png")
    rows = [record(), record(image=None), record(image=None)]
    corpus = write_lines(tmp_path / "mixed.jsonl", *rows)
    weights = text_folder(tmp_path / "weights")
    refused = train(mprm, corpus, weights, tmp_path / "run", "--images", tmp_path)
    assert refused.status == 1
    assert "picture for a text model" in refused.err
    assert f"{corpus}:1" in refused.err
    assert f"{corpus}:2" not in refused.err


def test_text_alone_on_a_vision_model_is_said_and_scored(mprm, texts, tmp_path):
    weights = internvl_folder(tmp_path / "weights")
    fast = ("--learning-rate", "1e-2", "--compute", "float32", "--json")
    done = train(mprm, texts / "shepherd", weights, tmp_path / "run", *fast)
    assert done.status == 0, done.err
    assert done.err.count("none of the 96 rollouts has a picture") == 1
    assert auroc(mprm, texts, tmp_path) > 0.95
    # One picture is enough for nothing to be said.
    rows = [record(image=None), record()]
    usable = usable_rollouts(read_corpus(write_lines(tmp_path / "mixed.jsonl", *rows)))
    assert has_pictures(usable, np.array([0, 1]))
    assert not has_pictures(usable, np.array([0]))


def test_new_rows_score_every_step_one_half_and_words_must_be_there(
    mprm, texts, tmp_path
):
    weights = text_folder(tmp_path / "weights", tie_word_embeddings=True)
    model, params = open_for_training(weights, BackboneOptions(answers="new").opening())
    tokens, images, marker, _ = model.encode("two?", ["so", "two"], ())
    one = np.ones(2, np.int32)
    row = Example(tokens, images, marker, one, one)
    batch = collate([row], buckets_for([row]), 1)
    assert not np.any(jax.jit(model.reward_logits)(params, batch))

    changed_json("tokenizer.json", rename("Yes", "Oui"))(weights)
    refused = train(mprm, texts / "shepherd", weights, tmp_path / "run")
    assert refused.status == 1
    assert f"{weights / 'tokenizer.json'}: " in refused.err
    assert "or new" in refused.err
    for answers in ("new", "plus-minus"):
        planned = ("--answers", answers, "--dry-run")
        done = train(mprm, texts / "shepherd", weights, tmp_path / "run", *planned)
        assert done.status == 0, done.err


def rename(old, new):
    def change(value):
        vocabulary = value["model"]["vocab"]
        vocabulary[new] = vocabulary.pop(old)

    return change
