"""Statements about learning: rates, Lemma 1, the floor that noise leaves, design."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from experiments.theory_table.row import (
    Row,
    Statement,
    autodiff_hessian,
    mean_and_se,
)

# --- rates ----------------------------------------------------------------------------

_BASE_RATE = 0.3


def _excess(counts: np.ndarray, n: int) -> np.ndarray:
    """KL(q || (K + 1/2) / (n + 1)): excess risk of one fitted parameter, for each K."""
    fit, q = (counts + 0.5) / (n + 1), _BASE_RATE
    return q * np.log(q / fit) + (1 - q) * np.log((1 - q) / (1 - fit))


def _expected_excess(n: int) -> float:
    """Its mean over all K."""
    from scipy.stats import binom

    k = np.arange(n + 1)
    return float(binom.pmf(k, n, _BASE_RATE) @ _excess(k, n))


def equation_4(rng: np.random.Generator, draws: int) -> Row:
    """A quarter of the data: twice the risk by the bound, four times in truth."""
    from theory.asymptotics import gamma_inflation, mle_excess_risk

    n = 40_000
    small, se_small = mean_and_se(
        _excess(rng.binomial(n // 4, _BASE_RATE, draws), n // 4)
    )
    full, se_full = mean_and_se(_excess(rng.binomial(n, _BASE_RATE, draws), n))
    ratio = small / full
    return Row(
        "Eq. 4: risk at gamma = 1/4",
        exact=float(mle_excess_risk(n / 4, 1) / mle_excess_risk(n, 1)),
        oracle=_expected_excess(n // 4) / _expected_excess(n),
        kind="enumeration",
        paper=float(gamma_inflation(0.25, matched_updates=False).data),
        simulation=ratio,
        se=ratio * float(np.hypot(se_small / small, se_full / full)),
        tolerance=1e-3,
        note="powers 1/2 are upper bounds: under the paper's own assumptions the risk "
        "falls as 1/N (the oracle is exact at N = 40,000)",
    )


def rate_of_the_fit(rng: np.random.Generator, draws: int) -> Row:
    """Half a nat per parameter."""
    from theory.asymptotics import mle_excess_risk

    n = 40_000
    simulation, se = mean_and_se(n * _excess(rng.binomial(n, _BASE_RATE, draws), n))
    return Row(
        "N x excess risk -> d/2, d = 1",
        exact=float(n * mle_excess_risk(n, 1)),
        oracle=n * _expected_excess(n),
        kind="enumeration",
        simulation=simulation,
        se=se,
        tolerance=1e-3,
    )


def lemma_1(rng: np.random.Generator, draws: int) -> Row:
    """The constant that the paper leaves open."""
    from theory.asymptotics import sgd_recursion_constant

    c, noise, start, last, paths = 0.7, 1.0, 2.0, 20_000, 200
    worst, largest = start, start
    slack, largest_slack = np.full(paths, start), np.full(paths, start)
    for t in range(1, last):
        factor, root = max(1 - c / np.sqrt(t), 0.0), np.sqrt(t + 1)
        worst = factor * worst + noise / t
        largest = max(largest, worst * root)
        slack = rng.random(paths) * (factor * slack + noise / t)
        largest_slack = np.maximum(largest_slack, slack * root)
    constant = float(sgd_recursion_constant(c, noise, start))
    return Row(
        "Lemma 1: sqrt(T) D_T <= C'",
        exact=constant,
        oracle=float(largest),
        kind="enumeration",
        paper="C' exists",
        agrees=True,
        simulation=float(largest_slack.max()),
        bound=True,
        note="C' = max{2C/c, sqrt(2) C, sqrt(t0) (D1 + C (1 + ln t0))}, t0 = "
        "ceil(1/c^2); the oracle runs the worst case, the simulation random slack",
    )


# --- noisy labels ---------------------------------------------------------------------


class _World(NamedTuple):
    """A teacher on a few points, and its noisy labels."""

    phi: np.ndarray
    teacher: np.ndarray
    q: np.ndarray
    noisy: np.ndarray
    weights: np.ndarray


_FPR, _FNR = 0.2, 0.05


def _world() -> _World:
    from scipy.special import expit

    from theory.label_noise import noisy_positive_prob

    rng = np.random.default_rng(20)
    phi = np.column_stack([np.ones(7), rng.normal(size=(7, 2))])
    teacher, weights = np.array([0.8, -1.1, 0.6]), rng.uniform(0.5, 2, size=7)
    q = expit(phi @ teacher)
    noisy = noisy_positive_prob(q, _FPR, _FNR)
    return _World(phi, teacher, q, noisy, weights / weights.sum())


def _loss(w, labels, world: _World):
    import jax.numpy as jnp

    z = world.phi @ w
    return jnp.sum(world.weights * (jnp.logaddexp(0.0, z) - labels * z))


class _Derivatives(NamedTuple):
    """Of the world's losses, all by autodiff."""

    minimiser: np.ndarray
    covariance: np.ndarray
    excess: float
    shift: np.ndarray


