"""Everything that only an accelerator can tell, in one command and ten minutes.

    python3 -m experiments.benchmarks.accelerator --output FOLDER

It runs from a checkout on a machine with a GPU, the libraries of ``pyproject.toml``,
PyTorch and ``transformers``, and no network. Small libraries that such a machine lacks
come along as wheels: fetch them beforehand with ``pip download --no-deps --dest wheels
--only-binary=:all: --python-version X.Y NAME ...`` and give ``--wheels wheels``.

Parts run in order of value, each in a process group of its own that has to be done when
the limits so far have passed, so that no part takes another's time but may use what
earlier ones left. What a part prints goes to ``PART.jsonl`` as it is printed and what
it complains of to ``PART.log``; when it has ended, in whatever way, ``PART.json`` says
how, after how long, and what was found until then. A part that fails or cannot run says
why, and the others go on.

Targets: an update reaches 40 % of the card's peak (MFU) and the speed of the quickest
PyTorch variant; a run reaches 85 % of its bare step. ``--rehearse`` runs toys of all
parts on the CPU, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Of all parts together.
BUDGET_SECONDS = 600

# How long a part that is to end may take to say what it has found so far.
_GRACE_SECONDS = 5

_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # A benchmark has the card to itself; JAX takes three quarters of it by itself.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": ".92",
    # Eight thousand million weights drawn by the default generator want 70 GiB at once.
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that is measured.

    Attributes:
        name: of its files.
        module: of this folder.
        limit: seconds.
        arguments: of the module.
        rehearsal: arguments of a toy on the CPU, instead.
        output: the module takes a folder for its own files.
    """

    name: str
    module: str
    limit: int
    arguments: tuple[str, ...] = ()
    rehearsal: tuple[str, ...] = ("--toy",)
    output: bool = False


# In order of value.
PARTS = (
    Part("smoke", "smoke", 70, (), ("--toy", "--tokens", "128")),
    Part(
        "step", "gpu_step", 200,
        ("--layers", "4", "--rounds", "1", "--updates", "10"),
        ("--toy", "--layers", "2", "--batch-size", "2", "--tokens", "48", "--steps",
         "3", "--warmup", "1", "--updates", "2", "--rounds", "1", "--sides", "jax"),
    ),
    Part(
        "depth", "full_depth", 160, ("--updates", "3"),
        ("--toy", "--tokens", "512", "--updates", "1"),
    ),
    Part(
        "run", "real_run", 90, (),
        ("--toy", "--layers", "2", "--batch-size", "4", "--accumulate", "2",
         "--updates", "2", "--threads", "2"),
    ),
    Part("phase", "phase_seeds", 60, (), ("--toy", "--corpora", "2"), output=True),
)  # fmt: skip


def command(part: Part, output: Path, rehearse: bool) -> list[str]:
    """That measures a part."""
    chosen = part.rehearsal if rehearse else part.arguments
    own = ("--output", str(output / f"{part.name}-files")) if part.output else ()
    module = f"experiments.benchmarks.{part.module}"
    return [sys.executable, "-m", module, *chosen, *own]


def run_part(
    name: str, command: list[str], seconds: float, output: Path, environment: dict
) -> dict[str, Any]:
    """Run a part for so long at most, and write down how it ended.

    Args:
        name: of its files.
        command: that measures it.
        seconds: until it is stopped, with every process that it started.
        output: folder of the files.
        environment: of the process.

    Returns:
        part, status ("done", "failed" or "stopped"), exit, seconds, limit, why (the
        last line of its complaints) unless it is done, and found: its JSON lines.
    """
    began = time.monotonic()
    lines, log = output / f"{name}.jsonl", output / f"{name}.log"
    with open(lines, "wb") as out, open(log, "wb") as complaints:
        process = subprocess.Popen(
            command, stdout=out, stderr=complaints, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(max(seconds, 0))
            status = "failed" if process.returncode else "done"
        except subprocess.TimeoutExpired:
            status = "stopped"
        finally:
            _end(process)
    said: dict[str, Any] = {
        "part": name,
        "status": status,
        "exit": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "limit": round(seconds, 1),
    }
    if status != "done":
        text = log.read_text(errors="replace").strip()
        said["why"] = text.splitlines()[-1] if text else "it said nothing"
    said["found"] = _json_lines(lines)
    whole = json.dumps(said, indent=1) + "\n"
    (output / f"{name}.json").write_text(whole)
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process group, gently first."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _json_lines(path: Path) -> list[object]:
    """What was printed as JSON; other lines, tables and half a line, are for people."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


def prepare(options: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """The environment of all parts; wheels that came along are unpacked for it."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root)]
    if options.wheels is not None:
        wheels = sorted(map(str, options.wheels.glob("*.whl")))
        install = (
            "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--no-compile", "--target", str(scratch / "site"),
        )  # fmt: skip
        subprocess.run([sys.executable, *install, *wheels], check=True)
        paths.insert(0, str(scratch / "site"))
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        paths.append(inherited)
    made = _ENVIRONMENT | {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
    }
    if options.rehearse:
        made |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | made


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options; by the standard library, for a bare machine has nothing else yet."""
    parser = argparse.ArgumentParser(
        prog="python3 -m experiments.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = [part.name for part in PARTS]
    parser.add_argument(
        "--output",
        type=Path,
        default=os.environ.get("OUT"),
        help="folder of the results; by default what OUT names",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=named, default=named, help="these alone"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument(
        "--rehearse", action="store_true", help="toys on the CPU, limits tripled"
    )
    options = parser.parse_args(arguments)
    if options.output is None:
        parser.error("--output is needed where OUT names no folder")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; 1 if any of them was not done."""
    options, began = parse(arguments), time.monotonic()
    output = Path(options.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    deadline, undone = 0.0, 0
    with tempfile.TemporaryDirectory() as scratch:
        environment = prepare(options, Path(scratch))
        for part in PARTS:
            if part.name not in options.parts:
                continue
            # Two slow cores compile as much as a machine with a GPU does.
            deadline += part.limit * (3 if options.rehearse else 1)
            seconds = deadline - (time.monotonic() - began)
            whole = command(part, output, options.rehearse)
            said = run_part(part.name, whole, seconds, output, environment)
            undone += said["status"] != "done"
            told = {name: value for name, value in said.items() if name != "found"}
            print(json.dumps(told), flush=True)
    return int(undone > 0)


if __name__ == "__main__":
    sys.exit(main())
