"""Two processes, each with a device of its own, in one run: by the library and by the
command line, on every mesh of two devices.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from experiments.cli import main as mprm
from mprm_jax.data.batches import sizes_of
from mprm_jax.records.problems import DataError
from mprm_jax.train.checkpoint import updates_kept
from mprm_jax.train.loop import TrainConfig, TrainingJob, train
from mprm_jax.train.open_model import load_model
from mprm_jax.train.run_files import RunFolder, read_metrics
from mprm_jax.train.sharding import gather_bytes, in_turn, on_any_host
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.backbone_folder import internvl_folder
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.stub_model import SHAPES, StubModel, read_stub, stub_examples
from tests.raw_files import random_records, write_corpus, write_pictures

ROOT = Path(__file__).parents[2]
MESHES = "2x1x1", "1x2x1", "1x1x2"
EXAMPLES = stub_examples(40)


class Unreadable(list):
    """Examples of which one cannot be read, once it is its turn."""

    def __getitem__(self, place):
        if place == 7:
            raise DataError("a.jsonl:8: damaged image")
        return super().__getitem__(place)


def one_run(output, resume=False, source=EXAMPLES, **options):
    """Five updates of the stub, checkpointed."""
    model = StubModel()
    config = TrainConfig(learning_rate=0.01, checkpoint_every=2, accumulate=2)
    sizes = sizes_of(EXAMPLES)
    job = TrainingJob(model, source, plan(40, 8), SHAPES, config, sizes)
    params = model.init(jax.random.key(0))
    return train(job, params, RunFolder(output, resume), **options)


def command(world, output, *arguments):
    """``mprm train`` of a backbone with micro-batches, and its exit status."""
    given = (
        "train", world, "--model", world / "model", "--batch-size", 8, "--threads", 1,
        "--accumulate", 2, "--compute", "float32", "--learning-rate", 0.01,
        "--output", output, *arguments,
    )  # fmt: skip
    return mprm([str(argument) for argument in given])


def main(address, host, folder):
    """What each of the processes does."""
    folder = Path(folder)
    joining = ("--coordinator", address, "--hosts", 2, "--host", host)
    for mesh in MESHES:
        # The first one joins the hosts, which stay together.
        first = joining if mesh == MESHES[0] else ()
        assert command(folder, folder / mesh, "--mesh", mesh, *first) == 0
    assert (jax.process_count(), jax.device_count()) == (2, 2)
    refused = command(folder / "spoilt", folder / "refused", "--mesh", MESHES[0])
    assert refused == 1
    mesh = "--mesh", MESHES[0]
    assert command(folder, folder / "torn", *mesh, "--seed", host) == 1
    assert gather_bytes(host.encode()) == [b"0", b"1"]

    # Either host may be asked to stop; both do, and go on.
    def stop(update):
        if (update.number, host) == (2, "1"):
            os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        one_run(folder / "two", on_update=stop)
        raise AssertionError("nothing stopped the run")
    stopped = updates_kept(folder / "two")[0]
    assert 2 < stopped < 5
    params = one_run(folder / "two", resume=True)
    with pytest.raises(DataError) as failed:
        one_run(folder / "failed", source=Unreadable(EXAMPLES))
    again = one_run(folder / "two", resume=True)
    print(digest(params), digest(again), failed.value, sep="|")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(folder, what each host printed, its errors) of both processes."""
    folder = tmp_path_factory.mktemp("hosts")
    rng = np.random.default_rng(1)
    records = random_records(rng, 21)
    for world in (folder, folder / "spoilt"):
        write_corpus(world / "annotations", {"a.jsonl": records})
        write_pictures(world / "images", 21, (60, 40))
    (folder / "spoilt" / "images" / "17.png").write_bytes(b"no picture")
    (folder / "spoilt" / "model").symlink_to(internvl_folder(folder / "model"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        # As this process does: each program runs a few times.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    arguments = [sys.executable, "-m", "tests.mprm_jax.test_hosts", address]
    running = [
        subprocess.Popen(
            [*arguments, str(host), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=400) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, error) in zip(running, said, strict=True):
        assert process.returncode == 0, error[-3000:]
    return folder, *zip(*said, strict=True)


def test_two_hosts_make_the_run_of_one(told):
    folder, printed, _ = told
    # Both hold the same parameters, before and after going on.
    *digests, _ = zip(
        *(out.splitlines()[-1].split("|") for out in printed), strict=True
    )
    assert len({*digests[0], *digests[1]}) == 1
    one_run(folder / "one")
    folders = folder / "two", folder / "one"
    two, one = (load_model(of, read=read_stub)[1] for of in folders)
    np.testing.assert_allclose(
        two["head"]["kernel"], one["head"]["kernel"], rtol=1e-5, atol=1e-6
    )
    losses = [[line["loss"] for line in read_metrics(of)] for of in folders]
    # One host's rows of a batch are half of them: its lines are not written twice.
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == 5


def test_a_rollout_that_one_host_cannot_read_stops_both_with_the_same_line(told):
    _, printed, errors = told
    lines = {out.splitlines()[-1].split("|")[-1] for out in printed}
    assert lines == {"a.jsonl:8: damaged image"}
    # So does one that is found before the first update.
    for error in errors:
        assert "a.jsonl:18: " in error


def test_hosts_that_were_told_different_things_stop_with_the_same_line(told):
    folder, _, errors = told
    lines = [
        {line for line in error.splitlines() if "the hosts disagree" in line}
        for error in errors
    ]
    assert lines[0] == lines[1]
    (line,) = lines[0]
    assert "seed differ" in line
    assert not (folder / "torn").exists()


@pytest.mark.parametrize("mesh", MESHES)
def test_the_command_trains_on_two_hosts_what_it_trains_on_one(
    told, mesh, quick_compilation
):
    folder, _, _ = told
    if not (folder / "alone").exists():
        assert command(folder, folder / "alone", "--mesh", "1x2x1") == 0
    together, alone = (read_metrics(folder / of) for of in (mesh, "alone"))
    for one, other in zip(together, alone, strict=True):
        for name in ("loss", "gradient_norm", "steps", "real_token_share"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert one["truncated_steps"] == other["truncated_steps"]
    params = [load_model(folder / of)[1] for of in (mesh, "alone")]
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4), *params
    )


@pytest.mark.parametrize("here", [True, False])
def test_a_host_alone_asks_nobody(here):
    assert on_any_host(None, np.array([here, False])).tolist() == [here, False]
    assert gather_bytes(b"alone") == [b"alone"]
    assert list(in_turn()) == [True]


if __name__ == "__main__":
    main(*sys.argv[1:])
