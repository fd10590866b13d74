"""Is my own rule better than the shipped ones? First in worlds whose truth is known.

python -m experiments.examples.my_own_rule
"""

import numpy as np

import mprm_jax as mprm


# A rule is a function of a corpus's counts, one number for each rollout; the largest
# are kept. K and N of every step are rollouts.successes and rollouts.trials; the steps
# of rollout i are rollouts.offsets[i]:rollouts.offsets[i + 1].
def evenness(rollouts):
    """Half of the steps right, half wrong."""
    return -abs(rollouts.n_positive / rollouts.n_measured - 0.5)


# The world "scarce" is like the paper's corpus. Take seeds=20 for a result to trust.
print(mprm.compare_rules([evenness, "bis", "mixed"], "scarce", keep_ratio=0.1, seeds=4))

# A world of your own: two sources of 1,500 and 500 rollouts, charts easier than plans;
# a step counts as right if a continuation from it succeeds with r >= 0.3; 2 % of the
# right steps are wrong all the same; features show how easy a rollout is.
sources = (
    mprm.sim.Source("charts", mean_mc=0.9, steps=7500, rollouts=1500),
    mprm.sim.Source("plans", mean_mc=0.6, steps=4000, rollouts=500),
)
world = mprm.World(
    "mine",
    "few sources, lenient truth",
    mprm.sim.CorpusLaw(mprm.sim.PAPER_MODELS["hierarchical"], sources, rollouts=2000),
    mprm.sim.FeatureWorld(reliable_at=0.3, wrong_above=0.02, difficulty=1.0),
)
print(mprm.compare_rules([evenness, "bis", "mixed"], world, keep_ratio=0.1, seeds=4))

# On a corpus it is an array of scores like any other.
mprm.simulate_corpus("example-corpus", scale=0.002)
corpus = mprm.read_corpus("example-corpus")
mine = mprm.select(corpus, evenness(corpus.rollouts), keep_ratio=0.1)
bis = mprm.select(corpus, "bis", keep_ratio=0.1)
shared = len(np.intersect1d(mine.usable_rows, bis.usable_rows)) / len(mine.usable_rows)
print(f"\nIt shares {shared:.0%} of its picks with BIS.")
