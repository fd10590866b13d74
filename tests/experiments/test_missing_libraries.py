"""A library that is not installed is one line that says what to install."""

import sys

import pytest

from experiments.console.errors import missing_library


@pytest.fixture
def without(monkeypatch):
    def remove(library):
        # Whatever was imported with it is imported again.
        for name in list(sys.modules):
            if name.startswith((f"{library}.", "experiments.theory_table")):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)

    return remove


@pytest.mark.parametrize(
    ("library", "command", "package"),
    [
        ("mpmath", "run theory", "pip install mpmath"),
        ("distributed", "stats {} --dask localhost:1", "'mprm-jax[dask]'"),
        ("pyarrow", "score {} --output {}/new.parquet", "'mprm-jax[parquet]'"),
        ("matplotlib", "figures --only subsets", "pip install matplotlib"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_to_install(
    library, command, package, as_json, without, mprm, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    without(library)
    done = mprm(command.format(corpus, tmp_path), *(["--json"] if as_json else []))
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert package in done.err
    if as_json:
        assert package in done.json["error"]


def test_a_package_of_our_own_that_is_missing_is_a_fault():
    with pytest.raises(ModuleNotFoundError):
        missing_library(ModuleNotFoundError("no module", name="theory.nothing"))
