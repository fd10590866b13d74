"""A small corpus for the commands, and the commands."""

import gzip

import numpy as np
import pytest

from tests.cli import run
from tests.raw_files import line, random_records, write_corpus
from tests.report_run import write_run


@pytest.fixture
def corpus(tmp_path):
    """Three sources of random rollouts, one of them in two shards, one compressed."""
    rng = np.random.default_rng(11)
    compressed = "\n".join(map(line, random_records(rng, 50))).encode()
    return write_corpus(
        tmp_path / "corpus",
        {
            "AI2D-00000-of-00002.jsonl": random_records(rng, 40),
            "AI2D-00001-of-00002.jsonl": random_records(rng, 23),
            "ChartQA.jsonl": random_records(rng, 37),
            "NLVR2.jsonl.gz": gzip.compress(compressed),
        },
    )


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A tiny run of the demo, to be read only."""
    return write_run(tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture
def stub(monkeypatch):
    """Any folder is a checkpoint of the stub."""
    import jax

    from tests.mprm_jax.stub_model import StubModel

    loaded = StubModel(), StubModel().init(jax.random.key(0))
    monkeypatch.setattr("mprm_jax.train.open_model.load_model", lambda *_, **__: loaded)


@pytest.fixture
def mprm(capsys):
    """Runs ``mprm``; a text is split into its words, a path is one."""

    def command(*arguments):
        words = [
            word
            for argument in arguments
            for word in (argument.split() if isinstance(argument, str) else [argument])
        ]
        return run(capsys, *words)

    return command
