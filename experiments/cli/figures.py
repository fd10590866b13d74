"""`mprm figures`: every figure as PDF, PNG and the CSV behind it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import tyro

from experiments.console import shared
from experiments.store.provenance import file_sha256, versions
from experiments.store.results import read_results, store_path
from mprm_jax.data.outputs import OUTPUT_SCHEMA, OutputSet, manifest_bytes
from mprm_jax.data.problems import DataError

REFERENCE = Path(__file__).parents[1] / "results"


# Each figure comes as all of these.
FORMS = ("pdf", "png", "csv")


class Source(NamedTuple):
    """Where a figure comes from.

    Attributes:
        module: of ``paper_figures``.
        function: in it, from one argument per name in ``results`` to a Drawing.
        results: experiments of the results store that it draws; of each it gets a
            list of cells, dicts of config, seed and metrics.
    """

    module: str
    function: str
    results: tuple[str, ...] = ()


FIGURES = {
    "information": Source("information", "information_under_noise"),
    "effective-noise": Source("information", "effective_noise"),
    "retained-information": Source("information", "retained_information"),
    "excess-risk": Source("information", "excess_risk_over_updates"),
    "bis-order": Source("information", "bis_order"),
    "subsets": Source("corpus", "subsets", ("kept",)),
    "figure-1": Source("learning", "figure_1", ("plateau",)),
    "figure-2": Source("learning", "figure_2", ("plateau",)),
    "figure-3": Source("corpus", "figure_3", ("corpus_models",)),
    "figure-10": Source("corpus", "figure_10", ("corpus_models",)),
    "coverage": Source("corpus", "coverage", ("corpus_models",)),
    "corpus-models": Source("corpus", "predictions", ("corpus_models",)),
    "rules": Source("learning", "rules", ("rules",)),
    "alpha": Source("learning", "alpha", ("alpha",)),
    "mc-budget": Source("learning", "mc_budget", ("mc_budget",)),
    "selection": Source("selection", "selection", ("selection",)),
    "regime-map": Source("learning", "regime_map", ("regimes",)),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw every figure, each as PDF, PNG and the CSV of its numbers.

    Figures of the theory need no results. The others read the results store; what is
    not there is read from the reference results that come with the package, and a
    figure of an experiment that neither has is left out, and named.

    Example: mprm figures --only subsets --output figures

    Attributes:
        results: Folder of the results store, as mprm run writes it.
        output: Folder for the figures.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    only: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"Figures to draw: {', '.join(FIGURES)}.",
            help_behavior_hint="(default: all)",
        ),
    ] = ()
    results: Path = Path("runs/results")
    output: Path = Path("runs/figures")
    json: bool = False


OPTIONS = Options


# What values of another type, length or range than a figure expects give rise to,
# some only when the picture is laid out.
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


class NoResults(DataError):
    """Neither the store nor the reference has what a figure draws."""


def run(options: Options) -> None:
    """Draw."""
    unknown = [name for name in options.only if name not in FIGURES]
    if unknown:
        raise shared.UsageError(
            f"--only: no figure {unknown[0]!r}; known: {', '.join(FIGURES)}"
        )
    chosen = options.only or tuple(FIGURES)
    drawn, left_out = _draw_all(chosen, options.results, options.output)
    if options.only and left_out:
        raise NoResults(next(iter(left_out.values())))
    if options.json:
        shared.print_json({"files": [str(p) for p in drawn], "left_out": left_out})
        return
    for path in drawn:
        print(path)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")


def draw_stale(results: Path, output: Path) -> tuple[list[Path], dict[str, str]]:
    """Draw the figures of which a file is missing, or older than their results.

    Returns:
        the files written, and per figure left out the reason.

    Raises:
        DataError: results cannot be read or drawn, or a figure cannot be written.
    """
    stale = [name for name in FIGURES if _is_stale(name, results, output)]
    return _draw_all(stale, results, output) if stale else ([], {})


def _is_stale(name: str, results: Path, output: Path) -> bool:
    sources = [
        store_path(root, what)
        for what in FIGURES[name].results
        for root in (results, REFERENCE)
    ]
    times = [path.stat().st_mtime_ns for path in sources if path.is_file()]
    files = [output / f"{name}.{suffix}" for suffix in (*FORMS, "manifest.json")]
    return any(
        not file.is_file() or file.stat().st_mtime_ns < max(times, default=0)
        for file in files
    )


def _draw_all(
    names: Sequence[str], results: Path, output: Path
) -> tuple[list[Path], dict[str, str]]:
    """Files written, and per figure whose results are nowhere the reason."""
    drawn: list[Path] = []
    left_out: dict[str, str] = {}
    with shared.progress("drawing", len(names), "figures") as tick:
        for done, name in enumerate(names):
            try:
                inputs = [_load(results, what) for what in FIGURES[name].results]
            except NoResults as error:
                left_out[name] = str(error)
                continue
            drawn += _draw(name, inputs, output)
            tick(done + 1)
    return drawn, left_out


class _Input(NamedTuple):
    path: Path
    value: Any


def _load(folder: Path, what: str) -> _Input:
    """Results from the store, else from the reference.

    Raises:
        NoResults: they are in neither.
        DataError: they cannot be read.
    """
    for root in (folder, REFERENCE):
        path = store_path(root, what)
        if not path.is_file():
            continue
        cells = [msgspec.to_builtins(result) for result in read_results(root, what)]
        if cells:
            return _Input(path, cells)
    raise NoResults(f"no results of {what} in {folder} yet (mprm run {what})")


def _draw(name: str, inputs: list[_Input], output: Path) -> list[Path]:
    """Write one figure in its three forms, with a manifest; returns the paths."""
    import matplotlib as mpl

    from paper_figures import style

    source = FIGURES[name]
    module = importlib.import_module(f"paper_figures.{source.module}")
    draw: Callable[..., style.Drawing] = getattr(module, source.function)
    with mpl.rc_context(style.SETTINGS):
        try:
            drawing = draw(*(value for _, value in inputs))
            forms = {
                "pdf": style.image_bytes(drawing.figure, "pdf"),
                "png": style.image_bytes(drawing.figure, "png"),
                "csv": style.csv_bytes(drawing),
            }
        except _DAMAGED as error:
            # Without inputs, no results can be at fault.
            if not inputs:
                raise
            paths = ", ".join(str(path) for path, _ in inputs)
            raise DataError(
                f"{paths}: cannot be drawn as {name} ({error!r})"
            ) from error
    paths = []
    with OutputSet() as outputs:
        hashes = {}
        for suffix, data in forms.items():
            file = outputs.add(output / f"{name}.{suffix}")
            file.write(data)
            hashes[file.path.name] = file.sha256.hexdigest()
            paths.append(file.path)
        manifest = {
            "command": "figures",
            "figure": name,
            "results": {str(path): file_sha256(path) for path, _ in inputs},
            "versions": versions(),
            "files": hashes,
        }
        outputs.add(output / f"{name}.manifest.json").write(
            manifest_bytes(manifest, OUTPUT_SCHEMA)
        )
    return paths
