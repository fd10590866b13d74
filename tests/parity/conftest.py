"""Skips everything here where torch or transformers is not installed."""

import importlib.util

import jax
import pytest

MISSING = [
    name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None
]


class Absent(pytest.Module):
    """A module whose imports would fail."""

    def collect(self):
        pytest.skip(
            f"no {' and '.join(MISSING)}: uv run --group parity pytest tests/parity",
            allow_module_level=True,
        )


def pytest_pycollect_makemodule(module_path, parent):
    return Absent.from_parent(parent, path=module_path) if MISSING else None


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
