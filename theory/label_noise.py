"""The noise channel from truth Y to label Y~, and the information that survives it.

``q = Pr(Y = 1)``, ``fpr = Pr(Y~ = 1 | Y = 0)``, ``fnr = Pr(Y~ = 0 | Y = 1)``, each in
[0, 1] and their sum unrestricted (above 1 the label is worth more when inverted);
``J = 1 - fpr - fnr``; ``q~ = Pr(Y~ = 1)``. Information is Fisher's about the logit of
q, per label; a feature vector phi turns a weight I into the matrix ``I phi phi^T``. A
count K has the laws ``pmf_negative``, ``f0(k) = Pr(K = k | Y = 0)``, and
``pmf_positive``, f1, ``[..., n_counts]``; then q is ``[...]`` and targets t(k), finite,
``[..., n_counts]``. Arguments broadcast; results are float64; an argument outside its
range or NaN raises ValueError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory.domain import check_finite, check_probability

# How far from 1 a distribution of counts may sum: rounding of a few thousand terms.
_PMF_TOLERANCE = 1e-9


def joint_label_probs(
    q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Joint distribution of truth and label, ``(tp, fn, fp, tn)``, each in [0, 1].

    ``tp = q (1 - fnr)``, ``fn = q fnr``, ``fp = (1 - q) fpr``,
    ``tn = (1 - q) (1 - fpr)``: products only, so each keeps its relative precision.
    """
    q, fpr, fnr = _channel(q, fpr, fnr)
    return q * (1 - fnr), q * fnr, (1 - q) * fpr, (1 - q) * (1 - fpr)


def noisy_positive_prob(q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike) -> np.ndarray:
    """Probability of a positive label, ``q~ = (1 - fnr) q + fpr (1 - q)``, in [0, 1].

    Eq. 10 at ``fpr = fnr = eta``: ``(1 - 2 eta) q + eta``.
    """
    tp, _, fp, _ = joint_label_probs(q, fpr, fnr)
    return tp + fp


def predictive_values(
    q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """``PPV = Pr(Y = 1 | Y~ = 1)`` and ``NPV = Pr(Y = 0 | Y~ = 0)``, each in [0, 1].

    ``PPV = tp / (tp + fp)``, ``NPV = tn / (tn + fn)``. At q in {0, 1}, where a label
    may have probability 0, the limit from inside (0, 1): at ``q = 0`` without false
    positives PPV is 1, at ``q = 1`` without false negatives NPV is 1.

    Raises:
        ValueError: an argument is not in [0, 1], or one label value never occurs
            whatever q is (rates 0 and 1), so that its predictive value has no limit.
    """
    q, fpr, fnr = _channel(q, fpr, fnr)
    if np.any(np.abs(fpr - fnr) == 1):
        raise ValueError(
            "fpr and fnr must not be 0 and 1: one label value would never occur"
        )
    tp, fn, fp, tn = joint_label_probs(q, fpr, fnr)
    return _share(tp, fp, limit=fpr == 0), _share(tn, fn, limit=fnr == 0)


def _share(part: np.ndarray, rest: np.ndarray, limit: np.ndarray) -> np.ndarray:
    whole = part + rest
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), limit)


def information_retention(q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike) -> np.ndarray:
    """Share of a clean label's Fisher information that a noisy one keeps, in [0, 1].

    ``J^2 q (1 - q) / (q~ (1 - q~)) = MCC(Y, Y~)^2``, the squared correlation of truth
    and label. At q in {0, 1} the limit from inside (0, 1): at ``q = 0`` it is
    ``1 - fnr`` where fpr = 0, ``fnr`` where fpr = 1, and 0 between; at ``q = 1``
    likewise with the rates exchanged.
    """
    q, fpr, fnr = _channel(q, fpr, fnr)
    tp, fn, fp, tn = joint_label_probs(q, fpr, fnr)
    variance = (tp + fp) * (tn + fn)
    certain = variance == 0
    # Exact where J is near 0 and 1 - (fpr + fnr) would have rounded.
    j = (1 - np.maximum(fpr, fnr)) - np.minimum(fpr, fnr)
    # PPV + NPV - 1, in [-1, 1]; J^2 / variance could overflow.
    slope = j * q * (1 - q) / np.where(certain, 1.0, variance)
    # A label is certain only if every truth of the likelier class gets the same one.
    limit = np.where(
        q < 0.5, np.where(fpr == 0, 1 - fnr, fnr), np.where(fnr == 0, 1 - fpr, fpr)
    )
    return np.where(certain, limit, j * slope)


