"""Small random corpora, and their plain form for oracles."""

import numpy as np
from hypothesis import strategies as st

from theory.rollouts import Rollouts


@st.composite
def corpora(draw, min_rollouts=0, min_steps=0, unmeasured=True, max_trials=20):
    """Small corpora with ragged lengths, several N and several sources."""
    low = 0 if unmeasured else 1
    steps = st.integers(low, max_trials).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.just(n))
    )
    table = draw(
        st.lists(
            st.lists(steps, min_size=min_steps, max_size=6),
            min_size=min_rollouts,
            max_size=12,
        )
    )
    flat = [step for rollout in table for step in rollout]
    sources = draw(
        st.lists(st.integers(0, 2), min_size=len(table), max_size=len(table))
    )
    return Rollouts(
        np.array([k for k, _ in flat], np.int64),
        np.array([n for _, n in flat], np.int64),
        np.cumsum([0] + [len(rollout) for rollout in table]).astype(np.int64),
        np.array(sources, np.int64),
        ("a", "b", "c"),
    )


def as_table(rollouts):
    """[[(K, N), ...], ...], the plain form that oracles read."""
    return [
        [
            (int(rollouts.successes[j]), int(rollouts.trials[j]))
            for j in range(rollouts.offsets[i], rollouts.offsets[i + 1])
        ]
        for i in range(rollouts.n_rollouts)
    ]
