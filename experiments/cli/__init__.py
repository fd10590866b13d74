"""The `mprm` command: one module per subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys

# name -> what it answers, in the order of a first session with a corpus.
COMMANDS = {
    "demo": "the main job, end to end on a simulated corpus",
    "stats": "what is in this corpus, or in the subset a rule would keep?",
    "score": "every rollout's scores, as JSONL or Parquet",
    "select": "which rollouts should I train on? Writes them, with the evidence",
    "verify": "is this subset what its manifest says it is?",
    "convert": "the same rollouts in another format",
    "overlap": "does a benchmark hold questions or pictures of this corpus?",
    "simulate": "a corpus whose truth is known, in the real on-disk format",
    "annotate": "which steps deserve more continuations? Plans, merges",
    "train": "a process reward model, on a corpus or on a subset of it",
    "evaluate": "how well does a model, or anyone's scores, find wrong steps?",
    "compare": "do two models' step scores differ on the same benchmark?",
    "rerank": "best-of-N accuracy of a model on candidate solutions",
    "pretrain": "the tiny backbone, on the simulated world's own solutions",
    "export": "a trained backbone as transformers and PyTorch read it",
    "run": "an experiment of this package, resumable, into the results store",
    "advise": "does selection pay on this corpus, and which rule?",
    "figures": "every figure, from the results store",
    "report": "one self-contained page of a run",
    "doctor": "versions, devices, and what would run here",
}

# The second words of commands that need one.
_SECOND = {"simulate": ("corpus", "scenes"), "annotate": ("plan", "run", "merge")}

# Where the second word makes it another command, with options of its own.
TWO_WORDS = {("simulate", "scenes"): "simulate_scenes"}
TWO_WORDS |= {("annotate", of): f"annotate.{of}" for of in _SECOND["annotate"]}

_ANNOTATE = """usage: mprm annotate plan|run|merge CORPUS [options]

Spend continuations where they tell most:
  plan   which steps to continue, as prefixes for any generator
  run    continue them with the policy of a simulated world
  merge  the corpus with the counts that the answers add

mprm annotate plan --help explains a step. For example:
  mprm annotate plan CORPUS --budget 10000 --output prefixes.jsonl
  mprm annotate merge CORPUS --plan prefixes.jsonl --answers answers.jsonl"""

# These multiply no matrices.
COUNTING = {"stats", "score", "select", "verify", "convert", "annotate"}


def usage() -> str:
    """The help of the command itself."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mprm COMMAND [options]",
            "",
            "Select training data for process reward models from Monte-Carlo labels.",
            "",
            *lines,
            "",
            "mprm COMMAND --help explains a command. To begin: mprm demo, or with your",
            "own corpus:",
            "  mprm stats CORPUS --rule bis --keep-ratio 0.1",
            "  mprm select CORPUS --rule bis --keep-ratio 0.1 --output subset.jsonl",
            "",
            "Exit status: 0 done, 1 failed (bad data), 2 wrong usage.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    try:
        try:
            return _dispatch(arguments)
        finally:
            # Here, because at exit a failure would be a traceback.
            sys.stdout.flush()
    except OSError as error:
        # With the reader gone (head, less) nothing is left to say.
        gone = isinstance(error, BrokenPipeError)
        if not gone:
            print(f"mprm: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if gone else 1  # 141: as a shell reports a death by SIGPIPE


def _open_streams() -> None:
    """Streams that can be written to, whatever the caller's shell has closed and
    however little its alphabet holds.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from experiments.store.provenance import package_version

        print(f"mprm {package_version()}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(
            f"mprm: no command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    if name in COUNTING:
        # numpy's BLAS starts a thread per core, which costs as much as numpy's import.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    else:
        from experiments.console.compilation import keep_compiled

        keep_compiled("--no-compile-cache" not in arguments)
    module, words = name, 1
    if name == "run":
        from experiments.cli.run import main as run_experiment

        return run_experiment(arguments[1:])
    second = _SECOND.get(name, ())
    asks_help = bool({"-h", "--help"} & {*arguments})
    if second and not {*second} & {*arguments} and not asks_help:
        print(
            f"mprm {name}: {' or '.join(second)}? mprm {name} --help explains them",
            file=sys.stderr,
        )
        return 2
    if name == "annotate" and tuple(arguments[:2]) not in TWO_WORDS:
        print(_ANNOTATE, file=sys.stdout if asks_help else sys.stderr)
        return 0 if asks_help else 2
    from experiments.console.command import run_command

    if tuple(arguments[:2]) in TWO_WORDS:
        module, words = TWO_WORDS[name, arguments[1]], 2
    return run_command(
        " ".join(arguments[:words]),
        importlib.import_module(f"experiments.cli.{module}"),
        arguments[words:],
    )
