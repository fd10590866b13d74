"""What training targets made from K keep, and how many continuations a step deserves.

All of it is exact (:mod:`theory`); nothing here is simulated or measured.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincc

from paper_figures.style import (
    CURVE_HEADER,
    GREY,
    MARKERS,
    Drawing,
    curve,
    label_panels,
    legend_below,
    named_ticks,
    new_figure,
    plot,
)
from theory.beta_binomial_fit import fit_from_mean_and_zero_rate
from theory.continuations import (
    JUDGED,
    Counts,
    Target,
    continuations_per_step,
    one_beta,
    trials_information,
)
from theory.label_noise import shares_kept
from theory.paper import FULL_DATA, TRIALS

# Share of right steps where the judged counts come from, about.
_RIGHT = 0.85
_RATIO = 10.0

# What no label exceeds: behind the curves, so that one that coincides is seen on it.
_BAND = {"color": GREY, "linewidth": 4, "alpha": 0.5, "zorder": 1}


def _worlds() -> tuple[tuple[str, float, Counts], ...]:
    """Name, Pr(Y = 1) and counts: as judged, and as in our students' worlds."""
    prior = fit_from_mean_and_zero_rate(
        FULL_DATA.mean_mc, FULL_DATA.error_step_ratio, TRIALS
    )
    a, b = map(float, prior)
    split = (
        (f"$r \\geq$ {tau:g}", float(betaincc(a, b, tau)), one_beta(a, b, tau))
        for tau in (0.5, 0.1)
    )
    return ("as judged", _RIGHT, JUDGED), *split


def targets() -> Drawing:
    """Share of the information that each target keeps, over q, in three worlds."""
    q = np.linspace(0.01, 0.99, 197)
    figure, axes = new_figure(columns=3, height=3.2, sharey=True)
    rows: list = []
    for axis, (title, base, counts) in zip(axes[0], _worlds(), strict=True):
        panel = title.replace("$", "").replace("\\geq", ">=")
        kept = shares_kept(q, base, *counts(TRIALS))
        looks = {name: curve(i) for i, name in enumerate(kept)}
        looks["count"] = _BAND
        labels = {
            "soft": "soft, K/N",
            "posterior": r"$\Pr(Y = 1 \mid K)$ at the base rate",
            "count": "K itself",
        }
        for name, y in kept.items():
            look = looks[name] | {"label": labels.get(name, f"${name}$")}
            plot(rows, axis, panel, name, q, y, **look)
        axis.axvline(base, color="black", linewidth=0.7, linestyle=":")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.grid(visible=True)
        axis.set_title(title)
        axis.set_xlabel("truth $q$ (dotted: of all steps)")
    axes[0, 0].set_ylabel(f"share of the information kept, N = {TRIALS}")
    legend_below(figure, axes[0, 0], 3)
    label_panels(list(axes[0]))
    return Drawing(figure, CURVE_HEADER, rows)


def continuations() -> Drawing:
    """What N continuations tell, and the N that tells most per cost."""
    figure, axes = new_figure(columns=3, height=3.1)
    told, over_truth, over_cost = axes[0]
    rows: list = []
    trials = range(1, 65)
    for i, (name, q, counts) in enumerate(_worlds()):
        clean = q * (1 - q)
        y = [float(trials_information(q, n, counts, "hard")) / clean for n in trials]
        plain = name.replace("$", "").replace("\\geq", ">=")
        panel, look = "share kept by K > 0", curve(i)
        plot(rows, told, panel, plain, trials, y, label=name, **look)
        best = int(np.argmax(y))
        mark = look | {"linestyle": "none", "marker": MARKERS[i], "markersize": 6}
        plot(rows, told, panel, f"most, {plain}", trials[best], y[best], **mark)
    told.set_title("what $1[K > 0]$ keeps")
    told.set_ylabel("share of the information kept")
    told.set_ylim(0, 0.75)
    told.legend(loc="lower left")

    q, ratio = np.linspace(0.02, 0.98, 97), np.geomspace(0.5, 200, 61)
    kinds: tuple[tuple[Target, str], ...] = (
        ("hard", "$1[K > 0]$"), ("soft", "$K/N$"), ("count", "K itself"),
    )  # fmt: skip
    for i, (target, name) in enumerate(kinds):
        look = {"label": name, "drawstyle": "steps-mid"}
        look |= _BAND if target == "count" else curve(i)
        y = continuations_per_step(q, JUDGED, _RATIO, target, most=64)
        plot(rows, over_truth, f"N*, c0/c1 = {_RATIO:g}", target, q, y, **look)
        y = continuations_per_step(_RIGHT, JUDGED, ratio, target, most=64)
        plot(rows, over_cost, f"N*, q = {_RIGHT:g}", target, ratio, y, **look)
    over_truth.set_title(f"as judged, $c_0 / c_1$ = {_RATIO:g}")
    over_truth.set_xlabel("truth $q$")
    over_truth.set_ylabel("best number of continuations $N^*$")
    over_truth.set_xlim(0, 1)
    over_cost.set_title(f"as judged, $q$ = {_RIGHT:g}")
    over_cost.set_xlabel("cost of a step / of a continuation")
    over_cost.set_ylim(bottom=0)
    over_truth.set_ylim(bottom=0)
    over_truth.legend(loc="upper left")
    names = [1, 2, 4, 8, 16, 32, 64]
    named_ticks(told, names, [str(n) for n in names], base=2)
    told.set_xlabel("continuations $N$")
    named_ticks(over_cost, [1, 10, 100], ["1", "10", "100"])
    for axis in axes[0]:
        axis.grid(visible=True)
    label_panels(list(axes[0]))
    return Drawing(figure, CURVE_HEADER, rows)
