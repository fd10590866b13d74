"""Docstrings and comments name only modules and names that exist."""

import importlib
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("theory", "sim", "mprm_jax", "experiments", "paper_figures")
# A dotted path of ours; sim.py and theory/README.md are files, not names.
DOTTED = re.compile(
    rf"(?<![\w./])(?:{'|'.join(PACKAGES)})(?:\.(?!py\b|md\b)[A-Za-z_]\w*)+"
)


def named(path):
    """(line, dotted path) of those in strings and comments of a file."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                for found in DOTTED.finditer(token.string):
                    yield token.start[0], found[0]


def resolves(dotted):
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:n])
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            break
    else:
        return False
    if n == len(parts):
        return True
    found = importlib.import_module(".".join(parts[:n]))
    for part in parts[n:]:
        # A field without a default is no attribute of its class.
        if not hasattr(found, part):
            return part in getattr(found, "__annotations__", {})
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("package", PACKAGES)
def test_dotted_paths_in_strings_and_comments_resolve(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for line, dotted in named(path):
            assert resolves(dotted), f"{path}:{line}: {dotted}"


def test_a_name_that_is_gone_is_found():
    assert resolves("mprm_jax.data.scored.read_candidates")
    assert not resolves("mprm_jax.data.candidates.read_candidates")
    assert not resolves("mprm_jax.data.scored.gone")
