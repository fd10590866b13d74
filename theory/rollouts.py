"""Monte-Carlo counts of a corpus of rollouts, as ragged columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

# Rollouts per block: the int64 temporaries of one stay in the processor's cache, where
# those of a 565,096-rollout corpus would take 25 MB each.
_BLOCK = 16_384

# A score read from decimal text is K/N to within this much.
SCORE_TOLERANCE = 1e-9

# Up to here int64 totals of K^2 are exact for any rollout under 2^23 steps. (What is a
# plausible count in a file is for the reader of files to say.)
MAX_TRIALS = 2**20


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Successes K out of N continuations for every step of every rollout.

    Attributes:
        successes: K per step, integer ``[n_steps]``, ``0 <= K <= N``.
        trials: N per step, integer ``[n_steps]``; 0 means the step was never sampled,
            which is not a negative label.
        offsets: int64 ``[n_rollouts + 1]``; rollout i owns steps
            ``offsets[i]:offsets[i + 1]``.
        source: integer ``[n_rollouts]``, index into ``source_names``.
        source_names: one name per source.

    Raises:
        ValueError: a column has the wrong type or length, an offset decreases, K lies
            outside ``[0, N]``, N exceeds 2^20, or a source index has no name.
    """

    successes: np.ndarray
    trials: np.ndarray
    offsets: np.ndarray
    source: np.ndarray
    source_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("successes", "trials", "offsets", "source"):
            column = getattr(self, name)
            if not isinstance(column, np.ndarray) or column.ndim != 1:
                raise ValueError(f"{name} must be a one-dimensional array")
            if not np.issubdtype(column.dtype, np.integer):
                raise ValueError(f"{name} must hold integers, not {column.dtype}")
        if self.offsets.dtype != np.int64:
            raise ValueError(f"offsets must be int64, not {self.offsets.dtype}")
        if len(self.offsets) == 0 or self.offsets[0] != 0:
            raise ValueError("offsets must start at 0")
        if np.any(self.offsets[1:] < self.offsets[:-1]):
            raise ValueError("offsets must not decrease")
        if not len(self.successes) == len(self.trials) == self.offsets[-1]:
            raise ValueError(
                f"successes ({len(self.successes)}) and trials ({len(self.trials)}) "
                f"must have the {self.offsets[-1]} steps that offsets ends with"
            )
        # Unsigned columns make the first test vacuous; numpy compares mixed
        # signedness exactly, so no cast is needed.
        outside = (self.successes < 0) | (self.successes > self.trials)
        if np.any(outside):
            step = int(np.argmax(outside))
            raise ValueError(
                f"step {step} has {self.successes[step]} successes "
                f"in {self.trials[step]} trials"
            )
        if self.n_steps and self.trials.max() > MAX_TRIALS:
            raise ValueError(f"trials must not exceed {MAX_TRIALS}")
        if len(self.source) != self.n_rollouts:
            raise ValueError(
                f"source has {len(self.source)} entries for {self.n_rollouts} rollouts"
            )
        if self.n_rollouts and not (
            self.source.min() >= 0 and self.source.max() < len(self.source_names)
        ):
            raise ValueError("source holds an index without a name in source_names")

    @property
    def n_rollouts(self) -> int:
        """Number of rollouts."""
        return len(self.offsets) - 1

    @property
    def n_steps(self) -> int:
        """Number of steps, never-sampled ones included."""
        return len(self.successes)

    @property
    def lengths(self) -> np.ndarray:
        """Steps per rollout, int64 ``[n_rollouts]``, never-sampled ones included."""
        return np.diff(self.offsets)

    @property
    def rollout(self) -> np.ndarray:
        """Row of each step's rollout, int64 ``[n_steps]``."""
        return np.repeat(np.arange(self.n_rollouts), self.lengths)

    @property
    def position(self) -> np.ndarray:
        """Index of each step in its rollout, from 0, int64 ``[n_steps]``."""
        return np.arange(self.n_steps) - np.repeat(self.offsets[:-1], self.lengths)

    @classmethod
    def from_scores(
        cls,
        scores: np.ndarray,
        trials: np.ndarray | int,
        offsets: np.ndarray,
        source: np.ndarray | None = None,
        source_names: tuple[str, ...] = ("corpus",),
    ) -> Rollouts:
        """Recover counts from MC scores: ``K = s * N``.

        Args:
            scores: s in [0, 1], float ``[n_steps]``.
            trials: N, one for all steps or integer ``[n_steps]``.
            offsets: integer ``[n_rollouts + 1]``.
            source: index into ``source_names`` per rollout; all 0 by default.
            source_names: one name per source.

        Raises:
            ValueError: some ``s * N`` is farther than 1e-9 * N from an integer, so the
                score cannot have come from N continuations.
        """
        scores = np.asarray(scores, np.float64)
        offsets = np.asarray(offsets, np.int64)
        trials = np.broadcast_to(np.asarray(trials), scores.shape)
        scaled = scores * trials
        rounded = np.rint(scaled)
        # "not <=" also catches NaN.
        wrong = ~(np.abs(scaled - rounded) <= SCORE_TOLERANCE * np.maximum(trials, 1))
        if np.any(wrong):
            step = int(np.argmax(wrong))
            raise ValueError(
                f"step {step}: score {scores[step]} times {trials[step]} trials "
                "is not an integer"
            )
        if source is None:
            source = np.zeros(max(len(offsets) - 1, 0), np.int64)
        return cls(
            rounded.astype(np.int64), np.array(trials), offsets, source, source_names
        )

    def take(self, rows: np.ndarray) -> Rollouts:
        """The given rollouts in the given order; source names are kept.

        Args:
            rows: integer ``[n]``, each in ``[0, n_rollouts)``; repeats allowed.

        Raises:
            ValueError: ``rows`` is not a one-dimensional integer array.
            IndexError: a row lies outside the corpus.
        """
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = rows.astype(np.int64)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError("rows must be a one-dimensional integer array")
        if rows.size and (rows.min() < 0 or rows.max() >= self.n_rollouts):
            raise IndexError(f"rows must lie in [0, {self.n_rollouts})")
        lengths = self.offsets[1:][rows] - self.offsets[:-1][rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        successes = np.empty(offsets[-1], self.successes.dtype)
        trials = np.empty(offsets[-1], self.trials.dtype)
        for first in range(0, len(rows), _BLOCK):
            block = slice(first, min(first + _BLOCK, len(rows)))
            to = slice(offsets[block.start], offsets[block.stop])
            steps = np.arange(to.start, to.stop)
            shift = self.offsets[rows[block]] - offsets[block]
            steps += np.repeat(shift, lengths[block])
            successes[to] = self.successes[steps]
            trials[to] = self.trials[steps]
        return Rollouts(
            successes, trials, offsets, self.source[rows], self.source_names
        )

    def blocks(self) -> Iterator[tuple[slice, Rollouts]]:
        """(rows, the rollouts in them) of successive parts; views, not copies."""
        for start in range(0, self.n_rollouts, _BLOCK):
            rows = slice(start, min(start + _BLOCK, self.n_rollouts))
            bounds = self.offsets[rows.start : rows.stop + 1]
            steps = slice(bounds[0], bounds[-1])
            yield (
                rows,
                Rollouts(
                    self.successes[steps],
                    self.trials[steps],
                    bounds - bounds[0],
                    self.source[rows],
                    self.source_names,
                ),
            )

    @staticmethod
    def concat(parts: Sequence[Rollouts]) -> Rollouts:
        """The rollouts of all parts in order; sources of the same name become one.

        Raises:
            ValueError: there is no part.
        """
        if not parts:
            raise ValueError("concat needs at least one part")
        names = tuple(dict.fromkeys(n for part in parts for n in part.source_names))
        index = {name: i for i, name in enumerate(names)}
        steps = np.cumsum([0] + [part.n_steps for part in parts])
        return Rollouts(
            np.concatenate([part.successes for part in parts]),
            np.concatenate([part.trials for part in parts]),
            np.concatenate(
                [np.zeros(1, np.int64)]
                + [
                    part.offsets[1:] + start
                    for part, start in zip(parts, steps[:-1], strict=True)
                ]
            ),
            np.concatenate(
                [
                    np.array([index[n] for n in part.source_names], np.int64)[
                        part.source
                    ]
                    for part in parts
                ]
            ),
            names,
        )

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of an integer (or boolean) per-step column over each rollout, exactly.

        Args:
            values: integer or boolean ``[n_steps]``.

        Returns:
            int64 ``[n_rollouts]``; 0 for a rollout without steps.

        Raises:
            ValueError: ``values`` is not an integer column of this corpus. (Prefix sums
                of floats would make equal rollouts differ in their last bits.)
        """
        values = np.asarray(values)
        if values.shape != (self.n_steps,):
            raise ValueError(f"values must have shape ({self.n_steps},)")
        if not (np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_):
            raise ValueError(f"values must be integers, not {values.dtype}")
        totals = np.empty(self.n_rollouts, np.int64)
        for start in range(0, self.n_rollouts, _BLOCK):
            bounds = self.offsets[start : start + _BLOCK + 1]
            running = np.empty(bounds[-1] - bounds[0] + 1, np.int64)
            running[0] = 0
            np.cumsum(values[bounds[0] : bounds[-1]], out=running[1:])
            totals[start : start + _BLOCK] = np.diff(running[bounds - bounds[0]])
        return totals

    @property
    def measured(self) -> np.ndarray:
        """Steps with at least one continuation, boolean ``[n_steps]``."""
        return self.trials > 0

    @property
    def n_positive(self) -> np.ndarray:
        """Steps with hard label y = 1[K > 0], int64 ``[n_rollouts]``."""
        return self.total(self.successes > 0)

    @property
    def n_measured(self) -> np.ndarray:
        """Steps with a label, int64 ``[n_rollouts]``: the n of every score."""
        if self.n_steps and self.trials.min() > 0:
            return self.lengths
        return self.total(self.measured)

    @property
    def distinct_trials(self) -> tuple[int, ...]:
        """The distinct N > 0 of the corpus, ascending."""
        if self.n_steps and self.trials.min() == self.trials.max():
            distinct = self.trials[:1]
        else:
            distinct = np.unique(self.trials)
        return tuple(int(n) for n in distinct if n > 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to an ``.npz`` file; an interrupted write leaves no file.

        A reader sees the old file or the whole new one, never a part.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                np.savez(
                    file,
                    successes=self.successes,
                    trials=self.trials,
                    offsets=self.offsets,
                    source=self.source,
                    source_names=np.array(self.source_names, np.str_),
                )
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rollouts:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no such file, or its columns break an invariant.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                columns = {field.name: archive[field.name] for field in fields(cls)}
        except (KeyError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: not a Rollouts file ({error})") from error
        except OSError:
            raise
        except Exception as error:  # zipfile and zlib raise their own types
            raise ValueError(f"{path}: damaged Rollouts file ({error})") from error
        names = tuple(str(name) for name in columns.pop("source_names"))
        return cls(**columns, source_names=names)
