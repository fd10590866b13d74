"""Do the tests of a package notice planted faults?

    uv run python -m experiments.benchmarks.mutation --sample 25 --seed 0

plants one fault at a time in a copy of the package, runs the tests of the faulty module
and, if they pass, all tests of the package. Results are appended to a JSONL file; a
second run goes on where the first one stopped. Every operator applies to every file
(:mod:`experiments.benchmarks.mutation_operators`); a sample is drawn from all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import tyro

from experiments.benchmarks.mutation_operators import Mutant, mutants, mutate
from experiments.console.tables import format_table

_ROOT = Path(__file__).parents[2]

# CPU seconds a run may take before it counts as killed: this many times those of the
# untouched tests, and as many more. (Not wall seconds, which depend on other work.)
_PATIENCE, _GRACE = 4.0, 30.0

# Only a run that waits for ever takes longer than this.
_WALL_SECONDS = 7200

# Exit status, none of pytest's, of tests that would have imported another package.
_NOT_THE_COPY = 99


@dataclasses.dataclass(frozen=True)
class Options:
    """Plant faults in the theory, one at a time, and count those its tests notice.

    Attributes:
        module: Modules to plant them in; all by default.
        sample: Faults per module, drawn at random; 0 plants every one. A larger sample
            of the same seed contains the smaller.
        seed: Of the sample.
        own: Leave it at the tests of the faulty module: quicker, and a fault that they
            miss counts as survived whatever the other tests find.
        output: JSONL file of the results, appended to.
        list: Only count the faults.
    """

    module: tuple[str, ...] = ()
    sample: int = 25
    seed: int = 0
    own: bool = False
    output: Path = Path("runs/mutation.jsonl")
    list: bool = False


def main() -> None:
    """Plant, test, report."""
    options = tyro.cli(Options, config=(tyro.conf.FlagCreatePairsOff,))
    every = sorted(path.stem for path in (_ROOT / "theory").glob("*.py"))
    unknown = sorted(set(options.module) - set(every))
    if unknown:
        sys.exit(f"mutation: no module {unknown[0]!r}; known: {', '.join(every)}")
    modules = options.module or tuple(name for name in every if name != "__init__")
    if options.list:
        for name in modules:
            print(f"{len(mutants(_source(_ROOT, name))):6}  {name}")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for name in ("theory", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_ROOT / name, copy / name, ignore=ignored)
        shutil.copy(_ROOT / "pyproject.toml", copy)
        _warm_up(copy)
        for name in modules:
            rows.append(_report(name, list(_plant_all(copy, name, options))))
    header = ("module", "faults", "tried", "killed", "rate", "survived")
    print(format_table(header, rows))


def _source(root: Path, module: str) -> str:
    return (root / "theory" / f"{module}.py").read_text(encoding="utf-8")


def _plant_all(copy: Path, module: str, options: Options) -> Iterator[dict[str, Any]]:
    """The result of every fault of the sample, from the file where it is there."""
    source = _source(copy, module)
    code = hashlib.sha256(source.encode()).hexdigest()[:16]
    faults = mutants(source)
    order = np.random.default_rng(options.seed).permutation(len(faults))
    chosen = np.sort(order[: options.sample or None])
    known = {
        (row["module"], row["code"], row["site"], row["variant"]): row
        for row in _read(options.output)
    }
    limit: float | None = None
    for number in chosen:
        fault = faults[number]
        key = (module, code, fault.site, fault.variant)
        if key not in known:
            if limit is None:
                limit = _PATIENCE * _baseline(copy, module) + _GRACE
            stages = {"own": (_tests_of(copy, module), limit)}
            if not options.own:
                stages["all"] = (["tests/theory"], limit + 600)
            result = _plant(copy, module, source, fault, stages)
            row = {"module": module, "code": code} | dataclasses.asdict(fault) | result
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with open(options.output, "ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
            known[key] = row
            print(
                f"{row['outcome']:<9} {row['seconds']:5.1f} s  {module}:{fault.line} "
                f"{fault.operator}: {_short(fault.before)} -> {_short(fault.after)}",
                flush=True,
            )
        yield known[key] | {"faults": len(faults)}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(msgspec.json.decode(line))
        except msgspec.DecodeError:
            # The last line of a run that was interrupted.
            continue
    return rows


def _tests_of(copy: Path, module: str) -> list[str]:
    """Test files that name the module, those that bear its name first."""
    folder = copy / "tests" / "theory"
    named = sorted(folder.glob(f"test_{module}*.py"))
    using = [
        path
        for path in sorted(folder.glob("test_*.py"))
        if f"theory.{module} " in (text := path.read_text(encoding="utf-8"))
        or f"from theory import {module}\n" in text
    ]
    return [str(path.relative_to(copy)) for path in dict.fromkeys([*named, *using])]


def _warm_up(copy: Path) -> None:
    """Import what the tests import, once: each run of them is a fork of this."""
    runpy.run_path(str(copy / "tests" / "conftest.py"))
    for name in ("jax.numpy", "scipy.optimize", "scipy.stats", "mpmath", "pytest"):
        importlib.import_module(name)
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)


def _pytest(copy: Path, tests: list[str], limit: float) -> tuple[int, float]:
    """Exit status of the tests and their CPU seconds; a signal is a negative status."""
    pid = os.fork()
    if pid == 0:
        _run_tests(copy, tests, limit)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _run_tests(copy: Path, tests: list[str], limit: float) -> NoReturn:
    """In a fork: the tests of the copy; ends the process."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    signal.alarm(_WALL_SECONDS)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    status = _NOT_THE_COPY
    try:
        ours = ("theory", "sim", "mprm_jax", "experiments", "paper_figures", "tests")
        for name in [name for name in sys.modules if name.split(".")[0] in ours]:
            del sys.modules[name]
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        # Bytecode is dated to the second: two faults within one would be taken for
        # each other.
        sys.dont_write_bytecode = True
        if Path(str(importlib.import_module("theory").__file__)).parents[1] == copy:
            pytest = importlib.import_module("pytest")
            # Its plugins have been imported before it could rewrite their assertions.
            early = "ignore::pytest.PytestAssertRewriteWarning"
            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", early]
            status = int(pytest.main([*options, *tests]))
    finally:
        os._exit(status)


