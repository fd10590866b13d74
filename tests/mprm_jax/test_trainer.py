import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.data.loader import Batches, BatchOrder
from mprm_jax.records.problems import DataError
from mprm_jax.train import loop
from mprm_jax.train.checkpoint import restore_latest, updates_kept
from mprm_jax.train.loop import (
    TrainConfig,
    TrainingJob,
    Watch,
    advised,
    stoppable,
    train,
)
from mprm_jax.train.objective import StepLabeller
from mprm_jax.train.open_model import load_model
from mprm_jax.train.optimizer import join
from mprm_jax.train.run_files import BASE, RUN, Base, RunFolder, read_metrics
from mprm_jax.train.update import UpdateRule, compiled_step, initial_state, update
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.stub_model import SHAPES, StubModel, read_stub, stub_examples

MODEL = StubModel()
EXAMPLES = stub_examples(40)
BUCKETS = buckets_for(EXAMPLES, 1)
PLAN = plan(40, 8)
CONFIG = TrainConfig(learning_rate=1e-2, checkpoint_every=2)
ORDER = BatchOrder(PLAN.batch_size, PLAN.presentations, CONFIG.seed)


RESUME = {"resume": True}


class Killed(Exception):
    """Stands for a process that ends between two checkpoints."""


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))


@pytest.fixture
def run(params):
    """``train`` of the stub, with changes of the job."""

    def one(path=None, folder=None, *, watch=None, on_update=lambda _: None, **changes):
        job = {"source": EXAMPLES, "plan": PLAN, "buckets": BUCKETS, "config": CONFIG}
        where = path and RunFolder(path, **folder or {})
        return train(
            TrainingJob(MODEL, **job | changes),
            params,
            where,
            on_update=on_update,
            watch=watch,
        )

    return one


def test_training_is_the_updates_one_after_another(run, params):
    state, frozen = initial_state(MODEL, params, PLAN, CONFIG.optimizer, 1e-2)
    labeller = StepLabeller(CONFIG.objective)
    rule = UpdateRule(MODEL, CONFIG.optimizer, CONFIG.objective)
    for loaded in Batches(EXAMPLES, BUCKETS, ORDER, labeller).from_first():
        (batch,) = loaded.batches
        state, _ = compiled_step(
            state, frozen, batch, batch.weight_BxS.sum(), rule=rule
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
    results = set()
    for n, config in [
        (40, CONFIG),
        (24, CONFIG),
        (17, CONFIG),
        (40, TrainConfig(learning_rate=1e-2, seed=1)),
        (40, TrainConfig(learning_rate=3e-3)),
    ]:
        job = TrainingJob(Counting(), EXAMPLES[:n], plan(n, 8), BUCKETS, config)
        results.add(digest(train(job, params)))
    assert len(results) == 5
    assert len(traced) == 1
    # Nor are the parameters that all of them start from given away.
    assert digest(params) == before


def test_a_model_learns(run):
    """Labels that the last token before the marker decides are fitted."""
    rng = np.random.default_rng(0)
    examples = []
    for example in stub_examples(640, seed=8):
        good = int(rng.integers(0, 2))
        last = example.marker_S[-1:]
        tokens_L = example.tokens_L.copy()
        tokens_L[: int(last.max(initial=0)) + 1] = 3 if good else 9
        examples.append(
            example._replace(
                tokens_L=tokens_L,
                marker_S=last,
                successes_S=np.full(len(last), 8 * good, np.int32),
                trials_S=example.trials_S[-1:],
            )
        )
    seen = []
    run(
        source=examples,
        plan=plan(640, 8, matched_to=1280),
        config=TrainConfig(learning_rate=0.05),
        buckets=buckets_for(examples, 1),
        on_update=seen.append,
    )
    assert seen[0].metrics["loss"] > 0.5
    assert np.mean([update.metrics["loss"] for update in seen[-20:]]) < 0.1


def test_the_folder_holds_the_model_and_its_history(run, tmp_path):
    output = tmp_path / "run"
    params = run(output)
    assert updates_kept(output) == [5, 4, 2]
    model, loaded = load_model(output, read=read_stub)
    assert model == MODEL
    assert digest(loaded) == digest(params) == digest(run())
    lines = read_metrics(output)
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5]
    assert {"loss", "gradient_norm", "learning_rate", "steps"} <= lines[0].keys()
    assert json.loads((output / RUN).read_text())["seed"] == 0


