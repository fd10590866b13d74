import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm_jax.data.batches import (
    Bucket,
    Buckets,
    Example,
    buckets_for,
    collate,
    open_ladder,
)
from tests.mprm_jax.stub_model import PATCH_DIM, stub_examples


@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 10_000))
def test_rows_hold_the_examples_and_nothing_else(count, spare, seed):
    examples = [e._replace(weight=0.5) for e in stub_examples(count, seed)]
    batch = collate(examples, buckets_for(examples, 3), count + spare)
    assert batch.place_BxKxL is None
    for array in batch[:-1]:
        assert len(array) == count + spare
    for row, example in enumerate(examples):
        length, steps = len(example.tokens_L), len(example.marker_S)
        pairs = [
            (batch.tokens_BxL[row], example.tokens_L),
            (batch.marker_BxS[row], example.marker_S),
            (batch.successes_BxS[row], example.successes_S),
            (batch.trials_BxS[row], example.trials_S),
            (batch.images_BxPxD[row], example.images_PxD),
        ]
        for padded, values in pairs:
            np.testing.assert_array_equal(padded[: len(values)], values)
            assert not padded[len(values) :].any()
        np.testing.assert_array_equal(batch.tokens_BxL[row, :length], example.tokens_L)
        np.testing.assert_array_equal(batch.weight_BxS[row, :steps], example.weight)
        assert np.count_nonzero(batch.trials_BxS[row]) == steps
    assert not batch.trials_BxS[count:].any()
    assert not batch.tokens_BxL[count:].any()


def test_types_are_those_of_the_protocol():
    batch = collate(stub_examples(3), buckets_for(stub_examples(3)), 4)
    assert batch.images_BxPxD.dtype == np.uint8
    arrays = batch._asdict().items()
    others = [a.dtype for name, a in arrays if name[0] not in "ip"]
    assert others == [np.int32] * 4 + [np.float32] * 2


def test_a_batch_takes_the_smallest_shape_that_holds_it():
    buckets = Buckets((Bucket(8, 2), Bucket(16, 2), Bucket(16, 4)), 3)
    assert buckets.choose(8, 2) == Bucket(8, 2)
    assert buckets.choose(9, 0) == Bucket(16, 2)
    assert buckets.choose(3, 3) == Bucket(16, 4)
    with pytest.raises(ValueError, match="17 tokens and 0 patches fit none"):
        buckets.choose(17, 0)
    with pytest.raises(ValueError, match="5 patches"):
        buckets.choose(1, 5)


@pytest.mark.parametrize(
    "shapes", [(), (Bucket(8, 1), Bucket(8, 1)), (Bucket(16, 1), Bucket(8, 2))]
)
def test_shapes_must_grow(shapes):
    with pytest.raises(ValueError, match=r"bucket"):
        Buckets(shapes, 1)


def test_a_ladder_has_the_stated_number_of_shapes():
    def ladder(tokens, steps, patches, count=2):
        nothing = np.zeros(steps, np.int32)
        images = np.zeros((patches, PATCH_DIM), np.uint8)
        one = Example(np.zeros(tokens, np.int32), images, nothing, nothing, nothing)
        return buckets_for([one], count)

    shapes = ladder(200, 9, 16, count=3)
    assert shapes.shapes == (Bucket(64, 16), Bucket(112, 16), Bucket(208, 16))
    assert shapes.steps == 9
    assert len(ladder(20, 0, 0, count=5).shapes) == 1
    assert ladder(20, 0, 0).steps == 1
    for examples, count in (([], 2), (stub_examples(1), 0)):
        with pytest.raises(ValueError, match="no example"):
            buckets_for(examples, count)


@given(st.integers(1, 32_768), st.integers(0, 65_536))
def test_the_open_ladder_holds_any_rollout_and_never_doubles_it(tokens, patches):
    shape = open_ladder(4).choose(tokens, patches)
    assert tokens <= shape.tokens < max(2 * tokens, 33)
    assert patches <= shape.patches <= max(2 * patches - 1, patches)


def test_the_open_ladder_has_few_shapes_over_a_range_of_lengths():
    ladder = open_ladder(4)
    met = {ladder.choose(length, 16) for length in range(40, 161)}
    assert len(met) <= 2 * np.log2(160 / 40) + 2


def test_what_does_not_fit_is_refused():
    examples = stub_examples(3)
    buckets = buckets_for(examples)
    with pytest.raises(ValueError, match="3 examples do not make 2 rows"):
        collate(examples, buckets, 2)
    with pytest.raises(ValueError, match="0 examples"):
        collate([], buckets, 2)
    nine = np.arange(9, dtype=np.int32)
    crowded = Example(nine, np.zeros((0, PATCH_DIM)), nine, nine, nine)
    with pytest.raises(ValueError, match="9 steps do not fit 4 places"):
        collate([crowded], buckets, 2)
