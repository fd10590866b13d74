"""Run a benchmark's script again, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any


def run_worker(script: str, options: Any) -> dict[str, Any]:
    """What a script of this folder prints last, given these options.

    Args:
        script: name of its module.
        options: a record with ``worker`` and ``toy``; toys run on the CPU.

    Raises:
        SystemExit: the process failed; what it said of that has passed through.
    """
    arguments = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None and value != field.default:
            arguments.append("--" + field.name.replace("_", "-"))
            given = value if isinstance(value, tuple) else (value,)
            arguments += [] if value is True else map(str, given)
    command = [sys.executable, "-m", f"experiments.benchmarks.{script}", *arguments]
    hidden = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | (hidden if options.toy else {}),
    )
    if done.returncode:
        raise SystemExit(f"{script}: {options.worker} failed")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}
