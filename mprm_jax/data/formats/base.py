"""What a format is: a reader of one record's bytes, and a writer of one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mprm_jax.data.formats.json_record import (
    check_paired,
    check_pictures,
    parse,
    source_of,
)
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import (
    MAX_TRIALS,
    PLACEHOLDER,
    Record,
    Step,
    check_record,
    has_placeholder,
    placeholders_pair,
    scored_step,
    without_empty_steps,
    without_placeholders,
)

# How a record states the label of a step.
Label = bool | int | float | str

LabelKind = Literal["hard", "soft", "masked"]
EmptySteps = Literal["error", "drop"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read what a format leaves open.

    Attributes:
        trials: N of soft labels in formats that do not state it.
        source_from: field of the record that names its source, or None for the file.
        empty_steps: a step that says nothing: "error" refuses its record, "drop" leaves
            it out with its label.

    Raises:
        ValueError: ``trials`` is outside [1, 65535].
    """

    trials: int | None = None
    source_from: str | None = None
    empty_steps: EmptySteps = "error"

    def __post_init__(self) -> None:
        if self.trials is not None and not 1 <= self.trials <= MAX_TRIALS:
            raise ValueError(f"trials must lie in [1, {MAX_TRIALS}], not {self.trials}")


@dataclass(frozen=True)
class WriteOptions:
    """How to write records.

    Attributes:
        labels: Hard labels 1[s > threshold], or the soft scores s; masked: hard ones
            at 0, but positives with s < 1/4 of rollouts that have negatives have no
            label: they are likelier wrong.
        label_threshold: Threshold of hard labels, in [0, 1); 0 in the paper.
        system_turn: What a system says before the first turn, in formats of turns
            (visualprm, rlhflow); by default nothing.

    Raises:
        ValueError: the threshold is outside [0, 1), or not 0 of masked labels.
    """

    labels: LabelKind = "hard"
    label_threshold: float = 0.0
    system_turn: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_threshold < 1:
            raise ValueError(
                f"label_threshold must lie in [0, 1), not {self.label_threshold}"
            )
        if self.labels == "masked" and self.label_threshold:
            raise ValueError("labels masked have no label_threshold")


@dataclass(frozen=True)
class Format:
    """One on-disk format.

    Attributes:
        name: by which users choose it.
        meaning: one line for help and error messages.
        decoder: of one record's bytes to what the format's fields hold.
        read: what the decoder gives -> :class:`Record`, unchecked; or several, where
            one JSON object holds several rollouts.
        write: record that is fit for training -> bytes of one JSON line without
            newline; None: read only.
        recognise: whether the keys of a decoded JSON object are this format's.
        soft: whether it can hold soft labels.
        unlabelled: whether it can hold steps without a label, as masked labels have.
        lenient: fields that are not read may hold what only the standard library reads
            (NaN, lone surrogates), as long as the line is text.
        human: people judged the steps; what they did not judge is no negative.
        system: whether it can hold a system turn.
        benchmark: made to judge models, so `mprm evaluate` reads it.
    """

    name: str
    meaning: str
    decoder: msgspec.json.Decoder
    read: Callable[[Any, ReadOptions], Record | tuple[Record, ...]]
    write: Callable[[Record, WriteOptions], bytes] | None
    recognise: Callable[[dict], bool]
    soft: bool = False
    unlabelled: bool = False
    lenient: bool = False
    human: bool = False
    system: bool = False
    benchmark: bool = False

    def decode(self, data: bytes, options: ReadOptions) -> tuple[Record, ...]:
        """The rollouts of one JSON object, nearly always one.

        Raises:
            BadRecord: it has another form, or training cannot use it.
        """
        if self.lenient:
            # The decoder does not look at the bytes of texts that it does not decode.
            try:
                data.decode()
            except UnicodeDecodeError as error:
                raise BadRecord("invalid UTF-8", f"at byte {error.start + 1}") from None
        read = self.read(parse(data, self.decoder, self.name, self.lenient), options)
        records = read if isinstance(read, tuple) else (read,)
        if not any(record.images for record in records):
            check_pictures(data, records)
        if options.source_from is not None:
            source = source_of(data, options.source_from)
            records = tuple(
                msgspec.structs.replace(record, source=source) for record in records
            )
        return tuple(_usable(record, options) for record in records)

    def encode(self, record: Record, options: WriteOptions) -> bytes:
        """One JSON line without newline; a read-only format has none.

        Raises:
            BadRecord: training cannot use the record, or the format cannot hold it.
        """
        check_record(record)
        if self.write is None:
            raise BadRecord("nothing to write", f"format {self.name} can be read only")
        if has_placeholder(record) and not placeholders_pair(record):
            raise BadRecord(
                "image placeholder in text",
                f"a text contains the literal {PLACEHOLDER}, which trainers take for "
                "a picture",
            )
        return self.write(record, options)


