"""One rollout as every format can state it, and what makes it usable."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from mprm_jax.records.problems import BadRecord
from theory.rollouts import SCORE_TOLERANCE

# The token after each step; training and evaluation read the model's logits there.
STEP_MARKER = "<prm>"

# Above this a count is a fault of the file: an annotator samples tens of continuations.
# (theory.rollouts.MAX_TRIALS is another bound: up to there its arithmetic is exact.)
MAX_TRIALS = 65_535

UnmeasuredPolicy = Literal["error", "drop", "negative", "keep"]


class Step(msgspec.Struct, frozen=True):
    """One reasoning step.

    Attributes:
        text: what the step says, without surrounding white space; never empty.
        successes: K continuations that reached the right answer, ``0 <= K <= N``.
        trials: N continuations sampled; 0 = never sampled.
    """

    text: str
    successes: int
    trials: int

    @property
    def score(self) -> float:
        """MC score s = K/N, in [0, 1].

        Raises:
            ZeroDivisionError: the step was never sampled.
        """
        return self.successes / self.trials


class Record(msgspec.Struct, frozen=True):
    """One rollout with its question.

    Attributes:
        question: without surrounding white space; never empty.
        steps: at least one.
        image: path(s) relative to the image root, or None for a text-only rollout.
        answer: reference answer, where the format has one.
        source: name of the source, where the record itself carries it.
    """

    question: str
    steps: tuple[Step, ...]
    image: str | tuple[str, ...] | None = None
    answer: str | None = None
    source: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """The image paths, none, one or several."""
        if self.image is None:
            return ()
        return (self.image,) if isinstance(self.image, str) else self.image


def check_record(record: Record) -> Record:
    """The record, if training can use it.

    Raises:
        BadRecord: no question, no step, an empty step, the step marker or a lone
            surrogate in a text, or an empty or unsafe image path.
    """
    if not record.question:
        raise BadRecord("question missing")
    if not record.steps:
        raise BadRecord("no steps")
    texts = [step.text for step in record.steps]
    if not all(texts):
        raise BadRecord("empty step", f"step {texts.index('') + 1} has no text")
    try:
        # All at once: nearly every record is fine.
        check_text("\n".join([record.question, *texts]), "a text")
    except BadRecord:
        for number, text in enumerate(texts, 1):
            check_text(text, f"step {number}")
        check_text(record.question, "the question")
    for name in ("answer", "source"):
        check_encodable(getattr(record, name) or "", f"the {name}")
    if record.image is not None and not record.images:
        raise BadRecord("image empty", "the list of images is empty")
    for image in record.images:
        check_image_path(image)
    return record


def check_text(text: str, where: str) -> None:
    """Refuse text that cannot stand in a prompt.

    Raises:
        BadRecord: it holds the step marker (markers and labels would no longer pair
            up), or half of a surrogate pair.
    """
    if STEP_MARKER in text:
        raise BadRecord(
            "step marker in text", f"{where} contains the literal {STEP_MARKER}"
        )
    check_encodable(text, where)


def check_encodable(text: str, where: str) -> None:
    """Refuse text that cannot be written as UTF-8.

    Raises:
        BadRecord: it holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord(
            "lone surrogate", f"{where} holds half of a surrogate pair"
        ) from None


