"""Problems drawn, solved by a policy, and labelled by really re-running it."""

from __future__ import annotations

import dataclasses

import numpy as np

from sim.scenes.grammar import GRID, VALUES, Source, fold
from sim.scenes.policy import (
    SLIP,
    Care,
    Problems,
    State,
    check_answer,
    correct_probability,
    read_cell,
    success_probability,
)

# What a step does.
READ, NEUTRAL, FINAL = 0, 1, 2


def sample_problems(
    source: Source, n: int, spread: float, rng: np.random.Generator
) -> Problems:
    """Problems of a source.

    Args:
        source: of the problems.
        n: how many.
        spread: sigma of the difficulty exp(sigma z - sigma^2/2), whose mean is 1.
        rng: of everything.
    """
    least, most = source.items
    n_items = rng.integers(least, most + 1, size=n)
    order = rng.permuted(np.tile(np.arange(GRID * GRID), (n, 1)), axis=1)[:, :most]
    cells = np.where(np.arange(most) < n_items[:, None], order, -1)
    values = rng.choice(np.array(VALUES[source.kind]), size=(n, GRID * GRID))
    z = rng.standard_normal(n)
    return Problems(
        source=source,
        values=values,
        cells=cells,
        n_items=n_items,
        target=rng.choice(source.values, size=n),
        log_difficulty=spread * z - spread**2 / 2,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Solutions:
    """One solution per problem, as columns over all their steps.

    Attributes:
        problems: that they solve, [n].
        offsets: int64 [n + 1], first step of each.
        action: READ, NEUTRAL or FINAL, [n_steps].
        item: how many cells had been read before the step, [n_steps].
        read: value stated for the cell, [n_steps].
        result: running result or final answer stated, [n_steps].
        origin: of a wrong result, [n_steps].
        earlier: running result before the step, after a repair by it, [n_steps].
        repaired: whether the step put an earlier result right, [n_steps].
    """

    problems: Problems
    offsets: np.ndarray
    action: np.ndarray
    item: np.ndarray
    read: np.ndarray
    result: np.ndarray
    origin: np.ndarray
    earlier: np.ndarray
    repaired: np.ndarray

    @property
    def rollout(self) -> np.ndarray:
        """Row of the problem of each step, [n_steps]."""
        return np.repeat(np.arange(len(self.problems)), np.diff(self.offsets))

    @property
    def cells_read(self) -> np.ndarray:
        """Cells read once the step is done, [n_steps]."""
        return self.item + (self.action == READ)

    def result_is_right(self) -> np.ndarray:
        """Whether the result stated is the right one, [n_steps]."""
        true = self.problems.true_results()
        return self.result == true[self.rollout, self.cells_read]

    def correct(self) -> np.ndarray:
        """Truth of each step, [n_steps]: 1 correct, -1 incorrect, 0 neutral.

        A step is correct if every value that it states is the true one.
        """
        value = self.problems.item_values
        last = value.shape[1] - 1
        read_right = self.read == value[self.rollout, np.minimum(self.item, last)]
        right = self.result_is_right() & (read_right | (self.action == FINAL))
        return np.where(self.action == NEUTRAL, 0, np.where(right, 1, -1))

    def locally_valid(self) -> np.ndarray:
        """Whether a step reads its cell rightly and follows from the one before it."""
        target = self.problems.target[self.rollout]
        source = self.problems.source
        folded = fold(source.operation, self.earlier, self.read, target)
        follows = np.where(self.action == READ, folded, self.earlier) == self.result
        value = self.problems.item_values
        last = value.shape[1] - 1
        read_right = self.read == value[self.rollout, np.minimum(self.item, last)]
        return follows & (read_right | (self.action != READ))


def solve(
    problems: Problems, care: Care, neutral_share: float, rng: np.random.Generator
) -> Solutions:
    """Run the policy once on every problem.

    Args:
        problems: n of them.
        care: of the policy.
        neutral_share: probability of a step without content before a cell that is not
            the first.
        rng: of the policy.
    """
    n, items = problems.cells.shape
    true = problems.true_results()
    state = State(np.full(n, problems.source.start()), np.full(n, SLIP))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    present = []

    def add(where: np.ndarray, **values: np.ndarray | int) -> None:
        present.append(where)
        for name in _COLUMNS:
            columns[name].append(np.broadcast_to(values[name], n))

    for item in range(items):
        more = item < problems.n_items
        neutral = more & (rng.random(n) < neutral_share) & (item > 0)
        add(
            neutral,
            action=NEUTRAL,
            item=item,
            read=-1,
            result=state.result,
            origin=state.origin,
            earlier=state.result,
            repaired=False,
        )
        move = read_cell(problems, item, state, care, rng, true)
        earlier = np.where(move.repaired, true[:, item], state.result)
        state = State(
            np.where(more, move.state.result, state.result),
            np.where(more, move.state.origin, state.origin),
        )
        add(
            more,
            action=READ,
            item=item,
            read=move.read,
            result=state.result,
            origin=state.origin,
            earlier=earlier,
            repaired=move.repaired,
        )
    answer, checked = check_answer(problems, state, rng, true[:, -1])
    add(
        np.full(n, True),
        action=FINAL,
        item=problems.n_items,
        read=-1,
        result=answer,
        origin=state.origin,
        earlier=np.where(checked, answer, state.result),
        repaired=checked,
    )
    chosen = np.stack(present, axis=1)
    flat = {name: np.stack(columns[name], axis=1)[chosen] for name in _COLUMNS}
    offsets = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    return Solutions(problems=problems, offsets=offsets.astype(np.int64), **flat)


_COLUMNS = ("action", "item", "read", "result", "origin", "earlier", "repaired")


def step_success_probability(solutions: Solutions, care: Care) -> np.ndarray:
    """Exact one-shot success probability r of a continuation from each step, [n_steps].

    After the final answer it is 1 or 0.
    """
    problems = solutions.problems
    r = success_probability(problems, care, problems.true_results())
    rollout = solutions.rollout
    at = r[solutions.cells_read, rollout, solutions.origin, solutions.result]
    return np.where(
        solutions.action == FINAL, solutions.result_is_right().astype(float), at
    )


def step_prior(solutions: Solutions, care: Care) -> np.ndarray:
    """Probability that each step is correct, from slip rate and position, [n_steps].

    ``care`` is that of the solutions; a neutral step has that of the step before it.
    """
    problems = solutions.problems
    prior = correct_probability(problems, care, problems.true_results())
    last = prior.shape[1] - 1
    column = np.where(
        solutions.action == FINAL, last, np.maximum(solutions.cells_read - 1, 0)
    )
    return prior[solutions.rollout, column]


def rerun(
    solutions: Solutions, care: Care, trials: int, rng: np.random.Generator
) -> np.ndarray:
    """Successes K among ``trials`` continuations really run from each step, [n_steps].

    A continuation succeeds if its answer is right.
    """
    truth = solutions.problems.true_results()[solutions.rollout, -1]
    steps = np.arange(len(truth))
    answers = continued(solutions, steps, care, trials, rng)
    return (answers == truth[:, None]).sum(axis=1)


def continued(
    solutions: Solutions,
    steps: np.ndarray,
    care: Care,
    trials: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Final answers of ``trials`` continuations of each of the steps, [steps, trials].

    A continuation starts from what the step states, reads the remaining cells, checks
    and answers; behind a final answer nothing is left to do.
    """
    rollout, start = solutions.rollout[steps], solutions.cells_read[steps]
    final = solutions.action[steps] == FINAL
    problems = solutions.problems
    true = problems.true_results()
    shape = (len(steps), trials)
    stated = solutions.result[steps, None]
    result = np.broadcast_to(stated, shape).copy()
    origin = np.broadcast_to(solutions.origin[steps, None], shape).copy()
    for item in range(problems.cells.shape[1]):
        more = item < problems.n_items[rollout]
        going = np.flatnonzero((start <= item) & more & ~final)
        if not len(going):
            continue
        rows = rollout[going]
        state = State(result[going], origin[going])
        move = read_cell(problems.take(rows), item, state, care, rng, true[rows])
        result[going], origin[going] = move.state.result, move.state.origin
    answers, _ = check_answer(
        problems.take(rollout), State(result, origin), rng, true[rollout, -1]
    )
    return np.where(final[:, None], stated, answers)
