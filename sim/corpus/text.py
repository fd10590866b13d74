"""Placeholder text for simulated counts, as records of the raw on-disk format.

The text has the length, mathematics and alphabet of the real corpus and no meaning: it
is drawn without a look at the counts, so nothing can be learned from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from theory.rollouts import Rollouts

# One to three of these make a step. With the short final step the mean is 28 words, as
# in the paper's corpus (27.8).
_PER_STEP = np.array([1, 2, 2, 3, 3])
_SENTENCES = (
    "Looking at the image, we can see {a} objects arranged around the center of it.",
    "The chart shows a value of {a}% for the first group and {b}% for the second one.",
    "From the figure, ∠ABC = {a}° and ∠BCD = {b}°, so the two angles can be compared.",
    "We set up the equation \\({a}x + {b} = {c}\\) and solve for the unknown \\(x\\).",
    "By the Pythagorean theorem, $c = \\sqrt{{{a}^2 + {b}^2}}$, which we simplify.",
    "This gives $\\frac{{{a}}}{{{b}}} \\times {c}$ for the quantity asked for.",
    "Therefore the ratio of both quantities is {a} : {b}, before any rounding is done.",
    "Next, I check each row of the table and note that row {a} contains “{b}”.",
    "The label near the top reads “Café №{a}”, and below it one finds the number {b}.",
    "Since AB ∥ CD and the radius is {a} cm, the shaded area must be ≈ {b}π cm².",
    "Subtracting the smaller value from the larger, we get {b} − {a}, that is, {c}.",
    "Among the options, only those that mention {a} or {b} agree with what is visible.",
    "There are {a} large cubes → removing the {b} metal ones leaves the rest to count.",
    "Let us define $f(x) = {a}x^2 - {b}x + {c}$ and evaluate it at the marked point.",
)
_QUESTIONS = (
    "How many objects are shown in panel {row} if those marked {a} are left out?",
    "In figure {row}, $AB = {a}$ and $BC = {b}$. What is the length of $AC$?",
    "According to chart {row}, what is the difference between the years {a} and {b}?",
    "What is written on sign №{row}, next to the number {a}?",
)
# As annotated questions have it: the policy's prompt comes with every record, which
# makes a record of six steps three kilobytes long.
_INSTRUCTION = """
Look at the image closely before you answer. First describe what in it bears on the
question: objects, labels, numbers, lengths, angles, colours and how they are placed
relative to each other. Then reason step by step. Begin every step on a new line, let it
make one statement that can be checked against the image or against the steps before it,
and carry intermediate results along with their units. If a value has to be read off an
axis or a scale, say between which marks it lies. Do not guess what is not visible. When
all steps are done, go over them once more, correct what does not hold, and close with a
line of the form "Final answer: ..." that holds a single word, number, letter of an
option or short phrase, without further explanation."""
_ANSWERS = ("Yes", "No", "A", "B", "C", "D", "red", "{a}", "{a}.{b}", "{a}°", "√{b}")

# Distinct sentences that the steps are put together from, and rollouts per block of
# random numbers: filling a template costs more than joining what is filled.
_POOL = 4096
_BLOCK = 4096


def file_stem(source_name: str) -> str:
    """The source's name with what a file name cannot hold replaced by "_"."""
    return re.sub(r"[^\w+.-]+", "_", source_name).strip("_.") or "source"


def placeholder_records(
    rollouts: Rollouts, rng: np.random.Generator
) -> Iterator[tuple[str, dict]]:
    """Raw VisualPRM records with these counts and seeded placeholder text.

    The last step is the final answer. Every rollout has its own question; its image
    path names a file that is not made.

    Args:
        rollouts: the counts; every rollout needs a step.
        rng: equal states give equal text for equal lengths, whatever the counts.

    Returns:
        Iterator of (source name, record) in the order of the rollouts; never-sampled
        steps have score 0 and ``num_mc_total`` 0, as the annotator writes them.

    Raises:
        ValueError: a rollout has no step.
    """
    if np.any(rollouts.lengths == 0):
        raise ValueError(
            f"rollout {int(np.argmax(rollouts.lengths == 0))} has no step to write"
        )
    return _records(rollouts, rng)


def _records(
    rollouts: Rollouts, rng: np.random.Generator
) -> Iterator[tuple[str, dict]]:
    pool = [
        _SENTENCES[kind].format(a=a, b=b, c=c)
        for kind, (a, b, c) in zip(
            rng.integers(len(_SENTENCES), size=_POOL),
            rng.integers(2, 999, (_POOL, 3)),
            strict=True,
        )
    ]
    stems = [file_stem(name) for name in rollouts.source_names]
    for start in range(0, rollouts.n_rollouts, _BLOCK):
        bounds = rollouts.offsets[start : start + _BLOCK + 1].tolist()
        steps = slice(bounds[0], bounds[-1])
        counts = list(
            zip(
                rollouts.successes[steps].tolist(),
                rollouts.trials[steps].tolist(),
                strict=True,
            )
        )
        sizes = rng.choice(_PER_STEP, len(counts)).tolist()
        picks = rng.integers(_POOL, size=(len(counts), _PER_STEP.max())).tolist()
        asked = rng.integers(2, 999, (len(bounds) - 1, 4)).tolist()
        sources = rollouts.source[start : start + _BLOCK].tolist()
        for i, (source, (kind, reply, a, b)) in enumerate(
            zip(sources, asked, strict=True)
        ):
            row = start + i
            first, last = bounds[i] - bounds[0], bounds[i + 1] - bounds[0]
            question = _QUESTIONS[kind % len(_QUESTIONS)].format(row=row + 1, a=a, b=b)
            answer = _ANSWERS[reply % len(_ANSWERS)].format(a=a, b=b)
            texts = [
                " ".join([pool[pick] for pick in picks[j][: sizes[j]]])
                for j in range(first, last - 1)
            ]
            texts.append(f"Final answer: {answer}")
            yield (
                rollouts.source_names[source],
                {
                    "image": f"{stems[source]}/{row:07d}.png",
                    "question": question + _INSTRUCTION,
                    "question_orig": question,
                    "answer": answer,
                    "response": "\n\n".join(texts),
                    "steps_with_score": [
                        {
                            "step": text,
                            "score": successes / trials if trials else 0.0,
                            "num_mc_correct": successes,
                            "num_mc_total": trials,
                        }
                        for text, (successes, trials) in zip(
                            texts, counts[first:last], strict=True
                        )
                    ],
                    "num_mc_sequences": max(n for _, n in counts[first:last]),
                },
            )
