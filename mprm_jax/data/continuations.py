"""Prefixes to continue, the answers that come back, and the counts they add.

A plan has one JSON object a line: a :class:`Prefix`, or the same as a request of the
OpenAI batch API, which vLLM's ``run-batch`` reads too. Answers have one a line, too:

- ``{"id", "answers": ["12", null, ...]}``, final answers, null where none was found;
- ``{"id", "correct": [true, null, ...]}``, null where the checker failed;
- ``{"id", "successes", "trials"}``;
- a response of the OpenAI batch API, whose texts :func:`final_answer` reads.

Any function that makes final answers of prefixes is a :class:`Generator`.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from mprm_jax.data.answers import AnswerRule, is_answer
from mprm_jax.data.corpus import Corpus, SelectableCorpus
from mprm_jax.data.formats.raw import RAW, recount, reference_answer
from mprm_jax.data.framing import CorpusFile, RecordFile
from mprm_jax.data.outputs import manifest_path
from mprm_jax.data.write import line_decoder, read_lines
from mprm_jax.records.problems import BadRecord, DataError, faults_of
from mprm_jax.records.record import MAX_TRIALS

Unanswered = Literal["skip", "wrong"]


class Prefix(msgspec.Struct, frozen=True):
    """The beginning of a rollout, to be continued to final answers.

    Attributes:
        id: of the rollout's content, its counts included, and of the step: another one
            once the rollout has got new counts.
        file: of the corpus.
        line: in it, from 1.
        step: how many steps the prefix has; the last is the one to be labelled.
        question: of the rollout.
        image: path(s) below the image root, or None.
        steps: their texts.
        n: continuations asked for.
        successes: K so far.
        trials: N so far.
    """

    id: str
    file: str
    line: int
    step: int
    question: str
    image: str | tuple[str, ...] | None
    steps: tuple[str, ...]
    n: int
    successes: int
    trials: int


class Generator(Protocol):
    """What continues prefixes: any function of them, around a model or a server.

    Example:
        >>> def guess(prefixes):
        ...     return [["12"] * (prefix.n - 1) + [None] for prefix in prefixes]
        >>> generator: Generator = guess
        >>> asked = [Prefix("0f-1", "a.jsonl", 1, 1, "6 + 6?", None, ("a",), 2, 0, 4)]
        >>> [answer_line(*pair) for pair in zip(asked, generator(asked))]
        [b'{"id":"0f-1","answers":["12",null]}\\n']
    """

    def __call__(self, prefixes: Sequence[Prefix], /) -> Iterable[Sequence[str | None]]:
        """Final answers of each prefix in turn, ``prefix.n`` of them; None: it gave
        none.
        """
        ...


def answer_line(prefix: Prefix, answers: Sequence[str | None]) -> bytes:
    """Answers as :func:`read_added` reads them."""
    return msgspec.json.encode({"id": prefix.id, "answers": list(answers)}) + b"\n"


def rollout_ids(corpus: Corpus) -> list[str]:
    """An id of each rollout: its content hash, and which copy it is, if it is one."""
    seen: dict[int, int] = {}
    ids = []
    for content in corpus.content.tolist():
        copy = seen[content] = seen.get(content, 0) + 1
        ids.append(f"{content:016x}" + (f".{copy}" if copy > 1 else ""))
    return ids


def prefixes(usable: SelectableCorpus, more: np.ndarray) -> Iterator[Prefix]:
    """The prefixes of a plan, in the corpus's order.

    Args:
        usable: the corpus.
        more: continuations of each step, integer ``[n_steps]``.

    Raises:
        DataError: the corpus changed since it was read.
    """
    corpus, counts = usable.corpus, usable.rollouts
    ids, decode = rollout_ids(corpus), line_decoder(corpus)
    chosen = np.flatnonzero(counts.total(more > 0))
    lines = read_lines(corpus, usable.row[chosen])
    for (row, data), place in zip(lines, chosen.tolist(), strict=True):
        record = decode(row, data)
        first, end = counts.offsets[place], counts.offsets[place + 1]
        for j in np.flatnonzero(more[first:end]).tolist():
            yield Prefix(
                id=f"{ids[row]}-{j + 1}",
                file=corpus.files[corpus.file[row]].path.name,
                line=int(corpus.line[row]),
                step=j + 1,
                question=record.question,
                image=record.image,
                steps=tuple(step.text for step in record.steps[: j + 1]),
                n=int(more[first + j]),
                successes=int(counts.successes[first + j]),
                trials=int(counts.trials[first + j]),
            )


def batch_request(
    prefix: Prefix, model: str | None, pictures: Sequence[str] = ()
) -> dict[str, Any]:
    """A prefix as a request of the OpenAI batch API.

    The last message is the assistant's own beginning; servers that can continue it, as
    vLLM does, are told to.

    Args:
        prefix: to continue.
        model: that is asked; None: the server's.
        pictures: addresses of its pictures.
    """
    asked: Any = prefix.question
    if pictures:
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        asked = [*shown, {"type": "text", "text": prefix.question}]
    body: dict[str, Any] = {} if model is None else {"model": model}
    body |= {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "\n\n".join(prefix.steps) + "\n\n"},
        ],
        "n": prefix.n,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    return {
        "custom_id": prefix.id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


class _Body(msgspec.Struct):
    n: int = 1


class _Asked(msgspec.Struct):
    """What a line of a plan says in either form."""

    id: str | None = None
    n: int = 0
    successes: int | None = None
    trials: int | None = None
    custom_id: str | None = None
    body: _Body | None = None


class _File(msgspec.Struct):
    file: str
    sha256: str


class _Reading(msgspec.Struct, frozen=True):
    trials: int | None = None


class _PlanManifest(msgspec.Struct):
    inputs: list[_File]
    input: _Reading = _Reading()


class Asked(NamedTuple):
    """What a plan asks of one prefix.

    Attributes:
        where: ``file:line`` of the plan.
        n: continuations.
        counts: K and N that it was made with; None where the plan does not say.
    """

    where: str
    n: int
    counts: tuple[int, int] | None


@dataclass(frozen=True)
class Plan:
    """A plan as it lies on disk.

    Attributes:
        path: of the file.
        asked: by id.
        inputs: SHA-256 of the files of its corpus, by name.
        trials: N of the corpus's scores where it does not say.
        sha256: of the plan.
    """

    path: Path
    asked: dict[str, Asked]
    inputs: dict[str, str]
    trials: int | None
    sha256: str

    def fits(self, corpus: Corpus) -> None:
        """Refuse a corpus that is not the one the plan was made for.

        Raises:
            DataError: its files are others, or have changed, as they have where the
                plan was merged before, or it is read with another N.
        """
        if corpus.options.trials != self.trials:
            raise DataError(
                f"{self.path}: planned with N = {self.trials} where the corpus does "
                f"not say, and it is read with {corpus.options.trials}"
            )
        found = {
            file.path.name: sha256
            for file, sha256 in zip(corpus.files, corpus.sha256, strict=True)
        }
        for name in sorted(found.keys() | self.inputs.keys()):
            if found.get(name) != self.inputs.get(name):
                raise DataError(
                    f"{corpus.path}: {name} is not what {self.path} was planned for; "
                    "merge into that corpus, or plan anew"
                )


def read_plan(path: Path) -> Plan:
    """A plan in either form, with its manifest.

    Raises:
        DataError: it cannot be read, has no manifest, asks for nothing, or has a prefix
            twice; it names the line.
    """
    manifest = manifest_path(path)
    with faults_of(manifest, "no manifest of a plan"):
        made = msgspec.json.decode(manifest.read_bytes(), type=_PlanManifest)
    asked: dict[str, Asked] = {}
    for where, line in _json_lines(path):
        with faults_of(where, "no prefix"):
            of = msgspec.json.decode(line, type=_Asked)
        name, n = of.id, of.n
        if of.custom_id is not None:
            name, n = of.custom_id, (of.body or _Body()).n
        if name is None or n < 1:
            raise DataError(
                f"{where}: no prefix (id and n >= 1, or custom_id and body)"
            )
        if name in asked:
            raise DataError(f"{where}: prefix {name} is at {asked[name].where} already")
        known = of.successes is not None and of.trials is not None
        counts = (of.successes, of.trials) if known else None
        asked[name] = Asked(where, n, counts)  # pyright: ignore[reportArgumentType]
    if not asked:
        raise DataError(f"{path}: asks for nothing")
    inputs = {file.file: file.sha256 for file in made.inputs}
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Plan(path, asked, inputs, made.input.trials, sha256)


def read_prefixes(path: Path) -> list[Prefix]:
    """The prefixes of a plan in the form of records.

    Raises:
        DataError: a line is none.
    """
    found = []
    for where, line in _json_lines(path):
        with faults_of(where, "no prefix in the form of records"):
            found.append(msgspec.json.decode(line, type=Prefix))
    return found


def _json_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(``file:line``, bytes) of the lines that are not blank."""
    with faults_of(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


class _Response(msgspec.Struct):
    body: _Completion | None = None
    status_code: int = 200


class _Answers(msgspec.Struct):
    """What a line of answers says in any form."""

    id: str | None = None
    answers: list[str | int | float | None] | None = None
    correct: list[bool | None] | None = None
    successes: int | None = None
    trials: int | None = None
    custom_id: str | None = None
    response: _Response | None = None


_BOXED = re.compile(r"\\boxed\s*\{")
# The last of them, as in "Final answer: the final answer is 4. I hope it is correct."
# (the format of Minerva's prompts, Lewkowycz et al. 2022).
_STATED = re.compile(
    r"(?s:.*)(?:final answer|answer is)(?:\s*(?::|is\b))*\s*([^\n]*)", re.I
)
_HOPED = "I hope it is correct"


def final_answer(text: str) -> str | None:
    r"""The answer that a continuation ends with; None: it states none.

    What the last ``\boxed{...}`` holds, else the rest of the line behind the last
    "final answer" or "answer is".

    Example:
        >>> final_answer("So 2 + 2 = 4.\n\nFinal answer: 4.")
        '4'
        >>> final_answer(r"Thus $\boxed{\frac{1}{2}}$"), final_answer("I stop here")
        ('\\frac{1}{2}', None)
    """
    boxes = list(_BOXED.finditer(text))
    if boxes:
        depth, start = 1, boxes[-1].end()
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[start:at].strip() or None
        return None
    found = _STATED.match(text)
    if found is None:
        return None
    return found[1].partition(_HOPED)[0].strip(" \t\r.*$") or None


class Outcome(NamedTuple):
    """What came back for one prefix.

    Attributes:
        where: ``file:line`` of the answers.
        n: continuations, those without an answer included.
        successes: K, where only the counts were given.
        answers: else of each its answer, or whether that is right; None: it has none.
    """

    where: str
    n: int
    successes: int | None
    answers: Sequence[str | bool | None] = ()


def read_outcomes(path: Path, plan: Plan, partial: bool = False) -> dict[str, Outcome]:
    """What answers every prefix of a plan got, by id, in the plan's order.

    Args:
        path: of the answers.
        plan: that they answer.
        partial: let prefixes have fewer continuations than asked for, or none.

    Raises:
        DataError: a line is none, its id is unknown or comes twice, or its
            continuations are not as many as the plan asked for.
    """
    found: dict[str, Outcome] = {}
    for where, line in _json_lines(path):
        with faults_of(where, "no answers"):
            of = msgspec.json.decode(line, type=_Answers)
        name = of.id if of.custom_id is None else of.custom_id
        if name not in plan.asked:
            raise DataError(f"{where}: id {name} is not in {plan.path}")
        if name in found:
            raise DataError(f"{where}: id {name} is at {found[name].where} already")
        outcome, asked = _outcome(where, of), plan.asked[name]
        if outcome.n > asked.n or (outcome.n < asked.n and not partial):
            raise DataError(
                f"{where}: {outcome.n} continuations where {asked.where} asks for "
                f"{asked.n}"
            )
        found[name] = outcome
    if not partial and (missing := [name for name in plan.asked if name not in found]):
        raise DataError(
            f"{path}: no answers for {len(missing)} of {len(plan.asked)} prefixes, the "
            f"first at {plan.asked[missing[0]].where}"
        )
    return {name: found[name] for name in plan.asked if name in found}


def _outcome(where: str, of: _Answers) -> Outcome:
    told = of.custom_id, of.answers, of.correct, of.successes
    if len(told) - told.count(None) > 1:
        raise DataError(f"{where}: answers in more than one form")
    if of.custom_id is not None:
        failed = of.response is None or of.response.status_code != 200
        body = None if failed or of.response is None else of.response.body
        texts = [choice.message.content for choice in (body.choices if body else [])]
        found = [final_answer(text or "") for text in texts]
    elif of.answers is not None:
        texts = ["" if text is None else str(text).strip() for text in of.answers]
        found = [text or None for text in texts]
    elif of.correct is not None:
        found = of.correct
    elif of.successes is None or of.trials is None:
        raise DataError(
            f"{where}: no answers (answers, correct, successes and trials, or response)"
        )
    elif not 0 <= of.successes <= of.trials:
        raise DataError(f"{where}: {of.successes} successes in {of.trials} trials")
    else:
        return Outcome(where, of.trials, of.successes)
    return Outcome(where, len(found), None, found)


class Added(NamedTuple):
    """What the answers add to a corpus.

    Attributes:
        counts: K and N of what is added, by row of the corpus and step from 0.
        successes: K in all.
        trials: N in all.
        unanswered: continuations without an answer.
        short: continuations that were asked for and did not come.
    """

    counts: dict[int, dict[int, tuple[int, int]]]
    successes: int
    trials: int
    unanswered: int
    short: int


def added_counts(
    corpus: Corpus,
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    unanswered: Unanswered = "skip",
    rule: AnswerRule = "text",
) -> Added:
    """Check the answers against the records', and count.

    Args:
        corpus: for which the plan was made.
        plan: with the ids of its steps.
        outcomes: by id.
        unanswered: what a continuation without an answer is: "skip", not counted in N,
            or "wrong", as where the exception of a checker counts as a failure, which
            biases every label down. An answer of which mathematics cannot say whether
            it is right is none.
        rule: when an answer is the record's.

    Raises:
        DataError: an id is of no step of the corpus, its counts are not those of the
            plan, or a record has no answer to compare with.
    """
    rows = {name: row for row, name in enumerate(rollout_ids(corpus))}
    steps: dict[int, list[tuple[int, str]]] = {}
    for name, asked in plan.asked.items():
        rollout, _, number = name.rpartition("-")
        row, j = rows.get(rollout), int(number) - 1 if number.isdecimal() else -1
        if row is None or not 0 <= j < corpus.rollouts.lengths[row]:
            raise DataError(f"{asked.where}: prefix {name} is of no step of the corpus")
        at = corpus.rollouts.offsets[row] + j
        now = int(corpus.rollouts.successes[at]), int(corpus.rollouts.trials[at])
        if asked.counts not in (None, now):
            raise DataError(
                f"{asked.where}: planned with (K, N) = {asked.counts}, and "
                f"{corpus.where(row)} has {now}"
            )
        if name in outcomes:
            steps.setdefault(row, []).append((j, name))
    ordered = np.array(sorted(steps), np.int64)
    counts: dict[int, dict[int, tuple[int, int]]] = {}
    none = 0
    for row, line in read_lines(corpus, ordered):
        for j, name in steps[row]:
            of = outcomes[name]
            k, missing = of.successes, 0
            if k is None:
                try:
                    right = _right(of.answers, line, rule)
                    k, missing = right.count(True), right.count(None)
                except BadRecord as error:
                    raise DataError(f"{corpus.where(row)}: {error}") from None
            none += missing
            if n := of.n - (missing if unanswered == "skip" else 0):
                counts.setdefault(row, {})[j] = k, n
    pairs = [pair for of in counts.values() for pair in of.values()]
    asked_for = sum(asked.n for asked in plan.asked.values())
    return Added(
        counts,
        successes=sum(k for k, _ in pairs),
        trials=sum(n for _, n in pairs),
        unanswered=none,
        short=asked_for - sum(outcome.n for outcome in outcomes.values()),
    )


def _right(
    answers: Sequence[str | bool | None], line: bytes, rule: AnswerRule
) -> list[bool | None]:
    """Whether each is right, by word or by the answer of the record."""
    texts = {one for one in answers if isinstance(one, str)}
    truth = reference_answer(line) if texts else ""
    judged = {text: is_answer(text, truth, rule) for text in texts}
    return [judged[one] if isinstance(one, str) else one for one in answers]


def merged_files(corpus: Corpus, added: Added) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content of the corpus's files with the counts that were added; whatever
    else they hold, refused lines among it, keeps its bytes.

    Raises:
        DataError: the corpus is not of raw records, one a line, or changed meanwhile,
            or a step has more trials than a record may have.
    """
    if corpus.format != RAW.name:
        raise DataError(
            f"{corpus.path}: format {corpus.format} does not hold counts; only raw does"
        )
    lines: dict[int, dict[int, dict[int, tuple[int, int]]]] = {}
    for row, steps in added.counts.items():
        first = int(corpus.rollouts.offsets[row])
        whole = {
            j: (
                k + int(corpus.rollouts.successes[first + j]),
                n + int(corpus.rollouts.trials[first + j]),
            )
            for j, (k, n) in steps.items()
        }
        if max(n for _, n in whole.values()) > MAX_TRIALS:
            raise DataError(f"{corpus.where(row)}: more than {MAX_TRIALS} trials")
        lines.setdefault(int(corpus.file[row]), {})[int(corpus.line[row])] = whole
    for number, file in enumerate(corpus.files):
        with RecordFile(file) as records:
            if file.is_table or records.starts_array():
                raise DataError(
                    f"{file.path}: its records are no lines; write them as raw JSON "
                    "lines first"
                )
        name = file.path.name.removesuffix(".gz")
        yield name, _merged(file, lines.get(number, {}))


def _merged(
    file: CorpusFile, lines: Mapping[int, Mapping[int, tuple[int, int]]]
) -> Iterator[bytes]:
    numbers = sorted(lines)
    with RecordFile(file) as records:
        for chunk in records.chunks():
            if chunk.too_long:
                raise DataError(f"{file.path}:{chunk.line}: too long to be copied")
            after = bisect_left(numbers, chunk.line + len(chunk.ends))
            if bisect_left(numbers, chunk.line) == after:
                yield chunk.data
                continue
            end = -1
            for number, _, data in chunk.located():
                end += len(data) + 1
                whole = recount(data, lines[number]) if number in lines else data
                yield whole + chunk.data[end : end + 1]
