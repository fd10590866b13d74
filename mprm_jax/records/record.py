"""One rollout as every format can state it, and what makes it usable."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from mprm_jax.records.problems import BadRecord
from theory.rollouts import SCORE_TOLERANCE

# The token after each step; training and evaluation read the model's logits there.
STEP_MARKER = "<prm>"

# Where a picture stands in a text; trainers pair these with the pictures.
PLACEHOLDER = "<image>"

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
        stated: the MC score where N is not known; K/N is then the fraction next to it.
    """

    text: str
    successes: int
    trials: int
    stated: float | None = None

    @property
    def score(self) -> float:
        """MC score s = K/N, or as it was stated, in [0, 1].

        Raises:
            ZeroDivisionError: the step was never sampled.
        """
        return self.successes / self.trials if self.stated is None else self.stated


class Record(msgspec.Struct, frozen=True):
    """One rollout with its question.

    Attributes:
        question: without surrounding white space; never empty.
        steps: at least one.
        image: path(s) below the image root, or None for a text-only rollout.
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


# A scheme (https:, data:, file:), a Windows drive or a parent step.
_UNSAFE_PATH = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]*:   # URL scheme or drive letter
      | \\|//                      # a UNC path
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

    Whether an absolute path lies below the root, and whether a symbolic link leaves it,
    is checked by :func:`resolve_image`, because only there is the root known.

    Raises:
        BadRecord: the path is empty, a URL, climbs by ``..``, or holds control
            characters.
    """
    if _PLAIN_PATH.fullmatch(image):
        return
    if not image.strip() or image == PLACEHOLDER:
        raise BadRecord("image empty")
    if _UNSAFE_PATH.match(image):
        raise BadRecord(
            "unsafe image path",
            f"{image[:80]!r}: only files below the image root are read",
        )
    check_text(image, "the image path")


class ImageRoot(NamedTuple):
    """Where pictures lie.

    Attributes:
        path: every picture lies below it.
        follow_links: whether a symbolic link below it may lead elsewhere.
    """

    path: Path
    follow_links: bool = False


def resolve_image(root: Path | ImageRoot, image: str) -> Path:
    """The file that ``image`` names below ``root``, symbolic links resolved.

    A path that does not lie there is tried without its first part, which published
    corpora put before it: the name of the archive. Links of a snapshot in a Hugging
    Face cache lead into its own store, which is as good as the root.

    Raises:
        BadRecord: the path leaves the root, or there is no such file.
    """
    check_image_path(image)
    root = root if isinstance(root, ImageRoot) else ImageRoot(root)
    base = Path(os.path.realpath(root.path))
    file = base / image
    if image.startswith("/") and not _below(file, (base, Path(root.path).absolute())):
        raise BadRecord("unsafe image path", f"{image[:80]!r} is not below {root.path}")
    # Unlike Path.is_file, this is false for a name too long for the file system.
    if not os.path.isfile(file):
        file = base / shortened(image)
    found = Path(os.path.realpath(file))
    if not root.follow_links and not _below(found, (base, *_blobs(root.path))):
        raise BadRecord(
            "unsafe image path", f"{image[:80]!r} leaves {root.path} by a symbolic link"
        )
    if not os.path.isfile(found):
        raise BadRecord("image not found", f"{image[:80]!r} below {root.path}")
    return found


def image_root(path: Path, images: Sequence[str]) -> Path:
    """Where the images of a file, or of those in a folder, lie if nobody says:
    ``images/`` beside it, or beside it if the first of them is there and not below
    ``images/``.
    """
    folder = path if path.is_dir() else path.parent
    roots = (folder / "images", folder)
    found = (root for root in roots if images and os.path.isfile(root / images[0]))
    return next(found, roots[0] if roots[0].is_dir() else roots[1])


def shortened(image: str) -> str:
    """A relative path without its first part; the path itself if it has but one."""
    # Never an absolute one, which would lead out of the root.
    rest = image.partition("/")[2].lstrip("/")
    return image if image.startswith("/") else rest or image