class AllTrained(StubModel):
    """The stub, with nothing frozen."""

    def trainable(self, params):
        return jax.tree.map(lambda _: True, params)


@pytest.mark.parametrize("model", [StubModel(), AllTrained()])
def test_who_trains_all_has_no_base(params, tmp_path, model):
    job = TrainingJob(model, EXAMPLES[:8], plan(8, 8), BUCKETS, CONFIG)
    weights = tmp_path / "weights"
    last = train(
        job, params, RunFolder(tmp_path / "run", base=Base(weights, "float32"))
    )
    found = restore_latest(tmp_path / "run", params)
    assert found is not None
    # A checkpoint is whole exactly if no parameter is left out.
    whole = isinstance(model, AllTrained)
    assert (found.frozen is None) == whole
    assert (found.params["vision"]["kernel"] is not None) == whole
    assert (tmp_path / "run" / BASE).exists() != whole
    for name in ("blocks", "head"):
        assert digest(found.params[name]) == digest(last[name])


def test_callers_may_look_at_the_parameters_after_any_update(run, tmp_path):
    seen = {}

    def look(number, params):
        seen[number] = digest(params)
        return {"seen": float(len(seen))}

    last = run(tmp_path, watch=Watch(lambda number: number != 3, look))
    assert seen.keys() == {1, 2, 4, 5}
    assert len({*seen.values()}) == 4
    assert seen[5] == digest(last)
    told = [line.get("seen") for line in read_metrics(tmp_path)]
    assert told == [1, 2, None, 3, 4]


def watch_of(values, **options):
    """A watch that finds these values, at every update that has one."""
    return Watch(values.__contains__, lambda n, _: {"good": values[n]}, **options)


def test_the_best_checkpoint_is_kept_and_is_what_is_loaded(run, tmp_path):
    seen = {}

    def look(number, params):
        seen[number] = digest(params)
        return {"good": {1: 0.5, 3: 0.75, 4: 0.25, 5: 0.75}[number]}

    watch = Watch(lambda number: number != 2, look, best="good")
    few = TrainConfig(learning_rate=1e-2, keep_checkpoints=1)
    last = run(tmp_path, config=few, watch=watch)
    assert updates_kept(tmp_path) == [5, 3]
    assert digest(load_model(tmp_path, read=read_stub)[1]) == seen[3]
    # A run goes on from the newest.
    assert digest(run(tmp_path, config=few, watch=watch, folder=RESUME)) == digest(last)


def test_a_run_without_progress_ends_early_and_stays_ended(run, tmp_path):
    said = []
    folder = {"resume": True, "report": said.append}
    watch = watch_of({1: 0.5, 2: np.nan, 3: 0.5, 4: 0.6}, best="good", patience=2)
    ended = run(tmp_path, watch=watch, folder=folder)
    assert "best is update 1" in said[-1]
    assert updates_kept(tmp_path) == [3, 2, 1]
    again = run(tmp_path, watch=watch, folder=folder)
    assert digest(again) == digest(ended)
    assert len(read_metrics(tmp_path)) == 3
    # With more patience it goes on to a better one.
    more = watch_of({1: 0.5, 2: np.nan, 3: 0.5, 4: 0.6}, best="good", patience=3)
    run(tmp_path, watch=more, folder=folder)
    assert len(read_metrics(tmp_path)) == 5


