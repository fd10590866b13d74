import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm_jax.train.optimizer import (
    OptimizerConfig,
    apply_directions,
    decayed,
    join,
    learning_rate,
    rate_multipliers,
    schedule,
    split,
    transformation,
)
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.stub_model import StubModel


@given(st.integers(1, 10**6), st.integers(1, 1024))
def test_a_single_pass_makes_ceil_n_over_b_updates(rollouts, batch):
    budget = plan(rollouts, batch)
    assert (budget.updates - 1) * batch < rollouts <= budget.updates * batch
    assert budget.presentations == rollouts
    assert budget.warmup == math.ceil(0.05 * budget.updates)


def test_the_paper_s_numbers_of_updates():
    # 565,096 rollouts at batch 512: about the 1,100 updates that Fig. 1 shows.
    assert plan(565_096, 512).updates == 1_104
    assert plan(56_509, 512).updates == 111
    matched = plan(56_509, 512, matched_to=565_096)
    assert (matched.updates, matched.warmup) == (1_104, 56)
    assert matched.presentations == 1_104 * 512
    for other in (9, 50):
        assert plan(50, 8, matched_to=other) == plan(50, 8)


def test_epochs_show_every_rollout_as_often():
    one, three = plan(50, 8), plan(50, 8, epochs=3)
    assert (one.updates, one.presentations) == (7, 50)
    assert (three.updates, three.presentations) == (19, 150)
    # More updates of another's take their place, fewer do not.
    assert plan(50, 8, epochs=3, matched_to=152).presentations == 150
    assert plan(50, 8, epochs=3, matched_to=153).presentations == 160
    with pytest.raises(ValueError, match="epochs"):
        plan(50, 8, epochs=0)


@pytest.mark.parametrize(
    ("rollouts", "batch", "share"), [(0, 8, 0.05), (8, 0, 0.05), (8, 8, 1.5)]
)
def test_budgets_without_meaning_are_refused(rollouts, batch, share):
    with pytest.raises(ValueError, match=r"nothing to train on|warmup_share"):
        plan(rollouts, batch, warmup_share=share)


@pytest.mark.parametrize("updates", [1, 2, 7, 20, 100])
def test_the_rate_rises_linearly_and_falls_as_a_cosine(updates):
    budget = plan(updates * 4, 4)
    numbers = schedule(budget, 3e-4)
    rates = np.asarray(learning_rate(numbers, jnp.arange(updates)))
    warmup = budget.warmup
    expected = []
    for t in range(updates):
        if t < warmup:
            expected.append(3e-4 * (t + 1) / warmup)
        else:
            angle = math.pi * (t - warmup) / (updates - warmup)
            expected.append(3e-4 * (1 + math.cos(angle)) / 2)
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-10)
    # No update is wasted at rate zero, and zero comes right after the last.
    assert rates.min() > 0
    if updates > warmup:
        assert abs(float(learning_rate(numbers, jnp.int32(updates)))) < 1e-10


def test_no_warm_up_begins_at_the_peak():
    numbers = schedule(plan(40, 4, warmup_share=0), 1.0)
    assert float(learning_rate(numbers, jnp.int32(0))) == 1.0
    with pytest.raises(ValueError, match="learning_rate"):
        schedule(plan(40, 4), float("nan"))


