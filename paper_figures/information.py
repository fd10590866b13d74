"""What labels are worth: gradients, Fisher information and the noise of the annotator.

All of it is exact (:mod:`theory`); nothing here is simulated or measured.
"""

from __future__ import annotations

import numpy as np
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
    new_figure,
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
from theory.paper import FULL_DATA, TRIALS

# On small public corpora with an independent judge's step labels: the share of positive
# labels that the judge calls wrong, and of negative ones that it calls right.
_WRONG_POSITIVES, _RIGHT_NEGATIVES = 0.05, 0.4

# Intraclass correlation of labels that gives Table 1's mixed share at its base rate and
# length (a row of ``mprm run theory``).
_CORRELATION = 0.49

_RATES = (0.0, 0.1, 0.2, 0.35)


def information_under_noise() -> Drawing:
    """Second moment of the gradient and Fisher information over q, by noise rate."""
    q = np.linspace(0, 1, 401)
    figure, axes = new_figure(columns=2, rows=2, height=5.0, sharex=True, sharey="row")
    rows = []
    for column, (kind, title) in enumerate(
        (
            ("symmetric", "symmetric flips: fpr = fnr = rate"),
            ("one-sided", "false positives only: fpr = rate"),
        )
    ):
        moment, information = axes[:, column]
        for i, rate in enumerate(_RATES):
            fnr = rate if kind == "symmetric" else 0.0
            look = curve(i)
            y = gradient_second_moment(q, rate, fnr, 1.0)
            moment.plot(q, y, label=f"{rate:g}", **look)
            rows += curve_rows(f"second moment, {kind}", f"rate {rate:g}", q, y)
            y = noisy_fisher_weight(q, rate, fnr)
            information.plot(q, y, **look)
            rows += curve_rows(f"information, {kind}", f"exact, rate {rate:g}", q, y)
            if rate > 0 and kind == "symmetric":
                y = paper_signal(q, rate)
                information.plot(
                    q,
                    y,
                    color=look["color"],
                    linestyle="none",
                    marker=MARKERS[i],
                    markerfacecolor="white",
                    markersize=3.5,
                    markevery=(10, 20),
                    label=f"{rate:g}",
                )
                rows += curve_rows(
                    f"information, {kind}", f"paper, rate {rate:g}", q, y
                )
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
    information.text(
        0.5, -0.155, "no information is negative", ha="center", va="bottom"
    )
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
    rows = []
    for i, tau in enumerate((0.25, 0.5, 0.75)):
        eta = unreliability_posterior(k, a, b, TRIALS, tau)
        left.plot(k, eta, marker=MARKERS[i], label=f"$\\tau$ = {tau:g}", **curve(i))
        rows += curve_rows("eta_eff", f"tau {tau:g}", k, eta)
    left.axvspan(0.5, TRIALS + 0.5, ymin=0.5, color="#EFEFEF", zorder=0)
    left.axhline(0.5, color=GREY, linewidth=0.7)
    left.text(
        TRIALS + 0.3,
        0.97,
        "labelled\npositive,\nlikely\nunreliable",
        ha="right",
        va="top",
    )
    left.set_title("effective noise of a step")
    left.set_ylabel(r"$\eta_{\mathrm{eff}}(k) = \Pr(r < \tau \mid K = k)$")
    left.set_ylim(0, 1.02)
    left.legend(loc="lower left")

    tau = 0.5
    pmf = count_pmf(a, b, TRIALS)
    eta = unreliability_posterior(k, a, b, TRIALS, tau)
    for i, (name, mass, face, hatch) in enumerate(
        (
            (f"reliable, $r \\geq$ {tau:g}", pmf * (1 - eta), COLOURS[3], ""),
            (f"unreliable, $r <$ {tau:g}", pmf * eta, "white", "/////"),
        )
    ):
        right.bar(
            k + 0.4 * (i - 0.5),
            mass,
            width=0.4,
            color=face,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.5,
            label=name,
        )
        series = ("reliable", "unreliable")[i]
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
    rows = []
    for axis, panel, x, q, of_negatives in (
        (axes[0, 0], "false positives only", level, level, 0.0),
        (axes[0, 1], "both kinds of error", level, level, fnr),
        (axes[0, 2], "both, by rank", rank, of_rank, fnr),
    ):
        p = noisy_positive_prob(q, fpr, of_negatives)
        ppv, _ = predictive_values(q, fpr, of_negatives)
        for i, (name, y) in enumerate(
            (
                ("truth: $q(1-q)$", q * (1 - q)),
                (
                    "kept by the label, exactly",
                    noisy_fisher_weight(q, fpr, of_negatives),
                ),
                (r"mixture $\times$ PPV$^2$", p * (1 - p) * ppv**2),
                (r"mixture $\times$ PPV, as BIS", p * (1 - p) * ppv),
                ("mixture $p(1-p)$", p * (1 - p)),
            )
        ):
            look = curve(i)
            if i == 1:
                # A band, so that a curve that coincides with it is seen on it.
                look |= {"linewidth": 5, "alpha": 0.35, "linestyle": "-"}
            axis.plot(x, y, label=name, **look)
            plain = name.replace("$", "").replace("\\times", "x")
            rows += curve_rows(panel, plain, x, y)
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
