"""Runs the command line inside the test process."""

import json
from dataclasses import dataclass

from experiments.cli import main


@dataclass(frozen=True)
class Run:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object that --json prints."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out, parse_constant=_no_json)


def _no_json(name):
    raise AssertionError(f"{name} is no JSON")


def run(capsys, *arguments):
    """Run ``mprm arguments``."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return Run(status, captured.out, captured.err)