def noisy_fisher_weight(q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike) -> np.ndarray:
    """Fisher information of a noisy label about the logit of q, in [0, q (1 - q)].

    Four equal forms:

    - ``q (1 - q) MCC(Y, Y~)^2`` (computed);
    - ``J^2 q^2 (1 - q)^2 / (q~ (1 - q~))`` (the score's variance);
    - ``q~ (1 - q~) (PPV + NPV - 1)^2``; with false positives only, this is
      ``q~ (1 - q~) PPV^2``: mixture times squared reliability of the positives;
    - ``q (1 - q) - E Var(Y | Y~)`` (complete minus missing information).
    """
    q, fpr, fnr = _channel(q, fpr, fnr)
    return q * (1 - q) * information_retention(q, fpr, fnr)


def small_noise_fisher_weight(
    q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike
) -> np.ndarray:
    """First-order expansion of :func:`noisy_fisher_weight` in the rates.

    ``q (1 - q) - fpr (1 - q) - fnr q``: the loss is additive, not a factor, so it
    weighs most where q (1 - q) is small. Below 0 where the rates are not small.
    """
    q, fpr, fnr = _channel(q, fpr, fnr)
    return q * (1 - q) - fpr * (1 - q) - fnr * q


def paper_signal(q: ArrayLike, eta: ArrayLike) -> np.ndarray:
    """The paper's signal of a step at flip rate eta, ``(1 - 4 eta) q (1 - q)``.

    A step's term of S(x) at ``||phi|| = 1`` (Section 3), to set beside
    :func:`noisy_fisher_weight`: equal to first order in eta at ``q = 1/2`` only, to
    first order too large elsewhere. For eta > 0 and q in (0, 1) too large iff
    ``eta < 1/4`` and ``q (1 - q) < (1 - 4 eta) (1 - eta) / (4 (1 - 2 eta)^2)``;
    negative above ``eta = 1/4``.
    """
    q, eta = check_probability("q", q), check_probability("eta", eta)
    return (1 - 4 * eta) * q * (1 - q)


