"""Is this formula right? A closed form beside a simulation that shares nothing with it.

python -m experiments.examples.check_a_formula
"""

import numpy as np

from mprm_jax import theory

# Every closed form has a twin in theory.simulate: same name, same arguments. Here the
# Fisher information of a step that is right with probability .3, whose label errs.
print("false positives  closed form  simulated")
for rate in (0.0, 0.1, 0.3):
    of = theory.simulate.check("noisy_fisher_weight", q=0.3, fpr=rate, fnr=0.05)
    print(
        f"{rate:15.1f}  {of.closed_form:11.4f}  {of.estimate:9.4f} "
        f"+- {of.standard_error:.4f}  ({of.z:+.1f} standard errors)"
    )

# A formula of your own is checked the same way: draw what it speaks of. Here the mean
# BIS of rollouts of six independent steps, with r ~ Beta(4, 1) and K ~ Binomial(16, r).
rng = np.random.default_rng(0)
n, draws = 6, 20_000
k = rng.binomial(16, rng.beta(4.0, 1.0, (draws, n)))
every = np.arange(draws + 1) * n
source = np.zeros(draws, np.int64)
rollouts = theory.Rollouts(k.ravel(), np.full(k.size, 16), every, source, ("drawn",))
bis = theory.bis(rollouts, alpha=0.05)
exact = theory.expected_bis(4.0, 1.0, 16, n, 0.05)
error = bis.std() / np.sqrt(draws)
apart = (bis.mean() - exact) / error
print(f"\nmean BIS: formula {exact:.5f}, simulated {bis.mean():.5f} +- {error:.5f}")
print(f"({apart:+.1f} standard errors; beyond 4 the formula or the draw is wrong)")
