"""`mprm doctor`: versions, devices, and what would run here."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from experiments.console.command import answer
from experiments.console.compilation import compiled_folder
from experiments.console.options import JsonOption
from experiments.console.tables import format_table
from experiments.console.text import size
from experiments.store.provenance import package_version

# distribution -> what needs it
_LIBRARIES = {
    "mprm-jax": "this package",
    "numpy": "counts and ranking",
    "scipy": "the theory",
    "msgspec": "reading corpora",
    "jax": "training",
    "flax": "models",
    "optax": "optimisation",
    "matplotlib": "figures",
    "pyarrow": "Parquet and Arrow files (extra: parquet)",
    "pandas": "mprm.frame (extra: pandas)",
    "imagehash": "mprm overlap, similar pictures (extra: overlap)",
    "math-verify": "mprm rerank --answers math (extra: math)",
    "distributed": "--dask (extra: dask)",
}


@dataclasses.dataclass(frozen=True)
class Options(JsonOption):
    """Versions, devices, and what would run here."""


OPTIONS = Options


def run(options: Options) -> None:
    """Look around."""
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "libraries": {name: package_version(name) for name in _LIBRARIES},
        "compiled": str(kept := compiled_folder()),
        "compiled_bytes": sum(f.stat().st_size for f in kept.glob("*") if f.is_file()),
        **_devices(),
    }
    answer(options.json, report, lambda: _text(report))


def _text(report: dict[str, Any]) -> str:
    found = report["libraries"]
    width = max(map(len, found.values()))
    libraries = [
        f"  {name:<12} {found[name]:<{width}}  {what}"
        for name, what in _LIBRARIES.items()
    ]
    devices = f"JAX does not start: {report['jax_error']}"
    if not report["jax_error"]:
        rows = [(d["id"], d["kind"], d["platform"]) for d in report["devices"]]
        devices = format_table(("device", "kind", "platform"), rows)
    return "\n".join(
        [
            "Python {python} on {platform}, {cpus} CPUs,".format(**report),
            f"{size(report['free_disk_bytes'])} free here\n",
            *libraries,
            f"\n{devices}\n",
            f"compiled code, kept for later runs: {size(report['compiled_bytes'])} in\n"
            f"{report['compiled']} (may be removed)\n",
            "select, stats, score, convert and verify need no accelerator.",
        ]
    )


def _devices() -> dict[str, Any]:
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a broken driver raises whatever it likes
        return {"devices": [], "jax_error": str(error).splitlines()[0]}
    return {
        "devices": [
            {"id": str(d.id), "kind": d.device_kind, "platform": d.platform}
            for d in devices
        ],
        "jax_error": None,
    }
