"""Features have the moments they are said to have; the Bayes rule is the best."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from scipy.special import expit

from sim.corpus.draw import Simulation
from sim.corpus.laws import Martingale, TwoStateChain, WithAllNegative
from sim.corpus.sources import Source
from sim.students import problem as problems
from sim.students.evaluation import auroc
from sim.students.features import (
    FeatureWorld,
    bayes_logits,
    draw_frame,
    draw_offsets,
    draw_steps,
    draw_truth,
    relative_position,
    start_weights,
)
from sim.students.problem import (
    CorpusLaw,
    benchmark_mean,
    draw_problem,
    from_moments,
    put_in_order,
)
from theory.placement import noise_by_position
from theory.rollouts import Rollouts
from theory.summary import summarise

SOURCES = (Source("a", 0.7, 5000, 1000), Source("b", 0.9, 5000, 1000))
LAW = CorpusLaw(from_moments(0.6, 0.7), SOURCES, 2000)


def drawn(world, seed=0):
    rng = np.random.default_rng(seed)
    corpus = LAW.draw(rng)
    frame = draw_frame(world, corpus, rng)
    offsets = draw_offsets(world, 2, rng)
    return corpus, frame, offsets, draw_steps(world, frame, corpus, offsets, rng)


def test_directions_are_orthonormal_and_means_are_as_documented():
    world = FeatureWorld(
        signal=3.0, common_mean=2.0, difficulty=1.5, position=4.0, source_shift=0.8
    )
    corpus, frame, offsets, steps = drawn(world)
    np.testing.assert_allclose(
        frame.directions_4xD @ frame.directions_4xD.T, np.eye(4), atol=1e-12
    )
    source = np.repeat(corpus.rollouts.source, corpus.rollouts.lengths)
    x = (steps.features_SxD - offsets[source]) @ frame.directions_4xD.T
    design = np.stack(
        [
            np.ones(len(x)),
            steps.right_S - 0.5,
            steps.ease_S,
            steps.position_S - 0.5,
        ],
        axis=1,
    )
    weights = np.linalg.lstsq(design, x, rcond=None)[0]
    np.testing.assert_allclose(weights, np.diag([2.0, 3.0, 1.5, 4.0]), atol=0.12)


def test_nuisance_is_shared_by_the_steps_of_a_rollout():
    world = FeatureWorld(signal=0, common_mean=0, difficulty=0, source_shift=0)
    corpus, _, _, steps = drawn(replace(world, nuisance=0.7))
    first = corpus.rollouts.offsets[:-1]
    pairs = first[corpus.rollouts.lengths > 1]
    product = steps.features_SxD[pairs] * steps.features_SxD[pairs + 1]
    assert product.mean() == pytest.approx(0.49, abs=0.02)
    assert (steps.features_SxD**2).mean() == pytest.approx(1.49, abs=0.03)


def test_truth_follows_r_with_the_noise_asked_for():
    corpus = LAW.draw(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    clean = draw_truth(FeatureWorld(reliable_at=0.3), corpus, rng)
    np.testing.assert_array_equal(clean, corpus.r >= 0.3)
    position = relative_position(corpus)
    for late, grown, never in ((1.0, position, 0), (-1.0, 1 - position, 1)):
        world = FeatureWorld(
            reliable_at=0.3, wrong_above=0.1, right_below=0.4, late=late
        )
        truth = draw_truth(world, corpus, rng)
        for of, rate in ((corpus.r >= 0.3, 0.1), (corpus.r < 0.3, 0.4)):
            flipped = (truth != clean)[of]
            error = 4 * np.sqrt(rate / of.sum())
            wanted = 2 * rate * grown[of].mean()
            assert flipped.mean() == pytest.approx(wanted, abs=float(error))
            assert not np.any(flipped & (position[of] == never))


def test_truth_by_state_is_the_chain_s():
    chain = CorpusLaw(TwoStateChain(0.05, 10.0, True), SOURCES, 300)
    corpus = chain.draw(np.random.default_rng(0))
    world = FeatureWorld(truth="state")
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(draw_truth(world, corpus, rng), corpus.good)
    with pytest.raises(ValueError, match="state"):
        draw_truth(world, LAW.draw(rng), rng)


def test_relative_position_runs_from_zero_to_one():
    counts = np.zeros(5, np.uint8)
    offsets = np.array([0, 1, 3, 5])
    rollouts = Rollouts(counts, counts, offsets, np.zeros(3, int), ("x",))
    simulation = Simulation(rollouts, np.zeros(5), None)
    np.testing.assert_array_equal(relative_position(simulation), [0, 0, 1, 0, 1])


@pytest.mark.parametrize(
    "encoded", [{}, {"difficulty": 2.0}, {"difficulty": 1.0, "position": 2.0}]
)
def test_the_bayes_rule_is_calibrated_and_beats_its_parts(encoded):
    world = FeatureWorld(**({"difficulty": 0.0} | encoded))
    corpus, frame, offsets, steps = drawn(world)
    source = np.repeat(corpus.rollouts.source, corpus.rollouts.lengths)
    logit = bayes_logits(world, frame, steps, offsets[source])
    p = expit(logit)
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1)):
        of = (p >= low) & (p < high)
        error = 4 * np.sqrt(0.25 / of.sum())
        assert steps.right_S[of].mean() == pytest.approx(p[of].mean(), abs=error)
    x = (steps.features_SxD - offsets[source]) @ frame.directions_4xD.T
    area = auroc(np.stack([logit, x[:, 1]]), steps.right_S)
    assert area[0] > area[1] + 0.01 if encoded else area[0] == pytest.approx(area[1])
    # Two normals `signal` apart, of variance 1 + nuisance^2.
    from scipy.stats import norm

    if not encoded:
        assert area[0] == pytest.approx(norm.cdf(1.5 / np.sqrt(2 * 1.25)), abs=0.02)


def test_moments_give_the_variances_they_name():
    model = from_moments(spread=0.5, between=0.3)
    law = CorpusLaw(model, (Source("a", 0.6, 40_000, 20_000),), 20_000)
    corpus = law.draw(np.random.default_rng(0))
    mean = np.add.reduceat(corpus.r, corpus.rollouts.offsets[:-1])
    assert corpus.r.var() == pytest.approx(0.5 * 0.24, rel=0.03)
    # Products of the two steps of a rollout.
    assert (corpus.rollouts.lengths == 2).all()
    first, second = corpus.r[::2], corpus.r[1::2]
    assert np.cov(first, second)[0, 1] == pytest.approx(0.15 * 0.24, rel=0.08)
    assert len(mean) == 20_000
    with pytest.raises(ValueError, match="between"):
        from_moments(0.5, 1.0)


def test_a_problem_is_its_seed_and_its_benchmark_the_real_one_s_shape():
    world = FeatureWorld(source_shift=0.5)
    problem, again = (draw_problem(world, LAW, 7) for _ in range(2))
    np.testing.assert_array_equal(problem.steps.features_SxD, again.steps.features_SxD)
    np.testing.assert_array_equal(problem.content, again.content)
    other = draw_problem(world, LAW, 8)
    assert problem.rollouts.n_steps != other.rollouts.n_steps
    split = problem.split
    assert split.right_S.mean() == pytest.approx(16_585 / 24_276, abs=0.04)
    assert len(split.right_S) == pytest.approx(1200 * 9.4, rel=0.05)
    assert np.bincount(split.source_S).argmax() == 2
    assert problem.held_out_S.mean() == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(problem.content)) == problem.rollouts.n_rollouts
    assert summarise(problem.rollouts).mean_mc == pytest.approx(0.8, abs=0.02)


def test_a_benchmark_that_cannot_be_is_refused():
    world = FeatureWorld(right_below=0.9)
    with pytest.raises(ValueError, match=r"68\.3%"):
        benchmark_mean(world, LAW.model)


@pytest.mark.parametrize(
    "bad",
    [{"dimension": 3}, {"reliable_at": 1.2}, {"nuisance": -1}, {"late": -2}],
)
def test_a_world_names_a_value_outside_its_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FeatureWorld(**bad)
    for late in (-1.0, 1.0):
        with pytest.raises(ValueError, match="late"):
            FeatureWorld(wrong_above=0.6, late=late)


@pytest.mark.parametrize("seen", [False, True])
def test_unseen_sources_and_benchmark_share_nothing_but_the_law_with_the_corpus(seen):
    world = FeatureWorld(source_shift=0.5, seen_sources=seen)
    problem = draw_problem(world, LAW, 7)
    # The corpus's own offsets, read off its features.
    source = np.repeat(problem.rollouts.source, problem.rollouts.lengths)
    means = [problem.steps.features_SxD[source == i].mean(axis=0) for i in (0, 1)]
    trained = (means[0] - means[1]).astype(np.float64)
    trained -= problem.frame.directions_4xD.T @ (problem.frame.directions_4xD @ trained)
    tested = problem.offsets_NxD[0] - problem.offsets_NxD[1]
    cosine = trained @ tested / np.linalg.norm(trained) / np.linalg.norm(tested)
    # Of two random directions of 32 it has a standard deviation of .18.
    assert cosine > 0.8 if seen else abs(cosine) < 0.6
    # Means of the benchmark's own steps show its offsets.
    test, names = problem.split.source_S, len(problem.offsets_NxD)
    shown = np.stack(
        [problem.benchmark.features_SxD[test == i].mean(0) for i in range(names)]
    )
    error = shown - shown.mean(0) - (problem.offsets_NxD - problem.offsets_NxD.mean(0))
    assert np.abs(error).max() < 0.5
    # Noise, ease and r are drawn anew.
    few = min(len(problem.steps.features_SxD), len(problem.benchmark.features_SxD))
    pairs = [
        np.corrcoef(problem.steps.features_SxD[:few, i], of[:few])[0, 1]
        for i, of in enumerate(problem.benchmark.features_SxD.T)
    ]
    assert np.abs(pairs).max() < 0.15
    assert (
        abs(np.corrcoef(problem.corpus.r[:few], problem.steps.ease_S[:few])[0, 1]) > 0.3
    )


@pytest.mark.parametrize("nuisance", [0.3, 0.5, 2.0])
def test_bayes_logits_are_calibrated(nuisance):
    """The slope of the truth on them is 1, whatever steps of a rollout share."""
    world = FeatureWorld(nuisance=nuisance, signal=2.0)
    corpus, frame, offsets, steps = drawn(world)
    source = np.repeat(corpus.rollouts.source, corpus.rollouts.lengths)
    logits = bayes_logits(world, frame, steps, offsets[source])
    right = steps.right_S.astype(float)
    scales = np.linspace(0.6, 1.5, 91)
    z = scales[:, None] * (logits - 0)
    loss = (np.logaddexp(0, z) - right * z).mean(axis=1)
    assert scales[loss.argmin()] == pytest.approx(1, abs=0.08)


def test_every_part_of_a_problem_has_a_stream_of_its_own(monkeypatch):
    used = []
    for name in ("sample_with_latent", "draw_frame", "draw_offsets", "draw_steps"):
        draw = getattr(problems, name)

        def recorded(*args, draw=draw):
            (rng,) = (of for of in args if isinstance(of, np.random.Generator))
            stream = cast(np.random.SeedSequence, rng.bit_generator.seed_seq)
            used.append(stream.spawn_key)
            return draw(*args)

        monkeypatch.setattr(problems, name, recorded)
    draw_problem(FeatureWorld(), LAW, 3)
    assert len(used) == len(set(used)) == 7


@pytest.mark.parametrize("order", [0.25, 0.5, 1.0])
def test_an_order_moves_the_steps_of_a_rollout_and_nothing_else(order):
    drawn, moved = (
        replace(LAW, order=of).draw(np.random.default_rng(4)) for of in (0.0, order)
    )
    for name in ("offsets", "source", "trials"):
        np.testing.assert_array_equal(
            getattr(moved.rollouts, name), getattr(drawn.rollouts, name)
        )
    before, after = (
        [
            sorted(zip(*pair, strict=True), reverse=True)
            for pair in zip(
                np.split(of.r, of.rollouts.offsets[1:-1]),
                np.split(of.rollouts.successes, of.rollouts.offsets[1:-1]),
                strict=True,
            )
        ]
        for of in (drawn, moved)
    )
    assert before == after
    falls = np.diff(moved.r)[np.diff(relative_position(moved)) > 0] <= 0
    assert falls.all() if order == 1 else 0.55 < falls.mean() < 0.95


def test_a_random_order_favours_no_place_and_does_not_advance_the_stream():
    pairs = replace(LAW, sources=(Source("a", 0.6, 40_000, 20_000),), rollouts=20_000)
    corpus = pairs.draw(np.random.default_rng(0))
    one = replace(corpus, r=np.tile([1.0, 0.0], 20_000))
    rng = np.random.default_rng(1)
    moved = put_in_order(one, 1e-9, rng)
    assert rng.random() == np.random.default_rng(1).random()
    assert moved.r[::2].mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 20_000))


def test_wrong_labels_follow_position_the_more_the_stronger_the_order():
    """Steps that are right by no r stand behind; of the others the larger r first."""
    areas = []
    for order in (0.0, 0.5, 1.0):
        corpus = replace(LAW, order=order).draw(np.random.default_rng(0))
        label, right = corpus.rollouts.successes > 0, corpus.r >= 0.5
        found = noise_by_position(label, right, relative_position(corpus))
        areas.append(found.position_auroc)
    # Of some 2,000 wrong steps of either label.
    assert areas[0] == pytest.approx(0.5, abs=0.03)
    assert areas[1] > areas[0] + 0.02
    assert areas[2] > areas[1] + 0.02


def test_order_reaches_the_benchmark_and_leaves_its_share_of_right_steps():
    world = FeatureWorld(wrong_above=0.2, late=1.0)
    problem = draw_problem(world, replace(LAW, order=1.0), 3)
    right, position = problem.benchmark.right_S, problem.benchmark.position_S
    assert right.mean() == pytest.approx(16_585 / 24_276, abs=0.04)
    assert position[right].mean() < position[~right].mean() - 0.1


def test_a_law_with_an_order_of_its_own_is_not_put_in_another():
    chain = TwoStateChain(0.05, 10.0, True)
    for model in (Martingale(10.0, 4.0), chain, WithAllNegative(chain, 0.1)):
        with pytest.raises(ValueError, match="order must be 0"):
            CorpusLaw(model, SOURCES, 300, order=0.5)
    CorpusLaw(WithAllNegative(LAW.model, 0.1), SOURCES, 300, order=0.5)
    with pytest.raises(ValueError, match="order"):
        replace(LAW, order=1.5)


@pytest.mark.parametrize(("signal", "noise"), [(1.5, 0.0), (3.0, 1.0), (0.75, 2.0)])
def test_the_auroc_of_a_start_is_the_closed_form(signal, noise):
    """Two normals, over problems with sources of their own."""
    from scipy.stats import norm

    world = FeatureWorld(difficulty=0.0, signal=signal, source_shift=0.5)
    areas = []
    problem, start = draw_problem(world, LAW, 0), np.empty(0)
    for seed in range(16):
        problem = draw_problem(world, LAW, seed)
        start = start_weights(world, problem.frame, 0.7, noise, seed)
        slope = start @ problem.frame.directions_4xD[1]
        assert slope == pytest.approx(0.7 * signal / 1.25, rel=1e-5)
        norm_of = np.linalg.norm(start) / slope
        assert norm_of == pytest.approx(np.hypot(1, noise), rel=1e-5)
        scores = problem.benchmark.features_SxD @ start
        areas.append(auroc(scores[None], problem.split.right_S)[0])
    variance = 2 * (1 + noise**2) * (1 + 0.25 + 0.25)
    error = 4 * np.std(areas, ddof=1) / 4
    wanted = norm.cdf(signal / np.sqrt(variance))
    assert np.mean(areas) == pytest.approx(wanted, abs=float(error))
    assert error < 0.03
    other = start_weights(world, problem.frame, 0.7, noise, 99)
    assert np.allclose(other, start) == (noise == 0)
