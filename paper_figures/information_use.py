"""What the worth of labels implies: how risk falls, and what BIS puts first.

All of it is exact (:mod:`theory`); nothing here is simulated or measured.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

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
from theory.asymptotics import (
    excess_risk,
    mle_excess_risk,
    noise_floor_crossover,
    noisy_minimizer_and_sandwich,
    scaling_bound,
)
from theory.score_identities import alpha_breakpoints, break_even_reliability


def _population() -> tuple[np.ndarray, np.ndarray]:
    """Features of 64 steps, an intercept among 4, and their truth under a teacher."""
    rng = np.random.default_rng(0)
    phi = np.column_stack([np.ones(64), rng.normal(size=(64, 3))])
    return phi, expit(phi @ np.array([1.5, 1.0, -0.8, 0.5]))


def excess_risk_over_updates() -> Drawing:
    """Excess risk over single-pass updates: bound, exact rate and noise floor."""
    phi, q = _population()
    d, start = phi.shape[1], 100
    n = np.unique(np.geomspace(start, 1e6, 61).astype(int))
    figure, axes = new_figure(columns=2, height=3.0, width_ratios=(3, 2))
    left, right = axes[0]
    rows = []
    exact = mle_excess_risk(n, d)
    # The constant that makes the bound tight where the curves begin.
    bound = scaling_bound(n, 1, exact[0] * np.sqrt(n[0]), 0)
    left.plot(
        n,
        bound,
        color=GREY,
        linestyle="-",
        label=f"Eq. 4, tight at {start}: $N^{{-1/2}}$",
    )
    rows += curve_rows("excess risk", "Eq. 4", n, bound)
    left.plot(n, exact, label="clean labels: $d / 2N$", **curve(0))
    rows += curve_rows("excess risk", "clean, d/2N", n, exact)
    for i, fpr in enumerate((0.05, 0.1, 0.2), start=1):
        noisy = phi, q, fpr, 0.0
        y = excess_risk(n, *noisy)
        left.plot(n, y, label=f"fpr = {fpr:g}", **curve(i))
        rows += curve_rows("excess risk", f"fpr {fpr:g}", n, y)
        floor = noisy_minimizer_and_sandwich(*noisy).excess_floor
        crossover = noise_floor_crossover(*noisy)
        left.plot(
            [crossover],
            [2 * floor],
            marker=MARKERS[i],
            color=COLOURS[i],
            markerfacecolor="white",
            markersize=6,
            linestyle="none",
        )
        rows += curve_rows(
            "excess risk", f"crossover, fpr {fpr:g}", crossover, 2 * floor
        )
    left.plot(
        [],
        [],
        marker="o",
        color="black",
        markerfacecolor="white",
        linestyle="none",
        label="floor = variance",
    )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlim(start, 1e6)
    left.set_title("one pass over N labels")
    left.set_xlabel("labels $N$")
    left.set_ylabel("excess risk, nats per step")
    left.legend(loc="lower left")

    rates = np.geomspace(0.005, 0.4, 16)
    for i, (name, of_fpr, of_fnr) in enumerate(
        (
            ("false positives only", 1.0, 0.0),
            ("false negatives only", 0.0, 1.0),
            ("symmetric flips", 1.0, 1.0),
        )
    ):
        y = np.array(
            [noise_floor_crossover(phi, q, of_fpr * x, of_fnr * x) for x in rates]
        )
        right.plot(rates, y, label=name, **curve(i))
        rows += curve_rows("crossover", name, rates, y)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(rates[0], rates[-1])
    right.set_xticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
    right.minorticks_off()
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
    rows = []
    p = np.linspace(0, 1, 401)
    for i, alpha in enumerate((0.02, 0.05, 0.2, 1.0)):
        r = break_even_reliability(p, alpha)
        left.plot(p, r, **curve(i))
        left.text(
            0.27,
            float(break_even_reliability(0.27, alpha)),
            f"$\\alpha$ = {alpha:g}",
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
        rows += curve_rows("break-even R", f"alpha {alpha:g}", p, r)
    left.text(
        0.52,
        0.64,
        "above the line of $\\alpha$: before\na perfect rollout",
        ha="center",
    )
    left.text(0.5, 0.01, "below it: after", ha="center", va="bottom")
    # The worked examples of Section 4.
    for letter, share, reliability in (("A", 0.4, 57 / 64), ("B", 0.5, 0.5)):
        left.plot(share, reliability, marker="o", color="black", markersize=3.5)
        left.annotate(letter, (share, reliability), (4, -3), textcoords="offset points")
        rows += curve_rows(
            "break-even R", f"worked example {letter}", share, reliability
        )
    left.set_xlim(0, 1)
    left.set_ylim(0, 1.01)
    left.set_title("mixed against perfect")
    left.set_xlabel("share of positive steps $p$ (A, B: the worked examples)")
    left.set_ylabel("reliability $R$")

    names = [name for name, _, _ in _EXAMPLES]
    share = np.array([p for _, p, _ in _EXAMPLES])
    reliability = np.array([r for _, _, r in _EXAMPLES])
    mixture = share * (1 - share)
    alpha = np.linspace(0, 0.6, 121)
    for i, name in enumerate(names):
        y = (mixture[i] + alpha) * reliability[i]
        right.plot(alpha, y, label=name, **curve(i))
        rows += curve_rows("BIS", name, alpha, y)
    swaps = alpha_breakpoints(share, reliability)
    shown = swaps.alpha <= alpha[-1]
    height = (mixture + swaps.alpha[:, None]) * reliability
    height = np.take_along_axis(height, swaps.overtaking[:, None], axis=1)[:, 0]
    right.plot(
        swaps.alpha[shown],
        height[shown],
        linestyle="none",
        marker="o",
        markersize=5,
        markerfacecolor="white",
        markeredgecolor="black",
        label="two swap order",
        zorder=3,
    )
    rows += curve_rows("BIS", "swap", swaps.alpha[shown], height[shown])
    for value in (0.05, 0.2):
        right.axvline(value, color=GREY, linewidth=0.7, linestyle=DASHES[2])
    right.set_xlim(0, alpha[-1])
    right.set_ylim(0, 0.75)
    right.set_title("five rollouts as $\\alpha$ grows")
    right.set_xlabel(r"$\alpha$ (dotted: the paper's 0.05, its release's 0.2)")
    right.set_ylabel("BIS")
    right.legend(
        loc="upper left",
        fontsize=7,
        labelspacing=0.25,
        frameon=True,
        framealpha=1,
        edgecolor="none",
    )
    label_panels([left, right])
    return Drawing(figure, CURVE_HEADER, rows)
