"""What training data and a benchmark share: questions, word by word, and pictures.

A question is compared by its words: Unicode NFKC, case folded, without punctuation, as
GPT-3's contamination study does (Brown et al. 2020, App. C); signs that change a sum
count as words, and so does each Chinese, Japanese or Korean character. It is

- the *same* as a training question with the same words, and
- *near* a training question that holds at least ``share`` of its words in runs of n
  words. Both are rules of Llama 2's study (Touvron et al. 2023, A.6): a sample is dirty
  where 80 % of its tokens lie in n-grams of the training data. GPT-3's n is 13, and
  less for short texts: here n(L) = min(13, max(3, (1 - share) L)) for L words, the
  longest with which one changed word leaves the share. Under 8 words, GPT-3's least n,
  only the same counts.

A picture is the *same* as one with the same bytes, and *near* one whose perceptual hash
(64 bits of the discrete cosine transform, Krawetz 2011, "Looks Like It") differs in at
most ``distance`` bits. The same drawing with other numbers in it is near, too.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xxhash
from PIL.Image import Image

from mprm_jax.data.corpus import Corpus
from mprm_jax.data.images import decode_image
from mprm_jax.data.write import decode_line, read_lines
from mprm_jax.records.problems import BadLine, BadLines, BadRecord
from mprm_jax.records.record import PLACEHOLDER, Record, resolve_image

# GPT-3's least n; below, chance alone makes questions alike.
SHORTEST = 8
_LEAST_NGRAM = 3

# Characters of scripts without spaces and signs of arithmetic stand alone. A hyphen is
# none of them: it joins words more often than it subtracts.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af+*/=<>^%"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")

# Pictures that are hashed, and compared with the benchmark's, at a time.
_BATCH = 1024


@dataclass(frozen=True)
class OverlapSettings:
    """What counts as near.

    Attributes:
        ngram: n of long questions.
        share: of a benchmark question's words that one training question must hold, in
            (0, 1].
        distance: bits of 64 in which perceptual hashes may differ. Krawetz calls up to
            5 close and from 10 on different. Of 79,800 pairs of random line drawings
            none is within 4 and one within 6; halving one, or JPEG at quality 30, moves
            its own hash by at most 4 in 98 % of cases.

    Raises:
        ValueError: a value is out of its range.
    """

    ngram: int = 13
    share: float = 0.8
    distance: int = 4

    def __post_init__(self) -> None:
        if self.ngram < _LEAST_NGRAM:
            raise ValueError(f"ngram must be at least {_LEAST_NGRAM}, not {self.ngram}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")
        if not 0 <= self.distance <= 32:
            raise ValueError(f"distance must be in [0, 32], not {self.distance}")

    def ngram_of(self, n_words: int) -> int:
        """n(L) = min(ngram, max(3, (1 - share) L))."""
        # The product may fall short of a whole number by its rounding alone.
        changed = int((1 - self.share) * n_words + 1e-9)
        return min(self.ngram, max(_LEAST_NGRAM, changed))


def words_of(text: str) -> tuple[str, ...]:
    """The words of a question, as they are compared.

    >>> words_of("What is\\n AB + 2? ") == words_of("what is ab+2")
    True
    """
    text = unicodedata.normalize("NFKC", text.replace(PLACEHOLDER, " ")).casefold()
    return tuple(_WORD.findall(text))


class Match(NamedTuple):
    """How one thing is another; larger is nearer.

    Attributes:
        same: rather than near.
        amount: of a question the share of its words; of a picture minus the bits in
            which its perceptual hash differs.
    """

    same: bool
    amount: float

    @property
    def found(self) -> bool:
        """Whether it is the other, or near it."""
        return self > NO_MATCH


NO_MATCH = Match(False, -math.inf)


class QuestionIndex:
    """Finds the questions of a benchmark that another question is, or is near.

    Args:
        questions: their words, each once.
        settings: what counts as near.
    """

    def __init__(
        self, questions: Sequence[tuple[str, ...]], settings: OverlapSettings
    ) -> None:
        self._lengths = [len(words) for words in questions]
        self._share = settings.share
        self._same = {words: i for i, words in enumerate(questions) if words}
        # n -> n-gram -> (question, bits of the words it covers there).
        self._places: dict[int, dict[tuple[str, ...], list[tuple[int, int]]]] = (
            defaultdict(lambda: defaultdict(list))
        )
        for i, words in enumerate(questions):
            if len(words) >= SHORTEST:
                n = settings.ngram_of(len(words))
                for place, gram in enumerate(_ngrams(words, n)):
                    covered = ((1 << n) - 1) << place
                    self._places[n][gram].append((i, covered))

    def find(self, words: tuple[str, ...]) -> dict[int, Match]:
        """By question, the share of its words; those that are the same or near."""
        covered: dict[int, int] = defaultdict(int)
        for n, places in self._places.items():
            for gram in places.keys() & set(_ngrams(words, n)):
                for question, bits in places[gram]:
                    covered[question] |= bits
        found = {}
        for question, bits in covered.items():
            share = bits.bit_count() / self._lengths[question]
            if share >= self._share:
                found[question] = Match(False, share)
        if words in self._same:
            found[self._same[words]] = Match(True, 1.0)
        return found


def _ngrams(words: tuple[str, ...], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


class Picture(NamedTuple):
    """What is compared of a picture.

    Attributes:
        content: hash of the file's bytes.
        seen: its perceptual hash; None: there is none, as of one colour alone.
    """

    content: bytes
    seen: int | None


def perceptual_hash() -> Callable[[Image], Any] | None:
    """The function that makes one; None where its library is not installed."""
    try:
        from imagehash import phash
    except ImportError:
        return None
    return phash


def hash_picture(
    root: Path, path: str, look: Callable[[Image], Any] | None = None
) -> Picture:
    """A picture below a root.

    Args:
        root: of the paths.
        path: below it.
        look: makes the perceptual hash; None: the picture is not decoded.

    Raises:
        BadRecord: it is not found, lies outside or cannot be read.
    """
    file = resolve_image(root, path)
    try:
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise BadRecord("unreadable image", f"{path[:80]!r}: {error}") from None
    if look is None:
        return Picture(content, None)
    image = decode_image(file, path)
    low, high = image.convert("L").getextrema()
    # All pictures of one colour have the same hash.
    if low == high:
        return Picture(content, None)
    bits = np.packbits(look(image).hash)
    return Picture(content, int.from_bytes(bits.tobytes(), "big"))


class Judged(Protocol):
    """One solution of a benchmark."""

    @property
    def where(self) -> str:
        """``FILE:LINE``, and what may follow after a colon and a space."""
        ...

    @property
    def record(self) -> Record:
        """Question, images and source."""
        ...


class Problem(NamedTuple):
    """What solutions of a benchmark answer.

    Attributes:
        file: of the first of them.
        line: of it.
        source: its name; may be empty.
        words: of the question.
        images: paths below the root.
    """

    file: str
    line: int
    source: str
    words: tuple[str, ...]
    images: tuple[str, ...]


class Benchmark:
    """The problems of a benchmark, each once.

    Args:
        solutions: at least one.

    Attributes:
        problems: in order.
        solutions: how many each has.
        questions: words of each question, once.
        asked_by: the problems that ask each of them.
        pictures: the problems that show each picture, by its path.
    """

    def __init__(self, solutions: Iterable[Judged]) -> None:
        found: dict[tuple[Any, ...], int] = {}
        self.problems: list[Problem] = []
        self.solutions: list[int] = []
        questions: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.pictures: dict[str, list[int]] = defaultdict(list)
        for solution in solutions:
            record, (where, *_) = solution.record, solution.where.split(": record ")
            file, _, line = where.rpartition(":")
            words, source = words_of(record.question), record.source or ""
            problem = Problem(file, int(line), source, words, record.images)
            number = found.setdefault(problem[2:], len(found))
            if number < len(self.problems):
                self.solutions[number] += 1
                continue
            self.problems.append(problem)
            self.solutions.append(1)
            questions[words].append(number)
            for path in dict.fromkeys(record.images):
                self.pictures[path].append(number)
        self.questions, self.asked_by = list(questions), list(questions.values())


@dataclass(frozen=True)
class Roots:
    """Where pictures lie, and how they are compared.

    Attributes:
        corpus: root of its image paths.
        benchmark: root of the other ones.
        look: makes a perceptual hash; None: only the same pictures are found, and none
            is decoded.
    """

    corpus: Path
    benchmark: Path
    look: Callable[[Image], Any] | None


class Pair(NamedTuple):
    """A training rollout and a problem of the benchmark that share something.

    Attributes:
        problem: index into the benchmark's.
        row: of the corpus.
        question: how its question is the problem's.
        picture: how one of its pictures is one of the problem's.
    """

    problem: int
    row: int
    question: Match
    picture: Match

    @property
    def badness(self) -> tuple[Any, ...]:
        """Larger is worse: both, then the question, then the picture."""
        return self.question.found and self.picture.found, self.question, self.picture


class Overlap:
    """What training rollouts and a benchmark share.

    The rollouts are read once, and a question or picture that many share is compared
    once. Memory grows with the different questions and image paths, by a few hundred
    bytes each.

    Args:
        corpus: of the rollouts.
        rows: of it, ascending int64 ``[n]``.
        benchmark: to compare with.
        settings: what counts as near.
        tick: told how many rollouts were read, now and then.

    Attributes:
        n_questions: different ones of the rollouts.
        images: every path of theirs, with the first row that has it.
        roots: of the pictures; None: none were compared.
        compared: pictures of the rollouts, and of the benchmark, that were.
        unreadable: pictures that were not because they cannot be read.

    Raises:
        DataError: a record is not the one that was indexed.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        benchmark: Benchmark,
        settings: OverlapSettings,
        tick: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.corpus, self.rows = corpus, rows
        self.benchmark, self.settings = benchmark, settings
        self.images: dict[str, int] = {}
        self.roots: Roots | None = None
        self.compared = 0, 0
        self.unreadable = BadLines()
        index = QuestionIndex(benchmark.questions, settings)
        # A text is the number of its matches; 0 is that of all that have none.
        self._texts: list[dict[int, Match]] = [{}]
        self._pictures: dict[str, dict[str, Match]] = {}
        known: dict[int, int] = {}
        combinations: dict[tuple[int, tuple[str, ...]], int] = {}
        self._combination = np.zeros(len(rows), np.int32)
        for i, (row, line) in enumerate(read_lines(corpus, rows)):
            record = decode_line(corpus, row, line)
            key = xxhash.xxh3_64_intdigest(record.question.encode())
            if key not in known:
                found = index.find(words_of(record.question))
                known[key] = len(self._texts) if found else 0
                if found:
                    self._texts.append(found)
            combination = known[key], record.images
            for path in record.images:
                self.images.setdefault(path, row)
            self._combination[i] = combinations.setdefault(
                combination, len(combinations)
            )
            if i % 4096 == 0:
                tick(i)
        self.n_questions = len(known)
        self._combinations = list(combinations)

    def compare_pictures(
        self, roots: Roots, pool: Executor, tick: Callable[[int], None]
    ) -> None:
        """Hash every picture of the rollouts and of the benchmark, each path once.

        Args:
            roots: where they lie.
            pool: of threads, which decode.
            tick: told how many pictures of the rollouts were read.
        """
        judged: dict[str, Picture] = {}
        shown_by = self.benchmark.pictures
        for path, hashed in _hashed(shown_by, roots.benchmark, roots.look, pool):
            if isinstance(hashed, Picture):
                judged[path] = hashed
            else:
                problem = self.benchmark.problems[shown_by[path][0]]
                self._bad(problem.file, problem.line, hashed)
        near = _Nearest(judged, self.settings.distance)
        compared = 0
        pictures = _hashed(self.images, roots.corpus, roots.look, pool)
        for i, (path, hashed) in enumerate(pictures):
            tick(i)
            if isinstance(hashed, Picture):
                compared += 1
                if found := near.find(hashed):
                    self._pictures[path] = found
            else:
                row = self.images[path]
                file = self.corpus.files[self.corpus.file[row]].path
                self._bad(str(file), int(self.corpus.line[row]), hashed)
        self.roots, self.compared = roots, (compared, len(judged))

    def _bad(self, file: str, line: int, error: BadRecord) -> None:
        self.unreadable.add(BadLine(file, line, error.reason, error.detail))

    def pairs(self) -> Iterator[Pair]:
        """Every rollout with every problem that it shares something with, in order."""
        for row, combination in zip(
            self.rows.tolist(), self._combination.tolist(), strict=True
        ):
            for problem, (question, picture) in self._shared[combination].items():
                yield Pair(problem, row, question, picture)

    def worst(self, count: int) -> list[Pair]:
        """The worst pair of each of the ``count`` problems with the worst ones."""
        worst: dict[int, Pair] = {}
        _, first = np.unique(self._combination, return_index=True)
        for row, shared in zip(self.rows[first].tolist(), self._shared, strict=True):
            for problem, (question, picture) in shared.items():
                pair = Pair(problem, row, question, picture)
                if problem not in worst or pair.badness > worst[problem].badness:
                    worst[problem] = pair
        return heapq.nlargest(count, worst.values(), key=lambda pair: pair.badness)

    def as_json(self) -> dict[str, Any]:
        """What was compared, how, and how much is shared, as JSON values."""
        tallies, benchmark = self.tally(), self.benchmark
        pictures = self.roots and ("near" if self.roots.look else "same")
        return {
            "pictures": pictures,
            "settings": asdict(self.settings),
            "corpus": {
                "rollouts": len(self.rows),
                "questions": self.n_questions,
                "pictures": len(self.images),
                "pictures_read": self.compared[0],
            },
            "benchmark": {
                "problems": len(benchmark.problems),
                "questions": len(benchmark.questions),
                "pictures": len(benchmark.pictures),
                "pictures_read": self.compared[1],
            },
            "overall": tallies.pop(""),
            "per_source": tallies,
        }

    def tally(self) -> dict[str, dict[str, int | None]]:
        """Solutions of the benchmark by source, "" for all of them.

        ``question_same`` and ``question_near``, the latter of those that are not the
        same; likewise ``picture_same`` and ``picture_near``, null where none were
        compared. ``problem``: one training rollout has question and picture, or the
        question of a problem without pictures; null where that is not known.
        """
        best: dict[int, list[Any]] = defaultdict(lambda: [NO_MATCH, NO_MATCH, False])
        for shared in self._shared:
            for problem, (question, picture) in shared.items():
                has = best[problem]
                alone = not self.benchmark.problems[problem].images
                both = question.found and (picture.found or alone)
                has[:] = max(has[0], question), max(has[1], picture), has[2] or both
        tallies: dict[str, dict[str, Any]] = {}
        for number, problem in enumerate(self.benchmark.problems):
            question, picture, both = best[number]
            values = {
                "solutions": True,
                "question_same": question.same,
                "question_near": question.found and not question.same,
                "picture_same": picture.same,
                "picture_near": picture.found and not picture.same,
                "problem": both,
            }
            if self.roots is None:
                unknown = ("problem",) if problem.images else ()
                values |= dict.fromkeys(("picture_same", "picture_near", *unknown))
            for name in ("", problem.source):
                tally = tallies.setdefault(name, dict.fromkeys(values, 0))
                for key, value in values.items():
                    if value is None or tally[key] is None:
                        tally[key] = None
                    else:
                        tally[key] += value * self.benchmark.solutions[number]
        return tallies

    @functools.cached_property
    def _shared(self) -> list[dict[int, list[Match]]]:
        """[question, picture] by problem, of every combination."""
        return [self._shares(*combination) for combination in self._combinations]

    def _shares(self, text: int, images: tuple[str, ...]) -> dict[int, list[Match]]:
        shared: dict[int, list[Match]] = defaultdict(lambda: [NO_MATCH, NO_MATCH])
        for question, match in self._texts[text].items():
            for problem in self.benchmark.asked_by[question]:
                shared[problem][0] = match
        for path in images:
            for name, match in self._pictures.get(path, {}).items():
                for problem in self.benchmark.pictures[name]:
                    shared[problem][1] = max(shared[problem][1], match)
        return shared


