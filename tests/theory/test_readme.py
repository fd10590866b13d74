"""theory/README.md: its links resolve, its names exist, its maths renders on GitHub."""

import ast
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "theory" / "README.md"
TEXT = README.read_text(encoding="utf-8")
LINKS = re.findall(r"\[([^\]\n]+)\]\(([^)\n]+)\)", TEXT)


def names(path):
    """Functions and classes at the top of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize(("label", "target"), LINKS, ids=lambda x: x.strip("`./"))
def test_a_link_leads_to_a_file_that_has_what_it_names(label, target):
    path = (README.parent / target).resolve()
    assert path.is_file()
    if label.startswith("`"):
        assert label.strip("`") in names(path)


def test_every_module_with_formulas_is_linked():
    linked = {target for _, target in LINKS}
    # Columns, ranking and tables are no statements of the theory.
    plumbing = {"__init__", "domain", "lazy", "rollouts", "selection", "summary"}
    for path in README.parent.glob("*.py"):
        assert path.stem in plumbing or path.name in linked, path.name


def test_the_maths_keeps_to_what_github_renders():
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+?\$", TEXT, re.DOTALL)
    assert len(formulas) > 60
    assert re.sub(r"\$\$.+?\$\$|\$[^$]+?\$", "", TEXT, flags=re.DOTALL).count("$") == 0
    for formula in formulas:
        # Markdown takes these backslashes, stars and bars for its own.
        assert not re.search(r"\\[,;!{}|\\]|[*|]", formula), formula
        assert formula.count("{") == formula.count("}"), formula
        inner = formula.strip("$")
        # An inline formula begins and ends at a word, or the dollars stay dollars.
        assert formula.startswith("$$") or inner == inner.strip(), formula


def test_it_stays_short():
    assert TEXT.count("\n") <= 230
    assert len(TEXT.split()) <= 2500