@functools.cache
def _derivatives() -> _Derivatives:
    """Newton's method on autodiff, then the sandwich and the implicit derivative."""
    import jax
    import jax.numpy as jnp

    world = _world()
    with jax.enable_x64(True):
        slope, curvature = jax.jit(jax.grad(_loss)), jax.jit(jax.hessian(_loss))
        w = jnp.asarray(world.teacher)
        for _ in range(12):
            step = jnp.linalg.solve(
                curvature(w, world.noisy, world), slope(w, world.noisy, world)
            )
            w = w - step

        def of_one(w, x, y):
            return jnp.logaddexp(0.0, x @ w) - y * (x @ w)

        scores = [
            jax.jit(jax.vmap(jax.grad(of_one), (None, 0, None)))(w, world.phi, y)
            for y in (0.0, 1.0)
        ]
        shares = world.weights * (1 - world.noisy), world.weights * world.noisy
        spread = sum(
            jnp.einsum("m,md,me->de", share, g, g)
            for share, g in zip(shares, scores, strict=True)
        )
        inverse = jnp.linalg.inv(curvature(w, world.noisy, world))

        def slope_at(noise):
            labels = world.q + noise * (world.noisy - world.q)
            return slope(jnp.asarray(world.teacher), labels, world)

        teacher = jnp.asarray(world.teacher)
        shift = -jnp.linalg.solve(
            curvature(teacher, world.q, world), jax.jacfwd(slope_at)(0.0)
        )
        excess = _loss(w, world.q, world) - _loss(teacher, world.q, world)
        return _Derivatives(
            np.asarray(w),
            np.asarray(inverse @ spread @ inverse),
            float(excess),
            np.asarray(shift),
        )


class _Fits(NamedTuple):
    """Maximum-likelihood fits to many samples of n noisy labels.

    Attributes:
        w: ``[samples, d]``.
        excess: in the clean loss.
        linear: the part of the excess that is linear in the labels, of mean 0:
            without it the others have a small standard error.
    """

    w: np.ndarray
    excess: np.ndarray
    linear: np.ndarray


def _fit(rng: np.random.Generator, n: int, samples: int, start: np.ndarray) -> _Fits:
    from scipy.special import expit

    world = _world()
    counts = rng.multinomial(n, world.weights, size=samples)
    positives = rng.binomial(counts, world.noisy)
    w = np.tile(start, (samples, 1))
    for _ in range(12):
        s = expit(w @ world.phi.T)
        slope = (counts * s - positives) @ world.phi
        curvature = np.einsum(
            "rm,md,me->rde", counts * s * (1 - s), world.phi, world.phi
        )
        w = w - np.linalg.solve(curvature, slope[..., None])[..., 0]

    def risk(w: np.ndarray) -> np.ndarray:
        z = w @ world.phi.T
        return (np.logaddexp(0, z) - world.q * z) @ world.weights

    s = expit(world.phi @ start)
    curvature = world.phi.T @ ((world.weights * s * (1 - s))[:, None] * world.phi)
    move = np.linalg.solve(curvature, ((positives - counts * s) @ world.phi).T / n).T
    pull = world.phi.T @ (world.weights * (world.noisy - world.q))
    return _Fits(w, risk(w) - risk(world.teacher[None]), move @ pull)


def _arguments() -> tuple[np.ndarray, np.ndarray, float, float, np.ndarray]:
    """What the functions of ``theory.asymptotics`` take."""
    world = _world()
    return world.phi, world.q, _FPR, _FNR, world.weights


def bias_of_the_minimiser(rng: np.random.Generator, draws: int) -> Row:
    """Noise moves the minimiser."""
    from theory.asymptotics import first_order_bias

    bias = first_order_bias(*_arguments())
    return Row(
        "shift of w*, first order",
        exact=float(np.linalg.norm(bias)),
        oracle=float(np.linalg.norm(_derivatives().shift)),
        kind="autodiff",
        note="|H^-1 E[(fpr (1-q) - fnr q) phi]|; the oracle differentiates the "
        "minimiser in the noise",
    )