class _Nearest:
    """Finds the pictures of a benchmark that another picture is, or is near."""

    def __init__(self, judged: dict[str, Picture], distance: int) -> None:
        self._distance = distance
        self._same: dict[bytes, list[str]] = defaultdict(list)
        for path, of in judged.items():
            self._same[of.content].append(path)
        seen = {path: of.seen for path, of in judged.items() if of.seen is not None}
        self._paths = list(seen)
        self._bits = np.array(list(seen.values()), np.uint64)

    def find(self, picture: Picture) -> dict[str, Match]:
        """By path, in how many bits the hashes differ."""
        found = {}
        if picture.seen is not None:
            apart = np.bitwise_count(self._bits ^ np.uint64(picture.seen))
            for place in np.flatnonzero(apart <= self._distance).tolist():
                found[self._paths[place]] = Match(False, -int(apart[place]))
        same = self._same.get(picture.content, ())
        return found | {path: Match(True, 0) for path in same}


def _hashed(
    paths: Iterable[str],
    root: Path,
    look: Callable[[Image], Any] | None,
    pool: Executor,
) -> Iterator[tuple[str, Picture | BadRecord]]:
    def hashed(path: str) -> Picture | BadRecord:
        try:
            return hash_picture(root, path, look)
        except BadRecord as error:
            return error

    # Not all at once: what waits in a pool takes memory, too.
    following = iter(paths)
    while batch := list(itertools.islice(following, _BATCH)):
        yield from zip(batch, pool.map(hashed, batch), strict=True)
