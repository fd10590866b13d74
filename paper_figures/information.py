"""What labels are worth, how risk falls with it, and what BIS puts first.

All of it is exact (:mod:`theory`); nothing here is simulated or measured.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import beta

from paper_figures.style import (
    COLOURS,
    CURVE_HEADER,
    DASHES,
    GREY,
    MARKERS,
    Drawing,
    curve,
    curve_rows,
    label_panels,
    named_ticks,
    new_figure,
    plot,
)
from theory.asymptotics import (
    leading_excess_risk,
    leading_mle_excess_risk,
    noise_floor_crossover,
    noisy_minimizer_and_sandwich,
    scaling_bound,
)
from theory.beta_binomial import (
    count_pmf,
    pseudo_positive_rate,
    unreliability_posterior,
)
from theory.beta_binomial_fit import fit_from_mean_and_zero_rate
from theory.label_noise import (
    noisy_fisher_weight,
    noisy_positive_prob,
    paper_signal,
    predictive_values,
)
from theory.logistic import gradient_second_moment
from theory.paper import ALPHA, FULL_DATA, TRIALS, WORKED_EXAMPLES
from theory.score_identities import alpha_breakpoints, break_even_reliability

# On small public corpora with an independent judge's step labels: the share of positive
# labels that the judge calls wrong, and of negative ones that it calls right.
_WRONG_POSITIVES, _RIGHT_NEGATIVES = 0.05, 0.4

# Intraclass correlation of labels that gives Table 1's mixed share at its base rate and
# length (a row of ``mprm run theory``).
_CORRELATION = 0.49

_RATES = (0.0, 0.1, 0.2, 0.35)

# A mark on a curve, not the curve.
_OPEN = {"linestyle": "none", "markerfacecolor": "white"}


def information_under_noise() -> Drawing:
    """Second moment of the gradient and Fisher information over q, by noise rate."""
    q = np.linspace(0, 1, 401)
    figure, axes = new_figure(columns=2, rows=2, height=5.0, sharex=True, sharey="row")
    rows: list = []
    kinds = (
        ("symmetric", "symmetric flips: fpr = fnr = rate"),
        ("one-sided", "false positives only: fpr = rate"),
    )
    for (moment, information), (kind, title) in zip(axes.T, kinds, strict=True):
        of_moment, of_information = f"second moment, {kind}", f"information, {kind}"
        for i, rate in enumerate(_RATES):
            fnr = rate if kind == "symmetric" else 0.0
            y = gradient_second_moment(q, rate, fnr, 1.0)
            name = f"rate {rate:g}"
            plot(rows, moment, of_moment, name, q, y, label=f"{rate:g}", **curve(i))
            y = noisy_fisher_weight(q, rate, fnr)
            plot(rows, information, of_information, f"exact, {name}", q, y, **curve(i))
            if rate > 0 and kind == "symmetric":
                plot(
                    rows, information, of_information, f"paper, {name}", q,
                    paper_signal(q, rate), color=COLOURS[i], marker=MARKERS[i],
                    markersize=3.5, markevery=(10, 20), label=f"{rate:g}", **_OPEN,
                )  # fmt: skip
        moment.set_title(title)
        information.set_xlabel("truth $q = \\Pr(Y = 1)$")
        information.axhline(0, color="black", linewidth=0.7)
        information.axhspan(-0.16, 0, color="#EFEFEF", zorder=0)
        for axis in (moment, information):
            axis.set_xlim(0, 1)
            axis.grid(visible=True)
    moment, information = axes[:, 0]
    moment.set_ylabel("$E\\,\\|g\\|^2 / \\|\\phi\\|^2$ at $w^*$\n(Eq. 5, Eq. 6)")
    moment.set_ylim(0, 0.45)
    moment.legend(title="noise rate", ncols=4, loc="upper center")
    information.set_ylabel("Fisher information\nabout the logit of $q$")
    information.set_ylim(-0.16, 0.36)
    floor = "no information is negative"
    information.text(0.5, -0.155, floor, ha="center", va="bottom")
    information.legend(
        title=r"marks: the paper's $(1 - 4\eta)\,q(1-q)$", ncols=3, loc="upper center"
    )
    axes[1, 0].set_title("what is left to learn from")
    axes[1, 1].set_title("the same")
    label_panels(list(axes.ravel()))
    return Drawing(figure, CURVE_HEADER, rows)


def effective_noise() -> Drawing:
    """eta_eff(k) under the prior of the paper's corpus, and the pseudo-positives."""
    a, b = fit_from_mean_and_zero_rate(
        FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, TRIALS
    )
    k = np.arange(TRIALS + 1)
    figure, axes = new_figure(columns=2, height=2.9)
    left, right = axes[0]
    rows: list = []
    for i, tau in enumerate((0.25, 0.5, 0.75)):
        eta = unreliability_posterior(k, a, b, TRIALS, tau)
        look = {"marker": MARKERS[i], "label": f"$\\tau$ = {tau:g}", **curve(i)}
        plot(rows, left, "eta_eff", f"tau {tau:g}", k, eta, **look)
    left.axvspan(0.5, TRIALS + 0.5, ymin=0.5, color="#EFEFEF", zorder=0)
    left.axhline(0.5, color=GREY, linewidth=0.7)
    region = "labelled\npositive,\nlikely\nunreliable"
    left.text(TRIALS + 0.3, 0.97, region, ha="right", va="top")
    left.set_title("effective noise of a step")
    left.set_ylabel(r"$\eta_{\mathrm{eff}}(k) = \Pr(r < \tau \mid K = k)$")
    left.set_ylim(0, 1.02)
    left.legend(loc="lower left")

    tau = 0.5
    pmf = count_pmf(a, b, TRIALS)
    eta = unreliability_posterior(k, a, b, TRIALS, tau)
    sides = (
        ("reliable", f"$r \\geq$ {tau:g}", pmf * (1 - eta), COLOURS[3], ""),
        ("unreliable", f"$r <$ {tau:g}", pmf * eta, "white", "/////"),
    )
    for i, (series, where, mass, face, hatch) in enumerate(sides):
        right.bar(
            k + 0.4 * (i - 0.5), mass, width=0.4, color=face, hatch=hatch,
            edgecolor="black", linewidth=0.5, label=f"{series}, {where}",
        )  # fmt: skip
        rows += curve_rows("joint probability", series, k, mass)
    share = float(pseudo_positive_rate(a, b, TRIALS, tau))
    right.axvline(0.5, color="black", linewidth=0.8, linestyle=DASHES[2])
    right.text(
        0.7, 0.55, f"positive labels:\n{100 * share:.1f} % of them unreliable", va="top"
    )
    right.set_yscale("log")
    right.set_ylim(1e-4, 1)
    right.set_title("steps by count")
    right.set_ylabel("$\\Pr(K = k$, and $r$ on that side)")
    right.legend(loc="upper center", bbox_to_anchor=(0.45, 0.78))
    for axis in (left, right):
        axis.set_xlim(-0.5, TRIALS + 0.5)
        axis.set_xticks(range(0, TRIALS + 1, 4))
        axis.set_xlabel(f"successes $k$ of {TRIALS}")
    label_panels([left, right])
    return Drawing(figure, CURVE_HEADER, rows)


