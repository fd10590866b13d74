"""Compilation that is quick rather than good: each of these programs runs once."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Imported by the modules that want it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    # What was compiled so must not serve the modules that compare bits.
    jax.clear_caches()
