"""The `mprm` command: one module per subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
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
    "simulate": "a corpus whose truth is known, in the real on-disk format",
    "doctor": "versions, devices, and what would run here",
}

# A module must not bear the name of one of the standard library.
MODULES = {"select": "select_rollouts"}


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
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from experiments.provenance import package_version

        print(f"mprm {package_version()}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(
            f"mprm: no command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    from experiments.cli.shared import run_command

    module = importlib.import_module(f"experiments.cli.{MODULES.get(name, name)}")
    try:
        return run_command(name, module, arguments[1:])
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