@pytest.mark.parametrize(
    "values",
    [
        {"betas": (1.0, 0.9)},
        {"epsilon": 0.0},
        {"clip_norm": math.inf},
        {"head_multiplier": -1.0},
        {"weight_decay": -0.1},
        {"first_moment": "bfloat16", "kind": "adafactor"},
    ],
)
def test_settings_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        OptimizerConfig(**values)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_three_updates_are_the_algorithm_written_out(kind):
    """With clipping, in float64: Loshchilov & Hutter 2019, Algorithm 2; Shazeer & Stern
    2018, Algorithms 4 and 5, at an absolute rate.
    """
    config = OptimizerConfig(kind, weight_decay=0.1, clip_norm=2.0, head_multiplier=2.0)
    rng = np.random.default_rng(0)
    # Stacked as the layers of a backbone are and large enough to be factored, or not.
    sizes = {"bias": (3,), "kernel": (2, 130, 140), "head": (4, 5)}
    w = {name: rng.normal(size=size) for name, size in sizes.items()}
    ours = {name: jnp.array(value, jnp.float32) for name, value in w.items()}
    tool = transformation(config)
    state = tool.init(ours)
    if kind == "adafactor":
        kept = sum(leaf.size for leaf in jax.tree.leaves(state))
        assert kept < 2 * (130 + 140) + 3 + 20 + 12
    m, v = ({n: np.zeros_like(x) for n, x in w.items()} for _ in range(2))
    rows, columns = np.zeros((2, 130)), np.zeros((2, 140))
    for t, size in enumerate([5.0, 0.01, 1.0], 1):
        g = {name: size * rng.normal(size=value.shape) for name, value in w.items()}
        gradient = {name: jnp.array(value, jnp.float32) for name, value in g.items()}
        directions, state = tool.update(gradient, state, ours)
        ours = apply_directions(ours, directions, jnp.float32(0.01), config)
        norm = math.sqrt(sum((value**2).sum() for value in g.values()))
        beta = 0.999 if kind == "adamw" else 1 - t**-0.8
        for name, value in w.items():
            clipped = g[name] * min(1.0, 2.0 / norm)
            v[name] = beta * v[name] + (1 - beta) * clipped**2
            if kind == "adamw":
                m[name] = 0.9 * m[name] + 0.1 * clipped
                u = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - beta**t)) + 1e-8)
            else:
                if name == "kernel":
                    rows = beta * rows + (1 - beta) * (clipped**2).mean(axis=2)
                    columns = beta * columns + (1 - beta) * (clipped**2).mean(axis=1)
                    v[name] = rows[:, :, None] * columns[:, None]
                    v[name] /= rows.mean(axis=1)[:, None, None]
                u = clipped / np.sqrt(v[name])
                u /= max(1.0, np.sqrt((u**2).mean()))
            decay = 0.0 if name == "bias" else 0.1
            rate = 0.02 if name == "head" else 0.01
            w[name] = value - rate * (u + decay * value)
    for name, expected in w.items():
        # float32 knows 1 - 0.999 to four digits
        np.testing.assert_allclose(ours[name], expected, rtol=2e-5, atol=1e-5)


def test_a_first_moment_in_bfloat16_still_moves():
    """And halves what it holds; the second stays float32."""
    params = {"kernel": jnp.ones((8, 8))}
    gradient = {"kernel": jnp.full((8, 8), 0.01)}
    made: dict[str, Any] = {}
    for name in ("float32", "bfloat16"):
        tool = transformation(OptimizerConfig(first_moment=name, clip_norm=1e6))
        state: Any = tool.init(params)
        for _ in range(60):
            made[name], state = tool.update(gradient, state, params)
        mu, nu = state[1].mu["kernel"], state[1].nu["kernel"]
        assert (mu.dtype, nu.dtype) == (name, jnp.float32)
    # A constant gradient has direction 1, whatever its size.
    wide, narrow = (made[name]["kernel"] for name in ("float32", "bfloat16"))
    np.testing.assert_allclose(wide, 1 + 0.05, rtol=1e-3)
    np.testing.assert_allclose(narrow, wide, rtol=0.07)


def test_shifts_gains_and_norms_are_not_shrunk():
    matrix = jnp.ones((2, 2))
    params = {
        "blocks": {
            0: {
                "norm1": {"scale": jnp.ones(2)},
                # stacked layers make matrices of what are vectors in each layer
                "ffn_norm": {"weight": matrix},
                "query": {"kernel": matrix, "bias": matrix, "q_bias": matrix},
                "layer_scale": matrix,
            }
        },
        "embed": {"embedding": matrix},
        "head": {"kernel": matrix, "bias": jnp.ones(3)},
    }
    found = {
        jax.tree_util.keystr(path)
        for path, keep in jax.tree_util.tree_leaves_with_path(decayed(params))
        if keep
    }
    assert found == {
        "['blocks'][0]['query']['kernel']",
        "['embed']['embedding']",
        "['head']['kernel']",
    }


def test_only_the_head_is_multiplied():
    params = StubModel().init(jax.random.key(0))
    config = OptimizerConfig(head_multiplier=10)
    rates = rate_multipliers(params, config)
    assert set(jax.tree.leaves(rates["head"])) == {10}
    assert set(jax.tree.leaves([rates["blocks"], rates["vision"]])) == {1.0}
    with pytest.raises(ValueError, match="nothing to multiply"):
        rate_multipliers({"body": params["blocks"]}, config)


def test_frozen_parameters_have_no_place_among_the_trained():
    model = StubModel()
    params = model.init(jax.random.key(0))
    trained, frozen = split(params, model.trainable(params))
    assert jax.tree.leaves(trained["vision"]) == []
    assert jax.tree.leaves([frozen["blocks"], frozen["head"]]) == []
    moments = jax.tree.leaves(transformation(OptimizerConfig()).init(trained))
    # two moments of each trained parameter, and a count
    assert len(moments) == 2 * len(jax.tree.leaves(trained)) + 1
    whole = join(trained, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, whole, params))
