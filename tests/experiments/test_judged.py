"""What judged rollouts say: shares by hand, and the formula against fitted students."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, ndtr

from experiments.corpora.judges import BINS
from experiments.map import judged as said
from experiments.map.design import KNOWLEDGE_NOISE
from theory.agreement import auroc
from theory.intervals import draw_weights
from theory.rollouts import Rollouts


def rollouts_of(counts, trials=16):
    lengths = [len(row) for row in counts]
    k = np.concatenate(counts).astype(int)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.zeros(len(counts), np.int64)
    return Rollouts(k, np.full(len(k), trials), offsets, source, ("s",))


def drawn(rng, n, right_share=0.6):
    """Rollouts of four steps with truth; wrong steps come late and succeed seldom."""
    position = np.linspace(0, 1, 4)
    right = rng.random((n, 4)) < right_share * (1.4 - 0.8 * position)
    rate = np.where(right, rng.beta(3, 1, (n, 4)), rng.beta(0.5, 3, (n, 4)))
    return rollouts_of(rng.binomial(16, rate)), right.ravel()


def test_cells_are_bins_of_counts_thirds_and_mixed_rollouts():
    counts = [[0, 1, 2], [3, 5, 6, 10], [11, 15, 16], [16, 16], [0]]
    rollouts = rollouts_of(counts)
    steps = said.steps_of(rollouts)
    place, third, mixed = np.unravel_index(steps.cell_S, said.CELLS)
    ends = [low for low, _ in BINS]
    assert place.tolist() == [
        np.searchsorted(ends, k, "right") - 1 for k in rollouts.successes
    ]
    assert third.tolist() == [0, 1, 2, 0, 1, 2, 2, 0, 1, 2, 0, 2, 0]
    assert mixed.tolist() == [1, 1, 1] + [0] * 10
    some = said.composition(steps, np.array([0, 3]))
    assert some.sum() == 5
    assert (said.composition(steps) >= some).all()
    unmeasured = dataclasses.replace(
        rollouts, trials=rollouts.trials * 0, successes=rollouts.successes * 0
    )
    with pytest.raises(ValueError, match="measured"):
        said.steps_of(unmeasured)


def test_many_judged_steps_leave_nothing_to_the_prior():
    rollouts, right = drawn(np.random.default_rng(0), 20_000)
    judged = said.judged_steps(rollouts, right)
    corpus = said.composition(said.steps_of(rollouts))
    values = said.predictive_values(corpus, said.right_share(judged))
    label = rollouts.successes > 0
    assert values.ppv == pytest.approx(right[label].mean(), abs=1e-3)
    assert values.npv == pytest.approx(1 - right[~label].mean(), abs=1e-3)
    assert values.positive == label.mean()


def test_no_judged_step_of_a_kind_leaves_its_score_alone():
    rollouts, right = drawn(np.random.default_rng(0), 50)
    known = rollouts.successes == 16
    share = said.right_share(said.judged_steps(rollouts, right, known)).reshape(
        said.CELLS
    )
    # Bins K = 0, 1-2, 3-5, 6-10, 11-15 were never judged.
    middles = np.array([1 / 32, 1.25 / 16, 4 / 16, 8 / 16, 13.25 / 16])
    np.testing.assert_allclose(
        share[:5], np.broadcast_to(middles[:, None, None], (5, 3, 2))
    )
    assert np.ptp(share[5]) > 0
    with pytest.raises(ValueError, match="no step"):
        said.judged_steps(rollouts, right, np.zeros(len(right), bool))


@given(seed=st.integers(0, 2**32 - 1))
def test_a_rollout_that_counts_twice_is_two(seed):
    rng = np.random.default_rng(seed)
    rollouts, right = drawn(rng, 6)
    weight = rng.integers(0, 3, 6).astype(float)
    rows = np.repeat(np.arange(6), weight.astype(int))
    if not len(rows):
        return
    judged = said.judged_steps(rollouts, right)
    again = said.judged_steps(rollouts.take(rows), right.reshape(6, 4)[rows].ravel())
    share = said.right_share(judged, weight)
    np.testing.assert_allclose(share, said.right_share(again))
    assert ((share > 0) & (share < 1)).all()
    assert judged.noise(weight) == again.noise()


def test_resamples_that_are_the_sample_say_what_it_says():
    rollouts, right = drawn(np.random.default_rng(1), 400)
    steps = said.steps_of(rollouts)
    corpus = said.composition(steps)
    bis = [said.composition(steps, np.arange(n)) for n in (40, 100)]
    judged = said.judged_steps(rollouts, right)
    asked = (bis, (0.1, 0.25), corpus, judged, said.Assumed())
    found = said.resample(*asked, np.ones((1, 400)))
    for k, (subset, keep) in enumerate(zip(bis, (0.1, 0.25), strict=True)):
        inputs = said.judged_inputs(subset, corpus, keep, judged, said.Assumed())
        assert found.gain_RxK[0, k] == pytest.approx(inputs[0], abs=1e-12)
        difference = found.bis_RxKx2[0, k] - found.random_Rx2[0]
        np.testing.assert_allclose(difference, inputs[5:7])
    weights = draw_weights(np.zeros(400, int), 20, np.random.default_rng(0))
    assert np.ptp(said.resample(*asked, weights).gain_RxK, axis=0).min() > 0


@pytest.mark.parametrize("knowledge", [0.0, 0.5, 2.0])
def test_the_formula_is_what_logistic_fits_reach(knowledge):
    """Subsets that differ in their noise; students of drawn features, fitted whole."""
    rng = np.random.default_rng(0)
    rollouts, right = drawn(rng, 3000)
    steps = said.steps_of(rollouts)
    corpus = said.composition(steps)
    share = said.right_share(said.judged_steps(rollouts, right))
    assumed = said.Assumed(ease=0.5, position=2.0, dimension=12, knowledge=knowledge)
    subset = said.composition(steps, np.arange(300))
    _, means = said._means(corpus, assumed)
    third = np.unravel_index(np.arange(len(share)), said.CELLS)[1]

    def sample(table, clean):
        """Truth, label and features of steps of a table of cells."""
        of = rng.choice(table.size, round(table.sum()), p=table.ravel() / table.sum())
        cell, ease = np.divmod(of, table.shape[1])
        z = rng.random(len(of)) < share[cell]
        label = z if clean else np.unravel_index(cell, said.CELLS)[0] > 0
        mean = means.reshape(2, said.THIRDS, -1, 4)[z.astype(int), third[cell], ease]
        phi = np.hstack([mean, np.zeros((len(of), 8))]) + rng.normal(size=(len(of), 12))
        return z, label, phi

    levels = []
    for _ in range(40):
        _, label, phi = sample(subset, False)
        phi = np.column_stack([np.ones(len(phi)), phi])
        w = np.zeros(13)
        for _ in range(8):
            s = expit(phi @ w)
            w += np.linalg.solve(
                phi.T @ (phi * (s * (1 - s))[:, None]), phi.T @ (label - s)
            )
        z, _, test = sample(corpus, True)
        w = w[1:]
        if knowledge:
            astray = rng.normal(size=12)
            astray[0] = 0
            astray *= KNOWLEDGE_NOISE / np.linalg.norm(astray)
            start = knowledge * assumed.separation * (np.eye(12)[0] + astray)
            w = (1 - said._RETAINED) * w + said._RETAINED * start
        levels.append(auroc(test @ w, z))
    error = np.std(levels, ddof=1) / np.sqrt(len(levels))
    found = said.subset_auroc(subset, corpus, share, assumed)
    assert said.subset_law(subset, corpus, share, assumed).area > found
    assert np.mean(levels) == pytest.approx(found, abs=4 * error + 0.002)


def test_labels_that_are_all_equal_teach_nothing():
    rollouts = rollouts_of([[16, 16], [16, 16]])
    corpus = said.composition(said.steps_of(rollouts))
    share = np.full(len(corpus), 0.7)
    assert said.subset_auroc(corpus, corpus, share, said.Assumed()) == 0.5
    # Then what was known is all there is: at 45 degrees to the truth.
    known = said.Assumed(ease=0, position=0, knowledge=0.5)
    best = known.separation / np.sqrt(2 * (1 + KNOWLEDGE_NOISE**2))
    found = said.subset_auroc(corpus, corpus, share, known)
    assert found == pytest.approx(ndtr(best), abs=1e-9)
    assert np.isnan(said.predictive_values(corpus, share).npv)


def test_posteriors_of_a_law_are_the_shares_it_draws():
    rng = np.random.default_rng(0)
    right = rng.random(40_000) < 0.8
    rate = np.where(right, rng.beta(0.73, 0.30, 40_000), rng.beta(0.13, 1.0, 40_000))
    trials = np.where(rng.random(40_000) < 0.5, 8, 16)
    counts = rng.binomial(trials, rate)
    nothing = rollouts_of(np.zeros((10_000, 4)))
    rollouts = dataclasses.replace(nothing, successes=counts, trials=trials)
    found = said.right_by_law(rollouts, 0.2)
    for n in (8, 16):
        for k in (0, 1, n // 2, n):
            of = (counts == k) & (trials == n)
            (share,) = set(found[of].tolist())
            error = np.sqrt(share * (1 - share) / of.sum())
            assert right[of].mean() == pytest.approx(share, abs=4 * error)
    with pytest.raises(ValueError, match="wrong_share"):
        said.right_by_law(rollouts, 1.2)


@pytest.mark.parametrize(
    "change", [{"knowledge": -1}, {"separation": -0.1}, {"dimension": 3}]
)
def test_assumptions_outside_their_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        said.Assumed(**change)


# --- what features show ---------------------------------------------------------------


def shown_steps(rng, s, a, b, turn, n=2000):
    """Features by the law of :class:`experiments.map.judged.Assumed`, then turned and
    scaled; truth follows ease and position, too.
    """
    position = np.tile(np.arange(5) / 4, n)
    ease = np.repeat(rng.beta(4, 2, n), 5)
    right = rng.random(5 * n) < 0.3 + 0.6 * ease - 0.2 * position
    g = (ease - ease.mean()) / ease.std()
    features = rng.normal(size=(5 * n, len(turn)))
    features[:, :3] += np.stack([s * (right - 0.5), a * g, b * (position - 0.5)], 1)
    return said.ShownSteps(features @ turn + 7, right, ease, position)


@pytest.mark.parametrize("planted", [(1.3, 0.7, 1.0), (0.5, 2.0, 0.0), (0.0, 0.0, 6.0)])
def test_what_features_show_is_measured_in_the_units_that_are_assumed(planted):
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0] * np.linspace(0.5, 2, 24)
    one, other = (shown_steps(rng, *planted, turn=turn) for _ in range(2))
    found = said.strengths(one, other)
    # Standard errors of a shift over 20,000 steps: of the projection, 1 / (variance of
    # the regressor given the others), and of the residuals' deviation.
    variance = np.array([0.2, 0.9, 0.12])
    error = np.sqrt((1 / variance + np.square(planted) / 2) / 20_000)
    # Directions of 10,000 steps lose 1 - (1 + d / (n variance planted^2))^(-1/2).
    lost = 12 / (10_000 * variance * np.maximum(planted, 0.3))
    assert (found - planted <= 4 * error).all()
    assert (planted - found <= 4 * error + lost).all()


def test_features_of_noise_show_nothing_however_many():
    rng = np.random.default_rng(2)
    halves = [shown_steps(rng, 0, 0, 0, np.eye(200), n=300) for _ in range(8)]
    found = [
        said.strengths(*pair) for pair in zip(halves[::2], halves[1::2], strict=True)
    ]
    # Where they were fitted, directions show noise; elsewhere they do not.
    assert np.max(found) < 0.15
    same = halves[0]
    assert said.strengths(same, same).min() > 0.3
    with pytest.raises(ValueError, match="must differ between steps"):
        said.strengths(same, same._replace(ease_S=np.ones(1500)))
