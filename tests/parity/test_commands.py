"""From folders that the references save, through the commands, and back to PyTorch."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mprm_jax.data.prompt import render
from mprm_jax.models.weights.config import INTERNVL_CHAT
from mprm_jax.train.open_model import load_model
from tests.experiments.conftest import mprm as mprm
from tests.experiments.test_backbone_commands import evaluate, records, train
from tests.experiments.test_backbone_commands import words as words
from tests.experiments.test_backbone_commands import world as world
from tests.experiments.test_text_models import texts as texts
from tests.experiments.test_text_models import train as train_text
from tests.mprm_jax.backbone_folder import tokenizer
from tests.parity.internvl_cases import SHAPES as INTERNVL_SHAPES
from tests.parity.internvl_cases import save_internvl
from tests.parity.qwen_cases import SHAPES as QWEN_SHAPES
from tests.parity.qwen_cases import save_qwen
from tests.parity.references import VOCABULARY
from tests.parity.text_cases import SHAPES as TEXT_SHAPES
from tests.parity.text_cases import save_text

CASES = {
    "qwen": (save_qwen, QWEN_SHAPES["many images"]),
    "internvl": (save_internvl, INTERNVL_SHAPES["native qwen2"]),
    INTERNVL_CHAT: (save_internvl, INTERNVL_SHAPES["remote internlm2"]),
}


def torch_scores(folder, model, rows, world):
    """sigma(Yes - No) at every marker by what ``transformers`` makes of the folder."""
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.architectures is not None
    kind = getattr(transformers, config.architectures[0])
    theirs, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs.eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    yes, no, marker = map(tokenizer.convert_tokens_to_ids, ("Yes", "No", "<prm>"))
    scores = []
    for row in rows:
        image = Image.open(world / "benchmark" / "images" / row["image"][0])
        image = image.convert("RGB")
        steps = row["response"]["steps"]
        ids = model.encode(row["question"], steps, (image,))[0]
        text = "".join(f"{step}<prm>\n\n" for step in steps)
        # The library's tokenizer reads the same from the exported file.
        tail = tokenizer(text.removesuffix("\n\n"), add_special_tokens=False).input_ids
        assert ids.tolist()[-len(tail) + 8 :] == tail[8:]
        given = dict(processor([image], return_tensors="pt"))
        given.pop("num_patches", None)
        tokens = torch.as_tensor(ids).long()[None]
        if "image_grid_thw" in given:
            given["mm_token_type_ids"] = (tokens == config.image_token_id).int()
        with torch.no_grad():
            logits = theirs(input_ids=tokens, **given).logits[0]
        at = logits[tokens[0] == marker].double()
        scores.append(torch.sigmoid(at[:, yes] - at[:, no]).numpy())
    return np.concatenate(scores)


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_here_scores_alike_in_pytorch(
    mprm, world, words, name, tmp_path
):
    save, shape = CASES[name]
    weights = tmp_path / "weights"
    weights.mkdir()
    save(dataclasses.replace(shape, vocabulary=words.get_vocab_size()), weights)
    words.save(str(weights / "tokenizer.json"))
    faster = ("--learning-rate", "1e-3", "--json")
    done = train(mprm, world, weights, tmp_path / "run", *faster)
    assert done.status == 0, done.err
    assert done.json["updates"] == 4
    # Scored in float32, so that what is compared is the model and not its rounding.
    path = tmp_path / "run" / "model.json"
    described = json.loads(path.read_text())
    described["config"]["dtype"] = "float32"
    path.write_text(json.dumps(described))
    test = world / "benchmark" / "test.jsonl"
    found, scores = evaluate(mprm, tmp_path / "run", test, tmp_path / "a", world)
    assert found["steps_truncated"] == 0
    assert mprm("export", tmp_path / "run", "--output", tmp_path / "out").status == 0
    model, _ = load_model(tmp_path / "run")
    expected = torch_scores(tmp_path / "out", model, records(test), world)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert np.std(scores) > 0.01


@pytest.mark.parametrize("name", ["qwen3", "smollm2"])
def test_a_text_model_trained_here_scores_alike_in_pytorch(mprm, texts, name, tmp_path):
    words = tokenizer({1: "<|im_start|>", 2: "<|im_end|>"}, VOCABULARY)
    weights = tmp_path / "weights"
    weights.mkdir()
    save_text(TEXT_SHAPES[name], weights)
    words.save(str(weights / "tokenizer.json"))
    done = train_text(mprm, texts / "shepherd", weights, tmp_path / "run",
        "--learning-rate", "1e-3", "--compute", "float32")  # fmt: skip
    assert done.status == 0, done.err
    scored = tmp_path / "scored.jsonl"
    done = mprm("evaluate", "--checkpoint", tmp_path / "run", "--benchmark",
        texts / "test.jsonl", "--output", scored, "--threshold", "0.5",
        "--replicates", 0)  # fmt: skip
    assert done.status == 0, done.err
    found = np.concatenate([row["prm_scores"] for row in records(scored)])
    out = tmp_path / "out"
    assert mprm("export", tmp_path / "run", "--output", out).status == 0

    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    assert not report["missing_keys"]
    read = transformers.AutoTokenizer.from_pretrained(out)
    yes, no, marker = map(read.convert_tokens_to_ids, ("Yes", "No", "<prm>"))
    expected = []
    for row in records(texts / "test.jsonl"):
        said = {"role": "user", "content": render(row["problem"], row["steps"])}
        # As exported, the chat template leaves the turn of the user open.
        ids = read.apply_chat_template([said], return_dict=True)["input_ids"]
        with torch.no_grad():
            logits = theirs(input_ids=torch.as_tensor([ids])).logits[0].double()
        at = logits[torch.as_tensor(ids) == marker]
        expected.append(torch.sigmoid(at[:, yes] - at[:, no]).numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4)
    assert np.std(found) > 0.01
