"""The sources' table and the law of lengths."""

import numpy as np
import pytest

from sim.corpus.sources import PAPER_SOURCES, LengthLaw, Source, sources_of
from theory.rollouts import Rollouts


def test_the_table_sums_to_what_the_paper_s_table_8_sums_to():
    steps = np.array([source.steps for source in PAPER_SOURCES])
    means = np.array([source.mean_mc for source in PAPER_SOURCES])
    assert len({source.name for source in PAPER_SOURCES}) == 38
    assert steps.sum() == 3_174_492
    assert sum(source.rollouts for source in PAPER_SOURCES) == 565_149
    assert means @ steps / steps.sum() == pytest.approx(0.860, abs=5e-4)
    # Its extremes, which a shifted or sorted column would move to other names.
    by_name = {source.name: source for source in PAPER_SOURCES}
    assert by_name["ScienceQA"] == Source("ScienceQA", 0.9723, 186_894, 34_523)
    assert by_name["GeoQA+ (Open)"] == Source("GeoQA+ (Open)", 0.5720, 45_287, 7_025)
    assert by_name["GEOS (Open)"] == Source("GEOS (Open)", 0.8217, 1_563, 178)


@pytest.mark.parametrize("mean", [1.0, 1.4, 2.0, 3.015, 10.55])
def test_length_law_has_its_mean_and_generating_functions(mean):
    law = LengthLaw.of_mean(mean)
    pmf = law.pmf()
    n = np.arange(len(pmf))
    assert law.minimum == (2 if mean >= 2 else 1)
    assert pmf[: law.minimum].sum() == 0
    assert pmf.sum() == pytest.approx(1, abs=1e-12)
    assert pmf @ n == pytest.approx(mean, rel=1e-12)
    assert law.mean == pytest.approx(mean, rel=1e-15)
    t = np.array([-0.5, 0.0, 0.3, 1.0])
    powers = t[:, None] ** n
    np.testing.assert_allclose(law.pgf(t), powers @ pmf, atol=1e-12)
    np.testing.assert_allclose(
        law.step_weighted_pgf(t), powers @ (n * pmf) / mean, atol=1e-12
    )


def test_drawn_lengths_follow_the_law():
    law = LengthLaw.of_mean(5.6)
    n = law.draw(50_000, np.random.default_rng(0))
    assert n.dtype == np.int64
    assert n.min() == 2
    assert abs(n.mean() - 5.6) < 4 * np.sqrt(3.6 / 50_000)
    # A Poisson variance v is known to sqrt((2 v^2 + v) / N).
    assert abs(n.var() - 3.6) < 4 * np.sqrt((2 * 3.6**2 + 3.6) / 50_000)


def test_sources_of_a_corpus_are_measured_source_by_source():
    corpus = Rollouts(
        successes=np.array([4, 0, 2, 1, 0, 3]),
        trials=np.array([4, 4, 4, 2, 0, 4]),
        offsets=np.array([0, 2, 3, 5, 6]),
        source=np.array([1, 0, 1, 0]),
        source_names=("a", "b", "empty"),
    )
    a, b = sources_of(corpus)
    assert (a.name, a.steps, a.rollouts) == ("a", 2, 2)
    assert a.mean_mc == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert (b.name, b.steps, b.rollouts) == ("b", 4, 2)
    # The never-sampled step is a step, and no score.
    assert b.mean_mc == pytest.approx((1 + 0 + 1 / 2) / 3)


@pytest.mark.parametrize(
    ("mean_mc", "steps", "rollouts"),
    [(1.1, 5, 2), (-0.1, 5, 2), (np.nan, 5, 2), (0.5, 1, 2), (0.5, 5, 0)],
)
def test_impossible_sources_are_refused(mean_mc, steps, rollouts):
    with pytest.raises(ValueError, match=r"of x must be"):
        Source("x", mean_mc, steps, rollouts)


@pytest.mark.parametrize("mean", [0.9, np.nan, np.inf])
def test_impossible_lengths_are_refused(mean):
    with pytest.raises(ValueError, match="mean steps"):
        LengthLaw.of_mean(mean)
