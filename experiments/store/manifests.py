"""Manifests: the parts that those of subsets share, and those of runs of a grid."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from experiments.console.options import given
from experiments.store.provenance import package_version, versions
from mprm_jax.data.outputs import OutputSet, manifest_path
from mprm_jax.records.problems import DataError, faults_of

T = TypeVar("T")

RUN_MANIFEST = "manifest.json"


class InputFile(msgspec.Struct, frozen=True):
    """A file of the corpus, as it was when the subset was selected."""

    file: str
    sha256: str


def typed(output: Path, manifest: dict[str, Any], kind: type[T]) -> T:
    """The manifest of an output as ``kind``, extra keys left out.

    Raises:
        DataError: naming the key that is missing or of another type.
    """
    try:
        return msgspec.convert(manifest, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{manifest_path(output)}: {error}") from error


class RunManifest(msgspec.Struct, frozen=True):
    """How a run of a grid was made, from its ``manifest.json``.

    Attributes:
        commands: that make the run again, in order.
        backbone: its name, or a paragraph on what it has seen.
        experiment: name of the store.
        pretraining: how the backbone was made, and with what result.
        versions: of the packages that made the run.
        arguments: of the run.
        overlap: of training data and benchmark: ``told``, and the counts behind it.
    """

    commands: tuple[str, ...]
    backbone: str
    experiment: str = ""
    pretraining: dict[str, Any] = {}
    versions: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    overlap: dict[str, Any] = {}


def read_run_manifest(folder: Path) -> RunManifest:
    """How the run in a folder was made.

    Raises:
        DataError: ``manifest.json`` is missing, or lacks a field.
    """
    path = folder / RUN_MANIFEST
    with faults_of(path, "no manifest of a run"):
        return msgspec.json.decode(path.read_bytes(), type=RunManifest)


def write_run_manifest(folder: Path, run: RunManifest) -> None:
    """``manifest.json`` of a run; the commands of earlier ones that left a result are
    kept, and versions are those of now.

    Raises:
        DataError: the folder holds a run of another kind, or cannot be written.
    """
    path = folder / RUN_MANIFEST
    commands = list(run.commands)
    # A run that failed before its first result is in nobody's way.
    found = any((folder / "results").glob("*.jsonl"))
    if path.exists():
        try:
            earlier = read_run_manifest(folder)
        except DataError as error:
            if found:
                raise DataError(f"{error}; choose another --output") from None
            earlier = msgspec.structs.replace(run, commands=())
        if found and earlier.experiment != run.experiment:
            raise DataError(
                f"{path}: is of {earlier.experiment or 'another kind of run'}, not of "
                f"{run.experiment}; choose another --output"
            )
        # Shards that begin together have no result yet either.
        if found or _asked(earlier) == _asked(run):
            commands = [*dict.fromkeys([*earlier.commands, *commands])]
    made = versions() | {"jax": package_version("jax")}
    run = msgspec.structs.replace(run, commands=tuple(commands), versions=made)
    with OutputSet() as outputs:
        outputs.add(path).write(
            json.dumps(msgspec.to_builtins(run), indent=1).encode() + b"\n"
        )


def _asked(run: RunManifest) -> tuple[str, bytes]:
    return run.experiment, msgspec.json.encode(run.arguments, order="sorted")


def command_line(name: str, options: Mapping[str, Any]) -> str:
    """A command with the options given, by name as typed, for a shell.

    Example:
        >>> command_line("mprm demo", {"--output": "my runs", "--json": True})
        "mprm demo --output 'my runs' --json"
    """
    words = name.split()
    for option, value in options.items():
        words.append(option)
        if value is not True:
            words.append(",".join(value) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def command_of(name: str, options: Any, *placed: Path) -> str:
    """The command of an option class: what was given but --json, and behind it what has
    its place.
    """
    told = {of: value for of, value in given(options).items() if of != "--json"}
    return shlex.join([*shlex.split(command_line(name, told)), *map(str, placed)])
