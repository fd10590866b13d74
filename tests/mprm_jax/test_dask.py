"""A Dask cluster builds the same index, bit for bit (uv run --group dask pytest)."""

import numpy as np
import pytest

from mprm_jax.data import index
from mprm_jax.data.corpus import read_corpus
from tests.cli import run
from tests.raw_files import random_records, write_corpus

pytestmark = [pytest.mark.dask, pytest.mark.filterwarnings("ignore")]

distributed = pytest.importorskip("distributed", reason="needs the group dask")


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as local:
        yield local


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"s{i}.jsonl": random_records(rng, 50) for i in range(6)}
    return write_corpus(tmp_path / "corpus", files)


def test_a_dask_cluster_gives_the_same_index(cluster, corpus):
    alone = read_corpus(corpus, use_cache=False)
    with distributed.Client(cluster) as client:
        there = read_corpus(corpus, executor=client.get_executor(), use_cache=False)
    for name in ("offset", "size", "line", "content", "file"):
        assert np.array_equal(getattr(alone, name), getattr(there, name)), name
    for name in ("successes", "trials", "offsets", "source"):
        a, b = getattr(alone.rollouts, name), getattr(there.rollouts, name)
        assert np.array_equal(a, b), name
        assert a.dtype == b.dtype
    assert alone.sha256 == there.sha256
    assert set(index.COLUMNS) >= {"offset", "size", "line", "content"}


def test_select_on_a_dask_cluster_writes_the_same_bytes(
    cluster, corpus, tmp_path, capsys
):
    outputs = []
    for name, extra in (("a", []), ("b", ["--dask", cluster.scheduler_address])):
        output = tmp_path / name / "subset.jsonl"
        done = run(capsys, "select", corpus, "--no-cache", "--output", output, *extra)
        assert done.status == 0, done.err
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]


def test_a_scheduler_that_is_not_there_is_one_line(corpus, tmp_path, capsys):
    failed = run(
        capsys,
        "select",
        corpus,
        "--dask",
        "tcp://127.0.0.1:1",
        "--output",
        tmp_path / "o.jsonl",
    )
    assert failed.status == 1
    assert failed.err.splitlines()[-1].startswith("mprm select: ")