def sandwich(rng: np.random.Generator, draws: int) -> Row:
    """Spread of the fits around the noisy minimiser."""
    from theory.asymptotics import noisy_minimizer_and_sandwich

    w, covariance, _ = noisy_minimizer_and_sandwich(*_arguments())
    n = 100_000
    fits = _fit(rng, n, max(draws // 10, 100), w)
    simulation, se = mean_and_se(n * ((fits.w - w) ** 2).sum(axis=-1))
    return Row(
        "tr V, V = H~^-1 Sigma~ H~^-1",
        exact=float(np.trace(covariance)),
        oracle=float(np.trace(_derivatives().covariance)),
        kind="autodiff",
        simulation=simulation,
        se=se,
    )


def noise_floor(rng: np.random.Generator, draws: int) -> Row:
    """What no amount of noisy data undoes."""
    from theory.asymptotics import noise_floor_crossover, noisy_minimizer_and_sandwich

    w, _, floor = noisy_minimizer_and_sandwich(*_arguments())
    crossover = noise_floor_crossover(*_arguments())
    fits = _fit(rng, 10**10, max(draws // 100, 100), w)
    simulation, se = mean_and_se(fits.excess)
    return Row(
        "Eq. 4: excess risk, N -> inf",
        exact=floor,
        oracle=_derivatives().excess,
        kind="autodiff",
        paper=0.0,
        simulation=simulation,
        se=se,
        otherwise="counterexample",
        note=f"fpr {_FPR}, fnr {_FNR}, d 3: beyond {crossover:,.0f} labels the floor "
        "exceeds the variance, and cleaner labels pay more than more of them",
    )


def variance_of_the_excess(rng: np.random.Generator, draws: int) -> Row:
    """The 1/n term on top of the floor."""
    from theory.asymptotics import excess_coefficient, noisy_minimizer_and_sandwich

    w, _, floor = noisy_minimizer_and_sandwich(*_arguments())
    n = 100_000
    fits = _fit(rng, n, max(draws // 10, 100), w)
    simulation, se = mean_and_se(n * (fits.excess - fits.linear - floor))
    return Row(
        "n x (excess - floor)",
        exact=excess_coefficient(*_arguments()),
        oracle=_coefficient_by_autodiff(_derivatives()),
        kind="autodiff",
        simulation=simulation,
        se=se,
    )


def _coefficient_by_autodiff(derivatives: _Derivatives) -> float:
    """tr(H V)/2 with the clean Hessian at the noisy minimiser, plus the gradient there
    times the second-order bias of the fit, from third derivatives.
    """
    import jax
    import jax.numpy as jnp

    world, w, v = _world(), derivatives.minimiser, derivatives.covariance
    with jax.enable_x64(True):
        hessian = jax.jit(jax.hessian(_loss))(w, world.noisy, world)
        third = jax.jit(jax.jacfwd(jax.hessian(_loss)))(w, world.noisy, world)
        inverse = jnp.linalg.inv(hessian)

        def curvature_of_one(w, x):
            return jax.hessian(lambda w: jnp.logaddexp(0.0, x @ w))(w)

        def slope_of_one(w, x, y):
            return jax.grad(lambda w: jnp.logaddexp(0.0, x @ w) - y * (x @ w))(w)

        # E[(h - H) H^-1 g] over a point and its label: the curvature of a sample and
        # its gradient vary together.
        together = 0.0
        for y, share in ((1.0, world.noisy), (0.0, 1 - world.noisy)):
            h = jax.jit(jax.vmap(curvature_of_one, (None, 0)))(w, world.phi)
            g = jax.jit(jax.vmap(slope_of_one, (None, 0, None)))(w, world.phi, y)
            together += jnp.einsum(
                "m,mde,ef,mf->d", world.weights * share, h, inverse, g
            )
        bias = inverse @ (together - jnp.einsum("def,ef->d", third, v) / 2)
        slope = jax.grad(_loss)(w, world.q, world)
        return float(jnp.trace(hessian @ v) / 2 + slope @ bias)


def design_gain(rng: np.random.Generator, draws: int) -> Row:
    """The oracle's gain of one rollout, an upper bound for scores."""
    import jax.numpy as jnp

    from theory import design

    world, ridge = _world(), np.eye(3)
    offsets = [0, len(world.phi)]
    information = design.rollout_information(world.phi, world.q, offsets, _FPR, _FNR)

    def negative_log_likelihood(w):
        truth = 1 / (1 + jnp.exp(-world.phi @ w))
        p = (1 - _FNR) * truth + _FPR * (1 - truth)
        return -jnp.sum(world.noisy * jnp.log(p) + (1 - world.noisy) * jnp.log(1 - p))

    curvature = autodiff_hessian(negative_log_likelihood, world.teacher)
    return Row(
        "D-optimal gain of a rollout",
        exact=float(design.design_gain(information, ridge)[0]),
        oracle=float(np.linalg.slogdet(ridge + curvature)[1]),
        kind="autodiff",
    )


STATEMENTS: tuple[Statement, ...] = (
    equation_4,
    rate_of_the_fit,
    lemma_1,
    bias_of_the_minimiser,
    sandwich,
    noise_floor,
    variance_of_the_excess,
    design_gain,
)
