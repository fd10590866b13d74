"""Progress where nobody watches a terminal, and compiled code kept for later runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.console import progress as module
from experiments.console.compilation import compiled_folder, keep_compiled
from experiments.console.progress import progress


@pytest.fixture
def quick(monkeypatch):
    """Tens of seconds pass in hundredths."""
    monkeypatch.setattr(module, "_FIRST", 0.05)
    monkeypatch.setattr(module, "_NEXT", (0.05,))
    monkeypatch.setattr(module, "_THEN", 0.05)


def until(job, capfd, said, ticks=()):
    """What a job says, which ends once ``said`` has been."""
    err = ""
    with job as tick:
        for done in ticks:
            tick(done)
        for _ in range(2000):
            err += capfd.readouterr().err
            if said in err:
                return err
            module.time.sleep(0.01)
    raise AssertionError(err)


def test_a_log_is_told_what_goes_on(quick, capfd):
    job = progress("training", 1200, "updates", "compiling")
    assert until(job, capfd, "0 of 1,200 updates").startswith("training: compiling\n")
    job = progress("training", 1200, "updates", "compiling")
    assert "compiling" not in until(job, capfd, "30 of 1,200", [30])
    assert until(progress("loading", None), capfd, "loading: ")


def test_a_job_that_ends_at_once_says_nothing(quick, capfd):
    with progress("reading", 3, "files", "compiling") as tick:
        tick(3)
    assert capfd.readouterr() == ("", "")


def test_a_stream_that_is_no_file_is_left_alone(quick, capsys):
    with progress("reading", 3, "files", "compiling"):
        module.time.sleep(0.3)
    assert capsys.readouterr().err == ""


PROGRAM = """
from experiments.cli import main
main(["doctor", "--json"])
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 3.0 + 1.0)(2.0)
"""


def test_what_was_compiled_lies_in_the_users_cache(tmp_path):
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    del env["JAX_COMPILATION_CACHE_DIR"]
    subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, timeout=120)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.is_relative_to(tmp_path / "mprm/compiled") for path in files)


def test_the_users_own_place_and_a_home_that_cannot_be_written(
    tmp_path, monkeypatch, capsys
):
    place = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.setenv(place, str(tmp_path / "own"))
    assert compiled_folder() == tmp_path / "own"
    keep_compiled()
    assert os.environ[place] == str(tmp_path / "own")
    monkeypatch.delenv(place)
    (tmp_path / "file").touch()
    for home in ("/proc/none", tmp_path / "file"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        keep_compiled()
        assert place not in os.environ
        (line,) = capsys.readouterr().err.splitlines()
        assert str(home) in line
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled()
    assert Path(os.environ[place]).parent == tmp_path / "mprm/compiled"
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    keep_compiled(asked=False)
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"