def _below(file: Path, folders: Iterable[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def _blobs(root: Path) -> list[Path]:
    """The store of the Hugging Face cache that a folder is a snapshot of, if it is."""
    parts = Path(os.path.abspath(root)).parts
    if "snapshots" not in parts:
        return []
    store = Path(*parts[: parts.index("snapshots")], "blobs")
    return [Path(os.path.realpath(store))] if store.is_dir() else []


def without_placeholders(record: Record) -> Record:
    """The record without the picture placeholders that lead its question, at most one
    for each picture: models put the pictures in front anyway.

    Example:
        >>> made = Record("<image>\nWhich?", (Step("a", 1, 1),), "1.png")
        >>> without_placeholders(made).question
        'Which?'
    """
    question = record.question
    for _ in record.images:
        question = question.removeprefix(PLACEHOLDER).lstrip()
    if question == record.question:
        return record
    return msgspec.structs.replace(record, question=question)


def placeholders_pair(record: Record) -> bool:
    """Whether the placeholders in the question, not in front of it, are as many as its
    pictures, and none is in a step: trainers then pair the two as they stand.

    Example:
        >>> made = Record("In 1 <image> or 2 <image>?", (Step("a", 1, 1),), ("1", "2"))
        >>> placeholders_pair(made)
        True
    """
    return (
        record.question.count(PLACEHOLDER) == len(record.images)
        and without_placeholders(record) is record
        and not any(PLACEHOLDER in step.text for step in record.steps)
    )


def has_placeholder(record: Record) -> bool:
    """Whether a text holds a literal placeholder of a picture."""
    return PLACEHOLDER in record.question or any(
        PLACEHOLDER in step.text for step in record.steps
    )


def without_empty_steps(record: Record) -> Record:
    """The record without the steps that say nothing."""
    steps = tuple(step for step in record.steps if step.text)
    return msgspec.structs.replace(record, steps=steps)


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


def unmeasured_step(number: int, human: bool = False) -> BadRecord:
    """The error for a step without a label.

    Args:
        number: of the step, from 1.
        human: people judged the steps, and not this one; else it was never sampled.
    """
    if human:
        return BadRecord(
            "step not judged",
            f"nobody judged step {number}; choose --unmeasured drop or keep",
        )
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


def scored_step(text: str, score: float, trials: int | None, number: int) -> Step:
    """A step of which the MC score is stated, and N perhaps not.

    Without ``trials`` a score of 0 or 1 is a label with one trial. Of a soft one K/N is
    the reduced fraction that it prints as, if N <= 65535 has one, else the nearest
    K/65535 that is neither 0 nor 1; what was stated is kept beside it.

    Args:
        text: of the step.
        score: s in [0, 1].
        trials: N if known.
        number: of the step, counted from 1, for the message.

    Raises:
        BadRecord: the score is outside [0, 1] or not finite, or times N is no integer.

    Example:
        >>> scored_step("a", 0.8666666666666667, None, 1)
        Step(text='a', successes=13, trials=15, stated=0.8666666666666667)
    """
    if not 0 <= score <= 1:
        raise BadRecord("score outside [0, 1]", f"step {number} has score {score}")
    if trials is None:
        if score in (0, 1):
            return Step(text, int(score), 1)
        near = Fraction(score).limit_denominator(MAX_TRIALS)
        if near.numerator / near.denominator == score:
            return Step(text, near.numerator, near.denominator, score)
        inside = min(max(round(score * MAX_TRIALS), 1), MAX_TRIALS - 1)
        return Step(text, inside, MAX_TRIALS, score)
    successes = round(score * trials)
    if abs(score * trials - successes) > SCORE_TOLERANCE * trials:
        raise BadRecord(
            "score is no multiple of 1/N",
            f"step {number} has score {score} with {trials} trials",
        )
    return Step(text, successes, trials)
