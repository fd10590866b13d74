"""What a subset's labels are worth, against populations, fits and made-up levels."""

import numpy as np
import pytest
from scipy.special import expit, ndtri

from experiments.map import gain
from experiments.map.design import ARMS, design
from experiments.map.run import world_of
from experiments.map.worlds import read_worlds
from experiments.store.results import REFERENCE, Result, append_results, read_results
from experiments.students.arms import Arm
from experiments.students.runs import choose_rows
from experiments.students.worlds import worlds
from sim.students.problem import draw_problem
from tests.cli import run
from theory.agreement import auroc
from theory.asymptotics import noisy_minimizer_and_sandwich
from theory.gain import predicted_auroc
from theory.label_noise import noisy_fisher_weight


def test_the_minimiser_is_that_of_the_population_s_features_drawn_out():
    """Two coordinates, the normal noise of both by quadrature."""
    rng = np.random.default_rng(0)
    means, share = rng.normal(size=(6, 2)), rng.dirichlet(np.ones(6))
    label, variance = np.array([0, 1, 0, 1, 1, 0]), 1.3
    found = gain.noisy_minimiser(gain.Cells(means, label, share), variance)
    node, weight = np.polynomial.hermite_e.hermegauss(24)
    weight = weight / weight.sum()
    noise = np.sqrt(variance) * np.array([(a, b) for a in node for b in node])
    phi = (means[:, None] + noise).reshape(-1, 2)
    weights = np.outer(share, np.outer(weight, weight)).ravel()
    whole = noisy_minimizer_and_sandwich(
        np.column_stack([np.ones(len(phi)), phi]),
        np.repeat(label, len(noise)).astype(float), 0, 0, weights,
    )  # fmt: skip
    np.testing.assert_allclose(found.w_D, whole.w[1:], rtol=1e-6)
    np.testing.assert_allclose(found.cov_DxD, whole.cov[1:, 1:], rtol=1e-5)
    with pytest.raises(ValueError, match="all equal"):
        gain.noisy_minimiser(gain.Cells(means, np.ones(6), share), variance)


REGIME = next(
    w
    for w in design()
    if w.axes["source_shift"] > 0
    and w.axes["difficulty"] == 2
    and w.axes["noise"][0] == 0.2
    and w.axes["keep_ratio"] == 0.25
)


@pytest.fixture(scope="module")
def laws():
    arms = [Arm("full"), Arm("bis", 0.25), Arm("random", 0.25)]
    found = gain.subset_laws(world_of(REGIME), arms, 0)
    return dict(zip(("full", "bis", "random"), found, strict=True))


def test_a_subset_s_law_is_what_students_corpora_have(laws):
    world = world_of(REGIME)
    problem = draw_problem(world.features, world.law, 3)
    rows, _ = choose_rows(problem, Arm("bis", 0.25))
    kept = np.isin(np.arange(problem.rollouts.n_rollouts), rows)
    kept = np.repeat(kept, problem.rollouts.lengths)
    right, label = problem.steps.right_S[kept], problem.rollouts.successes[kept] > 0
    law, n = laws["bis"], kept.sum()
    assert law["steps"] == pytest.approx(n, rel=0.05)
    for name, value in {
        "positive_share": label.mean(),
        "wrong_positives": 1 - right[label].mean(),
        "right_negatives": right[~label].mean(),
    }.items():
        # Steps of a rollout go together: no more than n / 6 independent ones.
        assert law[name] == pytest.approx(value, abs=4 * np.sqrt(6 / n / 4))
    q = right.mean()
    rates = label[~right].mean(), 1 - label[right].mean()
    expected = noisy_fisher_weight(q, *rates)
    assert law["information"] == pytest.approx(float(expected), rel=0.15)
    # By the other form, of the law's own rates.
    share, worth = law["positive_share"], 1 - law["wrong_positives"]
    worth -= law["right_negatives"]
    by_values = share * (1 - share) * worth**2
    assert law["information"] == pytest.approx(by_values, rel=1e-3)


