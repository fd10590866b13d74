import gzip
from collections.abc import Container
from itertools import chain

import grain
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mprm_jax.data.batches import (
    Sizes,
    buckets_for,
    open_ladder,
    plan_micro_batches,
    sizes_of,
)
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.loader import (
    Batches,
    BatchOrder,
    CorpusExamples,
    Feed,
    Presented,
    repeated,
)
from mprm_jax.records.problems import DataError
from mprm_jax.train.objective import Objective, StepLabeller
from tests.mprm_jax.stub_model import SHAPES, StubModel, stub_examples
from tests.raw_files import (
    line,
    random_records,
    record,
    write_corpus,
    write_pictures,
)


def read(source, size, presentations=None, seed=0, buckets=None, **options):
    """The batches of a run, of one pass unless told."""
    order = BatchOrder(size, presentations or len(source), seed, **options)
    sizes = None if order.feed.is_whole else sizes_of(source)
    shapes = buckets or buckets_for(source)
    return Batches(source, shapes, order, sizes=sizes).from_first()


def places(*arguments, **options):
    """The places of every batch of a run."""
    return [loaded.places.tolist() for loaded in read(*arguments, **options)]


def test_one_pass_shows_every_rollout_once():
    met = places(stub_examples(21), 8)
    assert [len(batch) for batch in met] == [8, 8, 5]
    order = list(chain(*met))
    assert order != sorted(order) == list(range(21))


