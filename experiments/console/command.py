"""Running a command: options, exit statuses, and the one object of ``--json``."""

from __future__ import annotations

import codecs
import contextlib
import inspect
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from types import ModuleType
from typing import Any

import tyro

from experiments.console.corpus import CorpusOptions
from experiments.console.errors import (
    SAID,
    AlreadyReported,
    UsageError,
    bad_line_rows,
    missing_library,
    print_bad_lines,
)
from experiments.console.options import option
from mprm_jax.records.problems import BadCorpus, BadLines, DataError


def run_command(name: str, module: ModuleType, arguments: list[str]) -> int:
    """Parse, run, and turn every foreseen failure into one line and a status.

    Args:
        name: as the user typed it.
        module: has OPTIONS, a frozen dataclass whose docstring is the help, nested
            groups of options in it, and ``run(options)``.
        arguments: after the name.
    """
    as_json = "--json" in arguments
    if "" in arguments:
        # As a path it would be the current folder.
        said = "an empty argument (a variable not set?)"
        return _failed(name, said, as_json, status=2)
    SAID.clear()
    # A terminated run cleans up its partial files as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _folded_help(arguments, _names_of_reading(module.OPTIONS)):
            options = tyro.cli(
                module.OPTIONS,
                prog=f"mprm {name}",
                description=_described(module.OPTIONS),
                args=_corpus_by_position(module.OPTIONS, arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
        module.run(options)
    except SystemExit as stop:
        if as_json and stop.code == 2:
            return _failed(name, "wrong arguments, as stderr says", as_json, status=2)
        raise
    except UsageError as error:
        return _failed(name, str(error), as_json, status=2)
    except AlreadyReported as error:
        return _failed(name, str(error), as_json=False)
    except BadCorpus as error:
        print_bad_lines(error.bad_lines)
        return _failed(name, str(error), as_json, error.bad_lines)
    except DataError as error:
        return _failed(name, str(error), as_json)
    except ModuleNotFoundError as error:
        return _failed(name, missing_library(error), as_json)
    except KeyboardInterrupt:
        return _failed(name, "interrupted", as_json=False, status=130)
    except BrokenExecutor:
        return _failed(name, "a worker process died (out of memory?)", as_json)
    except MemoryError:
        return _failed(name, "out of memory", as_json)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        name_of_file = f"{error.filename}: " if error.filename else ""
        return _failed(name, f"{name_of_file}{error.strerror or error}", as_json)
    return 0


def _described(options: Any) -> str:
    """What a class of options says of the command: each paragraph on one line."""
    paragraphs = (inspect.getdoc(options) or "").split("\n\n")
    whole = itertools.takewhile(lambda p: not p.startswith("Attributes:"), paragraphs)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in whole)


# An option that need not be given, and a group by the path of its field.
_OPTIONAL = re.compile(r"\{None\}\|(\w+)")
_GROUP = re.compile(r"(?:\w+\.)+(\w+ options)")


_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@contextlib.contextmanager
def _folded_help(arguments: list[str], last: frozenset[str]) -> Iterator[None]:
    """A context in which help has no line that a terminal would break within a word
    (tyro folds what stands in boxes alone), no name of our fields and types, and one
    column of boxes; of the command's own options those of reading come last.

    Args:
        arguments: of the command.
        last: options of reading.
    """
    if not {"-h", "--help"} & {*arguments}:
        yield
        return
    stream, width = sys.stdout, min(80, shutil.get_terminal_size().columns)
    # As tyro, which asks whether it may draw boxes, spells it.
    encoding = codecs.lookup(stream.encoding or "ascii").name
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    # Colours as on the stream it is printed to.
    shown.isatty = stream.isatty
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        with contextlib.redirect_stdout(shown):
            yield
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
        shown.seek(0)
        for line in _reading_last(shown.read().splitlines(), last):
            if line.startswith(("╭", "│", "╰", "\x1b")):
                named = _GROUP.sub(r"\1", line)
                named = named.replace("╮", "─" * (len(line) - len(named)) + "╮")
                print(_OPTIONAL.sub(r"\1" + 7 * " ", named))
            else:
                print(textwrap.fill(_OPTIONAL.sub(r"\1", line), width))


def _names_of_reading(options: Any) -> frozenset[str]:
    """The options that say how a command reads its corpus."""
    if not (isinstance(options, type) and issubclass(options, CorpusOptions)):
        return frozenset()
    own = inspect.get_annotations(CorpusOptions).keys() - {"seed"}
    return frozenset(map(option, own))


def _reading_last(lines: list[str], last: frozenset[str]) -> Iterator[str]:
    """Lines of help, with some of the options in a box of their own at the end."""
    moved: list[str] = []
    header = footer = ""
    inside = moving = False
    for line in lines:
        plain = _COLOUR.sub("", line)
        if plain.startswith(("╭", "╰")):
            inside, moving = plain.startswith("╭─ options ─"), False
            header = plain if inside else header
            footer = plain
        elif inside and plain.startswith("│ -"):
            moving = plain.split()[1] in last
        if moving:
            moved.append(line)
        else:
            yield line
    if moved:
        yield header.replace("options ────────", "reading options ", 1)
        yield from moved
        yield footer


def _corpus_by_position(options: Any, arguments: list[str]) -> list[str]:
    """The arguments, with the corpus by its position where it was given by name."""
    classes = options.__mro__ if isinstance(options, type) else ()
    owners = (c for c in classes if "corpus" in inspect.get_annotations(c))
    if next(owners, None) is not CorpusOptions:
        return arguments
    return [
        argument.removeprefix("--corpus=")
        for argument in arguments
        if argument != "--corpus"
    ]


def _failed(
    name: str,
    message: str,
    as_json: bool,
    problems: BadLines | None = None,
    status: int = 1,
) -> int:
    print(f"mprm {name}: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message, "bad_lines": bad_line_rows(problems)})
    return status


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of ``--json``; a number that is not finite is null."""
    print(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(of) for of in value]
    return value


def answer(as_json: bool, value: dict[str, Any], text: Callable[[], str] | str) -> None:
    """Print what a command found: as one object, or else as text."""
    if as_json:
        print_json(value | ({"damaged": SAID} if SAID else {}))
    else:
        print(text if isinstance(text, str) else text())
