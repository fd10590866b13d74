"""The check of training data and benchmark for what they share, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.console.progress import progress
from experiments.console.text import percent
from mprm_jax.data.corpus import Corpus
from mprm_jax.data.overlap import (
    Benchmark,
    Overlap,
    OverlapSettings,
    Roots,
    perceptual_hash,
)
from mprm_jax.data.scored import Solution
from mprm_jax.records.record import ImageRoot

PictureCheck = Literal["near", "same", "none"]

# What a page says of the demo, whose worlds are drawn so.
HELD_OUT = (
    "Training data and benchmark of a simulated world share no source: those of the "
    "benchmark are held out by construction."
)


def check_overlap(
    corpus: Corpus,
    rows: np.ndarray,
    solutions: Sequence[Solution],
    settings: OverlapSettings,
) -> Overlap:
    """Compare questions; arguments as :class:`mprm_jax.data.overlap.Overlap`.

    Raises:
        DataError: a record is not the one that was indexed.
    """
    with progress("comparing questions", len(rows), "rollouts") as tick:
        return Overlap(corpus, rows, Benchmark(solutions), settings, tick)


def check_pictures(
    overlap: Overlap,
    check: PictureCheck,
    root: Path | ImageRoot | None,
    benchmark_root: Path | ImageRoot,
    workers: int,
) -> None:
    """Compare pictures, too, where both sides have any.

    Args:
        overlap: questions, compared.
        check: "near" takes the same ones where the library for near ones is missing.
        root: of the corpus's image paths; None: there is none.
        benchmark_root: of the benchmark's.
        workers: threads that decode.
    """
    both = overlap.images and overlap.benchmark.pictures
    if check == "none" or root is None or not both:
        return
    look = perceptual_hash() if check == "near" else None
    with (
        ThreadPoolExecutor(workers) as pool,
        progress("comparing pictures", len(overlap.images), "pictures") as tick,
    ):
        overlap.compare_pictures(Roots(root, benchmark_root, look), pool, tick)


def overlap_sentences(value: dict[str, Any]) -> str:
    """What was found, of :meth:`mprm_jax.data.overlap.Overlap.as_json`, for a page."""
    found, near = value["overall"], percent(value["settings"]["share"])
    told = [
        f"Of the benchmark’s {found['solutions']:,} solutions "
        f"{found['question_same']:,} answer a question that the corpus asks in the "
        f"same words, and {found['question_near']:,} one near it (it has {near} of "
        "the words, several in a row)."
    ]
    if value["pictures"]:
        alike = f", for {found['picture_near']:,} one that looks like it"
        told.append(
            f"For {found['picture_same']:,} the corpus has the same picture"
            f"{alike if value['pictures'] == 'near' else ''}; for {found['problem']:,} "
            "one training rollout has both question and picture."
        )
    elif value["benchmark"]["pictures"]:
        told.append("Pictures were not compared.")
    sides = value["corpus"], value["benchmark"]
    unread = sum(of["pictures"] - of["pictures_read"] for of in sides)
    if value["pictures"] and unread:
        told.append(f"{unread:,} pictures could not be read.")
    return " ".join(told)
