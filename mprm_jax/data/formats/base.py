"""What a format is: a decoder of one record's bytes, and an encoder of one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.record import Record, Step

LabelKind = Literal["hard", "soft"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read what a format leaves open.

    Attributes:
        trials: N of soft labels in formats that do not state it.
        source_from: field of the record that names its source, or None for the file.
    """

    trials: int | None = None
    source_from: str | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How to write labels.

    Attributes:
        labels: "hard" writes y = 1[s > label_threshold], "soft" writes s.
        label_threshold: in [0, 1); 0 in the paper.
    """

    labels: LabelKind = "hard"
    label_threshold: float = 0.0


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


def hard_label(step: Step, options: WriteOptions) -> bool:
    """Hard label y = 1[s > label_threshold] of a measured step.

    Raises:
        BadRecord: the step was never sampled, so it has no label.
    """
    if step.trials == 0:
        raise BadRecord("step never sampled", "no label to write")
    return step.score > options.label_threshold


def label(step: Step, options: WriteOptions) -> float:
    """The step's label as a number: its MC score if soft, else 0.0 or 1.0.

    Raises:
        BadRecord: the step was never sampled, so it has no label.
    """
    hard = hard_label(step, options)
    return step.score if options.labels == "soft" else float(hard)


def check_options(form: Format, options: WriteOptions) -> None:
    """Refuse label options the format cannot hold.

    Raises:
        DataError: the format is read-only or holds no soft labels.
        ValueError: the threshold is outside [0, 1).
    """
    if form.encode is None:
        raise DataError(f"format {form.name} can be read, not written")
    if options.labels == "soft" and not form.soft:
        raise DataError(
            f"format {form.name} holds no soft labels ({form.meaning}); "
            "use --labels hard, or --format prm or raw"
        )
    if not 0 <= options.label_threshold < 1:
        raise ValueError(
            f"label_threshold must lie in [0, 1), not {options.label_threshold}"
        )
