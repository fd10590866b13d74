"""Random judged steps, for tests of the metrics."""

from theory.agreement import step_scores

SOURCES = ("a", "b", "c")


def random_steps(rng, rollouts=40, levels=None, sources=SOURCES):
    """Rollouts of three sources with neutral steps; few score levels make ties."""
    lengths = rng.integers(0, 7, rollouts)
    labels = [rng.choice([1, 1, -1, 0], n).tolist() for n in lengths]
    scores = [
        (rng.integers(0, levels, n) / levels if levels else rng.normal(size=n)).tolist()
        for n in lengths
    ]
    names = [sources[i] for i in rng.integers(0, len(sources), rollouts)]
    return names, labels, scores, [f"id {i}" for i in range(rollouts)]


def picked_steps(rows, picked, cut=None):
    """The columns of some of the rollouts, in the given order."""
    names, labels, scores, ids = ([column[i] for i in picked] for column in rows)
    return step_scores(names, labels, scores, ids, cut)
