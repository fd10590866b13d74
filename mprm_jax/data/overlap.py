"""What training data and a benchmark share: questions, word by word, and pictures.

A question is compared by its words: Unicode NFKC, case folded, without punctuation, as
GPT-3's contamination study does (Brown et al. 2020, App. C); signs that change a sum
count as words, and so does each Chinese, Japanese or Korean character. It is

- the *same* as a training question with the same words, and
- *near* a training question that holds at least ``share`` of its words in runs of n
  words, as Llama 2's study calls a sample dirty where 80 % of its tokens lie in n-grams
  of the training data (Touvron et al. 2023, A.6). GPT-3's n is 13, and less for short
  texts: here n(L) = min(13, max(3, (1 - share) L)) for L words, the longest with which
  one changed word leaves the share. Under 8 words, GPT-3's least n, only the same
  counts.

Instructions that many questions carry ("Answer step by step ...") are left out on both
sides: words in 13-grams that 2 % of the questions of one side have, and at least ten.

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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from PIL.Image import Image

from mprm_jax.data.corpus import Corpus
from mprm_jax.data.images import decode_image
from mprm_jax.data.scored import Solution
from mprm_jax.data.write import line_decoder, read_lines
from mprm_jax.records.problems import BadLine, BadLines, BadRecord
from mprm_jax.records.record import PLACEHOLDER, ImageRoot, resolve_image

# GPT-3's least n; below, chance alone makes questions alike.
SHORTEST = 8
_LEAST_NGRAM = 3

# Words in a row, and the share and number of questions that have them, of what is an
# instruction; how many rollouts are looked at for it.
_INSTRUCTION = 13
_SHARED, _LEAST_SHARED = 0.02, 10
_SAMPLE = 2000

# Characters of scripts without spaces and signs of arithmetic stand alone. A hyphen is
# none of them: it joins words more often than it subtracts.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af+*/=<>^%"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")

# Pictures that wait in a pool; an interrupted run waits for them.
_BATCH = 128


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


def instructions(questions: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The n-grams that so many of some questions have that they ask nothing."""
    different = set(questions)
    counts = Counter(
        gram for words in different for gram in set(_ngrams(words, _INSTRUCTION))
    )
    least = max(_LEAST_SHARED, _SHARED * len(different))
    return {gram for gram, count in counts.items() if count >= least}


