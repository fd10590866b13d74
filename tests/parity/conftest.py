"""Skips everything here where torch or transformers is not installed."""

import importlib.util

import jax
import pytest

needed = ("torch", "transformers")
if any(importlib.util.find_spec(name) is None for name in needed):
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "parity: needs the group parity (uv run --group parity pytest tests/parity)",
    )


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "parity":
            item.add_marker(pytest.mark.parity)
            # Whatever the references warn of is not a fault of this package.
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Each case runs once or twice: compiling well costs more than it saves."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
