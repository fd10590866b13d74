"""Imports go one way and never in a circle, read from the packages' syntax trees.

Every import counts, those inside functions and under TYPE_CHECKING included.
"""

import ast
import graphlib
import sys
from collections import defaultdict
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of the others, at any depth of the code.
ALLOWED = {
    "theory": set(),
    "sim": {"theory"},
    "mprm_jax": {"theory"},
    "paper_figures": {"theory"},
    "experiments": {"mprm_jax", "sim", "theory"},
}
# Whatever starts a command, and the functions that draw.
MORE = {
    "mprm_jax/__main__.py": {"experiments"},
    "experiments/cli": {"paper_figures"},
    "experiments/page": {"paper_figures"},
}
JAX = {"jax", "jaxlib", "flax", "optax"}


def source(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source under {package}"
    return files


def imports(path):
    """(name of a module, line, whether inside a function) of every import."""
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
            names = [
                f"{node.module}.{alias.name}"
                if _file(f"{node.module}.{alias.name}")
                else node.module or ""
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) in inner


def _file(module):
    """The file of one of our modules, relative to the root; None for anyone else's."""
    stem = PurePath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if stem.parts[0] in ALLOWED and (ROOT / path).is_file():
            return path
    return None


def graph():
    """file -> files it imports."""
    return {
        path.relative_to(ROOT): {
            file for name, *_ in imports(path) if (file := _file(name)) is not None
        }
        for package in ALLOWED
        for path in source(package)
    }


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_in_the_designed_direction(package):
    for path in source(package):
        more = set()
        for place, names in MORE.items():
            if path.is_relative_to(ROOT / place):
                more |= names
        for name, line, inside_function in imports(path):
            top = name.split(".")[0]
            assert package != "theory" or top not in JAX, f"{path}:{line}: JAX"
            if top in ALLOWED and top not in {package, *ALLOWED[package]}:
                assert top in more, f"{path}:{line}: {name}"
                assert inside_function, f"{path}:{line}: {name} before it is needed"


def test_no_module_imports_itself_through_others():
    try:
        list(graphlib.TopologicalSorter(graph()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(map(str, error.args[1])))


def test_no_folder_imports_itself_through_others():
    """A folder is all that lies directly in it. What starts a command and what guards
    the names lies at the top and knows the whole.
    """
    folders = defaultdict(set)
    for path, imported in graph().items():
        for other in imported:
            if path.name in ("__main__.py",) or other.name == "own_packages.py":
                continue
            folders[path.parent].add(other.parent)
    for folder, others in folders.items():
        others.discard(folder)
    try:
        list(graphlib.TopologicalSorter(folders).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(map(str, error.args[1])))


def test_commands_are_imported_by_nobody_and_the_console_knows_no_experiment():
    for path, imported in graph().items():
        for other in imported:
            if other.is_relative_to("experiments/cli"):
                dispatcher = path == PurePath("experiments/cli/__init__.py")
                assert path.name == "__main__.py" or dispatcher, f"{path}: {other}"
            if path.is_relative_to("experiments/console") and other.parts[0] == (
                "experiments"
            ):
                assert other.is_relative_to("experiments/console"), f"{path}: {other}"


def test_three_files_with_one_prefix_are_a_folder():
    crowd = defaultdict(set)
    for path in graph():
        if "_" in path.stem.strip("_"):
            crowd[path.parent / path.stem.split("_")[0]].add(path)
        else:
            crowd[path.parent / path.stem].add(path)
    for prefix, paths in crowd.items():
        assert len(paths) < 3, f"{prefix}_*: {sorted(map(str, paths))}"
    assert len(list((ROOT / "experiments").glob("[!_]*"))) <= 14


def test_no_module_shadows_a_package_or_the_standard_library():
    taken = set(ALLOWED) | sys.stdlib_module_names
    for package in ALLOWED:
        for path in (ROOT / package).glob("*.py"):
            assert path.stem.startswith("__") or path.stem not in taken, path
