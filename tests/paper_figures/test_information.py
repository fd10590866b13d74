"""The numbers behind the figures, worked out again from first principles."""

import mpmath as mp
import numpy as np
import pytest

from paper_figures import corpus, information
from theory.paper import FULL_DATA


def curves(drawing):
    """{(panel, series): (x, y)} of a drawing."""
    found = {}
    for panel, series, x, y in drawing.rows:
        found.setdefault((panel, series), []).append((x, y))
    return {key: np.array(points).T for key, points in found.items()}


def test_information_under_noise_is_that_of_a_two_by_two_table():
    shown = curves(information.information_under_noise())
    for kind in ("symmetric", "one-sided"):
        for rate in (0.0, 0.1, 0.2, 0.35):
            fnr = rate if kind == "symmetric" else 0.0
            q, y = shown[f"information, {kind}", f"exact, rate {rate:g}"]
            inside = (q > 0) & (q < 1)
            q, y = q[inside], y[inside]
            p = q * (1 - fnr) + (1 - q) * rate
            np.testing.assert_allclose(
                y, ((1 - rate - fnr) * q * (1 - q)) ** 2 / (p * (1 - p)), rtol=1e-9
            )
            q, y = shown[f"second moment, {kind}", f"rate {rate:g}"]
            p = q * (1 - fnr) + (1 - q) * rate
            np.testing.assert_allclose(
                y, p * (1 - q) ** 2 + (1 - p) * q**2, rtol=1e-9, atol=1e-15
            )
    q, y = shown["information, symmetric", "paper, rate 0.35"]
    np.testing.assert_allclose(y, -0.4 * q * (1 - q), atol=1e-15)


def test_effective_noise_is_bayes_under_the_prior_of_the_corpus():
    shown = curves(information.effective_noise())
    k, reliable = shown["joint probability", "reliable"]
    _, unreliable = shown["joint probability", "unreliable"]
    both = reliable + unreliable
    # The prior has the corpus's mean MC score and error-step ratio.
    assert both.sum() == pytest.approx(1)
    assert both @ k / 16 == pytest.approx(FULL_DATA.mean_mc)
    assert both[0] == pytest.approx(FULL_DATA.error_step_ratio)
    # Two equations give its parameters back: Pr(K = 1) / Pr(K = 0) and the mean.
    ratio = both[1] / both[0] / 16
    scale = 15 * ratio / (FULL_DATA.mean_mc - ratio * (1 - FULL_DATA.mean_mc))
    a, b = FULL_DATA.mean_mc * scale, (1 - FULL_DATA.mean_mc) * scale
    for tau in (0.25, 0.5, 0.75):
        _, eta = shown["eta_eff", f"tau {tau:g}"]
        exact = [
            float(mp.betainc(a + i, b + 16 - i, 0, tau, regularized=True))
            for i in range(17)
        ]
        np.testing.assert_allclose(eta, exact, rtol=1e-6)
    np.testing.assert_allclose(
        unreliable / both, shown["eta_eff", "tau 0.5"][1], rtol=1e-9
    )


def test_mixture_times_squared_ppv_is_exact_without_false_negatives_only():
    shown = curves(information.retained_information())
    exact, squared = "kept by the label, exactly", "mixture x PPV^2"
    panels = ("false positives only", "both kinds of error", "both, by rank")
    np.testing.assert_allclose(
        shown[panels[0], exact][1], shown[panels[0], squared][1], atol=1e-15
    )
    for panel in panels:
        truth = shown[panel, "truth: q(1-q)"][1]
        assert np.all(shown[panel, exact][1] <= truth + 1e-15)
        order = [shown[panel, name][1] for name in (squared, "mixture x PPV, as BIS")]
        assert np.all(order[0] <= order[1] + 1e-15)
        assert np.all(order[1] <= shown[panel, "mixture p(1-p)"][1] + 1e-15)
    assert np.all(shown[panels[1], exact][1][1:] < shown[panels[1], squared][1][1:])
    # Labels say 96.43 % positive; half of the corpus is all but certain.
    rank, y = shown[panels[2], exact]
    assert rank[-1] == 0.5
    assert y[-1] < 1e-3 < y.max()


def test_risk_falls_as_one_over_n_until_the_floor():
    shown = curves(information.excess_risk_over_updates())
    n, clean = shown["excess risk", "clean, d/2N"]
    np.testing.assert_allclose(clean, 2 / n)
    n, bound = shown["excess risk", "Eq. 4"]
    assert bound[0] == pytest.approx(clean[0])
    np.testing.assert_allclose(np.diff(np.log(bound)) / np.diff(np.log(n)), -0.5)
    floors = []
    for fpr in (0.05, 0.1, 0.2):
        n, risk = shown["excess risk", f"fpr {fpr:g}"]
        assert np.all(np.diff(risk) < 0)
        # risk = floor + coefficient / n, through its first and last point
        coefficient = (risk[0] - risk[-1]) / (1 / n[0] - 1 / n[-1])
        floors.append(risk[-1] - coefficient / n[-1])
        np.testing.assert_allclose(risk, floors[-1] + coefficient / n, rtol=1e-9)
        (x,), (y,) = shown["excess risk", f"crossover, fpr {fpr:g}"]
        assert y == pytest.approx(2 * floors[-1])
        assert x == pytest.approx(coefficient / floors[-1])
    # To first order the floor is quadratic in the noise.
    assert 3 < floors[1] / floors[0] < 5
    assert 3 < floors[2] / floors[1] < 5


def test_break_even_lines_are_where_bis_is_alpha_and_marks_where_lines_cross():
    shown = curves(information.bis_order())
    for alpha in (0.02, 0.05, 0.2, 1.0):
        p, r = shown["break-even R", f"alpha {alpha:g}"]
        np.testing.assert_allclose((p * (1 - p) + alpha) * r, alpha)
    assert shown["break-even R", "worked example A"].ravel() == pytest.approx(
        [0.4, (0.875 * 3 + 0.9375) / 4]
    )
    x, y = shown["BIS", "swap"]
    lines = [
        (mixture + x) * r
        for mixture, r in ((0.25, 0.35), (0.25, 0.8), (0.09, 0.95), (0, 1), (0, 0.5))
    ]
    at_mark = np.isclose(np.array(lines), y, rtol=1e-9).sum(axis=0)
    assert np.all(at_mark >= 2)
    assert len(x) == 3


def test_parts_of_a_subset_stand_in_the_table_in_per_cent():
    shares = {
        "mixed_share": 0.5,
        "all_positive_share": 0.25,
        "all_negative_share": 0.25,
        "tied_share": 0.1,
        "false_positive_share": 0.2,
    }
    drawing = corpus.subsets(
        [{"config": {"scale": 1.0}, "metrics": {"rules": {"bis": shares}}}]
    )
    assert [row[2] for row in drawing.rows] == [50, 25, 25, 10, 20]
    assert {row[0] for row in drawing.rows} == {"bis"}