def _baseline(copy: Path, module: str) -> float:
    """CPU seconds of the module's own tests without a fault, which they must pass."""
    status, seconds = _pytest(copy, _tests_of(copy, module), _WALL_SECONDS)
    if status != 0:
        sys.exit(f"mutation: the tests of {module} fail without a fault ({status})")
    return seconds


def _plant(
    copy: Path,
    module: str,
    source: str,
    fault: Mutant,
    stages: dict[str, tuple[list[str], float]],
) -> dict[str, Any]:
    """Outcome of one fault: killed by which tests, or survived."""
    path = copy / "theory" / f"{module}.py"
    outcome, by, spent = "survived", "", 0.0
    try:
        path.write_text(mutate(source, fault), encoding="utf-8")
        for name, (tests, limit) in stages.items():
            status, seconds = _pytest(copy, tests, limit)
            spent += seconds
            if status != 0:
                outcome, by = "killed" if status > 0 else "timeout", name
                break
    finally:
        path.write_text(source, encoding="utf-8")
    return {"outcome": outcome, "by": by, "seconds": spent}


def _report(module: str, results: list[dict[str, Any]]) -> tuple[str, ...]:
    survived = [row for row in results if row["outcome"] == "survived"]
    killed = len(results) - len(survived)
    lines = ", ".join(str(row["line"]) for row in survived)
    faults = results[0]["faults"] if results else 0
    rate = f"{100 * killed / max(len(results), 1):.0f} %"
    return module, str(faults), str(len(results)), str(killed), rate, lines or "-"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


if __name__ == "__main__":
    main()
