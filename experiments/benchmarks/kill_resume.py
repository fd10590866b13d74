"""Kill training at random moments, damage checkpoints at random: is all as it was?

    uv run python -m experiments.benchmarks.kill_resume --kills 100 --damages 200

A run of a stub model is killed (SIGKILL) at random moments and resumed until it has
been killed often enough. After every kill the newest whole checkpoint must be bitwise
that of an uninterrupted run at the same update, and the finished run's parameters and
metrics must be the uninterrupted run's. Then checkpoints are damaged one at a time;
each must be refused by name and the one before it used.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
import xxhash

from mprm_jax.data.batches import buckets_for
from mprm_jax.train.checkpoint import FOLDER, Restored, restore_latest, updates_kept
from mprm_jax.train.loop import TrainConfig, TrainingJob, Watch, train
from mprm_jax.train.run_files import RunFolder, read_metrics
from mprm_jax.train.update import initial_state
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.stub_model import StubModel, stub_examples

ROLLOUTS, BATCH = 480, 8
CONFIG = TrainConfig(learning_rate=1e-2, checkpoint_every=2, seed=7)

# What a damaged file looks like.
DAMAGES = (
    "truncated",
    "bit",
    "missing",
    "swapped",
    "other",
    "emptied",
    "longer",
    "extra",
)


def digest(params: Any) -> str:
    """Hash of every bit of a tree of arrays."""
    total = xxhash.xxh3_128()
    for leaf in jax.tree.leaves(params):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def stub_run(output: Path | None, rollouts: int = ROLLOUTS, **options: Any) -> None:
    """Begin a run, or go on with it."""
    model = StubModel()
    examples = stub_examples(rollouts)
    job = TrainingJob(
        model, examples, plan(rollouts, BATCH), buckets_for(examples, 1), CONFIG
    )
    folder = output and RunFolder(output, resume=True)
    train(job, model.init(jax.random.key(0)), folder, **options)


def reference(rollouts: int = ROLLOUTS) -> dict[int, str]:
    """Digest of the parameters after each update of a run that no one disturbs."""
    seen: dict[int, str] = {}

    def look(number: int, params: Any) -> dict[str, float]:
        seen[number] = digest(params)
        return {}

    stub_run(None, rollouts, watch=Watch(lambda number: True, look))
    return seen


def newest(
    output: Path, report: Callable[[str], None] = lambda message: None
) -> Restored | None:
    """The newest whole checkpoint of a stub run, as training would go on from it."""
    model = StubModel()
    params = model.init(jax.random.key(0))
    budget = plan(ROLLOUTS, BATCH)
    state, _ = initial_state(model, params, budget, CONFIG.optimizer, 1e-2)
    return restore_latest(output, params, state._replace(trained=None), report=report)


def _child(output: Path, cache: Path, rollouts: int, trains: Event) -> None:
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    stub_run(output, rollouts, on_update=lambda _: trains.set())
    # Also where nothing was left to do.
    trains.set()


def kill_until_done(
    output: Path,
    kills: int,
    seed: int,
    rollouts: int = ROLLOUTS,
    tick: Callable[[int], None] = lambda kills: None,
) -> dict[str, int]:
    """Kill and resume runs; begin a new one whenever one ends before the last kill.

    A process is killed at a moment drawn from [0, the time that a whole run took], both
    from the first update on: starting takes longer than all updates together, and is
    the longer the busier the machine is.

    Args:
        output: folder of the runs.
        kills: to make.
        seed: of the moments.
        rollouts: of a run.
        tick: told of every kill.

    Returns:
        kills, kills that left a checkpoint to go on from, runs that were finished.

    Raises:
        AssertionError: a checkpoint or a finished run is not the undisturbed one's.
    """
    rng = np.random.default_rng(seed)
    expected = reference(rollouts)
    # Processes forked from a clean server, which has imported all that takes time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    made = {"kills": 0, "with_checkpoint": 0, "finished": 0}
    whole = 0.0
    last_update = 0
    with tempfile.TemporaryDirectory() as cache:
        while True:
            trains = context.Event()
            process = context.Process(
                target=_child, args=(output, Path(cache), rollouts, trains)
            )
            process.start()
            assert trains.wait(600), "a run did not begin"
            began = time.perf_counter()
            # The first run shows how long one takes, the last has to end.
            spared = not whole or made["kills"] >= kills
            process.join(None if spared else rng.uniform(0, whole))
            if process.is_alive():
                process.kill()
                process.join()
                made["kills"] += 1
                tick(made["kills"])
            assert process.exitcode in (0, -signal.SIGKILL), "a run failed by itself"
            found = newest(output)
            if found is not None:
                made["with_checkpoint"] += process.exitcode != 0
                assert digest(found.params) == expected[found.progress.update]
                assert found.progress.update >= last_update
                last_update = found.progress.update
            if process.exitcode == 0:
                whole = whole or time.perf_counter() - began
                check_finished(output, expected)
                made["finished"] += 1
                if made["kills"] >= kills:
                    return made
                shutil.rmtree(output)
                last_update = 0


def check_finished(output: Path, expected: dict[int, str]) -> None:
    """Assert that a finished run is whole: its last parameters, and every metric."""
    found = newest(output)
    assert found is not None
    assert found.progress.update == len(expected)
    assert digest(found.params) == expected[len(expected)]
    assert [line["update"] for line in read_metrics(output)] == sorted(expected)


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Damage one file of a checkpoint; says how. Its bytes are then never the same."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    kind = DAMAGES[rng.integers(len(DAMAGES))]
    data = path.read_bytes()
    match kind:
        case "truncated" if len(data) > 1:
            path.write_bytes(data[: rng.integers(len(data))])
        case "bit" if data:
            place, bit = rng.integers(len(data)), 1 << int(rng.integers(8))
            changed = bytearray(data)
            changed[place] ^= bit
            path.write_bytes(changed)
        case "missing":
            path.unlink()
        case "swapped" | "other":
            # with another file of the checkpoint, or the same file of an older one
            others = files
            if kind == "other":
                older = folder.parent / str(updates_kept(folder.parent.parent)[1])
                others = sorted(p for p in older.rglob("*") if p.is_file())
            rng.shuffle(others)
            other = next(o for o in others if o.read_bytes() != data)
            path.write_bytes(other.read_bytes())
            if kind == "swapped":
                other.write_bytes(data)
        case "emptied" if data:
            path.write_bytes(b"")
        case "extra":
            (path.parent / "extra").write_bytes(b"more")
        case _:
            path.write_bytes(data + b"\0")
    return f"{kind} {path.relative_to(folder)}"


def damage_often(
    output: Path, damages: int, seed: int, expected: dict[int, str]
) -> int:
    """Damage the newest checkpoint of a finished run, again and again, in copies.

    Returns:
        damages that were refused by name, with the checkpoint before used instead.

    Raises:
        AssertionError: one was not.
    """
    rng = np.random.default_rng(seed)
    newest_update, before = updates_kept(output)[:2]
    for _ in range(damages):
        with tempfile.TemporaryDirectory(dir=output.parent) as name:
            copy = Path(name)
            shutil.copytree(output / FOLDER, copy / FOLDER)
            what = damage(copy / FOLDER / str(newest_update), rng)
            said: list[str] = []
            found = newest(copy, said.append)
            assert found is not None, what
            assert found.progress.update == before, what
            assert digest(found.params) == expected[before], what
            assert len(said) == 1, what
            assert f"{FOLDER}/{newest_update}: damaged" in said[0], what
            assert f"{FOLDER}/{before} is whole" in said[0], what
    return damages


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill and damage.

    Attributes:
        kills: At random moments.
        damages: Of checkpoints, at random.
        rollouts: Of a run, 8 to an update.
        seed: Of moments and damages.
    """

    kills: int = 100
    damages: int = 200
    rollouts: int = ROLLOUTS
    seed: int = 0


def main(options: Options) -> None:
    """Run both and print what was seen."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "run"
        began = time.perf_counter()
        made = kill_until_done(
            output,
            options.kills,
            options.seed,
            options.rollouts,
            lambda kills: print(f"{kills} kills", end="\r", file=sys.stderr),
        )
        seconds = time.perf_counter() - began
        print(
            f"{made['kills']} kills ({made['with_checkpoint']} after a checkpoint), "
            f"{made['finished']} runs finished in {seconds:.0f} s: every restored "
            "checkpoint and every finished run bitwise the undisturbed one's"
        )
        began = time.perf_counter()
        expected = reference(options.rollouts)
        refused = damage_often(output, options.damages, options.seed, expected)
        seconds = time.perf_counter() - began
        print(
            f"{refused} of {options.damages} damaged checkpoints refused by name and "
            f"the one before used, in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
