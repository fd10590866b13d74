"""The direction of imports, read from the syntax trees of the packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of the others, at any depth of the code.
ALLOWED = {
    "theory": {"theory"},
    "sim": {"sim", "theory"},
    "mprm_jax": {"mprm_jax", "theory"},
    "paper_figures": {"paper_figures", "theory"},
    "experiments": {"experiments", "mprm_jax", "sim", "theory"},
}
JAX = {"jax", "jaxlib", "flax", "optax"}


def imports(path):
    """(top-level package, line, whether inside a function) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            yield name.split(".")[0], node.lineno, id(node) in inner


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_in_the_designed_direction(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source under {package}"
    for path in files:
        for name, line, inside_function in imports(path):
            if name not in ALLOWED:
                assert package != "theory" or name not in JAX, f"{path}:{line}: JAX"
                continue
            lazily_from_cli = (
                name == "paper_figures"
                and inside_function
                and path.is_relative_to(ROOT / "experiments" / "cli")
            )
            assert name in ALLOWED[package] or lazily_from_cli, (
                f"{path}:{line}: {package} must not import {name}"
            )


def test_no_source_file_is_too_long_to_hold_in_the_head():
    for package in [*ALLOWED, "tests"]:
        for path in (ROOT / package).rglob("*.py"):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= 400, f"{path} has {lines} lines"


def test_no_module_shadows_a_package_or_the_standard_library():
    import sys

    taken = set(ALLOWED) | sys.stdlib_module_names
    for package in ALLOWED:
        for path in (ROOT / package).glob("*.py"):
            assert path.stem.startswith("__") or path.stem not in taken, path
