"""The policy: reads cells, sometimes wrongly, and now and then puts an error right.

Its state after some cells is the running result T and how a wrong T arose: by a slip
of arithmetic, or by a misread cell, which a second look rarely mends. One cell takes
the state on in four parts: a wrong result is repaired with a probability that depends
on how it arose; the cell is read, wrongly with probability h; the result is folded; it
slips with probability a. Before the final answer a check may repair it once more.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sim.scenes.grammar import N_RESULTS, Source, fold

SLIP, MISREAD = 0, 1


@dataclasses.dataclass(frozen=True, eq=False)
class Problems:
    """Problems of one source; rows are problems, columns the cells they name in order.

    Attributes:
        source: what they ask and how a policy errs.
        values: of all cells of each picture, [n, cells].
        cells: named by the question, [n, items], -1 after the last.
        n_items: cells named, [n].
        target: the value that is counted, [n].
        log_difficulty: log of the factor on every probability of an error, [n].
    """

    source: Source
    values: np.ndarray
    cells: np.ndarray
    n_items: np.ndarray
    target: np.ndarray
    log_difficulty: np.ndarray

    def __len__(self) -> int:
        return len(self.n_items)

    def take(self, rows: np.ndarray) -> Problems:
        """The problems of these rows; a row may come more than once."""
        return dataclasses.replace(
            self,
            values=self.values[rows],
            cells=self.cells[rows],
            n_items=self.n_items[rows],
            target=self.target[rows],
            log_difficulty=self.log_difficulty[rows],
        )

    @property
    def item_values(self) -> np.ndarray:
        """True value of each named cell, [n, items]; of no meaning after the last."""
        return np.take_along_axis(self.values, np.maximum(self.cells, 0), axis=1)

    def true_results(self) -> np.ndarray:
        """Right running result before the first and after each cell, [n, items + 1].

        After the last cell it stays as it is.
        """
        n, items = self.cells.shape
        results = np.full((n, items + 1), self.source.start())
        for item in range(items):
            folded = fold(
                self.source.operation,
                results[:, item],
                self.item_values[:, item],
                self.target,
            )
            more = item < self.n_items
            results[:, item + 1] = np.where(more, folded, results[:, item])
        return results


@dataclasses.dataclass(frozen=True)
class Care:
    """How careful a policy is: one factor on all its error probabilities.

    Solutions are sampled more carefully (lower temperature, a factor below 1) than the
    continuations that label their steps; were both alike, mean MC score and share of
    right final answers would have to agree, and in the real corpus they do not.

    Attributes:
        factor: on the probabilities of misreading and of slipping.
    """

    factor: float = 1.0

    def misread(self, problems: Problems) -> np.ndarray:
        """h of each problem, min(1/2, factor * difficulty * h_source), [n]."""
        return self._scaled(problems, problems.source.misread)

    def slip(self, problems: Problems) -> np.ndarray:
        """a of each problem, min(1/2, factor * difficulty * a_source), [n]."""
        return self._scaled(problems, problems.source.slip)

    def _scaled(self, problems: Problems, rate: float) -> np.ndarray:
        return np.minimum(0.5, self.factor * np.exp(problems.log_difficulty) * rate)


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """Where policies stand after some cells.

    Attributes:
        result: running result T, [...].
        origin: of a wrong T, SLIP or MISREAD, [...]; of no meaning while T is right.
    """

    result: np.ndarray
    origin: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """What a policy did with one cell: the state after it, and what it states.

    Attributes:
        state: after the cell.
        read: value it states for the cell.
        repaired: whether it first put the result of the earlier cells right.
    """

    state: State
    read: np.ndarray
    repaired: np.ndarray


def _other(
    allowed: np.ndarray, value: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A uniform draw from ``allowed`` (consecutive integers) without ``value``."""
    drawn = rng.integers(allowed[0], allowed[-1], size=value.shape)
    return drawn + (drawn >= value)


def read_cell(
    problems: Problems,
    item: int,
    state: State,
    care: Care,
    rng: np.random.Generator,
    true_results: np.ndarray,
) -> Move:
    """Take policies, [n, ...] with problems first, past one cell at random."""
    source, shape = problems.source, state.result.shape
    trailing = (slice(None),) + (None,) * (state.result.ndim - 1)
    before = true_results[:, item][trailing]
    value = np.broadcast_to(problems.item_values[:, item][trailing], shape)

    wrong = state.result != before
    repaired = wrong & (rng.random(shape) < np.take(source.repair, state.origin))
    result = np.where(repaired, before, state.result)

    misread = rng.random(shape) < care.misread(problems)[trailing]
    read = np.where(misread, _other(source.values, value, rng), value)
    result = fold(source.operation, result, read, problems.target[trailing])
    slipped = rng.random(shape) < care.slip(problems)[trailing]
    result = np.where(slipped, _other(source.results, result, rng), result)
    fresh = np.where(misread, MISREAD, SLIP)
    kept = wrong & ~repaired & ~misread & ~slipped
    return Move(
        State(result, np.where(kept, state.origin, fresh)), read=read, repaired=repaired
    )


