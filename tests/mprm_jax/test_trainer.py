import json
import os
import signal
from functools import partial

import jax
import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from experiments.benchmarks.stub_model import StubModel, read_stub, stub_examples
from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.data.loader import Reading, batches
from mprm_jax.data.problems import DataError
from mprm_jax.train.checkpoint import load_model, updates_kept
from mprm_jax.train.loop import TrainConfig, train
from mprm_jax.train.optimizer import join, plan
from mprm_jax.train.run_log import read_metrics
from mprm_jax.train.update import compiled_step, initial_state

MODEL = StubModel()
EXAMPLES = stub_examples(40)
BUCKETS = buckets_for(EXAMPLES, 1)
BUDGET = plan(40, 8)
CONFIG = TrainConfig(learning_rate=1e-2, checkpoint_every=2)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))


@pytest.fixture
def run(params):
    """``train`` of the stub, with changes."""

    def one(**changes):
        chosen = {
            "source": EXAMPLES,
            "budget": BUDGET,
            "config": CONFIG,
            "buckets": BUCKETS,
        } | changes
        return train(MODEL, params, **chosen)

    return one


def test_training_is_the_updates_one_after_another(run, params):
    state, frozen = initial_state(MODEL, params, BUDGET, CONFIG.optimizer, 1e-2)
    for loaded in batches(EXAMPLES, BUDGET, BUCKETS, Reading(CONFIG.seed)):
        state, _ = compiled_step(
            state,
            frozen,
            loaded.batch,
            model=MODEL,
            optimizer=CONFIG.optimizer,
            objective=CONFIG.objective,
        )
    expected = join(state.trained, frozen)
    seen = []
    found = run(on_update=seen.append)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, expected)
    assert [(update.number, update.updates) for update in seen] == [
        (number, 5) for number in range(1, 6)
    ]
    steps = sum(int((example.trials_S > 0).sum()) for example in EXAMPLES)
    assert sum(update.metrics["steps"] for update in seen) == steps
    total = sum(example.truncated for example in EXAMPLES)
    assert seen[-1].metrics["truncated_steps"] == total


def test_arms_and_seeds_share_one_compilation(params):
    """Subsets of other sizes, seeds and peak rates: nothing is traced anew."""
    traced = []

    class Counting(StubModel):
        def reward_logits(self, params, batch):
            traced.append(batch.tokens_BxL.shape)
            return super().reward_logits(params, batch)

    before = digest(params)
    results = {
        digest(train(Counting(), params, EXAMPLES[:n], plan(n, 8), config, BUCKETS))
        for n, config in [
            (40, CONFIG),
            (24, CONFIG),
            (17, CONFIG),
            (40, TrainConfig(learning_rate=1e-2, seed=1)),
            (40, TrainConfig(learning_rate=3e-3)),
        ]
    }
    assert len(results) == 5
    assert len(traced) == 1
    # Nor are the parameters that all of them start from given away.
    assert digest(params) == before


def test_a_model_learns(run):
    """Labels that the last token before the marker decides are fitted."""
    rng = np.random.default_rng(0)
    examples = []
    for example in stub_examples(640, seed=8):
        tokens_L = example.tokens_L.copy()
        good = rng.integers(0, 2, len(example.marker_S))
        for place, is_good in zip(example.marker_S, good, strict=True):
            tokens_L[: place + 1] = 3 if is_good else 9
        good = good[-1:]
        examples.append(
            example._replace(
                tokens_L=tokens_L,
                marker_S=example.marker_S[-1:],
                successes_S=(8 * good).astype(np.int32),
                trials_S=example.trials_S[-1:],
            )
        )
    seen = []
    run(
        source=examples,
        budget=plan(640, 8, matched_to=1280),
        config=TrainConfig(learning_rate=0.05),
        buckets=buckets_for(examples, 1),
        on_update=seen.append,
    )
    assert seen[0].metrics["loss"] > 0.6
    assert np.mean([update.metrics["loss"] for update in seen[-20:]]) < 0.1


def test_the_folder_holds_the_model_and_its_history(run, tmp_path):
    output = tmp_path / "run"
    params = run(output=output)
    assert updates_kept(output) == [5, 4, 2]
    model, loaded = load_model(output, read=read_stub)
    assert model == MODEL
    assert digest(loaded) == digest(params) == digest(run())
    lines = read_metrics(output)
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5]
    assert {"loss", "gradient_norm", "learning_rate", "steps"} <= lines[0].keys()
    assert json.loads((output / "run.json").read_text())["seed"] == 0


def test_callers_may_look_at_the_parameters_after_any_update(run):
    seen = []
    last = run(on_update=lambda update: seen.append(digest(update.params())))
    assert len(set(seen)) == 5
    assert seen[-1] == digest(last)


def stop_at(number, how):
    def on_update(update):
        if update.number == number:
            how()

    return on_update


