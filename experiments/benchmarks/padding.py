"""How much of what an update computes is real: tokens and image rows against padding.

    uv run python -m experiments.benchmarks.padding

No corpus of the real size ships with the package, so lengths are drawn, and the draw is
committed: it is what LOG.md's shares of real tokens are of. A rollout has 2 + Poisson
steps, 5.62 on average as VisualPRM400K (:data:`theory.paper.FULL_DATA`), of 28 words on
average, more in the steps of a talkative rollout than in those of another (log-normal),
a question, and the words around both. Most pictures stand alone, the rest
in twos and threes, of sizes from thumbnails to 1,600 x 1,200; what a backbone makes of
one is counted by its own tiling or resizing. No tokenizer is asked: a word counts as
:data:`TOKENS_PER_WORD` tokens.

Padding the batch to its longest rollout is what the first trainer did; the plan is the
loader's, micro-batch by micro-batch. A share is real entries over computed ones; image
rows are tiles (InternVL2.5) or patches (Qwen2.5-VL).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tyro

from experiments.console.tables import format_table
from mprm_jax.data.batches import Bucket, Sizes, open_ladder, plan_micro_batches
from mprm_jax.data.images import (
    PatchGrid,
    Tiling,
    share_of,
    smart_size,
    tile_count,
)
from mprm_jax.data.packing import plan_rows, row_shape
from theory.paper import FULL_DATA, TRAINING

# With _SPREAD chosen so that the means are those with which padding was first modelled
# (LOG.md: 1,536 tokens of InternVL2.5, 617 of Qwen2.5-VL) and the longest of 512 falls
# between 1,536 and 4,096.
TOKENS_PER_WORD = 1.6
# Log-normal deviations: of how talkative a rollout is, and of a step beside that.
_SPREAD, _STEP_SPREAD = 0.4, 0.5
_WORDS_PER_STEP, _WORDS_OF_QUESTION = 28, 40
# Of the chat around the question: system turn, roles, markers of the picture.
_TEMPLATE_TOKENS = 45

# Pictures of a rollout, and how often.
_PICTURES = {1: 0.77, 2: 0.15, 3: 0.08}
# (width, height): icons and formulas, charts, scans, photographs, screens and strips.
_SIZES = (
    (224, 224), (336, 280), (400, 300), (480, 640), (640, 480), (800, 600),
    (1024, 768), (1600, 1200), (512, 512), (1000, 500), (1200, 300), (300, 900),
)  # fmt: skip


class Drawn(NamedTuple):
    """One drawn rollout before any backbone has read it.

    Attributes:
        question: its words.
        steps: words of each.
        pictures: (width, height) of each, pixels.
    """

    question: int
    steps: tuple[int, ...]
    pictures: tuple[tuple[int, int], ...]


def draw(count: int, seed: int) -> list[Drawn]:
    """Rollouts as the module's docstring says."""
    rng = np.random.default_rng([seed, count])
    numbers, shares = zip(*_PICTURES.items(), strict=True)

    def words(mean: float, spread: float, size: int | None = None) -> np.ndarray:
        drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, size)
        return np.maximum(np.rint(drawn), 1).astype(int)

    made = []
    for _ in range(count):
        steps = 2 + rng.poisson(FULL_DATA.steps_per_rollout - 2)
        talkative = rng.lognormal(-(_SPREAD**2) / 2, _SPREAD)
        of_steps = words(_WORDS_PER_STEP * talkative, _STEP_SPREAD, steps)
        chosen = rng.integers(len(_SIZES), size=rng.choice(numbers, p=shares))
        made.append(
            Drawn(
                int(words(_WORDS_OF_QUESTION, _SPREAD)),
                tuple(of_steps.tolist()),
                tuple(_SIZES[i] for i in chosen),
            )
        )
    return made