def check_answer(
    problems: Problems, state: State, rng: np.random.Generator, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The final answer after the last check, and whether the check changed it."""
    trailing = (slice(None),) + (None,) * (state.result.ndim - 1)
    wrong = state.result != truth[trailing]
    repair = rng.random(wrong.shape) < np.take(problems.source.check, state.origin)
    checked = wrong & repair
    return np.where(checked, truth[trailing], state.result), checked


def read_law(problems: Problems, item: int, care: Care) -> np.ndarray:
    """Probability of each value read: 1 - h if true, else h/(V - 1), [n, V]."""
    values = problems.source.values
    h = care.misread(problems)[:, None]
    true = problems.item_values[:, item][:, None] == values
    return np.where(true, 1 - h, h / (len(values) - 1))


def transition(
    problems: Problems,
    item: int,
    care: Care,
    true_results: np.ndarray,
    read: np.ndarray,
) -> np.ndarray:
    """Exact law of the state after a cell given the state before it.

    Args:
        problems: n of them.
        item: which of their cells.
        care: of the policy.
        true_results: of the problems.
        read: :func:`read_law`, or a part of it: the law is linear in it.

    Returns:
        [n, 2, N_RESULTS, 2, N_RESULTS]: probability by origin and result before, then
        after; sums to that of ``read`` over the last two.
    """
    source, n = problems.source, len(problems)
    rows, results = np.arange(n), np.arange(N_RESULTS)
    before = true_results[:, item]
    a = care.slip(problems)[:, None]
    # As `_other` draws, also from a count that earlier slips took beyond the results.
    slips, drawn = np.zeros((N_RESULTS, N_RESULTS)), source.results[:-1]
    slips[results[:, None], drawn + (drawn >= results[:, None])] = 1 / len(drawn)

    law = np.zeros((n, 2, N_RESULTS, 2, N_RESULTS))
    for index, value in enumerate(source.values):
        folded = fold(source.operation, results, value, problems.target[:, None])
        folded = np.broadcast_to(folded, (n, N_RESULTS))
        p = read[:, [index]]
        true = problems.item_values[:, [item]] == value
        fresh = np.where(true, SLIP, MISREAD)
        for origin in (SLIP, MISREAD):
            # An old error that lives on, well read and unslipped, keeps its origin.
            end = np.where(true & (results != before[:, None]), origin, fresh)
            law[rows[:, None], origin, results, end, folded] += p * (1 - a)
            law[rows[:, None], origin, results, fresh] += (p * a)[..., None] * slips[
                folded
            ]
    for origin in (SLIP, MISREAD):
        repair = np.where(results != before[:, None], source.repair[origin], 0.0)
        repair = repair[..., None, None]
        from_right = law[rows, origin, before][:, None]
        law[:, origin] = repair * from_right + (1 - repair) * law[:, origin]
    return law


def success_probability(
    problems: Problems, care: Care, true_results: np.ndarray
) -> np.ndarray:
    """One-shot success probability r of every state, by backward recursion.

    r_n(T, o) = 1 if T is right, else check_o; r_i = law_i r_{i+1}.

    Returns:
        [items + 1, n, 2, N_RESULTS]: r after that many cells, by origin and result.
    """
    n, items = problems.cells.shape
    truth = true_results[:, -1]
    value = np.broadcast_to(
        np.array(problems.source.check)[:, None], (n, 2, N_RESULTS)
    ).copy()
    value[np.arange(n), :, truth] = 1.0
    r = np.empty((items + 1, n, 2, N_RESULTS))
    r[items] = value
    for item in reversed(range(items)):
        read = read_law(problems, item, care)
        law = transition(problems, item, care, true_results, read)
        past = np.einsum("nabcd,ncd->nab", law, r[item + 1])
        more = (item < problems.n_items)[:, None, None]
        r[item] = np.where(more, past, r[item + 1])
    return r


def correct_probability(
    problems: Problems, care: Care, true_results: np.ndarray
) -> np.ndarray:
    """Probability that a step is correct before one has looked at it, forward.

    A step is correct if the value it reads and the result it states are right, the
    final answer if it is right.

    Returns:
        [n, items + 1]: of the step of each cell; in the last column of the answer.
    """
    n, items = problems.cells.shape
    rows = np.arange(n)
    state = np.zeros((n, 2, N_RESULTS))
    state[:, SLIP, problems.source.start()] = 1.0
    correct = np.empty((n, items + 1))
    for item in range(items):
        read = read_law(problems, item, care)
        true = problems.item_values[:, [item]] == problems.source.values
        law = transition(problems, item, care, true_results, np.where(true, read, 0))
        after = true_results[:, item + 1]
        right = np.einsum("nab,nabcd->ncd", state, law)
        correct[:, item] = right[rows, :, after].sum(axis=1)
        law = transition(problems, item, care, true_results, read)
        moved = np.einsum("nab,nabcd->ncd", state, law)
        more = (item < problems.n_items)[:, None, None]
        state = np.where(more, moved, state)
    check = np.broadcast_to(np.array(problems.source.check)[:, None], (n, 2, N_RESULTS))
    right = np.where(
        np.arange(N_RESULTS) == true_results[:, -1][:, None, None], 1, check
    )
    correct[:, items] = (state * right).sum(axis=(1, 2))
    return correct
