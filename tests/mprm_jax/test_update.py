"""The update on one device and on two: the fixtures of conftest give two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data.batches import Batch, Bucket, Buckets, buckets_for, collate
from mprm_jax.train.objective import Objective, loss_sum
from mprm_jax.train.optimizer import OptimizerConfig, join, plan
from mprm_jax.train.update import Placement, compiled_step, data_parallel, initial_state
from tests.mprm_jax.stub_model import StubModel, stub_examples

MODEL = StubModel()
SETTINGS = {
    "model": MODEL,
    "optimizer": OptimizerConfig(clip_norm=1e6),
    "objective": Objective(),
}


def start(placement=None, params=None):
    """A state and frozen parameters that nobody else holds."""
    params = MODEL.init(jax.random.key(0)) if params is None else params
    return initial_state(
        MODEL, params, plan(80, 8), SETTINGS["optimizer"], 1e-2, placement
    )


def update(batch, **changes):
    """(params, metrics) after one update."""
    state, frozen = start()
    after, metrics = compiled_step(state, frozen, batch, **SETTINGS | changes)
    return join(after.trained, frozen), {k: float(v) for k, v in metrics.items()}


def assert_close(one, other, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), one, other)


def test_micro_batches_make_the_update_of_the_whole_batch():
    """Though their counts differ: the mean of their means would be another number."""
    examples = stub_examples(8, seed=5)
    batch = collate(examples, buckets_for(examples), 8)
    parts = [(batch.trials_BxS[i::4] > 0).sum() for i in range(4)]
    assert len(set(map(int, parts))) > 1
    whole, metrics = update(batch)
    params, others = update(batch, accumulate=4)
    assert_close(params, whole, rtol=1e-5, atol=1e-7)
    assert others == pytest.approx(metrics, rel=1e-6)


def test_the_loss_is_the_mean_over_counted_steps():
    examples = stub_examples(6, seed=2)
    batch = collate(examples, buckets_for(examples), 8)
    params = MODEL.init(jax.random.key(0))
    logits = np.asarray(MODEL.reward_logits(params, jax.tree.map(jnp.asarray, batch)))
    z = (logits[..., 0] - logits[..., 1]).astype(np.float64)
    y, counted = batch.successes_BxS > 0, batch.trials_BxS > 0
    losses = np.where(y, np.log1p(np.exp(-z)), np.log1p(np.exp(z)))
    _, metrics = update(batch)
    assert metrics["loss"] == pytest.approx(losses[counted].mean(), rel=1e-5)
    assert metrics["steps"] == counted.sum()


@pytest.mark.parametrize("kind", ["hard", "beta-binomial"])
def test_padding_and_empty_rollouts_change_nothing(kind):
    examples = [e for e in stub_examples(12, seed=3) if len(e.marker_S)][:5]
    small = collate(examples, Buckets((Bucket(32, 2),), 4), 8)
    # More tokens, steps, patches, and rollouts without a counted step among the rest.
    empty = examples[0]._replace(trials_S=0 * examples[0].trials_S)
    nothing = examples[1]._replace(
        marker_S=empty.marker_S[:0],
        successes_S=empty.marker_S[:0],
        trials_S=empty.marker_S[:0],
    )
    mixed = [examples[0], empty, *examples[1:3], nothing, *examples[3:]]
    large = collate(mixed, Buckets((Bucket(64, 4),), 7), 8)
    objective = Objective(kind)
    params, metrics = update(small, objective=objective)
    others, also = update(large, objective=objective)
    assert also == pytest.approx(metrics, rel=1e-6)
    assert_close(others, params, rtol=1e-5, atol=1e-7)


def test_a_batch_without_a_counted_step_gives_no_gradient():
    empty = [e._replace(trials_S=0 * e.trials_S) for e in stub_examples(8)]
    _, metrics = update(collate(empty, buckets_for(empty), 8))
    assert metrics["loss"] == metrics["gradient_norm"] == metrics["steps"] == 0


def test_frozen_parameters_stay_and_the_callers_are_left_alone():
    params = MODEL.init(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    examples = stub_examples(8)
    batch = collate(examples, buckets_for(examples), 8)
    state, frozen = start(params=params)
    after, _ = compiled_step(state, frozen, batch, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    whole = join(after.trained, frozen)
    np.testing.assert_array_equal(whole["vision"]["kernel"], before["vision"]["kernel"])
    assert np.abs(whole["head"]["kernel"] - before["head"]["kernel"]).min() > 0


def test_a_model_with_nothing_to_train_is_refused():
    class Frozen(StubModel):
        def trainable(self, params):
            return jax.tree.map(lambda _: False, params)

    params = MODEL.init(jax.random.key(0))
    with pytest.raises(ValueError, match="nothing to train"):
        initial_state(Frozen(), params, plan(8, 8), OptimizerConfig(), 1e-2)


def test_low_precision_parameters_are_trained_in_float32():
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), MODEL.init(jax.random.key(0))
    )
    state, frozen = start(params=params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trained)} == {
        jnp.float32.dtype
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.bfloat16.dtype}


def test_two_devices_make_the_update_of_one():
    examples = stub_examples(8, seed=4)
    batch = collate(examples, buckets_for(examples), 8)
    one, metrics = update(batch, accumulate=2)
    placement = data_parallel(8, 2)
    assert placement is not None
    state, frozen = start(placement)
    shardings = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
    after, others = compiled_step(
        state,
        frozen,
        placement.batch(batch),
        **SETTINGS,
        accumulate=2,
        shardings=shardings,
    )
    assert_close(join(after.trained, frozen), one, rtol=1e-5, atol=1e-7)
    assert float(others["loss"]) == pytest.approx(metrics["loss"], rel=1e-6)
    # Pinned, so that the next update needs no other program.
    assert tuple(leaf.sharding for leaf in jax.tree.leaves(after)) == shardings


def test_parameters_may_be_split_over_devices():
    """A placement of the caller's; moments lie where their parameters do."""
    placement = data_parallel(8)
    assert placement is not None
    rows = jax.sharding.NamedSharding(
        placement.mesh, jax.sharding.PartitionSpec(None, "data")
    )
    whole = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec())

    def place(params):
        return jax.tree.map(
            lambda leaf: jax.device_put(
                leaf, rows if leaf.ndim == 2 and leaf.shape[1] % 2 == 0 else whole
            ),
            params,
        )

    model = StubModel(width=6)
    params = model.init(jax.random.key(0))
    sharded = Placement(placement.mesh, params=place)
    state, _ = initial_state(
        model, params, plan(8, 8), OptimizerConfig(), 1e-2, sharded
    )
    moment = state.moments[1].mu["blocks"][0]["embedding"]
    assert moment.sharding == state.trained["blocks"][0]["embedding"].sharding == rows