def test_matched_updates_repeat_the_rollouts_in_new_orders():
    met = list(chain(*places(stub_examples(10), 4, 40)))
    assert len(met) == 40
    passes = [met[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len(set(map(tuple, passes))) == 4


def test_the_order_is_the_seed_s():
    source = stub_examples(30)
    assert places(source, 8) == places(source, 8)
    seeds = (0, 1, 2**40, 2**32 + 1)
    assert len({str(places(source, 8, seed=seed)) for seed in seeds}) == 4
    with pytest.raises(ValueError, match="negative"):
        places(source, 8, seed=-1)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_iterator_goes_on_from_its_state(threads):
    source = stub_examples(40)

    def fresh():
        return iter(read(source, 8, seed=3, threads=threads))

    whole = [loaded.places.tolist() for loaded in fresh()]
    assert whole == places(source, 8, seed=3)
    for taken in range(5):
        iterator = fresh()
        for _ in range(taken):
            next(iterator)
        again = fresh()
        again.set_state(iterator.get_state())
        assert [loaded.places.tolist() for loaded in again] == whole[taken:]


@pytest.mark.parametrize("rollouts", [16, 17, 21, 23])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_hosts_share_every_batch(rollouts, micro_batches):
    """What two hosts read together is what one would read, part by part."""
    source = stub_examples(rollouts)
    options = {"buckets": SHAPES, "micro_batches": micro_batches}
    whole = [*read(source, 8, **options)]
    shapes = {batch.tokens_BxL.shape for one in whole for batch in one.batches}
    assert len(shapes) >= micro_batches
    hosts = [[*read(source, 8, feed=Feed(2, (part,)), **options)] for part in (0, 1)]
    for one, *parts in zip(whole, *hosts, strict=True):
        assert one.total == parts[0].total == parts[1].total
        assert one.padded == parts[0].padded == parts[1].padded
        joined = np.concatenate([part.places for part in parts])
        assert sorted(joined) == sorted(one.places)
        for batch, *rows in zip(one.batches, *(p.batches for p in parts), strict=True):
            jax.tree.map(
                lambda all_rows, *of: np.testing.assert_array_equal(
                    np.concatenate(of), all_rows
                ),
                batch,
                *rows,
            )


def test_hosts_that_share_a_part_read_the_same_rows():
    source = stub_examples(9)
    one, other = (
        [*read(source, 8, feed=Feed(1, (0,)))],
        [*read(source, 8)],
    )
    assert [a.places.tolist() for a in one] == [b.places.tolist() for b in other]


def test_a_host_without_a_rollout_takes_part_with_none():
    source, shapes = stub_examples(9), open_ladder(4)
    *_, last = read(source, 8, buckets=shapes, feed=Feed(2, (1,)))
    assert last.places.tolist() == []
    assert not last.batches[0].weight_BxS.any()
    assert last.batches[0].images_BxPxD.shape[1:] == (2, 3)
    with pytest.raises(ValueError, match="cannot share a batch of 8"):
        BatchOrder(8, 9, 0, feed=Feed(3, (0,)))
    with pytest.raises(ValueError, match="need known sizes"):
        Batches(source, shapes, BatchOrder(8, 9, 0, feed=Feed(2, (0,))))


class Unreadable(list):
    """Examples of which some cannot be read."""

    refused: Container[int] = (7,)

    def __getitem__(self, place):
        if place in self.refused:
            raise DataError("a.jsonl:8: damaged image")
        return super().__getitem__(place)


def test_a_host_that_cannot_read_its_rows_takes_part_and_says_so():
    source = stub_examples(16)
    readings = [
        Batches(
            Unreadable(source),
            buckets_for(source),
            BatchOrder(8, 16, 0, feed=Feed(2, (part,))),
            sizes=sizes_of(source),
        )
        for part in (0, 1)
    ]
    loaded = [(of[0], of[1]) for of in readings]
    failed = [[bool(one.failure) for one in of] for of in loaded]
    assert sum(map(sum, failed)) == 1
    for at in (0, 1):
        shapes = {
            tuple(leaf.shape for leaf in jax.tree.leaves(of[at].batches))
            for of in loaded
        }
        assert len(shapes) == 1
    (told,) = {one.failure for of in loaded for one in of} - {""}
    assert told == "a.jsonl:8: damaged image"


def test_a_host_whose_files_are_gone_takes_part_and_says_so():
    source = Unreadable(stub_examples(16))
    order = BatchOrder(8, 16, 0, feed=Feed(2, (0,)))
    sizes = sizes_of(list(source))
    iterator = iter(
        Batches(source, buckets_for(list(source)), order, sizes=sizes).from_first()
    )
    source.refused = range(16)
    lost, source.refused = next(iterator), ()
    assert lost.failure
    assert not lost.batches[0].weight_BxS.any()
    found = next(iterator)
    assert not found.failure
    assert lost.batches[0].images_BxPxD.dtype == found.batches[0].images_BxPxD.dtype


def test_micro_batches_hold_every_rollout_once_and_like_with_like():
    rng = np.random.default_rng(1)
    for count in (1, 2, 4, 8):
        found = int(rng.integers(1, 65))
        tokens, patches = rng.integers(1, 3000, found), rng.integers(0, 40, found)
        sizes = Sizes(tokens, patches, tokens, tokens, tokens)
        plan = plan_micro_batches(sizes, open_ladder(1), count, 64 // count)
        assert sorted(np.concatenate([part.rows for part in plan])) == [*range(found)]
        assert len(plan) == -(-found // (64 // count))
        for part in plan:
            assert tokens[part.rows].max() <= part.shape.tokens
            assert patches[part.rows].max() <= part.shape.patches
        if count == 1:
            assert plan[0].rows.tolist() == [*range(found)]
    with pytest.raises(ValueError, match="do not make 2 x 16"):
        plan_micro_batches(sizes_of(stub_examples(33)), open_ladder(1), 2, 16)


def test_sorted_micro_batches_compute_less_padding():
    """Of lengths that spread as those of real corpora do, by a factor of ten."""
    rng = np.random.default_rng(2)
    tokens = np.exp(rng.normal(7, 0.6, 512)).astype(int)
    sizes = Sizes(tokens, 0 * tokens, tokens, tokens, tokens)

    def share(count):
        rows = 512 // count
        plan = plan_micro_batches(sizes, open_ladder(1), count, rows)
        return tokens.sum() / sum(rows * part.shape.tokens for part in plan)

    assert share(1) < 0.3
    assert share(32) > 0.75


def test_truncated_steps_are_counted():
    source = stub_examples(30, seed=1)
    total = sum(example.truncated for example in source)
    assert 0 < total == sum(loaded.total.truncated for loaded in read(source, 8))


@pytest.mark.parametrize("known", [True, False])
def test_the_weight_of_a_batch_is_that_of_its_steps(known):
    """Which the loss is divided by; doubtful steps are on neither side."""
    source, labeller = stub_examples(20), StepLabeller(Objective("masked"))
    sizes = sizes_of(source, labeller) if known else None
    order = BatchOrder(8, 20, 0)
    made = Batches(source, buckets_for(source), order, labeller, sizes).from_first()
    for loaded in made:
        (batch,) = loaded.batches
        assert loaded.total.weight == batch.weight_BxS.sum()
        assert loaded.total.steps == (batch.weight_BxS > 0).sum()
    assert sizes_of(source, labeller).weight.sum() < sizes_of(source).weight.sum()


@pytest.fixture
def world(tmp_path):
    """A corpus in a plain and a compressed file, and its images."""
    rng = np.random.default_rng(0)
    records = random_records(rng, 9)
    packed = gzip.compress("\n".join(map(line, random_records(rng, 5))).encode())
    write_corpus(tmp_path / "corpus", {"a.jsonl": records, "b.jsonl.gz": packed})
    write_pictures(tmp_path / "images", 9, (1, 2))
    return tmp_path


def examples_of(world, picks=None, **options):
    usable = usable_rollouts(read_corpus(world / "corpus"), **options)
    picks = np.arange(len(usable.row)) if picks is None else np.array(picks)
    return CorpusExamples(usable, picks, StubModel().encode, world)


def test_examples_are_those_of_the_files(world):
    source = examples_of(world, [1, 4, 10, 13])
    rollouts = source.usable.rollouts
    assert len(source) == 4
    for place in (2, 0, 3, 1):
        row, example = source.usable_rows[place], source[place]
        steps = slice(*rollouts.offsets[row : row + 2])
        np.testing.assert_array_equal(example.successes_S, rollouts.successes[steps])
        np.testing.assert_array_equal(example.trials_S, rollouts.trials[steps])
        with Image.open(world / source.record(place).images[0]) as opened:
            expected = np.asarray(opened).reshape(-1, 3)
        np.testing.assert_array_equal(example.images_PxD, expected)
    labeller = StepLabeller(Objective("masked"))
    refused, measured = source.measure(labeller, 2, slice(1, 4))
    assert not refused
    for found, column in zip(
        measured, sizes_of([source[i] for i in (1, 2, 3)], labeller), strict=True
    ):
        np.testing.assert_array_equal(found, column)
    assert measured.weight.sum() < sizes_of([source[i] for i in (1, 2, 3)]).weight.sum()


def test_steps_that_the_policy_drops_are_not_shown(world):
    unmeasured = [((8, 16), (4, 16), (0, 0), (0, 0)), ((0, 0), (0, 0)), ((3, 16),)]
    write_corpus(
        world / "corpus",
        {"c.jsonl": [record(counts, i) for i, counts in enumerate(unmeasured)]},
    )
    dropped = examples_of(world, [14, 15], unmeasured="drop")
    assert [e.trials_S.tolist() for e in (dropped[0], dropped[1])] == [[16, 16], [16]]
    assert len(dropped[0].marker_S) == 2
    negative = examples_of(world, [14], unmeasured="negative")
    assert negative[0].trials_S.tolist() == [16, 16, 1, 1]


def test_an_unreadable_example_is_an_error_with_its_line(world):
    source = examples_of(world)
    (world / "images" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jsonl:4: unknown image format"):
        source[3]
    (world / "images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"b\.jsonl\.gz:4: image not found"):
        source[12]
    # and it stops a run, whatever reads ahead
    for threads in (0, 2):
        data = read(source, 4, buckets=open_ladder(6), threads=threads)
        with pytest.raises(DataError, match=r"\.jsonl.*: image not found"):
            list(data)


def test_images_need_a_root(world):
    source = examples_of(world)
    without = CorpusExamples(source.usable, source.usable_rows, source.encode, None)
    with pytest.raises(DataError, match=r"a\.jsonl:1: image without root"):
        without[0]


def test_a_file_that_changed_is_refused(world):
    source = examples_of(world)
    path = world / "corpus" / "a.jsonl"
    path.write_bytes(path.read_bytes().replace(b"picture", b"pigture"))
    with pytest.raises(DataError, match=r"a\.jsonl:1: the file changed"):
        source[0]


def test_grain_s_state_is_json(world):
    data = read(examples_of(world), 4, buckets=open_ladder(6))
    assert isinstance(data, grain.IterDataset)
    iterator = iter(data)
    next(iterator)
    assert dict(iterator.get_state()) == {"next_index": 1}


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=40),
    st.integers(0, 1000),
)
def test_a_mixture_shows_each_as_often_as_asked(times, seed):
    wanted = np.array(times)
    places = repeated(wanted, np.random.default_rng(seed))
    count = np.bincount(places, minlength=len(wanted))
    assert (np.floor(wanted) <= count).all()
    assert (count <= np.ceil(wanted)).all()
    for value in np.unique(wanted):
        of = wanted == value
        assert abs(count[of].sum() - wanted[of].sum()) <= 0.5
    for wrong in (-0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite number of times"):
            repeated(np.array([1.0, wrong]), np.random.default_rng(0))


def test_presentations_carry_their_weights_and_sizes():
    source = stub_examples(6)
    places, weight = np.array([4, 1, 4]), np.array([0.5, 0.0, 2.0])
    shown = Presented(source, places, weight)
    found = sizes_of(map(shown.__getitem__, range(len(shown))))
    steps = [len(source[place].marker_S) for place in places]
    np.testing.assert_array_equal(found.weight, steps * weight)
    (loaded,) = Batches(shown, buckets_for(source), BatchOrder(4, 3, 0)).from_first()
    rows = loaded.batches[0].weight_BxS.sum(axis=1)
    np.testing.assert_array_equal(rows[:3], found.weight[loaded.places])
