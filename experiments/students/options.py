"""What the options of all student experiments share. Imported by every --help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class StudentOptions:
    """Options of an experiment with simulated students.

    Attributes:
        output: Folder of the results store; cells that it holds are not run again.
        size: small runs the worlds that the claims table names in minutes; full runs
            every world.
        seed: Of the paired seeds.
        json: Print one JSON object to stdout, everything else to stderr.
    """

    output: Path = Path("runs/results")
    size: Literal["small", "full"] = "small"
    seed: int = 0
    json: bool = False