def _usable(record: Record, options: ReadOptions) -> Record:
    if options.empty_steps == "drop":
        record = without_empty_steps(record)
    return check_record(without_placeholders(record))


_HARD = {"+": 1, "-": 0, 1: 1, 0: 0}


def judged_steps(
    texts: Sequence[str], labels: Sequence[Label], options: ReadOptions
) -> tuple[Step, ...]:
    """Steps with a label each: + or -, a boolean, 1 or 0 is one trial; a float is an MC
    score, of which N is ``options.trials`` or unknown.

    Raises:
        BadRecord: they are not as many, or a label is none of these.
    """
    check_paired(len(texts), len(labels))
    steps = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        if isinstance(label, float):
            steps.append(scored_step(text.strip(), label, options.trials, number))
            continue
        successes = _HARD.get(label.strip() if isinstance(label, str) else label)
        if successes is None:
            raise BadRecord(
                "label unknown",
                f"step {number} is judged {str(label)[:20]!r}, which is neither + nor "
                "-, true nor false, nor a score",
            )
        steps.append(Step(text.strip(), successes, 1))
    return tuple(steps)


def hard_labels(steps: Sequence[Step], options: WriteOptions) -> list[bool]:
    """Hard label y = 1[s > label_threshold] of each step.

    Raises:
        BadRecord: a step was never sampled, so it has no label.
    """
    threshold = options.label_threshold
    try:
        return [step.score > threshold for step in steps]
    except ZeroDivisionError:
        raise _no_label(steps) from None


def labels(steps: Sequence[Step], options: WriteOptions) -> list[float]:
    """The label of each step as a number: its MC score if soft, else 0.0 or 1.0.

    Raises:
        BadRecord: a step was never sampled, so it has no label.
    """
    if options.labels != "soft":
        return [1.0 if hard else 0.0 for hard in hard_labels(steps, options)]
    try:
        return [step.score for step in steps]
    except ZeroDivisionError:
        raise _no_label(steps) from None


def _no_label(steps: Sequence[Step]) -> BadRecord:
    first = next(i for i, step in enumerate(steps, 1) if step.trials == 0)
    return BadRecord(
        "step never sampled",
        f"step {first} has no label to write; masked labels need none for it",
    )


def check_options(form: Format, options: WriteOptions) -> None:
    """Refuse label options the format cannot hold.

    Raises:
        DataError: the format is read-only or cannot hold such labels.
    """
    if form.write is None:
        raise DataError(f"format {form.name} can be read, not written")
    if options.labels == "soft" and not form.soft:
        raise DataError(
            f"format {form.name} holds no soft labels ({form.meaning}); "
            "use --labels hard, or --format prm or raw"
        )
    if options.labels == "masked" and not form.unlabelled:
        raise DataError(
            f"format {form.name} has a label for every step ({form.meaning}); use "
            "--format raw, prm or rows, or --labels hard"
        )
    if options.system_turn is not None and not form.system:
        raise DataError(f"format {form.name} has no system turn ({form.meaning})")
