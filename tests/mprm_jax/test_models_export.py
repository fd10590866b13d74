import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mprm_jax.data.batches import Example, buckets_for, collate
from mprm_jax.models.families import Prompting
from mprm_jax.models.layers import Compute
from mprm_jax.models.reward_head import ROWS_FILE
from mprm_jax.models.weights.export import export
from mprm_jax.models.weights.load import load_backbone
from mprm_jax.records.problems import DataError
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation

SHORT = Prompting(max_length=200, max_tiles=4)
OPTIONS = {"compute": Compute("float32", remat="none"), "prompting": SHORT}

CASES = {
    "Yes and No": (internvl_folder, ("Yes", "No"), False),
    "plus and minus": (qwen_folder, ("+", "-"), False),
    "new rows": (internvl_folder, None, True),
    "tied": (
        lambda folder: qwen_folder(folder, tie_word_embeddings=True),
        ("Yes", "No"),
        True,
    ),
    "tied, plus and minus": (
        lambda folder: qwen_folder(folder, tie_word_embeddings=True),
        ("+", "-"),
        False,
    ),
}


def as_trained(params, concentration):
    """Every parameter moved, as training would."""
    leaves, form = jax.tree.flatten(params)
    rng = np.random.default_rng(3)
    moved = [
        leaf + 0.01 * jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    params = jax.tree.unflatten(form, moved)
    if not concentration:
        zero = jnp.zeros_like(params["head"]["concentration"])
        params |= {"head": params["head"] | {"concentration": zero}}
    return params


def logits_of(model, params):
    # The tower comes and goes tensor by tensor: text alone is quicker.
    tokens, images, marker, _ = model.encode("two apples", ["so", "two"], ())
    ones = np.ones(len(marker), np.int32)
    row = Example(tokens, images, marker, ones, ones)
    return jax.jit(model.reward_logits)(params, collate([row], buckets_for([row]), 1))


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_gives_the_same_logits_exactly(case, tmp_path):
    make, answers, concentration = CASES[case]
    folder = make(tmp_path / "in")
    model, params = load_backbone(folder, answers=answers, **OPTIONS)
    params = as_trained(params, concentration)
    export(tmp_path / "out", model, params)
    again, same = load_backbone(tmp_path / "out", **OPTIONS)
    expected = logits_of(model, params)
    np.testing.assert_array_equal(logits_of(again, same), expected)
    assert bool(expected[..., 2].any()) == concentration
    plain = answers == ("Yes", "No") and not concentration
    assert (tmp_path / "out" / ROWS_FILE).exists() != plain


def test_bfloat16_is_half_as_large_and_near(tmp_path):
    model, params = load_backbone(internvl_folder(tmp_path / "in"), **OPTIONS)
    params = as_trained(params, False)
    for name, dtype in (("full", np.float32), ("half", jnp.bfloat16)):
        export(tmp_path / name, model, params, dtype)
    full, half = (
        load_file(tmp_path / name / "model.safetensors") for name in ("full", "half")
    )
    for name, tensor in full.items():
        assert half[name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(half[name], tensor.astype(jnp.bfloat16))
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["text_config"]["vocab_size"] == model.config.language.vocabulary


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    model, params = load_backbone(qwen_folder(tmp_path / "in"), **OPTIONS)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    with pytest.raises(DataError, match="in: holds files already"):
        export(tmp_path / "in", model, params)
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    with pytest.raises(DataError, match=r"config\.json: holds files already"):
        export(tmp_path / "in" / "config.json", model, params)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"answers": np.zeros((2, 33), np.float32)}, r"answers \[2, 33\] is no row"),
        ({"answers": np.zeros((3, 32), np.float32)}, r"answers \[3, 32\] is no row"),
        ({"concentration": np.zeros((1, 32), np.int8)}, "is no row of a reward head"),
        ({"other": np.zeros((1, 32), np.float32)}, "other"),
        (None, "no whole safetensors file"),
    ],
)
def test_a_reward_head_that_does_not_fit_is_refused(rows, message, tmp_path):
    folder = qwen_folder(tmp_path)
    if rows is None:
        (folder / ROWS_FILE).write_bytes(b"\x10" * 40)
    else:
        save_file(rows, folder / ROWS_FILE)
    with pytest.raises(DataError, match=message) as caught:
        load_backbone(folder, **OPTIONS)
    assert "\n" not in str(caught.value)