# A scheme (https:, data:, file:), a Windows drive, a root or a parent step.
_UNSAFE_PATH = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]*:   # URL scheme or drive letter
      | [/\\]                      # absolute, or a UNC path
      | ~                          # home folder
      | .*[\0-\x1f]                # NUL and other control characters
      | (?:.*[/\\])?\.\.(?:[/\\]|$)  # parent folder
    """,
    re.VERBOSE | re.DOTALL,
)

# What nearly all paths are like, and none of the above is.
_PLAIN_PATH = re.compile(r"[\w-][\w. -]*(?:/[\w-][\w. -]*)*")


def check_image_path(image: str) -> None:
    """Refuse a path that could leave the image root.

    Whether a symbolic link under the root leaves it is checked by
    :func:`resolve_image`, because only there is the root known.

    Raises:
        BadRecord: the path is empty, absolute, a URL, climbs by ``..``, or holds
            control characters.
    """
    if _PLAIN_PATH.fullmatch(image):
        return
    if not image.strip():
        raise BadRecord("image empty")
    if _UNSAFE_PATH.match(image):
        raise BadRecord(
            "unsafe image path",
            f"{image[:80]!r}: only paths below the image root are read",
        )
    check_text(image, "the image path")


def resolve_image(root: Path, image: str) -> Path:
    """The file that ``image`` names below ``root``, symbolic links resolved.

    Raises:
        BadRecord: the path could leave the root or does so by a symbolic link, or there
            is no such file.
    """
    check_image_path(image)
    base = Path(os.path.realpath(root))
    file = Path(os.path.realpath(base / image))
    if not file.is_relative_to(base):
        raise BadRecord(
            "unsafe image path", f"{image[:80]!r} leaves {root} by a symbolic link"
        )
    # Unlike Path.is_file, this is false for a name too long for the file system.
    if not os.path.isfile(file):
        raise BadRecord("image not found", f"{image[:80]!r} below {root}")
    return file


def resolve_unmeasured(record: Record, policy: UnmeasuredPolicy) -> Record | None:
    """The record with what a policy makes of its steps with N = 0.

    "drop" truncates before the first such step and gives None if nothing is left;
    "negative" makes of each a negative label with one trial; "keep" leaves them without
    a label, and gives None if no step has one; "error" refuses.

    Raises:
        BadRecord: the policy is "error" and a step has no trials.
    """
    first = next((i for i, step in enumerate(record.steps) if step.trials == 0), None)
    if first is None:
        return record
    match policy:
        case "keep":
            return record if any(step.trials for step in record.steps) else None
        case "drop":
            if first == 0:
                return None
            return msgspec.structs.replace(record, steps=record.steps[:first])
        case "negative":
            steps = tuple(
                step if step.trials else msgspec.structs.replace(step, trials=1)
                for step in record.steps
            )
            return msgspec.structs.replace(record, steps=steps)
    raise unmeasured_step(first + 1)


def unmeasured_step(number: int) -> BadRecord:
    """The error for a step that was never sampled, ``number`` counted from 1."""
    return BadRecord(
        "step never sampled",
        f"step {number} has no continuation (N = 0); choose --unmeasured drop, "
        "negative or keep",
    )


def without_labels(record: Record, unlabelled: Iterable[int]) -> Record:
    """The record with those steps as if never sampled."""
    steps = list(record.steps)
    for j in unlabelled:
        steps[j] = Step(steps[j].text, 0, 0)
    return msgspec.structs.replace(record, steps=tuple(steps))


def counts_from_score(score: float, trials: int | None, number: int) -> tuple[int, int]:
    """(K, N) of an MC score: a binary one without ``trials`` has one trial.

    Args:
        score: s in [0, 1].
        trials: N if known.
        number: of the step, counted from 1, for the message.

    Raises:
        BadRecord: the score is outside [0, 1] or not finite, is soft while N is
            unknown, or times N is no integer.
    """
    if not 0 <= score <= 1:
        raise BadRecord("score outside [0, 1]", f"step {number} has score {score}")
    if trials is None:
        if score not in (0, 1):
            raise BadRecord(
                "soft label without trials",
                f"step {number} has {score}; pass --trials N "
                "(16 in VisualPRM400K-v1.1)",
            )
        return int(score), 1
    successes = round(score * trials)
    if abs(score * trials - successes) > SCORE_TOLERANCE * trials:
        raise BadRecord(
            "score is no multiple of 1/N",
            f"step {number} has score {score} with {trials} trials",
        )
    return successes, trials
