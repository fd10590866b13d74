"""The paper's numbers stand in theory/paper.py and nowhere else in the packages."""

import ast
import re
from pathlib import Path

import pytest

from theory import paper

ROOT = Path(__file__).parents[1]
PACKAGES = ("theory", "sim", "mprm_jax", "experiments", "paper_figures")
HOME = ROOT / "theory" / "paper.py"


def digits(number):
    """Significant digits: those of 565_096, 0.0767, 7.67 and 7.67 % are comparable."""
    text = f"{float(number):.12f}".replace(".", "").strip("0")
    return text


def numbers(path):
    """(line, significant digits) of every number in code and in text that is shown.

    Docstrings and comments may cite; names and versions ("Qwen2.5") are no numbers.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in told:
            continue
        if isinstance(node.value, str):
            found = re.findall(r"(?<![\w.])\d[\d,_]*\.?\d*(?![\w.])", node.value)
            found = [re.sub("[,_]", "", text).rstrip(".") for text in found]
        elif isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            found = [node.value]
        else:
            continue
        yield from ((node.lineno, digits(number)) for number in found)


# Three significant digits and more; fewer are no one's (0.05, 16, 512 and so on are).
GENERIC = {digits(value) for value in (0.999, 448, 512, 8192, 784, 0.875)}
DISTINCTIVE = {of for _, of in numbers(HOME) if len(of) >= 3} - GENERIC


def test_there_are_numbers_to_look_for():
    assert {digits(n) for n in (565096, 3174394, 0.0767, 3.57, 65.46)} <= DISTINCTIVE


@pytest.mark.parametrize("package", PACKAGES)
def test_published_numbers_stand_in_one_place(package):
    again = [
        f"{path.relative_to(ROOT)}:{line}: {of}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != HOME
        for line, of in numbers(path)
        if of in DISTINCTIVE
    ]
    assert not again


def test_the_parts_of_the_paper_agree():
    full = paper.FULL_DATA
    assert full.steps / full.rollouts == pytest.approx(full.steps_per_rollout, abs=5e-3)
    # Table 8 sums to a little more than Table 1, which the paper does not explain.
    _, mean_mc, steps, rollouts = zip(*paper.SOURCES, strict=True)
    assert len(rollouts) == 38
    assert (sum(rollouts) - full.rollouts, sum(steps) - full.steps) == (53, 98)
    weighted = sum(a * b for a, b in zip(mean_mc, steps, strict=True)) / sum(steps)
    assert weighted == pytest.approx(0.860, abs=5e-4)
    bench = paper.VISUAL_PROCESS_BENCH
    assert (sum(bench.solutions.values()), bench.steps) == (2866, 26950)
    assert bench.steps / 2866 == pytest.approx(bench.steps_per_solution, abs=0.05)
    assert paper.updates(1.0) == 1104
    assert paper.RANDOM.keys() == paper.BIS.keys()
    # Where BIS of 10 % stands against all data, and Random of 25 %.
    assert paper.BIS[0.1][0] > paper.FULL[0] > paper.RANDOM[0.25][0]
