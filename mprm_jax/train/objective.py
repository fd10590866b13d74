"""What a step's logits are trained on: labels and losses, all made from (K, N).

Every loss is a sum over steps, each with its weight; whoever adds up several batches
divides once, by the weight of all of them. So a micro-batch, a padded place or a
rollout without steps weighs exactly what its steps weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mprm_jax.data.batches import Batch
from mprm_jax.train.config import Objective
from theory.labelling import DOUBTFUL, StepTargets

# The model's three logits at a marker.
YES, NO, LOG_CONCENTRATION = 0, 1, 2

# exp(±20): beyond it the likelihood is that of a binomial, or of 0 and N alone, to
# within float32, and a larger exponent would only overflow.
MAX_LOG_CONCENTRATION = 20.0

# Stirling's series for log Gamma is exact to float32 from here on.
_STIRLING = 8


def scores(logits_BxSx3: jax.Array) -> jax.Array:
    """Score of a step, sigma(Yes - No) in (0, 1): the two-way softmax's share of Yes.

    Under "beta-binomial" it is the predicted mean of K/N.
    """
    return jax.nn.sigmoid(_margin(logits_BxSx3))


def _margin(logits_BxSx3: jax.Array) -> jax.Array:
    return logits_BxSx3[..., YES] - logits_BxSx3[..., NO]


def _log_concentration(logits_BxSx3: jax.Array) -> jax.Array:
    return jnp.clip(
        logits_BxSx3[..., LOG_CONCENTRATION],
        -MAX_LOG_CONCENTRATION,
        MAX_LOG_CONCENTRATION,
    )


@dataclass(frozen=True)
class StepLabeller:
    """Labels and loss weights of rollouts' steps, made on the host from their counts.

    Hard and masked: y = 1[K/N > label_threshold]; soft: y = K/N; beta-binomial: none.
    A step counts 1 if it was sampled (N > 0). Masked labels leave out what ``masked``
    of :mod:`theory.labelling` does; a rollout is mixed if it is as far as its prompt
    reaches.

    Attributes:
        objective: which loss.
    """

    objective: Objective

    def __call__(self, successes: np.ndarray, trials: np.ndarray) -> StepTargets:
        """Counts ``[..., S]`` to targets of the same shape."""
        kind, measured = self.objective.labels, trials > 0
        mc_score = successes / np.maximum(trials, 1)
        if kind == "soft":
            return StepTargets(mc_score, measured)
        if kind == "beta-binomial":
            return StepTargets(np.zeros(trials.shape), measured)
        positive = mc_score > self.objective.label_threshold
        if kind == "hard":
            return StepTargets(positive, measured)
        negative = measured & ~positive
        mixed = positive.any(-1, keepdims=True) & negative.any(-1, keepdims=True)
        doubtful = mixed & positive & (mc_score < DOUBTFUL)
        return StepTargets(positive, measured & ~doubtful)


def loss_sum(logits_BxSx3: jax.Array, batch: Batch, objective: Objective) -> jax.Array:
    """Sum of the steps' losses, each times its weight, in nats.

    Cross-entropy -y log sigma(z) - (1 - y) log sigma(-z) with z = Yes - No, or
    -log Pr(K | N) of the Beta-Binomial. What stands at places without weight, NaN
    included, changes neither the sum nor its gradient.

    Args:
        logits_BxSx3: [..., 0] Yes, [..., 1] No, [..., 2] log concentration.
        batch: counts, labels and weights.
        objective: which loss.
    """
    counted_BxS = batch.weight_BxS > 0
    # Before the loss, not after it: the gradient of where() at a NaN is NaN otherwise.
    logits_BxSx3 = jnp.where(counted_BxS[..., None], logits_BxSx3, 0)
    logits_BxSx3 = logits_BxSx3.astype(jnp.float32)
    if objective.labels == "beta-binomial":
        loss_BxS = -beta_binomial_log_likelihood(
            _margin(logits_BxSx3),
            _log_concentration(logits_BxSx3),
            batch.successes_BxS,
            batch.trials_BxS,
        )
    else:
        loss_BxS = optax.sigmoid_binary_cross_entropy(
            _margin(logits_BxSx3), batch.label_BxS
        )
    return jnp.sum(jnp.where(counted_BxS, batch.weight_BxS * loss_BxS, 0.0))


def beta_binomial_log_likelihood(
    margin: jax.Array,
    log_concentration: jax.Array,
    successes: jax.Array,
    trials: jax.Array,
) -> jax.Array:
    """log Pr(K | N) for K ~ BetaBinomial(N, a, b), a = c mu, b = c (1 - mu).

    log C(N, K) + [lgamma(a+K) - lgamma(a)] + [lgamma(b+N-K) - lgamma(b)]
    - [lgamma(c+N) - lgamma(c)], each bracket by :func:`log_rising_factorial`; for
    c -> inf it is the binomial's, whose brackets are K log mu, (N-K) log(1-mu) and 0
    after N log c cancels.

    Args:
        margin: logit of mu, any real.
        log_concentration: log c, finite.
        successes: K, ``0 <= K <= N``.
        trials: N; 0 gives 0.
    """
    # Shape arguments and counts in one array each, so that the series is written and
    # compiled once.
    log_shape_3 = jnp.stack(
        [
            log_concentration + jax.nn.log_sigmoid(margin),
            log_concentration + jax.nn.log_sigmoid(-margin),
            log_concentration,
        ]
    )
    count_3 = jnp.stack([successes, trials - successes, trials]).astype(jnp.float32)
    excess_3 = log_rising_factorial(log_shape_3, log_concentration[None], count_3)
    return _log_binomial(count_3) + excess_3[0] + excess_3[1] - excess_3[2]


def log_rising_factorial(
    log_x: jax.Array, log_scale: jax.Array, count: jax.Array
) -> jax.Array:
    """log[x (x+1) ... (x+k-1)] - k log_scale = lgamma(x+k) - lgamma(x) - k log_scale.

    Without cancellation, with X = x + 8, by the recurrence of Gamma and Stirling's
    series w: (X+k-1/2) log1p(k/X) - k + w(X+k) - w(X) + k log(X / scale)
    - sum_{i<8} log[(x+k+i) / (x+i)].

    Args:
        log_x: log x, finite; x itself may underflow.
        log_scale: finite.
        count: k >= 0.
    """
    x = jnp.exp(log_x)
    shifted = x + _STIRLING
    # log X - log_scale for large x is the difference of two large numbers, unless
    # formed from the exponents.
    log_ratio = log_x - log_scale + jnp.log1p(_STIRLING * jnp.exp(-log_x))
    log_ratio = jnp.where(log_x > 0, log_ratio, jnp.log(shifted) - log_scale)
    positive = count > 0
    log_count = jnp.log(jnp.where(positive, count, 1.0))
    # The factor of i = 0 from log_x, because x itself may be 0 in float32.
    below = jnp.where(positive, jax.nn.softplus(log_count - log_x), 0.0)
    for i in range(1, _STIRLING):
        below += jnp.log1p(count / (x + i))
    return (
        (shifted + count - 0.5) * jnp.log1p(count / shifted)
        - count
        + _stirling_series(shifted + count)
        - _stirling_series(shifted)
        + count * log_ratio
        - below
    )


def _stirling_series(x: jax.Array) -> jax.Array:
    """lgamma(x) - [(x - 1/2) log x - x + log(2 pi) / 2], for x >= 8 (DLMF 5.11.1)."""
    inverse = 1 / x
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def _log_binomial(count_3: jax.Array) -> jax.Array:
    """log C(N, K) of the counts K, N - K, N; no gradient flows through it."""
    factorial_3 = jax.scipy.special.gammaln(count_3 + 1)
    return factorial_3[2] - factorial_3[0] - factorial_3[1]
