"""Strict numerics for every test: two CPU devices, no silent rank promotion."""

import os

# Before JAX starts: sharding is tested on two devices, never on a GPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
# Nothing is read from or written to the user's cache, by child processes neither.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.devnull
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