def without(words: tuple[str, ...], grams: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The words outside of such n-grams; all of them if there is no other."""
    out = {
        place + i
        for place, gram in enumerate(_ngrams(words, _INSTRUCTION))
        if gram in grams
        for i in range(_INSTRUCTION)
    }
    return tuple(word for i, word in enumerate(words) if i not in out) or words


# How near a question or picture is that is the same. Of others it is the share of the
# words, or minus the bits in which hashes differ.
SAME = 2.0
NOT_FOUND = -math.inf


class QuestionIndex:
    """Finds the questions of a benchmark, each once, that another is, or is near."""

    def __init__(
        self, questions: Sequence[tuple[str, ...]], settings: OverlapSettings
    ) -> None:
        self._share = settings.share
        self._same = {words: i for i, words in enumerate(questions) if words}
        self._long = np.array(
            [i for i, words in enumerate(questions) if len(words) >= SHORTEST], np.int32
        )
        self._lengths = np.array([len(questions[i]) for i in self._long], np.int64)
        # The words of all of these one after another, and where each n-gram starts.
        self._offsets = np.cumsum(self._lengths) - self._lengths
        starts: dict[int, dict[tuple[str, ...], list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for i, offset in zip(self._long.tolist(), self._offsets.tolist(), strict=True):
            n = settings.ngram_of(len(questions[i]))
            for place, gram in enumerate(_ngrams(questions[i], n), offset):
                starts[n][gram].append(place)
        self._starts = {
            n: {gram: np.array(places) for gram, places in of.items()}
            for n, of in starts.items()
        }

    def find(self, words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(questions, int32 ``[m]``; share of the words of each, or SAME, float64)."""
        covered = np.zeros(self._lengths.sum(), bool)
        for n, starts in self._starts.items():
            if found := {of for of in _ngrams(words, n) if of in starts}:
                places = np.concatenate([starts[gram] for gram in found])
                for i in range(n):
                    covered[places + i] = True
        near, shares = np.zeros(0, np.int32), np.zeros(0)
        if covered.any():
            counts = np.add.reduceat(covered, self._offsets, dtype=np.int64)
            shares = counts / self._lengths
            of = shares >= self._share
            near, shares = self._long[of], shares[of]
        if (same := self._same.get(words)) is not None:
            others = near != same
            near = np.append(near[others], np.int32(same))
            shares = np.append(shares[others], SAME)
        return near, shares


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
    root: Path | ImageRoot, path: str, look: Callable[[Image], Any] | None = None
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
    seen = None
    if look is not None:
        image = decode_image(file, path)
        low, high = image.convert("L").getextrema()
        # All pictures of one colour have the same hash.
        if low != high:
            seen = int.from_bytes(np.packbits(look(image).hash).tobytes(), "big")
    return Picture(content, seen)


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

    Attributes:
        problems: in order.
        solutions: how many each has.
        pictures: the problems that show each picture, by its path.
    """

    def __init__(self, solutions: Iterable[Solution]) -> None:
        found: dict[tuple[Any, ...], int] = {}
        self.problems: list[Problem] = []
        self.solutions: list[int] = []
        self.pictures: dict[str, list[int]] = defaultdict(list)
        for solution in solutions:
            record, (where, *_) = solution.record, solution.where.split(": record ")
            file, _, line = where.rpartition(":")
            words, source = words_of(record.question), record.source or ""
            problem = Problem(file, int(line), source, words, record.images)
            number = found.setdefault(problem[2:], len(found))
            if number == len(self.problems):
                self.problems.append(problem)
                self.solutions.append(0)
                for path in dict.fromkeys(record.images):
                    self.pictures[path].append(number)
            self.solutions[number] += 1


@dataclass(frozen=True)
class Roots:
    """Where pictures lie, and how they are compared.

    Attributes:
        corpus: root of its image paths.
        benchmark: root of the other ones.
        look: makes a perceptual hash; None: only the same pictures are found, and none
            is decoded.
    """

    corpus: Path | ImageRoot
    benchmark: Path | ImageRoot
    look: Callable[[Image], Any] | None


class Pair(NamedTuple):
    """A training rollout and a problem of the benchmark that share something.

    Attributes:
        problem: index into the benchmark's.
        row: of the corpus.
        question: how its question is the problem's: share of the latter's words, SAME
            or NOT_FOUND.
        picture: how one of its pictures is one of the problem's: minus the bits in
            which their hashes differ, SAME or NOT_FOUND.
    """

    problem: int
    row: int
    question: float
    picture: float

    @property
    def badness(self) -> tuple[bool, float, float]:
        """Larger is worse: both, then the question, then the picture."""
        return min(self[2:]) > NOT_FOUND, self.question, self.picture


_KEYS = attrgetter("question"), attrgetter("picture"), attrgetter("badness")


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
        common = instructions(problem.words for problem in benchmark.problems)
        sample, decode = rows[:: max(1, len(rows) // _SAMPLE)], line_decoder(corpus)
        common |= instructions(
            words_of(decode(row, line).question)
            for row, line in read_lines(corpus, sample)
        )
        asked: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, problem in enumerate(benchmark.problems):
            asked[without(problem.words, common)].append(number)
        self._asked_by = list(asked.values())
        self._pictures: dict[str, dict[str, float]] = {}
        self._read(QuestionIndex(list(asked), settings), common, tick)

    def _read(
        self,
        index: QuestionIndex,
        common: set[tuple[str, ...]],
        tick: Callable[[int], None],
    ) -> None:
        # Of a text what find() gave and the first row; 0 is all that are near nothing.
        self._texts = [(*index.find(()), 0)]
        known: dict[int, int] = {}
        combinations: dict[tuple[int, tuple[str, ...]], int] = {}
        self._combination = np.zeros(len(self.rows), np.int32)
        decode = line_decoder(self.corpus)
        for i, (row, line) in enumerate(read_lines(self.corpus, self.rows)):
            record = decode(row, line)
            key = xxhash.xxh3_64_intdigest(record.question.encode())
            if key not in known:
                found = index.find(without(words_of(record.question), common))
                known[key] = len(self._texts) * bool(len(found[0]))
                if known[key]:
                    self._texts.append((*found, row))
            for path in record.images:
                self.images.setdefault(path, row)
            combination = known[key], record.images
            number = combinations.setdefault(combination, len(combinations))
            self._combination[i] = number
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
        # Copies of a picture share what was found.
        known: dict[Picture, dict[str, float]] = {}
        compared = 0
        pictures = _hashed(self.images, roots.corpus, roots.look, pool)
        for i, (path, hashed) in enumerate(pictures):
            tick(i)
            if isinstance(hashed, Picture):
                compared += 1
                if found := known.get(hashed) or near.find(hashed):
                    self._pictures[path] = known[hashed] = found
            else:
                row = self.images[path]
                file = self.corpus.files[self.corpus.file[row]].path
                self._bad(str(file), int(self.corpus.line[row]), hashed)
        self.roots, self.compared = roots, (compared, len(judged))

    def _bad(self, file: str, line: int, error: BadRecord) -> None:
        self.unreadable.add(BadLine(file, line, error.reason, error.detail))

    def pairs(self) -> Iterator[Pair]:
        """Every rollout with every problem that it shares something with, in order."""
        for row, number in zip(
            self.rows.tolist(), self._combination.tolist(), strict=True
        ):
            yield from self._pairs(row, *self._combinations[number])

    def _pairs(self, row: int, text: int, images: tuple[str, ...]) -> Iterator[Pair]:
        questions, shares, _ = self._texts[text]
        asked = {
            problem: share
            for question, share in zip(questions.tolist(), shares.tolist(), strict=True)
            for problem in self._asked_by[question]
        }
        shown: dict[int, float] = defaultdict(lambda: NOT_FOUND)
        for path in images:
            for name, near in self._pictures.get(path, {}).items():
                for problem in self.benchmark.pictures[name]:
                    shown[problem] = max(shown[problem], near)
        for problem in sorted(asked.keys() | shown):
            share = asked.get(problem, NOT_FOUND)
            yield Pair(problem, row, share, shown.get(problem, NOT_FOUND))

    def worst(self, count: int) -> list[Pair]:
        """The worst pair of each of the ``count`` problems with the worst ones."""
        worst = [max(of, key=lambda pair: pair.badness) for of in self._best if of]
        return heapq.nlargest(count, worst, key=lambda pair: pair.badness)

    @functools.cached_property
    def _best(self) -> list[list[Pair]]:
        """Of each problem the pairs with the nearest question, the nearest picture and,
        in one rollout, both.
        """
        best: list[list[Pair]] = [[] for _ in self.benchmark.problems]
        near = np.full(len(self._asked_by), NOT_FOUND)
        rows = np.zeros(len(near), np.int64)
        for questions, shares, row in self._texts:
            better = shares > near[questions]
            near[questions[better]], rows[questions[better]] = shares[better], row
        for question in np.flatnonzero(near > NOT_FOUND).tolist():
            for problem in self._asked_by[question]:
                row, share = int(rows[question]), float(near[question])
                best[problem] = [Pair(problem, row, share, NOT_FOUND)]
        _, first = np.unique(self._combination, return_index=True)
        for (text, images), row in zip(
            self._combinations, self.rows[first].tolist(), strict=True
        ):
            if self._pictures.keys() & images:
                for pair in self._pairs(row, text, images):
                    found = *best[pair.problem], pair
                    best[pair.problem] = [max(found, key=key) for key in _KEYS]
        return best

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
                "questions": len({of.words for of in benchmark.problems}),
                "pictures": len(benchmark.pictures),
                "pictures_read": self.compared[1],
            },
            "overall": tallies.pop(None),
            "per_source": tallies,
        }

    def tally(self) -> dict[str | None, dict[str, int | None]]:
        """Solutions of the benchmark by source, under None all of them.

        ``question_same`` and ``question_near``, the latter of those that are not the
        same; likewise ``picture_same`` and ``picture_near``, null where none were
        compared. ``problem``: one training rollout has question and picture, or the
        question of a problem without pictures; null where that is not known.
        """
        tallies: dict[str | None, dict[str, Any]] = {}
        for number, problem in enumerate(self.benchmark.problems):
            pairs = self._best[number]
            question = max((pair.question for pair in pairs), default=NOT_FOUND)
            picture = max((pair.picture for pair in pairs), default=NOT_FOUND)
            both = any(pair.badness[0] for pair in pairs)
            values = {
                "solutions": True,
                "question_same": question == SAME,
                "question_near": NOT_FOUND < question < SAME,
                "picture_same": picture == SAME,
                "picture_near": NOT_FOUND < picture < SAME,
                "problem": both if problem.images else question > NOT_FOUND,
            }
            if self.roots is None:
                unknown = ("problem",) if problem.images else ()
                values |= dict.fromkeys(("picture_same", "picture_near", *unknown))
            for name in (None, problem.source):
                tally = tallies.setdefault(name, dict.fromkeys(values, 0))
                for key, value in values.items():
                    if value is None or tally[key] is None:
                        tally[key] = None
                    else:
                        tally[key] += value * self.benchmark.solutions[number]
        return tallies


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

    def find(self, picture: Picture) -> dict[str, float]:
        """By path minus the bits in which the hashes differ, or SAME."""
        found: dict[str, float] = {}
        if picture.seen is not None:
            apart = np.bitwise_count(self._bits ^ np.uint64(picture.seen))
            for place in np.flatnonzero(apart <= self._distance).tolist():
                found[self._paths[place]] = -float(apart[place])
        return found | dict.fromkeys(self._same.get(picture.content, ()), SAME)


def _hashed(
    paths: Iterable[str],
    root: Path | ImageRoot,
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
