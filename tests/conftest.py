"""Strict numerics for every test: two CPU devices, no silent rank promotion."""

import atexit
import os
import shutil
import tempfile

# Before JAX starts: sharding is tested on two devices, never on a GPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
# Nothing is read from or written to the user's cache, by child processes neither: all
# processes of a run share one of their own, because most tests compile the same steps.
if "MPRM_TESTS_COMPILED" not in os.environ:
    shared = os.environ["MPRM_TESTS_COMPILED"] = tempfile.mkdtemp(prefix="mprm-tests-")
    atexit.register(shutil.rmtree, shared, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["MPRM_TESTS_COMPILED"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
