"""Two processes, each with a device of its own, in one run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.kill_resume import digest
from mprm_jax.data.batches import buckets_for
from mprm_jax.train.checkpoint import updates_kept
from mprm_jax.train.loop import TrainConfig, TrainingJob, train
from mprm_jax.train.open_model import load_model
from mprm_jax.train.run_files import RunFolder, read_metrics
from mprm_jax.train.sharding import any_host, in_turn, start_hosts
from mprm_jax.train.update_plan import plan
from tests.mprm_jax.stub_model import StubModel, read_stub, stub_examples

ROOT = Path(__file__).parents[2]


def one_run(output, resume=False):
    """Five updates of the stub, checkpointed."""
    import jax

    examples = stub_examples(40)
    model = StubModel()
    config = TrainConfig(learning_rate=0.01, checkpoint_every=2)
    job = TrainingJob(model, examples, plan(40, 8), buckets_for(examples, 1), config)
    return train(job, model.init(jax.random.key(0)), RunFolder(output, resume))


def main(address, host, output):
    """What each of the processes does; the second call finds a finished run."""
    import jax

    start_hosts(address, 2, int(host))
    assert (jax.process_count(), jax.device_count()) == (2, 2)
    assert any_host(jax.process_index() == 1)
    assert not any_host(False)
    params = one_run(Path(output))
    print(digest(params), digest(one_run(Path(output), resume=True)))


def test_two_hosts_make_the_run_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.mprm_jax.test_hosts", address]
    running = [
        subprocess.Popen(
            [*command, str(host), str(tmp_path / "two")],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, error) in zip(running, told, strict=True):
        assert process.returncode == 0, error[-3000:]
    # Both hold the same parameters, before and after going on.
    digests = [out.splitlines()[-1].split() for out, _ in told]
    assert len(set(digests[0] + digests[1])) == 1
    one_run(tmp_path / "one")
    folders = tmp_path / "two", tmp_path / "one"
    two, one = (load_model(folder, read=read_stub)[1] for folder in folders)
    np.testing.assert_allclose(
        two["head"]["kernel"], one["head"]["kernel"], rtol=1e-5, atol=1e-6
    )
    assert updates_kept(folders[0]) == [5, 4, 2]
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in folders]
    # One host's rows of a batch are half of them: its lines are not written twice.
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == 5


@pytest.mark.parametrize("here", [True, False])
def test_a_host_alone_asks_nobody(here):
    assert any_host(here) == here
    assert list(in_turn()) == [True]


if __name__ == "__main__":
    main(*sys.argv[1:])
