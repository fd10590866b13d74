"""Paired comparisons of arms over seeds, with Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.store.results import Result
from theory.intervals import TInterval, holm, paired_interval


@dataclass(frozen=True)
class Contrast:
    """A comparison written down before results are seen.

    Attributes:
        claim: what a positive difference would mean.
        treated: settings that single out one arm, e.g. {"rule": "bis", ...}.
        baseline: settings of the other.
    """

    claim: str
    treated: Mapping[str, Any]
    baseline: Mapping[str, Any]


class Comparison(NamedTuple):
    """A contrast in one world.

    Attributes:
        claim: of the contrast.
        world: name.
        interval: of treated minus baseline.
        adjusted_p: Holm's, over all comparisons of the same call.
    """

    claim: str
    world: str
    interval: TInterval
    adjusted_p: float

    @property
    def verdict(self) -> str:
        """ "holds" or "fails" if the sign is beyond doubt at 5 %, else "open"."""
        if self.adjusted_p >= 0.05:
            return "open"
        return "holds" if self.interval.mean > 0 else "fails"


def compare(
    results: Sequence[Result], contrasts: Sequence[Contrast]
) -> list[Comparison]:
    """Micro-F1 of every contrast in every world that has both arms, corrected together.

    Args:
        results: cells with arms, all of one seed.
        contrasts: what to compare.

    Raises:
        ValueError: settings of a contrast fit several arms of a world.
    """
    worlds = list(dict.fromkeys(r.config["world"]["name"] for r in results))
    found: list[tuple[str, str, TInterval]] = []
    for contrast in contrasts:
        for world in worlds:
            arms = [r for r in results if r.config["world"]["name"] == world]
            treated, baseline = (
                _only(arms, settings)
                for settings in (contrast.treated, contrast.baseline)
            )
            if treated and baseline:
                interval = paired_interval(
                    treated.metrics["micro_f1"], baseline.metrics["micro_f1"]
                )
                found.append((contrast.claim, world, interval))
    adjusted = holm([interval.p for _, _, interval in found])
    return [Comparison(*row, p) for row, p in zip(found, adjusted, strict=True)]


def _only(arms: Sequence[Result], settings: Mapping[str, Any]) -> Result | None:
    fits = [
        result
        for result in arms
        if all(result.config["arm"].get(k) == v for k, v in settings.items())
    ]
    if len(fits) > 1:
        raise ValueError(f"{dict(settings)} fits {len(fits)} arms")
    return fits[0] if fits else None