def tiles_of(pictures: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """(tiles, their tokens) that InternVL2.5 reads pictures as."""
    share = share_of(Tiling(max_tiles=TRAINING.max_tiles), len(pictures))
    tiles = sum(tile_count(height, width, share) for width, height in pictures)
    # 448 / 14 = 32 patches a side; a block of 2 x 2 of them is a token.
    return tiles, 256 * tiles


def patches_of(pictures: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """(patches, their tokens) that Qwen2.5-VL reads pictures as."""
    grid = PatchGrid()
    sides = [smart_size(height, width, grid) for width, height in pictures]
    patches = sum(tall * wide for tall, wide in sides) // grid.patch**2
    return patches, patches // grid.merge**2


READERS = {"InternVL2.5": tiles_of, "Qwen2.5-VL": patches_of}


def sizes(drawn: list[Drawn], backbone: str) -> Sizes:
    """What a backbone's prompts of drawn rollouts measure."""

    def one(rollout: Drawn) -> tuple[int, int, int]:
        rows, image_tokens = READERS[backbone](rollout.pictures)
        words = rollout.question + sum(rollout.steps)
        # Each step ends in its marker.
        text = _TEMPLATE_TOKENS + len(rollout.steps) + round(TOKENS_PER_WORD * words)
        tokens = min(text + image_tokens, TRAINING.max_tokens)
        return tokens, rows, len(rollout.steps)

    columns = np.array([one(rollout) for rollout in drawn], np.int64).T
    return Sizes(*columns, weight=columns[-1].astype(float), truncated=0 * columns[-1])


class Shares(NamedTuple):
    """Real entries over computed ones, of tokens and of image rows."""

    tokens: float
    image_rows: float


def shares(of: Sizes, batch_size: int, micro_batches: int) -> Shares:
    """Shares of all rollouts, batch by batch as the loader pads them; in one
    micro-batch every row has the bucket of the batch's longest rollout.
    """
    ladder, computed = open_ladder(int(of.steps.max())), np.zeros(2)
    rows = batch_size // micro_batches
    for batch in of.batches(batch_size):
        plan = plan_micro_batches(batch, ladder, micro_batches, rows)
        computed += rows * np.array([_area(part.shape) for part in plan]).sum(axis=0)
    real = np.array([of.tokens.sum(), of.patches.sum()])
    return Shares(*(real / computed).tolist())


def packed_shares(of: Sizes, batch_size: int, tokens: int) -> Shares:
    """The same of rows of so many tokens, packed as the trainer packs them."""
    batches = of.batches(batch_size)
    shape = row_shape(batches[0], of, tokens, int(of.steps.max()))
    rows = sum(len(plan_rows(batch, shape)) for batch in batches)
    real = np.array([of.tokens.sum(), of.patches.sum()])
    return Shares(*(real / (rows * np.array(_area(shape.row)))).tolist())


def _area(shape: Bucket) -> tuple[int, int]:
    return shape.tokens, shape.patches


@dataclasses.dataclass(frozen=True)
class Options:
    """Count padding.

    Attributes:
        batches: Of this many batches.
        batch_size: Rollouts of each.
        micro_batches: That the loader plans of each.
        pack: Tokens of a packed row.
        seed: Of the draw.
    """

    batches: int = 20
    batch_size: int = TRAINING.batch_size
    micro_batches: int = 32
    pack: int = TRAINING.max_tokens
    seed: int = 0


def main(options: Options) -> None:
    """Draw, count, print."""
    drawn = draw(options.batches * options.batch_size, options.seed)
    rows = []
    for backbone in READERS:
        of = sizes(drawn, backbone)
        ways = {
            "to the longest of the batch": shares(of, options.batch_size, 1),
            f"in {options.micro_batches} micro-batches": shares(
                of, options.batch_size, options.micro_batches
            ),
            f"packed in rows of {options.pack:,}": packed_shares(
                of, options.batch_size, options.pack
            ),
        }
        for way, found in ways.items():
            rows.append((backbone, way, *(f"{share:.2f}" for share in found)))
        print(
            f"{backbone}: {of.tokens.mean():,.0f} tokens, at most {of.tokens.max():,}; "
            f"{of.patches.mean():,.1f} image rows"
        )
    print(f"real shares in {options.batches} batches of {options.batch_size}:")
    print(format_table(("", "padded", "tokens", "image rows"), rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
