"""All backbones against what the references computed (tests/parity/make_golden.py)."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.batches import Batch
from mprm_jax.models import families, reward_head
from mprm_jax.models.layers import Compute
from mprm_jax.models.reward_head import RewardHead
from mprm_jax.models.weights import tensors
from mprm_jax.models.weights.names import entries
from mprm_jax.train.objective import Objective, loss_sum
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.random_weights import random_tensor, write_checkpoint

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.npz"))
YES, NO, MARKER = 11, 12, 13


def batch_of(golden):
    """The stored prompts as the trainer's batch: one trial per step."""
    tokens = golden["tokens"].astype(np.int32)
    steps = int((tokens == MARKER).sum(axis=1).max())
    marker, successes, trials = (
        np.zeros((len(tokens), steps), np.int32) for _ in range(3)
    )
    labels = iter(golden["labels"])
    for i, row in enumerate(tokens):
        for j, at in enumerate(np.flatnonzero(row == MARKER)):
            marker[i, j], trials[i, j], successes[i, j] = at, 1, next(labels)
    label, weight = successes.astype(np.float32), trials.astype(np.float32)
    return Batch(tokens, golden["images"], marker, successes, trials, label, weight)


def relative(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_the_golden_files_are_there_and_small():
    names = ["internvl", "internvl_chat", "llama3", "qwen", "qwen3"]
    assert [path.stem for path in FILES] == names
    assert sum(path.stat().st_size for path in FILES) < 300_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_computes_what_the_reference_computed(path, tmp_path):
    with np.load(path) as stored:
        golden = dict(stored)
    compute = Compute("float32", remat="none")
    kind, _, _ = write_checkpoint(
        tmp_path,
        json.loads(str(golden["config"])),
        int(golden["seed"]),
        json.loads(str(golden["added_tokens"])),
    )
    config, params = tensors.load_pretrained(tmp_path, jnp.float32)
    head = RewardHead((YES, NO), config.language.tied)
    params = reward_head.attach(head, params)
    batch = batch_of(golden)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss_and_logits(params):
        hidden = families.hidden_states(
            config, params, batch.tokens_BxL, batch.images_BxPxD, compute
        )
        logits = reward_head.reward_logits(
            head, config.language, params, hidden, batch.marker_BxS
        )
        total = loss_sum(logits, batch, Objective())
        return total / batch.weight_BxS.sum(), logits

    (loss, logits), gradient = jax.jit(loss_and_logits)(params)

    @jax.jit
    def see(params, images):
        family = families.family_of(config)
        states = family.tower_states(config, params, images, compute)
        return family.project(config, params, states, compute)

    if sum(counts := golden["image_tokens"]):
        features = see(params, golden["images"])
        seen = [row[:count] for row, count in zip(features, counts, strict=True)]
        assert relative(np.concatenate(seen), golden["features"]) < 1e-5
    at_steps = np.asarray(logits)[batch.trials_BxS > 0]
    assert relative(at_steps[:, :2], golden["logits"][:, [YES, NO]]) < 1e-5
    assert not at_steps[:, 2].any()
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)

    gradient = reward_head.detach(head, gradient)
    found = {}
    for entry in entries(kind, config):
        leaves = [
            functools.reduce(lambda tree, key: tree[key], p, gradient)
            for p in entry.targets
        ]
        if entry.layer is not None:
            layer: Any = entry.layer
            leaves = [leaf[layer] for leaf in leaves]
        found[entry.name] = entry.form.write(tuple(map(np.asarray, leaves)))
    expected = zip(
        golden["gradient_names"],
        golden["gradient_norms"],
        golden["gradient_probes"],
        strict=True,
    )
    largest = golden["gradient_norms"].max()
    for name, norm, probe in expected:
        value = found.pop(str(name)).astype(np.float64)
        direction = random_tensor(str(name), value.shape, 1)
        # A direction of unit entries sees an error of its size times its norm.
        slack = 1e-4 * norm + 1e-6 * largest
        assert np.linalg.norm(value) == pytest.approx(norm, abs=slack), name
        slack *= np.linalg.norm(direction)
        assert (value * direction).sum() == pytest.approx(probe, abs=slack), name
    assert not found
