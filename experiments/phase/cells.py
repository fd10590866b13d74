"""Cells of a phase diagram, as the store holds them and as they are compared."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.phase.design import RULES
from experiments.store.results import Result
from experiments.students.arms import MOVED
from theory.placement import noise_by_position, relative_position
from theory.rollouts import Rollouts

METRICS = ("auroc", "micro_f1")

# Names a stream: a seed alone would be that of the corpus.
_PLACES = zlib.crc32(b"places of label errors")


class Cell(NamedTuple):
    """A place in a diagram.

    Attributes:
        diagram: "students", "probes" or "nets".
        world: name.
        knowledge: c, or updates of pretraining.
        placement: of the label errors.
        keep_ratio: rho.
        units: corpora behind the interval.
        seeds: of each.
        rate: peak rate of training; None: the students' own.
    """

    diagram: str
    world: str
    knowledge: float
    placement: str
    keep_ratio: float
    units: int
    seeds: int = 1
    rate: float | None = None

    @property
    def panel(self) -> tuple[str, float, float | None]:
        """What cells of one panel share."""
        return self.world, self.keep_ratio, self.rate


def cell_of(result: Result | Mapping[str, Any]) -> Cell:
    """The place of a stored result."""
    config = result.config if isinstance(result, Result) else result["config"]
    return Cell(**config["cell"])


def by_unit(cell: Cell, metrics: Mapping[str, Any], metric: str) -> np.ndarray:
    """BIS - Random of each unit, averaged over its seeds, ``[units]``."""
    baseline, treated = (
        np.asarray(metrics["arms"][rule][metric], float) for rule in RULES
    )
    return (treated - baseline).reshape(cell.units, cell.seeds).mean(axis=1)


def gains_of(
    group: Sequence[Cell],
    arms: Sequence[Any],
    found: Sequence[Mapping[str, Any]],
    placed: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """What the store keeps of cells, from the metrics of their arms.

    Args:
        group: cells of one training.
        arms: with rule and keep ratio.
        found: metrics of each arm, lists over units and seeds.
        placed: how far noise follows position in each unit's corpus; None: there is
            none.
    """
    by_arm = {
        (arm.rule, arm.keep_ratio): metrics
        for arm, metrics in zip(arms, found, strict=True)
    }
    kept = []
    for cell in group:
        of = {rule: by_arm[rule, cell.keep_ratio] for rule in RULES}
        kept.append(
            {
                "position_auroc": placed and [round(x, 5) for x in placed],
                "arms": {
                    rule: {name: metrics[name] for name in METRICS}
                    for rule, metrics in of.items()
                },
            }
        )
    return kept


def follows(rollouts: Rollouts, right_S: np.ndarray, labels: str, seed: int) -> float:
    """How far noise follows position in a corpus: ``position_auroc``.

    Args:
        rollouts: the counts.
        right_S: truth of the steps.
        labels: of :data:`experiments.students.arms.MOVED`; all others are 1[K > 0].
        seed: of the places.
    """
    label, position = rollouts.successes > 0, relative_position(rollouts)
    if labels in MOVED:
        rng = np.random.default_rng([seed, _PLACES])
        label = MOVED[labels].place(label, right_S, position, rng)
    return noise_by_position(label, right_S, position).position_auroc
