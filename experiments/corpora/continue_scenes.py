"""The policy of the visual worlds as a generator of continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from experiments.corpora.scene_text import questions, step_texts
from experiments.corpora.scenes import world_corpus
from experiments.corpora.simulated import MADE_HERE, made_here
from mprm_jax.data.continuations import Generator, Prefix
from mprm_jax.records.problems import DataError
from sim.scenes.policy import Care
from sim.scenes.solutions import Solutions, continued
from sim.scenes.world import WORLDS


class _Made(msgspec.Struct):
    """What the manifest of a world says of its corpus."""

    world: str
    rollouts: int
    seed: int
    number: int = 0


def scene_generator(folder: Path, *seeds: int) -> Generator:
    """Continues prefixes of a world's corpus from the states its policy was in.

    The world is drawn again from what its manifest says, and each prefix must say what
    that world's solution says.

    Args:
        folder: of the world, or of what counts were merged into.
        seeds: of the continuations; those of the corpus have another stream.

    Raises:
        DataError: the folder is of no such world; in use, a prefix is not of it.
    """
    made = made_here(folder)
    try:
        of = msgspec.convert(made.get("simulated", made), _Made)
        world = WORLDS[of.world]
    except (msgspec.ValidationError, KeyError):
        raise DataError(
            f"{folder / MADE_HERE}: says of no visual world; only what mprm simulate "
            "scenes wrote can be continued by its policy"
        ) from None
    parts = {
        part.solutions.problems.source.name: part.solutions
        for part in world_corpus(world, of.rollouts, of.seed, of.number)
    }
    texts = {
        name: (questions(part), list(step_texts(part))) for name, part in parts.items()
    }

    def continue_prefixes(prefixes: Sequence[Prefix]) -> Iterator[list[str | None]]:
        by_source: dict[str, list[int]] = {}
        for place, prefix in enumerate(prefixes):
            name = prefix.file.partition(".")[0]
            asked, steps = texts.get(name, ((), ()))
            row = prefix.line - 1
            fits = row < len(asked) and (
                (prefix.question, prefix.steps)
                == (asked[row], tuple(steps[row][: prefix.step]))
            )
            if not fits:
                raise DataError(
                    f"{prefix.file}:{prefix.line}: prefix {prefix.id} is not of the "
                    f"world {of.world}, seed {of.seed}, of {folder}"
                )
            by_source.setdefault(name, []).append(place)
        answers: dict[int, list[str | None]] = {}
        for name, places in by_source.items():
            rng = np.random.default_rng([*seeds, *name.encode()])
            of_source = [prefixes[place] for place in places]
            results = _continue(parts[name], of_source, world.annotator, rng)
            for place, row in zip(places, results.tolist(), strict=True):
                answers[place] = [str(result) for result in row[: prefixes[place].n]]
        for place in range(len(prefixes)):
            yield answers[place]

    return continue_prefixes


def _continue(
    solutions: Solutions,
    prefixes: Sequence[Prefix],
    care: Care,
    rng: np.random.Generator,
) -> np.ndarray:
    """Final answers of every prefix, as many as the longest asks for."""
    first = solutions.offsets[[prefix.line - 1 for prefix in prefixes]]
    steps = first + np.array([prefix.step for prefix in prefixes]) - 1
    most = max(prefix.n for prefix in prefixes)
    return continued(solutions, steps, care, most, rng)