@pytest.mark.parametrize(("name", "keep"), [("full", 1.0), ("bis", 0.25)])
def test_logistic_fits_reach_the_minimiser_s_auroc(laws, name, keep):
    world, levels = world_of(REGIME), []
    for seed in range(5):
        problem = draw_problem(world.features, world.law, seed)
        rows, _ = choose_rows(problem, Arm(name, keep))
        kept = np.isin(np.arange(problem.rollouts.n_rollouts), rows)
        kept = np.repeat(kept, problem.rollouts.lengths)
        phi = problem.steps.features_SxD[kept].astype(float)
        phi = np.column_stack([np.ones(len(phi)), phi])
        y, w = problem.rollouts.successes[kept] > 0, np.zeros(phi.shape[1])
        for _ in range(8):
            s = expit(phi @ w)
            curvature = phi.T @ (phi * (s * (1 - s))[:, None])
            w += np.linalg.solve(curvature, phi.T @ (y - s))
        scores = problem.benchmark.features_SxD @ w[1:]
        levels.append(auroc(scores, problem.benchmark.right_S))
    law = laws[name]
    z = ndtri(law["minimiser_auroc"])
    whole = predicted_auroc(
        law["steps"], 0.25, law["relative_error"] * z**2 / 4, law["minimiser_auroc"], 1
    )
    assert law["minimiser_auroc"] > whole
    error = np.std(levels, ddof=1) / np.sqrt(len(levels))
    assert np.mean(levels) == pytest.approx(whole, abs=4 * error + 0.003)


def test_features_that_are_not_covered_are_refused():
    from dataclasses import replace

    world = worlds()["scarce"]
    for change in ({"seen_sources": True}, {"position": 1.0}):
        other = replace(world, features=replace(world.features, **change))
        with pytest.raises(ValueError, match="not covered"):
            gain.subset_laws(other, [Arm("full")], 0)


def made_up(count, rng, k, bend=0.0):
    """Laws, and worlds whose levels they predict with this k up to noise."""
    laws, worlds = [], []
    for index in range(count):
        arms = {
            name: {
                "steps": float(np.exp(rng.uniform(7, 10))),
                "information": float(rng.uniform(0.01, 0.1)),
                "minimiser_auroc": float(rng.uniform(0.7, 0.9)),
                "relative_error": float(rng.uniform(100, 500)),
            }
            for name in ARMS
        }
        measured = {}
        for name, law in arms.items():
            level = predicted_auroc(
                law["steps"], law["information"], 32, law["minimiser_auroc"], k
            )
            level = 0.8 + (level - 0.8) * (1 - bend)
            measured[name] = {"auroc": (level + rng.normal(0, 1e-4, 20)).tolist()}
        laws.append(Result("gain", {"index": index}, 0, {"arms": arms}))
        worlds.append(Result("regimes", {"index": index}, 0, {"arms": measured}))
    return laws, worlds


def test_a_map_that_follows_the_formula_is_found_to(tmp_path):
    laws, found = made_up(60, np.random.default_rng(0), k=1.7)
    # The order of the store, and worlds of one side, do not matter.
    joined = gain.join([*laws[::-1], laws[0]], found[:50])
    assert joined.index_W.tolist() == list(range(50))
    constants, predicted = gain.predictions(joined)
    assert constants["k"] == pytest.approx(1.7, rel=1e-3)
    parts = gain.parts(joined.index_W)
    assert list(parts) == ["even (fitted)", "odd", "odd, first 256"]
    odd = parts["odd"]
    level = joined.measured_WxAxN.mean(axis=2)[odd]
    assert gain.explained(level, predicted["fitted k"][odd]) > 0.999
    assert gain.explained(level, level.mean() + 0 * level) == pytest.approx(0)
    for pair in (("bis", "random"), ("bis", "full")):
        of = gain.verdict(joined, predicted["fitted k"], odd, pair)
        assert of["explained"] > 0.99
        assert of["slope"] == pytest.approx(1, abs=0.01)
        assert of["sign_right"] > 0.95
        assert (of["gains_found"], of["losses_found"]) == (of["gains"], of["losses"])
        assert of["worlds"] == 25 >= of["gains"] + of["losses"] > 20
        wrong = gain.verdict(joined, 1 - predicted["fitted k"], odd, pair)
        assert wrong["sign_right"] < 0.05
        assert wrong["gains_found"] + wrong["losses_found"] == 0
        assert wrong["slope"] == pytest.approx(-1, abs=0.01)
    with pytest.raises(ValueError, match="no world"):
        gain.join(laws[:5], found[5:])