def test_a_tracker_is_told_and_one_that_is_missing_is_named(run, tmp_path, monkeypatch):
    told = []
    package = SimpleNamespace(
        init=lambda **names: told.append(names),
        log=lambda metrics, step: told.append((step, metrics["loss"])),
        finish=lambda: told.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", package)
    config = TrainConfig(learning_rate=1e-2, tracker="trackio")
    run(tmp_path / "run", config=config)
    losses = [(line["update"], line["loss"]) for line in read_metrics(tmp_path / "run")]
    assert told == [{"project": "mprm", "name": "run"}, *losses, "finished"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DataError, match="pip install wandb"):
        run(tmp_path / "other", config=TrainConfig(tracker="wandb"))


def test_a_trace_of_some_updates_is_written(run, tmp_path):
    run(tmp_path, config=TrainConfig(learning_rate=1e-2, profile=True))
    (trace,) = tmp_path.glob("profile/**/*.xplane.pb")
    assert trace.stat().st_size > 0


def test_the_next_update_is_under_way_before_one_is_read(run, monkeypatch):
    """The devices have work while the host reads, logs and tells."""
    events = []

    def dispatch(state, frozen, batches, weight, rule):
        number = sum(kind == "dispatched" for kind, _ in events) + 1
        events.append(("dispatched", number))
        return update(state, frozen, batches, weight, rule)

    monkeypatch.setattr(loop, "update", dispatch)
    run(on_update=lambda update: events.append(("told", update.number)))
    # No folder: nothing is due before the end.
    assert [event for event in events if event[0] == "told"] == [
        ("told", number) for number in range(1, 6)
    ]
    for number in range(1, 5):
        after = events.index(("dispatched", number + 1))
        assert after < events.index(("told", number))


def test_speed_and_padding_are_those_of_the_session(run, tmp_path):
    """Of real tokens and rollouts, since the run began or went on."""

    def stop(update):
        if update.number == 3:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, on_update=stop)
    run(tmp_path, folder=RESUME)
    made, tokens, rollouts = Batches(EXAMPLES, BUCKETS, ORDER).from_first(), 0, 0
    for line, loaded in zip(read_metrics(tmp_path), made, strict=True):
        total = loaded.total.tokens
        assert line["real_token_share"] == total / loaded.padded
        # Resumed from the checkpoint of the second update.
        began_here = line["update"] == 3
        tokens = total if began_here else tokens + total
        rollouts = 8 if began_here else rollouts + 8
        for name, count in (("tokens", tokens), ("rollouts", rollouts)):
            told = line[f"{name}_per_second"] * line["seconds"]
            assert told == pytest.approx(count), (name, line["update"])


def test_micro_batches_of_their_own_shapes_make_the_same_run(run):
    """Sorted by length and padded each to its own: the loss does not notice."""
    order = BatchOrder(8, 40, 0, micro_batches=2)
    made = Batches(EXAMPLES, SHAPES, order).from_first()
    assert len({batch.tokens_BxL.shape for of in made for batch in of.batches}) > 1
    told = {parts: [] for parts in (1, 2)}
    for parts, seen in told.items():
        run(
            buckets=SHAPES,
            config=TrainConfig(learning_rate=1e-2, accumulate=parts),
            on_update=seen.append,
        )
    for one, other in zip(*told.values(), strict=True):
        for name in ("loss", "gradient_norm", "steps"):
            assert other.metrics[name] == pytest.approx(one.metrics[name], rel=1e-5)


