"""Selection against a plain standard-library script, in user CPU and peak memory.

    uv run python -m experiments.benchmarks.selection --scale 1.0 --rounds 3

makes a corpus of the real one's size and shape (38 sources, 565,149 rollouts at scale
1, about 1.8 GB), runs every job in interleaved rounds, each in a process of its own
with start-up included, and prints the ratios of medians. Machines are noisy; ratios
within one run are not, much.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from experiments.console.tables import format_table
from experiments.corpora.simulated import write_raw_corpus
from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.index import CACHE_FOLDER
from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import sample
from sim.corpus.sources import PAPER_SOURCES
from theory.scores import bis

KEEP_RATIO = "0.25"

# What a Python with numpy and msgspec may hold beside the columns of the index.
_MEMORY_ALLOWANCE = 64 << 20


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure selection on a generated corpus of the real size and shape.

    Attributes:
        scale: Share of the real corpus's 565,149 rollouts.
        rounds: Interleaved rounds; medians are reported.
        workers: Processes of the default path.
        folder: Where to put the corpus; a temporary folder by default.
    """

    scale: float = 1.0
    rounds: int = 3
    workers: int = 2
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one process took: user and system CPU seconds, wall seconds, peak bytes."""

    user: float
    system: float
    wall: float
    peak: int


# A small process in between: a child's peak memory starts from its parent's.
_RUNNER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, usage.ru_utime, usage.ru_stime,
                  time.perf_counter() - start, usage.ru_maxrss * 1024]))
"""


def measure(command: list[str]) -> Cost:
    """Run a command to its end and return its cost, its own children included.

    Raises:
        RuntimeError: it fails.
    """
    runner = [sys.executable, "-S", "-c", _RUNNER, *command]
    done = subprocess.run(runner, stdout=subprocess.PIPE, check=True)
    status, user, system, wall, peak = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"status {status}: {' '.join(command)}")
    return Cost(user, system, wall, peak)


def jobs(corpus: Path, output: Path, workers: int) -> dict[str, list[str]]:
    """Name and command of everything measured."""
    python = [sys.executable, "-m"]
    select = [sys.executable, "-c", _MAIN, "select", str(corpus)]
    select += ["--keep-ratio", KEEP_RATIO, "--output", str(output / "s.jsonl")]
    select += ["--workers", str(workers), "--json"]
    baseline = "tests.official_baseline"
    return {
        "standard library": [*python, baseline, str(corpus), str(output / "b.jsonl")],
        "select --compat official": [*select, "--compat", "official"],
        "select": [*select, "--no-cache"],
        "index build": [sys.executable, "-c", _INDEX, str(corpus), ""],
        "the same with SHA-256": [sys.executable, "-c", _INDEX, str(corpus), "yes"],
        "select again": [*select, "--format", "rows"],
        "select again, written": select,
    }


_MAIN = "import sys; from experiments.cli import main; sys.exit(main(sys.argv[1:]))"
_INDEX = (
    "import sys; from pathlib import Path;"
    "from mprm_jax.data.corpus import read_corpus;"
    "read_corpus(Path(sys.argv[1]), use_cache=False, sha256=bool(sys.argv[2]))"
)


def main() -> None:
    """Make the corpus, run the rounds, print the table."""
    options = tyro.cli(Options)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mprm-benchmark-"))
    try:
        _run(options, folder)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def _run(options: Options, folder: Path) -> None:
    corpus, output = folder / "corpus", folder / "output"
    output.mkdir(parents=True, exist_ok=True)
    if not corpus.is_dir():
        counts, text = np.random.default_rng(0).spawn(2)
        model = PAPER_MODELS["hierarchical"]
        rollouts = sample(model, PAPER_SOURCES, counts, options.scale)
        write_raw_corpus(corpus, rollouts, text, {"scale": options.scale})
    annotations = corpus / "annotations"
    size = sum(path.stat().st_size for path in annotations.glob("*.jsonl"))
    warm = read_corpus(corpus)
    columns = sum(
        getattr(warm, name).nbytes
        for name in ("file", "offset", "size", "line", "content")
    ) + sum(
        getattr(warm.rollouts, name).nbytes
        for name in ("successes", "trials", "offsets", "source")
    )
    print(
        f"{warm.rollouts.n_rollouts:,} rollouts, {warm.rollouts.n_steps:,} steps, "
        f"{size / 1e9:.2f} GB, columns {columns / 2**20:.1f} MiB"
    )
    commands = jobs(annotations, output, options.workers)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            costs[name].append(measure(command))
    base = statistics.median(cost.user for cost in costs["standard library"])
    limit = (_MEMORY_ALLOWANCE + columns) / 2**20
    rows = []
    for name, of in costs.items():
        user = statistics.median(cost.user for cost in of)
        rows.append(
            (
                name,
                f"{user:.2f}",
                f"{statistics.median(c.system for c in of):.2f}",
                f"{statistics.median(c.wall for c in of):.2f}",
                f"{user / base:.3f}",
                f"{min(c.user for c in of) / base:.3f}-"
                f"{max(c.user for c in of) / base:.3f}",
                f"{max(c.peak for c in of) / 2**20:.0f}",
            )
        )
    print(
        format_table(
            ("job", "user s", "sys s", "wall s", "ratio", "range", "peak MiB"), rows
        )
    )
    print(f"memory allowed: {limit:.0f} MiB (64 MiB and the columns)")
    nanoseconds = (
        min(_bis_seconds(warm) for _ in range(5)) / warm.rollouts.n_steps * 1e9
    )
    print(f"BIS kernel: {nanoseconds:.1f} ns per step")
    print(f"caches: {annotations / CACHE_FOLDER}")


def _bis_seconds(corpus) -> float:
    start = time.process_time()
    bis(corpus.rollouts)
    return time.process_time() - start


if __name__ == "__main__":
    main()
