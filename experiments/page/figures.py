"""Every figure as PDF, PNG and the CSV behind it, from results or their reference."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from experiments.console.progress import progress
from experiments.store.provenance import file_sha256, versions
from experiments.store.results import REFERENCE, read_results, store_path
from mprm_jax.data.outputs import OutputSet
from mprm_jax.records.problems import DataError

# Each figure comes as all of these.
FORMS = ("pdf", "png", "csv")


class Source(NamedTuple):
    """Where a figure comes from.

    Attributes:
        drawing: module of ``paper_figures`` and function in it, from one argument per
            name in ``results`` to a Drawing; imported once it is to be drawn.
        results: experiments of the results store that it draws; of each it gets a
            list of cells, dicts of config, seed and metrics.
        made: function that makes its one argument of the folders of these results
            instead.
        more: names of further arguments.
    """

    drawing: str
    results: tuple[str, ...] = ()
    made: str = ""
    more: tuple[str, ...] = ()


# What the map's axes are called.
_LABELS = ("experiments.map.design:LABELS",)

FIGURES = {
    "information": Source("information:information_under_noise"),
    "effective-noise": Source("information:effective_noise"),
    "retained-information": Source("information:retained_information"),
    "excess-risk": Source("information:excess_risk_over_updates"),
    "bis-order": Source("information:bis_order"),
    "targets": Source("targets:targets"),
    "continuations": Source("targets:continuations"),
    "subsets": Source("corpus:subsets", ("kept",)),
    "figure-1": Source("learning:figure_1", ("plateau",)),
    "figure-2": Source("learning:figure_2", ("plateau",)),
    "figure-3": Source("corpus:figure_3", ("corpus_models",)),
    "figure-10": Source("corpus:figure_10", ("corpus_models",)),
    "coverage": Source("corpus:coverage", ("corpus_models",)),
    "corpus-models": Source("corpus:predictions", ("corpus_models",)),
    "rules": Source("learning:rules", ("rules",)),
    "efficiency": Source("contrast:efficiency", ("rules",)),
    "alpha": Source("learning:alpha", ("alpha",)),
    "mc-budget": Source("learning:mc_budget", ("mc_budget",)),
    "selection": Source("selection:selection", ("selection",)),
    "regime-map": Source("learning:regime_map", ("regimes",), more=_LABELS),
    "regime-map-ordered": Source(
        "learning:regime_map", ("regimes_ordered",), more=_LABELS
    ),
    "gain": Source("learning:gain", ("gain", "regimes")),
    "judged": Source(
        "learning:judged",
        ("judged_map", "regimes", "regimes_ordered"),
        made="experiments.map.judged_map:held_out_gains",
    ),
    "candidates": Source(
        "learning:candidates", ("better_rule", "regimes_ordered", "better_rule_scenes")
    ),
    "phase-students": Source("phase:students", ("phase_students", "judges")),
    "phase-probes": Source("phase:probes", ("phase_probes", "judges")),
    "phase-nets": Source("phase:nets", ("phase_nets", "judges")),
    "annotation": Source("annotation:annotation", ("annotate",)),
}


# What values of another type, length or range than a figure expects give rise to,
# some only when the picture is laid out.
DAMAGED = (LookupError, TypeError, ValueError, AttributeError)


class NoResults(DataError):
    """Neither the store nor the reference has what a figure draws."""


def draw_stale(results: Path, output: Path) -> tuple[list[Path], dict[str, str]]:
    """Draw the figures of which a file is missing, or older than their results.

    Returns:
        the files written, and per figure left out the reason.

    Raises:
        DataError: results cannot be read or drawn, or a figure cannot be written.
    """
    stale = [name for name in FIGURES if _is_stale(name, results, output)]
    return draw_all(stale, results, output) if stale else ([], {})


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


def draw_all(
    names: Sequence[str], results: Path, output: Path
) -> tuple[list[Path], dict[str, str]]:
    """Draw figures, each with its manifest.

    Returns:
        the files written, and per figure whose results are nowhere the reason.

    Raises:
        DataError: results cannot be read or drawn, or a figure cannot be written.
    """
    drawn: list[Path] = []
    left_out: dict[str, str] = {}
    with progress("drawing", len(names), "figures") as tick:
        for done, name in enumerate(names):
            try:
                inputs = [_load(results, what) for what in FIGURES[name].results]
                drawn += _draw(name, inputs, output)
            except NoResults as error:
                left_out[name] = str(error)
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
    draw: Callable[..., style.Drawing] = pkgutil.resolve_name(
        f"paper_figures.{source.drawing}"
    )
    with mpl.rc_context(style.SETTINGS):
        try:
            values = [value for _, value in inputs]
            if source.made:
                make = pkgutil.resolve_name(source.made)
                values = [make(*(path.parent for path, _ in inputs))]
                if not values[0]:
                    raise NoResults(f"no world in all of {', '.join(source.results)}")
            drawing = draw(*values, *map(pkgutil.resolve_name, source.more))
            forms = {
                "pdf": style.image_bytes(drawing.figure, "pdf"),
                "png": style.image_bytes(drawing.figure, "png"),
                "csv": style.csv_bytes(drawing),
            }
        except DAMAGED as error:
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
        outputs.add_manifest(output / f"{name}.manifest.json", manifest)
    return paths
