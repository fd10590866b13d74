"""The update and the evaluation compile for machines that are not here.

The tiny model, and backbones with and without adapters, in bfloat16, with Adafactor and
recomputed layers.
"""

import jax
import numpy as np
import pytest

from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.models.lora import LoraConfig, base_of
from mprm_jax.train import objective
from mprm_jax.train.objective import Objective
from mprm_jax.train.open_backbone import Opening, open_for_training
from mprm_jax.train.optimizer import OptimizerConfig
from mprm_jax.train.update import UpdateRule, initial_state, train_step
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import internvl_folder, qwen_folder
from tests.mprm_jax.sharding_worker import random_batch
from tests.mprm_jax.tiny_case import examples_of, small_model

PLATFORMS = ("tpu", "cuda")


def tiny_case(_):
    model = small_model()
    examples = examples_of(model, 4)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, shapes, collate(examples, buckets_for(examples), 4)


def backbone(make, lora):
    def case(folder):
        opening, rng = Opening(lora=lora), np.random.default_rng(0)
        model, params = open_for_training(make(folder), opening)
        return model, params, random_batch(rng, base_of(model))

    return case


CASES = {
    "tiny": (tiny_case, "adamw"),
    "qwen": (backbone(qwen_folder, LoraConfig(2)), "adafactor"),
    "internvl": (backbone(internvl_folder, None), "adamw"),
}


@pytest.mark.parametrize("name", CASES)
def test_training_and_evaluation_export(name, tmp_path):
    case, kind = CASES[name]
    model, params, batch = case(tmp_path)

    def shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    def score(params, batch):
        return objective.scores(model.reward_logits(params, batch))

    given = shapes(params), shapes(batch)
    exported = jax.export.export(jax.jit(score), platforms=PLATFORMS)(*given)
    assert exported.platforms == PLATFORMS
    assert [aval.shape for aval in exported.out_avals] == [batch.marker_BxS.shape]

    optimizer = OptimizerConfig(kind=kind)
    state, frozen = jax.eval_shape(
        lambda params: initial_state(model, params, plan(80, 4), optimizer, 1e-3),
        params,
    )

    rule = UpdateRule(model, optimizer, Objective())

    def step(state, frozen, batch):
        after, metrics = train_step(state, frozen, batch, 1.0, rule)
        # Not the named tuples, which an exported function cannot carry.
        return jax.tree.leaves(after), metrics

    given = shapes(jax.tree.leaves((state, frozen, batch)))
    form = jax.tree.structure((state, frozen, batch))
    flat = jax.jit(lambda *leaves: step(*jax.tree.unflatten(form, leaves)))
    exported = jax.export.export(flat, platforms=PLATFORMS)(*given)
    assert exported.platforms == PLATFORMS
    before = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    after = [(aval.shape, aval.dtype) for aval in exported.out_avals]
    assert after[: len(before)] == before
