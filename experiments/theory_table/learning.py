"""Statements about learning: rates, Lemma 1, the floor that noise leaves, design."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from scipy.stats import binom

from experiments.theory_table.statement import Statement, autodiff_hessian, both
from theory import asymptotics, design, simulate
from theory.label_noise import noisy_positive_prob

# --- rates ----------------------------------------------------------------------------

_BASE_RATE, _MANY = 0.3, 40_000


def _excess(counts: np.ndarray, n: int) -> np.ndarray:
    """KL(q || (K + 1/2) / (n + 1)): excess risk of one fitted parameter, for each K."""
    fit, q = (counts + 0.5) / (n + 1), _BASE_RATE
    return q * np.log(q / fit) + (1 - q) * np.log((1 - q) / (1 - fit))


def _expected_excess(n: int) -> float:
    """Its mean over all K."""
    k = np.arange(n + 1)
    return float(binom.pmf(k, n, _BASE_RATE) @ _excess(k, n))


def _simulated_ratio(rng, draws: int) -> tuple[float, float]:
    (small, se_small), (full, se_full) = (
        simulate.leading_mle_excess_risk(n, 1, rng=rng, draws=draws)
        for n in (_MANY // 4, _MANY)
    )
    ratio = small / full
    return ratio, ratio * float(np.hypot(se_small / small, se_full / full))


# --- Lemma 1 --------------------------------------------------------------------------

_C, _NOISE, _START = 0.7, 1.0, 2.0


def _largest(start, slack) -> float:
    """Largest sqrt(t) D_t of the recursion, each step times ``slack()``."""
    gap = largest = start
    for t in range(1, 20_000):
        factor = max(1 - _C / np.sqrt(t), 0.0)
        gap = slack() * (factor * gap + _NOISE / t)
        largest = np.maximum(largest, gap * np.sqrt(t + 1))
    return float(np.max(largest))


def _simulated_recursion(rng, draws: int) -> tuple[float, None]:
    return _largest(np.full(200, _START), lambda: rng.random(200)), None


# --- noisy labels ---------------------------------------------------------------------

_FPR, _FNR = 0.2, 0.05


class _World(NamedTuple):
    """A teacher on a few points, and its noisy labels."""

    phi: np.ndarray
    teacher: np.ndarray
    q: np.ndarray
    noisy: np.ndarray
    weights: np.ndarray


def _make_world() -> _World:
    rng = np.random.default_rng(20)
    phi = np.column_stack([np.ones(7), rng.normal(size=(7, 2))])
    teacher, weights = np.array([0.8, -1.1, 0.6]), rng.uniform(0.5, 2, size=7)
    q = expit(phi @ teacher)
    noisy = noisy_positive_prob(q, _FPR, _FNR)
    return _World(phi, teacher, q, noisy, weights / weights.sum())


_WORLD = _make_world()

# What the functions of theory.asymptotics take.
_ARGUMENTS = _WORLD.phi, _WORLD.q, _FPR, _FNR, _WORLD.weights


def _loss_of_one(w, x, y):
    return jnp.logaddexp(0.0, x @ w) - y * (x @ w)


def _loss(w, labels, world: _World):
    z = world.phi @ w
    return jnp.sum(world.weights * (jnp.logaddexp(0.0, z) - labels * z))


class _Derivatives(NamedTuple):
    """Of the world's losses, all by autodiff.

    Attributes:
        covariance: the sandwich at the noisy minimiser.
        excess: clean loss there.
        shift: of the minimiser, first order in the noise.
        coefficient: tr(H V)/2 with the clean Hessian at the noisy minimiser, plus the
            gradient there times the second-order bias of the fit.
    """

    covariance: np.ndarray
    excess: float
    shift: np.ndarray
    coefficient: float


@functools.cache
def _derivatives() -> _Derivatives:
    """Newton's method on autodiff, then the sandwich, the implicit derivative and, from
    third derivatives, the bias of the fit.
    """
    world = _WORLD
    with jax.enable_x64(True):
        slope, curvature = jax.jit(jax.grad(_loss)), jax.jit(jax.hessian(_loss))
        third = jax.jit(jax.jacfwd(jax.hessian(_loss)))
        teacher = w = jnp.asarray(world.teacher)
        for _ in range(12):
            at = (w, world.noisy, world)
            w = w - jnp.linalg.solve(curvature(*at), slope(*at))
        hessian = curvature(w, world.noisy, world)
        inverse = jnp.linalg.inv(hessian)

        slopes = jax.jit(jax.vmap(jax.grad(_loss_of_one), (None, 0, None)))
        bends = jax.jit(jax.vmap(jax.hessian(_loss_of_one), (None, 0, None)))
        spread, together = 0.0, 0.0
        for y, share in ((0.0, 1 - world.noisy), (1.0, world.noisy)):
            g, h = slopes(w, world.phi, y), bends(w, world.phi, y)
            share = world.weights * share
            spread += jnp.einsum("m,md,me->de", share, g, g)
            # E[(h - H) H^-1 g] over a point and its label: the curvature of a sample
            # and its gradient vary together.
            together += jnp.einsum("m,mde,ef,mf->d", share, h, inverse, g)
        v = inverse @ spread @ inverse
        bend = jnp.einsum("def,ef->d", third(w, world.noisy, world), v) / 2
        bias = inverse @ (together - bend)

        def slope_at(noise):
            labels = world.q + noise * (world.noisy - world.q)
            return slope(teacher, labels, world)

        shift = -jnp.linalg.solve(
            curvature(teacher, world.q, world), jax.jacfwd(slope_at)(0.0)
        )
        clean = slope(w, world.q, world)
        return _Derivatives(
            np.asarray(v),
            float(_loss(w, world.q, world) - _loss(teacher, world.q, world)),
            np.asarray(shift),
            float(jnp.trace(hessian @ v) / 2 + clean @ bias),
        )


_CROSSOVER = asymptotics.noise_floor_crossover(*_ARGUMENTS)


# --- design ---------------------------------------------------------------------------

_RIDGE = np.eye(3)


def _design_gain() -> float:
    phi, q = _WORLD.phi, _WORLD.q
    information = design.rollout_information(phi, q, [0, len(phi)], _FPR, _FNR)
    return design.design_gain(information, _RIDGE)[0]


def _log_determinant() -> float:
    phi, noisy = _WORLD.phi, _WORLD.noisy

    def negative_log_likelihood(w):
        truth = 1 / (1 + jnp.exp(-phi @ w))
        p = (1 - _FNR) * truth + _FPR * (1 - truth)
        return -jnp.sum(noisy * jnp.log(p) + (1 - noisy) * jnp.log(1 - p))

    curvature = autodiff_hessian(negative_log_likelihood, _WORLD.teacher)
    return float(np.linalg.slogdet(_RIDGE + curvature)[1])


_FIT = "noisy_minimizer_and_sandwich"

STATEMENTS: tuple[Statement, ...] = (
    # A quarter of the data: twice the risk by the bound, four times in truth.
    Statement(
        "equation_4",
        "Eq. 4: risk at gamma = 1/4",
        "enumeration",
        exact=lambda: (
            asymptotics.leading_mle_excess_risk(_MANY / 4, 1)
            / asymptotics.leading_mle_excess_risk(_MANY, 1)
        ),
        oracle=lambda: _expected_excess(_MANY // 4) / _expected_excess(_MANY),
        simulate=_simulated_ratio,
        paper=float(asymptotics.gamma_inflation(0.25, matched_updates=False).data),
        tolerance=1e-3,
        note="powers 1/2 are upper bounds: under the paper's own assumptions the risk "
        "falls as 1/N without noise (the oracle is exact at N = 40,000, for the fit "
        "(K + 1/2) / (N + 1): maximum likelihood's own expected risk is infinite)",
    ),
    # Half a nat per parameter.
    Statement(
        "rate_of_the_fit",
        "N x excess risk -> d/2, d = 1",
        "enumeration",
        exact=lambda: _MANY * asymptotics.leading_mle_excess_risk(_MANY, 1),
        oracle=lambda: _MANY * _expected_excess(_MANY),
        simulate=lambda rng, draws: tuple(
            _MANY * x
            for x in simulate.leading_mle_excess_risk(_MANY, 1, rng=rng, draws=draws)
        ),
        tolerance=1e-3,
    ),
    # The constant that the paper leaves open.
    Statement(
        "lemma_1",
        "Lemma 1: sqrt(T) D_T <= C'",
        "enumeration",
        exact=lambda: asymptotics.sgd_recursion_constant(_C, _NOISE, _START),
        oracle=lambda: _largest(_START, lambda: 1.0),
        simulate=_simulated_recursion,
        paper="C' exists",
        bound=True,
        note="C' = max{2C/c, sqrt(2) C, sqrt(t0) (D1 + C (1 + ln t0))}, t0 = "
        "ceil(1/c^2); the oracle runs the worst case, the simulation random slack",
    ),
    Statement(
        "bias_of_the_minimiser",
        "shift of w*, first order",
        "autodiff",
        exact=lambda: np.linalg.norm(asymptotics.first_order_bias(*_ARGUMENTS)),
        oracle=lambda: np.linalg.norm(_derivatives().shift),
        note="|H^-1 E[(fpr (1-q) - fnr q) phi]|; the oracle differentiates the "
        "minimiser in the noise",
    ),
    # Spread of the fits around the noisy minimiser.
    Statement(
        "sandwich",
        "tr V, V = H~^-1 Sigma~ H~^-1",
        "autodiff",
        **both(_FIT, *_ARGUMENTS, part=lambda fit: np.trace(fit.cov)),
        oracle=lambda: np.trace(_derivatives().covariance),
    ),
    # What no amount of noisy data undoes.
    Statement(
        "noise_floor",
        "Eq. 4: excess risk, N -> inf",
        "autodiff",
        **both(_FIT, *_ARGUMENTS, part=2),
        oracle=lambda: _derivatives().excess,
        paper=0.0,
        otherwise="counterexample",
        note=f"fpr {_FPR}, fnr {_FNR}, d 3: beyond {_CROSSOVER:,.0f} labels the floor "
        "exceeds the variance, and cleaner labels pay more than more of them",
    ),
    # The 1/n term on top of the floor.
    Statement(
        "variance_of_the_excess",
        "n x (excess - floor)",
        "autodiff",
        **both("excess_coefficient", *_ARGUMENTS),
        oracle=lambda: _derivatives().coefficient,
    ),
    # The oracle's gain of one rollout, an upper bound for scores.
    Statement(
        "design_gain",
        "D-optimal gain of a rollout",
        "autodiff",
        exact=_design_gain,
        oracle=_log_determinant,
    ),
)