class Killed(Exception):
    """Stands for a process that ends between two checkpoints."""


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("how", "raised", "kept"),
    [
        (kill, Killed, [2]),
        (partial(os.kill, os.getpid(), signal.SIGINT), KeyboardInterrupt, [3, 2]),
        (partial(os.kill, os.getpid(), signal.SIGTERM), SystemExit, [3, 2]),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not(run, tmp_path, how, raised, kept):
    whole, output = tmp_path / "whole", tmp_path / "run"
    expected = run(output=whole)
    with pytest.raises(raised):
        run(output=output, on_update=stop_at(3, how))
    assert updates_kept(output) == kept
    said = []
    found = run(output=output, resume=True, report=said.append)
    assert said == [f"{output}: goes on after update {kept[0]}"]
    assert digest(found) == digest(expected)

    def lines(folder):
        timing = ("seconds", "rollouts_per_second")
        return [
            {key: value for key, value in line.items() if key not in timing}
            for line in read_metrics(folder)
        ]

    assert lines(output) == lines(whole)
    # and a finished run is left as it is
    assert digest(run(output=output, resume=True)) == digest(expected)
    assert lines(output) == lines(whole)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(run, tmp_path):
    with pytest.raises(Killed):
        run(output=tmp_path, on_update=stop_at(1, kill))
    assert digest(run(output=tmp_path, resume=True)) == digest(run())


def test_another_run_s_folder_is_left_alone(run, tmp_path):
    run(output=tmp_path, identity={"rows": "abc"})
    with pytest.raises(DataError, match="holds a run already; --resume"):
        run(output=tmp_path)
    changed = TrainConfig(learning_rate=1e-3, checkpoint_every=1, threads=1, seed=4)
    with pytest.raises(DataError, match=r"another run: learning_rate, rows, seed diff"):
        run(output=tmp_path, config=changed, resume=True, identity={"rows": "def"})
    # What does not change the result may change.
    free = TrainConfig(
        learning_rate=1e-2, checkpoint_every=1, threads=1, keep_checkpoints=1
    )
    run(output=tmp_path, config=free, resume=True, identity={"rows": "abc"})
    (tmp_path / "run.json").unlink()
    with pytest.raises(DataError, match=r"holds checkpoints, but no run\.json"):
        run(output=tmp_path, resume=True)


@pytest.mark.parametrize("output", [True, False])
def test_a_loss_that_is_not_finite_stops_and_saves_its_batch(run, tmp_path, output):
    # A patch that is not a number poisons one update.
    clean = [e._replace(images_PxD=e.images_PxD.astype(np.float32)) for e in EXAMPLES]
    order = [
        place
        for loaded in batches(clean, BUDGET, BUCKETS, Reading(CONFIG.seed))
        for place in loaded.places.tolist()
    ]
    culprit = next(place for place in order[24:32] if len(clean[place].marker_S))
    bad = [*clean]
    bad[culprit] = clean[culprit]._replace(
        images_PxD=np.full_like(clean[culprit].images_PxD, np.nan)
    )
    path = tmp_path / "run" / "not-finite-4.npz"
    with pytest.raises(DataError, match=r"^update 4: not finite \(.*nan") as error:
        run(source=bad, output=path.parent if output else None)
    assert "\n" not in str(error.value)
    assert (str(path) in str(error.value)) == path.exists() == output
    if output:
        with np.load(path) as saved:
            assert saved["places"].tolist() == order[24:32]
            expected = collate([bad[place] for place in order[24:32]], BUCKETS, 8)
            for name, array in expected._asdict().items():
                np.testing.assert_array_equal(saved[name], array)
        # The checkpoint before it is whole, and no later one was made.
        assert updates_kept(path.parent) == [2]


def test_a_run_without_a_single_label_fails(run):
    blank = [e._replace(trials_S=np.zeros_like(e.trials_S)) for e in EXAMPLES]
    with pytest.raises(DataError, match="no step was trained on"):
        run(source=blank)
    # One label is enough.
    run(source=[*blank[:-1], EXAMPLES[-1]])


def test_an_unreadable_rollout_stops_the_run(run):
    class Source(list):
        def __getitem__(self, place):
            if place == 7:
                raise DataError("a.jsonl:8: damaged image")
            return super().__getitem__(place)

    with pytest.raises(DataError, match=r"a\.jsonl:8"):
        run(source=Source(EXAMPLES))


def test_batches_that_cannot_be_divided_are_refused(run):
    with pytest.raises(ValueError, match="3 micro-batches cannot share 8"):
        run(config=TrainConfig(accumulate=3))
    with pytest.raises(ValueError, match="accumulate must be at least 1"):
        TrainConfig(accumulate=0)
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1"):
        TrainConfig(keep_checkpoints=0)


def test_a_run_in_a_thread_works(run):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert digest(pool.submit(run).result()) == digest(run())
