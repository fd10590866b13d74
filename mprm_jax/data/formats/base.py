"""What a format is: a decoder of one record's bytes, and an encoder of one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import MAX_TRIALS, Record, Step

LabelKind = Literal["hard", "soft"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read what a format leaves open.

    Attributes:
        trials: N of soft labels in formats that do not state it.
        source_from: field of the record that names its source, or None for the file.

    Raises:
        ValueError: ``trials`` is outside [1, 65535].
    """

    trials: int | None = None
    source_from: str | None = None

    def __post_init__(self) -> None:
        if self.trials is not None and not 1 <= self.trials <= MAX_TRIALS:
            raise ValueError(f"trials must lie in [1, {MAX_TRIALS}], not {self.trials}")


@dataclass(frozen=True)
class WriteOptions:
    """How to write labels.

    Attributes:
        labels: Hard labels 1[s > threshold], or the soft scores s.
        label_threshold: Threshold of hard labels, in [0, 1); 0 in the paper.

    Raises:
        ValueError: the threshold is outside [0, 1).
    """

    labels: LabelKind = "hard"
    label_threshold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_threshold < 1:
            raise ValueError(
                f"label_threshold must lie in [0, 1), not {self.label_threshold}"
            )


@dataclass(frozen=True)
class Format:
    """One on-disk format.

    Attributes:
        name: as given to ``--format``.
        meaning: one line for ``--help`` and error messages.
        decode: bytes of one record -> :class:`Record`; raises :class:`BadRecord`.
        encode: record -> bytes of one JSON line without newline; raises
            :class:`BadRecord` for a text the format cannot hold; None: read only.
        soft: whether it can hold soft labels.
        recognise: whether the keys of a decoded JSON object are this format's.
    """

    name: str
    meaning: str
    decode: Callable[[bytes, ReadOptions], Record]
    encode: Callable[[Record, WriteOptions], bytes] | None
    soft: bool
    recognise: Callable[[dict], bool]


def hard_labels(steps: Sequence[Step], options: WriteOptions) -> list[bool]:
    """Hard label y = 1[s > label_threshold] of each step.

    Raises:
        BadRecord: a step was never sampled, so it has no label.
    """
    threshold = options.label_threshold
    try:
        return [step.successes / step.trials > threshold for step in steps]
    except ZeroDivisionError:
        raise _no_label(steps) from None


def labels(steps: Sequence[Step], options: WriteOptions) -> list[float]:
    """The label of each step as a number: its MC score if soft, else 0.0 or 1.0.

    Raises:
        BadRecord: a step was never sampled, so it has no label.
    """
    if options.labels == "hard":
        return [1.0 if hard else 0.0 for hard in hard_labels(steps, options)]
    try:
        return [step.score for step in steps]
    except ZeroDivisionError:
        raise _no_label(steps) from None


def _no_label(steps: Sequence[Step]) -> BadRecord:
    first = next(i for i, step in enumerate(steps, 1) if step.trials == 0)
    return BadRecord("step never sampled", f"step {first} has no label to write")


def check_options(form: Format, options: WriteOptions) -> None:
    """Refuse label options the format cannot hold.

    Raises:
        DataError: the format is read-only or holds no soft labels.
    """
    if form.encode is None:
        raise DataError(f"format {form.name} can be read, not written")
    if options.labels == "soft" and not form.soft:
        raise DataError(
            f"format {form.name} holds no soft labels ({form.meaning}); "
            "use --labels hard, or --format prm or raw"
        )