def count_information(
    q: ArrayLike, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> np.ndarray:
    """Fisher information about the logit of q when the count K itself is observed.

    ``I_K = q (1 - q) - E Var(Y | K)`` (Louis, 1982), computed as
    ``q^2 (1 - q)^2 sum_k (f1(k) - f0(k))^2 / (q f1(k) + (1 - q) f0(k))``. At least
    that of any label made from K (:func:`noisy_fisher_weight`), at most q (1 - q).

    Returns:
        ``[...]``, in [0, q (1 - q)].

    Raises:
        ValueError: ``q`` is not in [0, 1], or a pmf is negative or does not sum to 1.
    """
    q, f0, f1 = _counts(q, pmf_negative, pmf_positive)
    share = q[..., None]
    marginal = share * f1 + (1 - share) * f0
    # Pr(Y = 1 | K) - q: in [-1, 1] however small the marginal, unlike f1 / marginal.
    shift = share * (1 - share) * (f1 - f0) / np.where(marginal > 0, marginal, np.inf)
    kept = (shift * (f1 - f0)).sum(axis=-1)
    return q * (1 - q) * np.minimum(kept, 1.0)


def target_moments(
    q: ArrayLike, targets: ArrayLike, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a training target t(K), a number for each count K.

    ``E t = q E1 t + (1 - q) E0 t`` and ``Var t``; what
    :func:`theory.asymptotics.target_minimizer_and_sandwich` asks of every feature.

    Returns:
        Two arrays ``[...]``.

    Raises:
        ValueError: as :func:`target_information`.

    Example:
        >>> mean, variance = target_moments(0.5, [0, 0.5, 1], [0.5, 0.5, 0], [0, 0, 1])
        >>> float(mean), float(variance)
        (0.625, 0.171875)
    """
    q, f0, f1 = _counts(q, pmf_negative, pmf_positive)
    t = _check_targets(targets, f0)
    marginal = q[..., None] * f1 + (1 - q[..., None]) * f0
    mean = (marginal * t).sum(axis=-1)
    return mean, (marginal * (t - mean[..., None]) ** 2).sum(axis=-1)


def target_information(
    q: ArrayLike, targets: ArrayLike, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> np.ndarray:
    """Information about the logit of q that a student keeps who sees t(K) alone.

    ``G_t = (q (1 - q) (E1 t - E0 t))^2 / Var t = q (1 - q) Corr(Y, t)^2``: the Godambe
    information of the best linear score in t, ``1 / G_t`` its asymptotic variance per
    step (Godambe, 1960). For any t at most :func:`count_information`, with equality iff
    t is an affine function of ``Pr(Y = 1 | K)`` (Cauchy-Schwarz). For ``t = 1[K > c]``
    it is :func:`noisy_fisher_weight`; an affine change of t leaves it as it is.

    Args:
        targets: t(k), finite, ``[..., n_counts]``: a hard label, K/N, a score.

    Returns:
        ``[...]``, in [0, q (1 - q)]; 0 for a constant target.

    Raises:
        ValueError: ``q`` is not in [0, 1], a pmf is negative or does not sum to 1, a
            target is not finite, or the numbers of counts differ.

    Example:
        >>> wrong, right = [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]
        >>> hard, soft = target_information(0.5, [[0, 1, 1], [0, 1, 2]], wrong, right)
        >>> round(float(hard), 3), round(float(soft), 3)
        (0.069, 0.101)
    """
    q, f0, f1 = _counts(q, pmf_negative, pmf_positive)
    # Half: the difference of two numbers of float64 could overflow.
    t = _check_targets(targets, f0) / 2
    marginal = q[..., None] * f1 + (1 - q[..., None]) * f0
    off = np.abs(t - (marginal * t).sum(axis=-1, keepdims=True))
    off, t = np.broadcast_arrays(np.where(f0 + f1 > 0, off, np.inf), t)
    # Measured from the value nearest to its mean, a target that is nearly always the
    # same keeps its digits, and a constant is 0 to the last bit.
    nearest = np.take_along_axis(t, off.argmin(axis=-1)[..., None], axis=-1)
    unit = np.where(off < np.inf, t - nearest, 0.0)
    largest = np.abs(unit).max(axis=-1, keepdims=True)
    unit = unit / np.where(largest > 0, largest, 1.0)
    _, variance = target_moments(q, unit, f0, f1)
    gap = ((f1 - f0) * unit).sum(axis=-1)
    slope = q * (1 - q) * gap / np.where(variance > 0, variance, np.inf)
    return q * (1 - q) * np.minimum(slope * gap, 1.0)


def best_count_threshold(
    q: ArrayLike, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> np.ndarray:
    """The c whose hard label ``1[K > c]`` keeps most information; the least of equals.

    Of all binary labels made from K the best one cuts ``Pr(Y = 1 | K)`` (the variance
    of a conditional mean is convex); where f1/f0 grows with K, that is a cut of K. (The
    decision threshold of a trained score is :func:`theory.agreement.best_threshold`.)

    Args:
        pmf_negative: ``f0(k) = Pr(K = k | Y = 0)``, ``[..., n_counts]``, two at least.

    Returns:
        integers ``[...]`` in [0, n_counts - 2].

    Raises:
        ValueError: as :func:`count_information`, or there is one count only.

    Example:
        >>> [int(best_count_threshold(q, [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]))
        ...  for q in (0.5, 0.95)]
        [1, 0]
    """
    q, f0, f1 = _counts(q, pmf_negative, pmf_positive)
    n_counts = f0.shape[-1]
    if n_counts < 2:
        raise ValueError("pmf_negative must cover two counts at least, not 1")
    hard = np.tri(n_counts - 1, n_counts, 0) == 0
    kept = target_information(q[..., None], hard, f0[..., None, :], f1[..., None, :])
    return np.argmax(kept, axis=-1)


def shares_kept(
    q: ArrayLike, base_rate: float, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> dict[str, np.ndarray]:
    """Share of a clean label's information, ``G_t / (q (1 - q))``, by training target.

    Of 1[K > 0], 1[K > 1] and 1[K > 2] ("K > 0", ...), K/N ("soft"), the posterior
    ``Pr(Y = 1 | K)`` of a step at the base rate ("posterior"; at ``q = base_rate`` it
    loses nothing), and K itself ("count"). The posterior mean of a rate with one Beta
    prior is affine in K, and worth what K/N is.

    Args:
        q: ``Pr(Y = 1)`` of a step given its features, in (0, 1), ``[...]``.
        base_rate: that of all steps, in (0, 1).
        pmf_negative: ``f0(k) = Pr(K = k | Y = 0)``, ``[n_counts]``, four at least.
        pmf_positive: ``f1(k) = Pr(K = k | Y = 1)``, ``[n_counts]``.

    Returns:
        in the order above, each ``[...]``, in [0, 1].

    Raises:
        ValueError: as :func:`target_information`, or ``q`` or the base rate is 0 or 1.
    """
    q, f0, f1 = _counts(q, pmf_negative, pmf_positive)
    prior = check_probability("base_rate", base_rate)
    if not (0 < prior < 1 and np.all((q > 0) & (q < 1))):
        raise ValueError("q and base_rate must be in (0, 1)")
    k = np.arange(f0.shape[-1])
    positive = prior * f1
    marginal = positive + (1 - prior) * f0
    targets = {
        **{f"K > {c}": k > c for c in range(3)},
        "soft": k,
        "posterior": positive / np.where(marginal > 0, marginal, 1.0),
    }
    kept = {name: target_information(q, t, f0, f1) for name, t in targets.items()}
    kept["count"] = count_information(q, f0, f1)
    return {name: value / (q * (1 - q)) for name, value in kept.items()}


def _counts(
    q: ArrayLike, pmf_negative: ArrayLike, pmf_positive: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q = check_probability("q", q)
    f0 = _check_pmf("pmf_negative", pmf_negative)
    f1 = _check_pmf("pmf_positive", pmf_positive)
    if f0.shape[-1] != f1.shape[-1]:
        raise ValueError(
            f"pmf_negative and pmf_positive must cover the same counts, not "
            f"{f0.shape[-1]} and {f1.shape[-1]}"
        )
    return q, f0, f1


def _check_targets(targets: ArrayLike, pmf: np.ndarray) -> np.ndarray:
    t = check_finite("targets", targets)
    if t.shape[-1:] != pmf.shape[-1:]:
        raise ValueError(
            f"targets must have one value for each of {pmf.shape[-1]} counts, "
            f"not shape {t.shape}"
        )
    return t


def _check_pmf(name: str, value: ArrayLike) -> np.ndarray:
    pmf = check_probability(name, value)
    if pmf.ndim == 0 or np.any(np.abs(pmf.sum(axis=-1) - 1) > _PMF_TOLERANCE):
        raise ValueError(f"{name} must sum to 1 over its last axis")
    return pmf


def _channel(
    q: ArrayLike, fpr: ArrayLike, fnr: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, fpr, fnr = np.broadcast_arrays(
        check_probability("q", q),
        check_probability("fpr", fpr),
        check_probability("fnr", fnr),
    )
    return q, fpr, fnr