def stop_at(number, how):
    def on_update(update):
        if update.number == number:
            how()

    return on_update


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("how", "raised", "kept"),
    [
        (kill, Killed, [2]),
        (partial(os.kill, os.getpid(), signal.SIGINT), KeyboardInterrupt, [4, 2]),
        (partial(os.kill, os.getpid(), signal.SIGTERM), SystemExit, [4, 2]),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not(run, tmp_path, how, raised, kept):
    whole, output = tmp_path / "whole", tmp_path / "run"
    expected = run(whole)
    with pytest.raises(raised):
        run(output, on_update=stop_at(3, how))
    assert updates_kept(output) == kept
    said = []
    found = run(output, folder={"resume": True, "report": said.append})
    assert said == [f"{output}: goes on after update {kept[0]}"]
    assert digest(found) == digest(expected)

    def lines(folder):
        timing = ("seconds", "rollouts_per_second", "tokens_per_second")
        return [
            {key: value for key, value in line.items() if key not in timing}
            for line in read_metrics(folder)
        ]

    assert lines(output) == lines(whole)
    # and a finished run is left as it is
    assert digest(run(output, folder=RESUME)) == digest(expected)
    assert lines(output) == lines(whole)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(run, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, on_update=stop_at(1, kill))
    assert digest(run(tmp_path, folder=RESUME)) == digest(run())


def test_another_run_s_folder_is_left_alone(run, tmp_path):
    run(tmp_path, folder={"identity": {"rows": "abc"}})
    with pytest.raises(DataError, match="holds a run already"):
        run(tmp_path)
    changed = TrainConfig(learning_rate=1e-3, checkpoint_every=1, seed=4)
    with pytest.raises(DataError, match=r"another run: learning_rate, rows, seed diff"):
        run(tmp_path, config=changed, folder=RESUME | {"identity": {"rows": "def"}})
    # What does not change the result may change.
    free = TrainConfig(
        learning_rate=1e-2, checkpoint_every=1, threads=1, keep_checkpoints=1
    )
    run(tmp_path, config=free, folder=RESUME | {"identity": {"rows": "abc"}})
    (tmp_path / RUN).unlink()
    with pytest.raises(DataError, match=r"holds checkpoints, but no run\.json"):
        run(tmp_path, folder=RESUME)


@pytest.mark.parametrize("output", [True, False])
def test_a_loss_that_is_not_finite_stops_and_saves_its_batch(run, tmp_path, output):
    # A patch that is not a number poisons one update.
    clean = [e._replace(images_PxD=e.images_PxD.astype(np.float32)) for e in EXAMPLES]
    order = [
        place
        for loaded in Batches(clean, BUCKETS, ORDER).from_first()
        for place in loaded.places.tolist()
    ]
    culprit = next(place for place in order[24:32] if len(clean[place].marker_S))
    bad = [*clean]
    bad[culprit] = clean[culprit]._replace(
        images_PxD=np.full_like(clean[culprit].images_PxD, np.nan)
    )
    path = tmp_path / "run" / "not-finite-4.npz"
    with pytest.raises(DataError, match=r"^update 4: not finite \(.*nan") as error:
        run(path.parent if output else None, source=bad)
    assert "\n" not in str(error.value)
    assert (str(path) in str(error.value)) == path.exists() == output
    if output:
        with np.load(path) as saved:
            assert saved["places"].tolist() == order[24:32]
            rows, labeller = (
                [bad[place] for place in order[24:32]],
                StepLabeller(CONFIG.objective),
            )
            expected = collate(rows, BUCKETS, 8, labeller)._asdict()
            assert saved.keys() == expected.keys() - {"place_BxKxL"} | {"places"}
            for name in saved.keys() - {"places"}:
                array = expected[name]
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accumulate": 3}, "3 micro-batches cannot share 8"),
        ({"accumulate": 8}, "2 parts of the mesh cannot share a batch of 8 in 8"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1"),
        ({"learning_rate": np.nan}, "learning_rate must be finite"),
    ],
)
def test_settings_without_meaning_are_refused(run, changes, words):
    with pytest.raises(ValueError, match=words):
        run(config=TrainConfig(**changes))


def test_a_run_in_a_thread_works_and_leaves_signals_alone(run):
    with ThreadPoolExecutor(1) as pool:
        assert digest(pool.submit(run).result()) == digest(run())
    before, seen = signal.getsignal(signal.SIGINT), []

    def body():
        with stoppable():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_is_noted_a_second_raises_and_handlers_are_put_back():
    numbers = signal.SIGINT, signal.SIGTERM
    before = [*map(signal.getsignal, numbers)]
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:  # noqa: PT012
        assert stop.signal is None
        assert signal.getsignal(signal.SIGINT) != before[0]
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal did not raise")
    with pytest.raises(SystemExit) as left, stoppable() as stop:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        stop.leave()
    assert left.value.code == 143
    assert [*map(signal.getsignal, numbers)] == before


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.", "1234 bytes"),
        ("RESOURCE_EXHAUSTED: ... trying to allocate 2.50GiB.\nmore", "2.50GiB"),
        ("INTERNAL: Ran out of memory in memory space hbm", None),
    ],
)
def test_running_out_of_memory_is_told_in_one_line(message, size):
    with pytest.raises(DataError, match="out of device memory") as error, advised():
        raise jax.errors.JaxRuntimeError(message)
    assert "\n" not in str(error.value)
    assert ("more were wanted" in str(error.value)) == (size is not None)
    assert size is None or f"({size} more were wanted)" in str(error.value)


def test_other_failures_are_left_alone():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"), advised():
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no")
    with pytest.raises(ValueError, match="out of memory"), advised():
        raise ValueError("out of memory")
