"""The update on one device and on two: the fixtures of conftest give two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprm_jax.data import batches
from mprm_jax.data.batches import Bucket, Buckets, buckets_for
from mprm_jax.train.objective import Objective, StepLabeller
from mprm_jax.train.optimizer import OptimizerConfig, join
from mprm_jax.train.sharding import MeshShape, default_mesh, make_mesh, place_batch
from mprm_jax.train.update import UpdateRule, initial_state
from mprm_jax.train.update import update as make
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.stub_model import StubModel, stub_examples

MODEL = StubModel()
ADAFACTOR = OptimizerConfig(kind="adafactor")
SETTINGS = {
    "model": MODEL,
    "optimizer": OptimizerConfig(clip_norm=1e6),
    "objective": Objective(),
}


def collate(examples, buckets, rows, objective=SETTINGS["objective"]):
    return batches.collate(examples, buckets, rows, StepLabeller(objective))


def in_parts(batch, accumulate):
    """The rows a, a + parts, ... of each part."""
    return [
        jax.tree.map(lambda rows, i=i: rows[i::accumulate], batch)
        for i in range(accumulate)
    ]


def start(mesh=None, params=None, **changes):
    """A state and frozen parameters that nobody else holds."""
    chosen = SETTINGS | changes
    model = chosen["model"]
    params = model.init(jax.random.key(0)) if params is None else params
    return initial_state(model, params, plan(80, 8), chosen["optimizer"], 1e-2, mesh)


def on_mesh(mesh, batch, accumulate=1, **changes):
    """(params, metrics) after one update on several devices, which is pinned."""
    state, frozen = start(mesh, **changes)
    pinned = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
    rule = UpdateRule(**SETTINGS | changes, shardings=pinned)
    parts = [place_batch(mesh, part) for part in in_parts(batch, accumulate)]
    after, metrics = make(state, frozen, parts, batch.weight_BxS.sum(), rule)
    # Pinned, so that the next update needs no other program.
    assert tuple(leaf.sharding for leaf in jax.tree.leaves(after)) == pinned
    return join(after.trained, frozen), metrics


def update(batch, accumulate=1, **changes):
    """(params, metrics) after one update."""
    state, frozen = start(**changes)
    parts, weight = in_parts(batch, accumulate), batch.weight_BxS.sum()
    after, metrics = make(
        state, frozen, parts, weight, UpdateRule(**SETTINGS | changes)
    )
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
    assert batch.weight_BxS.sum() == counted.sum()


@pytest.mark.parametrize("kind", ["hard", "beta-binomial"])
def test_padding_and_empty_rollouts_change_nothing(kind):
    examples = [e for e in stub_examples(12, seed=3) if len(e.marker_S)][:5]
    objective = Objective(kind)
    small = collate(examples, Buckets((Bucket(32, 2),), 4), 8, objective)
    # More tokens, steps, patches, and rollouts without a counted step among the rest.
    empty = examples[0]._replace(trials_S=0 * examples[0].trials_S)
    nothing = examples[1]._replace(
        marker_S=empty.marker_S[:0],
        successes_S=empty.marker_S[:0],
        trials_S=empty.marker_S[:0],
    )
    mixed = [examples[0], empty, *examples[1:3], nothing, *examples[3:]]
    large = collate(mixed, Buckets((Bucket(64, 4),), 7), 8, objective)
    params, metrics = update(small, objective=objective)
    others, also = update(large, objective=objective)
    assert also == pytest.approx(metrics, rel=1e-6)
    assert_close(others, params, rtol=1e-5, atol=1e-7)


def test_a_batch_without_a_counted_step_gives_no_gradient():
    empty = [e._replace(trials_S=0 * e.trials_S) for e in stub_examples(8)]
    _, metrics = update(collate(empty, buckets_for(empty), 8))
    assert metrics["loss"] == metrics["gradient_norm"] == 0


def test_frozen_parameters_stay_and_the_callers_are_left_alone():
    params = MODEL.init(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    examples = stub_examples(8)
    batch = collate(examples, buckets_for(examples), 8)
    state, frozen = start(params=params)
    weight = batch.weight_BxS.sum()
    after, _ = make(state, frozen, [batch], weight, UpdateRule(**SETTINGS))
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


WIDE = StubModel(vocabulary=130, width=140)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        (None, {"accumulate": 2}),
        (MeshShape(1, 2), {"model": StubModel(width=6)}),
        (MeshShape(1, 2), {"model": WIDE, "optimizer": ADAFACTOR}),
    ],
)
def test_two_devices_make_the_update_of_one(shape, changes):
    """Each with the whole model, or with a part of it."""
    examples = stub_examples(8, seed=4)
    batch = collate(examples, buckets_for(examples), 8)
    one, metrics = update(batch, **changes)
    mesh = default_mesh() if shape is None else make_mesh(shape)
    made, others = on_mesh(mesh, batch, **changes)
    assert_close(made, one, rtol=1e-4, atol=1e-6)
    assert float(others["loss"]) == pytest.approx(metrics["loss"], rel=1e-6)


def test_moments_lie_where_their_parameters_do_and_means_everywhere():
    mesh = make_mesh(MeshShape(1, 2))
    rows, whole = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in ((None, "fsdp"), ())
    )
    state, _ = start(mesh, model=StubModel(width=6))
    moment = state.moments[1].mu["blocks"][0]["embedding"]
    assert moment.sharding == state.trained["blocks"][0]["embedding"].sharding == rows
    state, _ = start(mesh, model=WIDE, optimizer=ADAFACTOR)
    scaled = state.moments[1][0]
    embedding = scaled.v_row["blocks"][0]["embedding"]
    assert (embedding.shape, embedding.sharding) == ((130,), whole)
    kernel = state.trained["head"]["kernel"]
    assert scaled.v["head"]["kernel"].sharding == kernel.sharding


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("consume", [True, False])
def test_parameters_are_taken_only_if_they_may_be(consume, accumulate):
    params = MODEL.init(jax.random.key(0))
    state, frozen = initial_state(
        MODEL, params, plan(80, 8), SETTINGS["optimizer"], 1e-2, consume=consume
    )
    examples = stub_examples(8)
    batch = collate(examples, buckets_for(examples), 8)
    make(state, frozen, in_parts(batch, accumulate), 1.0, UpdateRule(**SETTINGS))
    assert params["head"]["kernel"].is_deleted() == consume
    assert not params["vision"]["kernel"].is_deleted()