def retained_information() -> Drawing:
    """What noisy labels keep of the information, beside the scores that resemble it."""
    # Bayes: from the predictive values and the base rate of the labels to the channel.
    positive = 1 - FULL_DATA.error_step_ratio
    false_positive = _WRONG_POSITIVES * positive
    false_negative = _RIGHT_NEGATIVES * FULL_DATA.error_step_ratio
    truth = positive - false_positive + false_negative
    fpr, fnr = false_positive / (1 - truth), false_negative / truth
    figure, axes = new_figure(columns=3, height=2.9, sharey=True)
    level = np.linspace(0, 1, 301)
    rank = np.linspace(0, 0.5, 301)
    scale = 1 / _CORRELATION - 1
    of_rank = beta(truth * scale, (1 - truth) * scale).ppf(rank)
    rows: list = []
    for axis, panel, x, q, of_negatives in (
        (axes[0, 0], "false positives only", level, level, 0.0),
        (axes[0, 1], "both kinds of error", level, level, fnr),
        (axes[0, 2], "both, by rank", rank, of_rank, fnr),
    ):
        p = noisy_positive_prob(q, fpr, of_negatives)
        ppv, _ = predictive_values(q, fpr, of_negatives)
        exact = noisy_fisher_weight(q, fpr, of_negatives)
        shown = (
            ("truth: $q(1-q)$", q * (1 - q)),
            ("kept by the label, exactly", exact),
            (r"mixture $\times$ PPV$^2$", p * (1 - p) * ppv**2),
            (r"mixture $\times$ PPV, as BIS", p * (1 - p) * ppv),
            ("mixture $p(1-p)$", p * (1 - p)),
        )
        for i, (name, y) in enumerate(shown):
            look = curve(i)
            if i == 1:
                # A band, so that a curve that coincides with it is seen on it.
                look |= {"linewidth": 5, "alpha": 0.35, "linestyle": "-"}
            plain = name.replace("$", "").replace("\\times", "x")
            plot(rows, axis, panel, plain, x, y, label=name, **look)
        axis.grid(visible=True)
        axis.set_xlim(x[0], x[-1])
        axis.set_xlabel("truth $q$ of the steps")
    left, middle, right = axes[0]
    left.set_ylim(0, 0.26)
    left.set_ylabel("information per label")
    right.set_xlabel("rank of the rollout by $q$")
    left.set_title(f"fpr {fpr:.2f}, fnr 0")
    middle.set_title(f"fpr {fpr:.2f}, fnr {fnr:.3f}")
    right.set_title("the same along a corpus")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=3
    )
    label_panels([left, middle, right])
    return Drawing(figure, CURVE_HEADER, rows)


