"""The built wheel in a clean environment, beside a project that has our names taken."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = """\
import sys
from mprm_jax.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """(python, site-packages) of an environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What the wheel depends on; a .pth in a folder so named is not read, so the
    # checkout that is installed there stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    (folder / "env/bin/mprm").write_text(ENTRY)
    return folder / "env/bin/python", site


@pytest.fixture
def project(tmp_path):
    """A project with a package, a file and a folder of our names."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").write_text("MINE = True")
    (tmp_path / "sim.py").write_text("MINE = True")
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory/__init__.py").write_text("MINE = True")
    return tmp_path


def python(installed, project, *arguments):
    """Run the installed python within the project, its folder on PYTHONPATH."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [installed[0], *arguments],
        cwd=project,
        env=environment | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_the_five_packages_and_no_more(installed):
    metadata = next(installed[1].glob("*.dist-info"))
    record = (metadata / "RECORD").read_text().splitlines()
    names = {line.split("/")[0] for line in record}
    assert names - {metadata.name} == {
        "experiments", "mprm_jax", "paper_figures", "sim", "theory"
    }  # fmt: skip
    assert not (installed[1] / "experiments/benchmarks").exists()
    assert (
        "mprm = mprm_jax.__main__:main" in (metadata / "entry_points.txt").read_text()
    )


@pytest.mark.parametrize("how", [["-m", "mprm_jax"], ["COMMAND"]])
def test_the_command_works_where_our_names_are_taken(installed, project, how):
    if how == ["COMMAND"]:
        how = [str(installed[0].parent / "mprm")]
    done = python(
        installed, project, *how, "simulate", "corpus", "--output", "out",
        "--scale", "0.001", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = python(installed, project, *how, "stats", "out", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "foreign"),
    [
        ("import mprm_jax.data.corpus", "theory/__init__.py"),
        ("import mprm_jax.train.loop", "theory/__init__.py"),
        ("import mprm_jax as mprm; mprm.select", "theory/__init__.py"),
    ],
)
def test_a_library_import_names_both_packages(installed, project, code, foreign):
    done = python(installed, project, "-c", code)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(project / foreign) in last
    assert str(installed[1] / "theory") in last


def test_the_public_names_say_what_hides_the_simulators(installed, project):
    (project / "theory/__init__.py").unlink()
    (project / "theory").rmdir()
    done = python(installed, project, "-c", "import mprm_jax as mprm; mprm.sim")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(project / "sim.py") in last
    assert str(installed[1] / "sim") in last


def test_a_library_import_leaves_the_users_packages_alone(installed, project):
    """Where nothing of ours is hidden, the user's own packages stay theirs."""
    (project / "theory/__init__.py").unlink()
    (project / "theory").rmdir()
    code = "import mprm_jax.data.corpus, experiments; assert experiments.MINE"
    done = python(installed, project, "-c", code)
    assert done.returncode == 0, done.stderr