def test_gains_that_are_half_as_large_have_half_the_slope():
    laws, found = made_up(60, np.random.default_rng(1), k=1.0, bend=0.5)
    joined = gain.join(laws, found)
    every = np.ones(60, bool)
    exact = predicted_auroc(**joined.law, k=1.0)
    of = gain.verdict(joined, exact, every, ("bis", "random"))
    assert of["slope"] == pytest.approx(0.5, abs=0.01)
    # 1 - SSE / SST of twice what is: the error is the gain itself, about 0 on average.
    assert of["explained"] == pytest.approx(0, abs=0.1)


def test_on_the_committed_map_the_sandwich_tells_gains_and_one_constant_their_signs():
    laws = read_results(REFERENCE, "gain")
    joined = gain.join(laws, read_worlds(REFERENCE))
    _, predicted = gain.predictions(joined)
    odd = gain.parts(joined.index_W)["odd"]
    by_k, by_sandwich = (
        gain.verdict(joined, predicted[name], odd, ("bis", "random"))
        for name in ("fitted k", "sandwich")
    )
    assert by_k["worlds"] == 192
    for of in (by_k, by_sandwich):
        # The more frequent sign alone has .83.
        assert of["sign_right"] > 0.9 > of["majority"]
        assert of["losses_found"] > 0.8 * of["losses"] > 5
    assert by_sandwich["explained"] > 0.8 > 0.6 > by_k["explained"]
    assert by_sandwich["slope"] == pytest.approx(1, abs=0.15)
    assert by_k["slope"] < 0.8


def test_the_command_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    regimes = gain.design()
    monkeypatch.setattr(gain, "design", lambda: regimes[:6])
    _, found = made_up(6, np.random.default_rng(2), k=1.0)
    looks = {"mixed_share": 0.1, "error_step_ratio": 0.1, "mean_mc": 0.8}
    looks |= {"between_share": 0.5, "low_positive_share": 0.1, "mixed_reliability": 0.5}
    for world in found:
        for arm in world.metrics["arms"].values():
            arm["micro_f1"] = arm["auroc"]
        world.metrics.update(measures=looks, updates=10.0)
        world.config.update(held_out=False, axes={"keep_ratio": 0.1})
    append_results(tmp_path, found)
    seen = []

    def law(world, arms, seed):
        seen.append(world.name)
        return [
            {"steps": 1000.0 + i * len(seen), "information": 0.05}
            | {
                "minimiser_auroc": 0.8 + 0.001 * i * len(seen),
                "relative_error": 200.0 + i,
            }
            for i, _ in enumerate(arms)
        ]

    monkeypatch.setattr(gain, "subset_laws", law)
    asked = ["run", "gain", "--output", tmp_path]
    first = run(capsys, *asked, "--json").json
    assert (first["worlds"], first["ran"], len(seen)) == (6, 6, 6)
    assert run(capsys, *asked, "--json").json == first | {"ran": 0}
    assert len(read_results(tmp_path, "gain")) == len(seen) == 6
    assert set(first["gains"]) == {"bis - random", "bis - mixed", "bis - full"}
    assert "6 compared" in run(capsys, *asked).out