def _population() -> tuple[np.ndarray, np.ndarray]:
    """Features of 64 steps, an intercept among 4, and their truth under a teacher."""
    rng = np.random.default_rng(0)
    phi = np.column_stack([np.ones(64), rng.normal(size=(64, 3))])
    return phi, expit(phi @ np.array([1.5, 1.0, -0.8, 0.5]))


def excess_risk_over_updates() -> Drawing:
    """Excess risk over single-pass updates: bound, leading terms and noise floor."""
    phi, q = _population()
    d, start, panel = phi.shape[1], 100, "excess risk"
    n = np.unique(np.geomspace(start, 1e6, 61).astype(int))
    figure, axes = new_figure(columns=2, height=3.0, width_ratios=(3, 2))
    left, right = axes[0]
    rows: list = []
    exact = leading_mle_excess_risk(n, d)
    # The constant that makes the bound tight where the curves begin.
    bound = scaling_bound(n, 1, exact[0] * np.sqrt(n[0]), 0)
    tight = f"Eq. 4, tight at {start}: $N^{{-1/2}}$"
    plot(rows, left, panel, "Eq. 4", n, bound, color=GREY, linestyle="-", label=tight)
    clean = {"label": "clean labels: $d / 2N$", **curve(0)}
    plot(rows, left, panel, "clean, d/2N", n, exact, **clean)
    for i, fpr in enumerate((0.05, 0.1, 0.2), start=1):
        noisy = phi, q, fpr, 0.0
        look = {"label": f"fpr = {fpr:g}", **curve(i)}
        plot(
            rows, left, panel, f"fpr {fpr:g}", n, leading_excess_risk(n, *noisy), **look
        )
        floor = noisy_minimizer_and_sandwich(*noisy).excess_floor
        mark = {"marker": MARKERS[i], "color": COLOURS[i], "markersize": 6, **_OPEN}
        plot(
            rows, left, panel, f"crossover, fpr {fpr:g}",
            noise_floor_crossover(*noisy), 2 * floor, **mark,
        )  # fmt: skip
    left.plot([], [], marker="o", color="black", label="floor = variance", **_OPEN)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlim(start, 1e6)
    left.set_title("one pass over N labels")
    left.set_xlabel("labels $N$")
    left.set_ylabel("excess risk, nats per step")
    left.legend(loc="lower left")

    rates = np.geomspace(0.005, 0.4, 16)
    kinds = (
        ("false positives only", 1.0, 0.0),
        ("false negatives only", 0.0, 1.0),
        ("symmetric flips", 1.0, 1.0),
    )
    for i, (name, of_fpr, of_fnr) in enumerate(kinds):
        y = [noise_floor_crossover(phi, q, of_fpr * x, of_fnr * x) for x in rates]
        plot(rows, right, "crossover", name, rates, y, label=name, **curve(i))
    right.set_yscale("log")
    named_ticks(right, [0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
    right.set_xlim(rates[0], rates[-1])
    right.set_title("where noise overtakes variance")
    right.set_xlabel("noise rate")
    right.set_ylabel("labels $N$ at the crossover")
    right.legend(loc="lower left")
    for axis in (left, right):
        axis.grid(visible=True)
    label_panels([left, right])
    return Drawing(figure, CURVE_HEADER, rows)


# Share of positives and reliability of rollouts with different virtues.
_EXAMPLES = (
    ("balanced, doubtful", 0.5, 0.35),
    ("balanced, reliable", 0.5, 0.8),
    ("one error in ten", 0.9, 0.95),
    ("perfect", 1.0, 1.0),
    ("all positive, low MC", 1.0, 0.5),
)


def bis_order() -> Drawing:
    """Which rollouts BIS puts before a perfect one, and which swap as alpha moves."""
    figure, axes = new_figure(columns=2, height=3.1)
    left, right = axes[0]
    rows: list = []
    p = np.linspace(0, 1, 401)
    panel = "break-even R"
    for i, alpha in enumerate((0.02, ALPHA, 0.2, 1.0)):
        r = break_even_reliability(p, alpha)
        plot(rows, left, panel, f"alpha {alpha:g}", p, r, **curve(i))
        left.text(
            0.27, float(break_even_reliability(0.27, alpha)), f"$\\alpha$ = {alpha:g}",
            ha="center", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    above = "above the line of $\\alpha$: before\na perfect rollout"
    left.text(0.52, 0.64, above, ha="center")
    left.text(0.5, 0.01, "below it: after", ha="center", va="bottom")
    for letter, (counts, _) in zip("AB", WORKED_EXAMPLES, strict=True):
        positive = np.array([k for k in counts if k])
        at = len(positive) / len(counts), float(positive.mean()) / TRIALS
        mark = {"marker": "o", "color": "black", "markersize": 3.5}
        plot(rows, left, panel, f"worked example {letter}", *at, **mark)
        left.annotate(letter, at, (4, -3), textcoords="offset points")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1.01)
    left.set_title("mixed against perfect")
    left.set_xlabel("share of positive steps $p$ (A, B: the worked examples)")
    left.set_ylabel("reliability $R$")

    share, reliability = np.array([row[1:] for row in _EXAMPLES]).T
    mixture = share * (1 - share)
    alpha = np.linspace(0, 0.6, 121)
    for i, (name, _, _) in enumerate(_EXAMPLES):
        y = (mixture[i] + alpha) * reliability[i]
        plot(rows, right, "BIS", name, alpha, y, label=name, **curve(i))
    swaps = alpha_breakpoints(share, reliability)
    shown = swaps.alpha <= alpha[-1]
    height = (mixture + swaps.alpha[:, None]) * reliability
    height = np.take_along_axis(height, swaps.overtaking[:, None], axis=1)[:, 0]
    plot(
        rows, right, "BIS", "swap", swaps.alpha[shown], height[shown], marker="o",
        markersize=5, markeredgecolor="black", label="two swap order", zorder=3,
        **_OPEN,
    )  # fmt: skip
    for value in (ALPHA, 0.2):
        right.axvline(value, color=GREY, linewidth=0.7, linestyle=DASHES[2])
    right.set_xlim(0, alpha[-1])
    right.set_ylim(0, 0.75)
    right.set_title("five rollouts as $\\alpha$ grows")
    right.set_xlabel(rf"$\alpha$ (dotted: the paper's {ALPHA:g}, its release's 0.2)")
    right.set_ylabel("BIS")
    right.legend(
        loc="upper left", fontsize=7, labelspacing=0.25, frameon=True, framealpha=1,
        edgecolor="none",
    )  # fmt: skip
    label_panels([left, right])
    return Drawing(figure, CURVE_HEADER, rows)
