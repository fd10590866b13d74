"""`mprm doctor`: versions, devices, and what would run here."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from experiments.console.command import print_json
from experiments.console.tables import format_table
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
    "pyarrow": "mprm score --output *.parquet (extra: parquet)",
    "distributed": "--dask (extra: dask)",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Versions, devices, and what would run here.

    Attributes:
        json: Print one JSON object to stdout, everything else to stderr.
    """

    json: bool = False


OPTIONS = Options


def run(options: Options) -> None:
    """Look around."""
    found = {name: package_version(name) for name in _LIBRARIES}
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "libraries": found,
        **_devices(),
    }
    if options.json:
        print_json(report)
        return
    print(f"Python {report['python']} on {report['platform']}, {report['cpus']} CPUs,")
    print(f"{report['free_disk_bytes'] / 1e9:.1f} GB free here\n")
    rows = [(name, found[name], use) for name, use in _LIBRARIES.items()]
    width = max(len(version) for _, version, _ in rows)
    for name, version, use in rows:
        print(f"  {name:<12} {version:<{width}}  {use}")
    print()
    if report["jax_error"]:
        print(f"JAX does not start: {report['jax_error']}")
    else:
        print(
            format_table(
                ("device", "kind", "platform"),
                [(d["id"], d["kind"], d["platform"]) for d in report["devices"]],
            )
        )
    print()
    print("select, stats, score, convert and verify need no accelerator.")


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