def test_adafactor_s_means_are_everywhere_and_its_vectors_with_theirs():
    placement = data_parallel(8)
    assert placement is not None
    rows = jax.sharding.NamedSharding(
        placement.mesh, jax.sharding.PartitionSpec("data")
    )
    whole = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec())
    model = StubModel(vocabulary=130, width=140)
    params = model.init(jax.random.key(0))
    sharded = Placement(
        placement.mesh,
        params=lambda tree: jax.tree.map(
            lambda leaf: jax.device_put(leaf, rows if len(leaf) > 3 else whole), tree
        ),
    )
    optimizer = OptimizerConfig(kind="adafactor")
    state, frozen = initial_state(model, params, plan(8, 8), optimizer, 1e-2, sharded)
    scaled = state.moments[1][0]
    embedding = scaled.v_row["blocks"][0]["embedding"]
    assert (embedding.shape, embedding.sharding) == ((130,), whole)
    gain = scaled.v["blocks"][0]["norm"]["scale"]
    assert (gain.shape, gain.sharding) == ((140,), rows)
    # An update on two devices is that on one.
    examples = stub_examples(8, seed=4)
    batch = collate(examples, buckets_for(examples), 8)
    chosen = SETTINGS | {"model": model, "optimizer": optimizer}
    pinned = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
    after, _ = compiled_step(
        state, frozen, placement.batch(batch), **chosen, shardings=pinned
    )
    assert tuple(leaf.sharding for leaf in jax.tree.leaves(after)) == pinned
    alone = initial_state(model, params, plan(8, 8), optimizer, 1e-2)
    one, _ = compiled_step(*alone, batch, **chosen)
    assert_close(after.trained, one.trained, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("consume", [True, False])
def test_parameters_are_taken_only_if_they_may_be(consume):
    params = MODEL.init(jax.random.key(0))
    state, frozen = initial_state(
        MODEL, params, plan(80, 8), SETTINGS["optimizer"], 1e-2, consume=consume
    )
    examples = stub_examples(8)
    compiled_step(
        state, frozen, collate(examples, buckets_for(examples), 8), **SETTINGS
    )
    assert params["head"]["kernel"].is_deleted() == consume
    assert not params["vision"]["kernel"].is_deleted()


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match="2 devices cannot share a batch of 6 in 2"):
        data_parallel(6, 2)


def test_later_tokens_do_not_reach_earlier_losses():
    """What the stub promises and every model must keep: the trainer adds no leak."""
    examples = stub_examples(4, seed=9)
    batch = jax.tree.map(jnp.asarray, collate(examples, buckets_for(examples), 4))
    params = MODEL.init(jax.random.key(0))

    def loss(tokens_BxL):
        changed = Batch(tokens_BxL, *batch[1:])
        return loss_sum(MODEL.reward_logits(params, changed), changed, Objective())

    last = int(batch.marker_BxS.max())
    changed = batch.tokens_BxL.at[:, last + 1 :].set(7)
    assert loss(changed) == loss(batch.tokens_BxL)
