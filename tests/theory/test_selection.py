"""Selection against an oracle that sorts plain tuples, and its invariances."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import as_table, corpora
from theory import scores
from theory.rollouts import Rollouts
from theory.selection import (
    RULE_NAMES,
    RuleName,
    budget,
    mix_hash,
    rule_key,
    select,
)

labelled = corpora(min_rollouts=1, min_steps=1, unmeasured=False)
ratios = st.one_of(st.floats(0.01, 1), st.sampled_from([0.1, 0.25, 0.29, 0.5, 1.0]))

# Rules whose key needs no prior, which tiny corpora do not define.
RANKING: list[RuleName] = ["bis", "reliable", "low-mc", "mixed", "random", "max-drop"]
DEFINED: list[RuleName] = [
    r for r in RULE_NAMES if r not in ("shrunken-bis", "posterior-fisher", "contrast")
]


def hashes(n, salt=0):
    """Distinct content hashes."""
    return np.random.default_rng(salt).permutation(10 * n + 10)[:n].astype(np.uint64)


def uniform(k, source=None, trials=16, lengths=None):
    """A corpus from its successes; one step per rollout unless lengths say more."""
    lengths = [1] * len(k) if lengths is None else lengths
    source = np.zeros(len(lengths), np.int64) if source is None else np.array(source)
    return Rollouts(
        np.array(k),
        np.full(len(k), trials),
        np.cumsum([0, *lengths]).astype(np.int64),
        source,
        ("a", "b", "c"),
    )


def keep(available, rho):
    return min(max(1, int(Decimal(repr(rho)) * available)), available)


def oracle(rollouts, key, rho, order, per_source):
    """Rows kept, by sorting (key descending, order ascending) tuples."""
    rows = range(rollouts.n_rollouts)
    groups = {}
    for row in rows:
        groups.setdefault(int(rollouts.source[row]) if per_source else 0, []).append(
            row
        )
    kept = []
    for group in groups.values():
        ranked = sorted(group, key=lambda row: (-key[row], int(order[row]), row))
        kept += ranked[: keep(len(group), rho)]
    return sorted(kept)


@given(st.integers(0, 10**6), ratios)
def test_the_budget_is_the_decimal_share_rounded_down(available, rho):
    assert budget(available, rho) == (keep(available, rho) if available else 0)


def test_the_budget_reads_the_ratio_as_it_is_written():
    assert int(100 * 0.29) == 28  # what binary floating point makes of it
    assert budget(100, 0.29) == 29
    assert budget(3, 0.1) == 1
    assert budget(7, 1.0) == 7


@pytest.mark.parametrize("rho", [0, -0.5, 25, 1.0000001, np.nan, np.inf])
def test_a_keep_ratio_outside_its_range_is_refused(rho):
    with pytest.raises(ValueError, match=r"keep_ratio must lie in \(0, 1\]"):
        budget(10, rho)
    with pytest.raises(ValueError, match="keep_ratio"):
        select(uniform([1, 2]), "bis", rho, hashes(2))


@given(
    labelled,
    ratios,
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from(["content", "file"]),
)
def test_ranking_rules_agree_with_sorted_tuples(rollouts, rho, per_source, seed, ties):
    content = hashes(rollouts.n_rollouts)
    for rule in RANKING:
        selection = select(
            rollouts, rule, rho, content, per_source=per_source, seed=seed, ties=ties
        )
        by_file = ties == "file" and rule not in ("mixed", "random")
        order = np.arange(len(content)) if by_file else mix_hash(content, seed)
        wanted = oracle(rollouts, rule_key(rule, rollouts), rho, order, per_source)
        assert selection.rows.tolist() == wanted, rule
        assert selection.rows.dtype == np.int64


@given(labelled, ratios, st.booleans())
def test_every_rule_keeps_exactly_its_budget(rollouts, rho, per_source):
    content = hashes(rollouts.n_rollouts)
    for rule in DEFINED:
        if rule == "step-matched-random":
            continue
        selection = select(rollouts, rule, rho, content, per_source=per_source)
        assert len(np.unique(selection.rows)) == len(selection.rows)
        assert sum(cut.kept for cut in selection.cuts) == len(selection.rows)
        for cut in selection.cuts:
            assert cut.kept == cut.budget == keep(cut.available, rho), rule
        if per_source:
            names = [rollouts.source_names[i] for i in rollouts.source[selection.rows]]
            assert {cut.group: cut.kept for cut in selection.cuts} == {
                name: names.count(name) for name in set(names)
            }


@given(labelled, ratios, st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_subset_does_not_depend_on_the_order_of_the_lines(
    rollouts, rho, random, seed
):
    content = hashes(rollouts.n_rollouts)
    order = list(range(rollouts.n_rollouts))
    random.shuffle(order)
    for rule in DEFINED:
        before = select(rollouts, rule, rho, content, seed=seed)
        after = select(
            rollouts.take(np.array(order)), rule, rho, content[order], seed=seed
        )
        assert set(content[before.rows]) == set(content[order][after.rows]), rule


@given(labelled, ratios, st.data())
def test_sharding_a_source_over_files_changes_nothing(rollouts, rho, data):
    cut = data.draw(st.integers(0, rollouts.n_rollouts))
    rows = np.arange(rollouts.n_rollouts)
    sharded = Rollouts.concat([rollouts.take(rows[cut:]), rollouts.take(rows[:cut])])
    content = hashes(rollouts.n_rollouts)
    moved = np.concatenate([content[cut:], content[:cut]])
    rules: list[RuleName] = ["bis", "mixed", "ccs"]
    for rule in rules:
        assert set(content[select(rollouts, rule, rho, content).rows]) == set(
            moved[select(sharded, rule, rho, moved).rows]
        )


def test_file_order_ties_do_depend_on_it_which_is_why_they_are_not_the_default():
    rollouts = uniform([16] * 8)
    rows = select(rollouts, "bis", 0.25, hashes(8), ties="file").rows
    assert rows.tolist() == [0, 1]


def test_seeds_choose_other_ties_and_only_ties():
    k = [16] * 50 + [1] * 2
    rollouts = uniform([*k, 0, 16], lengths=[1] * 52 + [2])
    subsets = [
        frozenset(select(rollouts, "bis", 0.2, hashes(53), seed=s).rows.tolist())
        for s in range(20)
    ]
    assert all(52 in subset for subset in subsets)  # the one mixed rollout
    assert len(set(subsets)) == 20


def test_each_tied_rollout_is_chosen_equally_often():
    rollouts, n, runs = uniform([16] * 20), 20, 2000
    counts = np.zeros(n)
    for seed in range(runs):
        counts[select(rollouts, "random", 0.25, hashes(n), seed=seed).rows] += 1
    expected, spread = runs / 4, np.sqrt(runs * 0.25 * 0.75)
    assert np.all(np.abs(counts - expected) < 4.5 * spread)


def test_mix_hash_is_a_bijection_and_matches_published_splitmix64():
    # First outputs of splitmix64 from state 0 (Vigna's reference implementation).
    from theory.selection import _splitmix64

    state = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert [hex(v) for v in _splitmix64(state)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]
    content = np.arange(10_000, dtype=np.uint64)
    assert len(np.unique(mix_hash(content, 3))) == 10_000
    assert not np.array_equal(mix_hash(content, 3), mix_hash(content, 4))
    assert np.array_equal(mix_hash(content, -1), mix_hash(content, 2**64 - 1))


def test_the_tied_share_counts_picks_whose_equals_were_left_out():
    # BIS: one mixed rollout above, then four at exactly alpha of which two are kept.
    rollouts = uniform([16, 0, 16, 16, 16, 0, 5], lengths=[2, 1, 1, 1, 1, 1])
    selection = select(rollouts, "bis", 0.5, hashes(6))
    (cut,) = selection.cuts
    assert (cut.available, cut.budget, cut.kept, cut.tied_kept) == (6, 3, 3, 2)
    assert cut.cut_value == 0.05
    assert (cut.available_steps, cut.kept_steps) == (7, 4)
    assert selection.tied_share == pytest.approx(2 / 3)
    everything = select(rollouts, "bis", 1.0, hashes(6))
    assert everything.tied_share == 0.0


@given(labelled, ratios, st.sampled_from(["bis", "low-mc", "random"]))
def test_a_step_budget_keeps_the_longest_prefix_that_fits(rollouts, rho, rule):
    content = hashes(rollouts.n_rollouts)
    selection = select(rollouts, rule, rho, content, unit="steps")
    key, order = rule_key(rule, rollouts), mix_hash(content, 0)
    lengths = rollouts.lengths
    for cut in selection.cuts:
        name = rollouts.source_names.index(cut.group)
        group = np.flatnonzero(rollouts.source == name)
        ranked = sorted(group, key=lambda r: (-key[r], int(order[r])))
        kept = [r for r in ranked if r in selection.rows]
        assert kept == ranked[: len(kept)]
        assert cut.budget == keep(int(lengths[group].sum()), rho)
        assert len(kept) == 1 or cut.kept_steps <= cut.budget
        if len(kept) < len(ranked):
            assert cut.kept_steps + lengths[ranked[len(kept)]] > cut.budget


@given(labelled, ratios)
def test_step_matched_random_spends_the_steps_of_bis(rollouts, rho):
    content = hashes(rollouts.n_rollouts)
    reference = select(rollouts, "bis", rho, content)
    matched = select(rollouts, "step-matched-random", rho, content)
    for bis, random in zip(reference.cuts, matched.cuts, strict=True):
        assert random.budget == bis.kept_steps
        assert random.kept == 1 or random.kept_steps <= bis.kept_steps


def test_mixed_takes_all_mixed_rollouts_before_it_fills_at_random():
    k = [16, 0] * 5 + [16] * 15
    rollouts = uniform(k, lengths=[2] * 5 + [1] * 15)
    kept = select(rollouts, "mixed", 0.4, hashes(20)).rows
    assert set(range(5)) <= set(kept)
    fills = {
        tuple(select(rollouts, "mixed", 0.4, hashes(20), seed=s).rows) for s in range(9)
    }
    assert len(fills) > 1
    # Over budget, a random choice among the mixed.
    chosen = {
        tuple(select(rollouts, "mixed", 0.1, hashes(20), seed=s).rows) for s in range(9)
    }
    assert len(chosen) > 1
    assert all(row < 5 for rows in chosen for row in rows)


def test_ccs_spreads_over_the_strata_of_bis_where_bis_takes_the_top():
    k, lengths = [], []
    for successes in range(1, 17):  # 16 levels of R, ten mixed rollouts each
        k += [successes, 0] * 10
        lengths += [2] * 10
    rollouts = uniform(k, lengths=lengths)
    key = scores.bis(rollouts)
    spread = select(rollouts, "ccs", 0.1, hashes(160))
    assert len(np.unique(key[spread.rows])) == 16
    assert spread.cuts[0].cut_value is None
    assert spread.tied_share == 0.0
    top = select(rollouts, "bis", 0.1, hashes(160))
    assert len(np.unique(key[top.rows])) == 2


@settings(max_examples=30)
@given(corpora(min_rollouts=2, min_steps=1, unmeasured=False, max_trials=6), ratios)
def test_ccs_gives_small_strata_all_they_have(rollouts, rho):
    content = hashes(rollouts.n_rollouts)
    selection = select(rollouts, "ccs", rho, content, per_source=False)
    key = scores.bis(rollouts)
    width = (key.max() - key.min()) / 50
    if width == 0:
        return
    stratum = np.minimum(((key - key.min()) / (key.max() - key.min()) * 50), 49).astype(
        int
    )
    taken = np.bincount(stratum[selection.rows], minlength=50)
    size = np.bincount(stratum, minlength=50)
    full = taken == size
    # A stratum that was cut short got at least as much as any that gave all it had.
    for cut_short in np.flatnonzero(~full):
        assert np.all(taken[full & (size > 0)] <= taken[cut_short] + 1)


def test_scores_that_need_a_prior_rank_by_it():
    rng = np.random.default_rng(0)
    k = rng.binomial(16, rng.beta(2, 0.5, 400))
    rollouts = uniform(k, lengths=[4] * 100)
    content = hashes(100)
    a, b = scores.moment_prior(rollouts)
    key = scores.shrunken_bis(rollouts, a, b)
    assert select(rollouts, "shrunken-bis", 0.2, content).rows.tolist() == oracle(
        rollouts, key, 0.2, mix_hash(content, 0), True
    )
    assert len(select(rollouts, "posterior-fisher", 0.2, content).rows) == 20


def test_alpha_reaches_the_ranking():
    # (p(1-p) + alpha) R: at small alpha the mixed rollout wins, at large the perfect.
    rollouts = uniform([4, 0, 16], lengths=[2, 1])
    assert select(rollouts, "bis", 0.5, hashes(2), alpha=0.01).rows.tolist() == [0]
    assert select(rollouts, "bis", 0.5, hashes(2), alpha=0.5).rows.tolist() == [1]


def test_wrong_arguments_say_what_is_wrong():
    rollouts = uniform([1, 2])
    with pytest.raises(ValueError, match="3 hashes for 2 rollouts"):
        select(rollouts, "bis", 0.5, hashes(3))
    with pytest.raises(ValueError, match="no rollout"):
        select(rollouts.take(np.array([], np.int64)), "bis", 0.5, hashes(0))
    with pytest.raises(ValueError, match="unknown rule 'best'; known: random, bis"):
        select(rollouts, "best", 0.5, hashes(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no step budget"):
        select(rollouts, "ccs", 0.5, hashes(2), unit="steps")
    with pytest.raises(ValueError, match="alpha"):
        select(rollouts, "bis", 0.5, hashes(2), alpha=-1)


def test_the_plain_form_reads_the_columns():
    assert as_table(uniform([1, 2, 3], lengths=[2, 1])) == [
        [(1, 16), (2, 16)],
        [(3, 16)],
    ]


# First to last of six rollouts, worked out by hand from K of 16:
#   0: 16 16   1: 8 0   2: 0 0   3: 15 15   4: 16 16 16 1   5: 12 4
WORKED: dict[RuleName, list[int]] = {
    "bis": [1, 0, 2, 3, 4, 5],
    "mixture": [1],
    "unbiased-mixture": [1],
    "reliable": [0, 2, 3, 4, 1, 5],
    "small-loss": [0, 3, 4, 1, 5, 2],
    "low-mc": [2, 1, 5, 4, 3, 0],
    "mc-variance": [4, 1, 5],
    "max-drop": [4, 1, 5],
    "negative-count": [2, 1],
    "mc-uncertainty": [5, 1, 3, 4],
}


@pytest.mark.parametrize("rule", WORKED)
def test_each_rule_ranks_a_worked_example(rule):
    rollouts = uniform(
        [16, 16, 8, 0, 0, 0, 15, 15, 16, 16, 16, 1, 12, 4], lengths=[2, 2, 2, 2, 4, 2]
    )
    key = rule_key(rule, rollouts)
    ranked = WORKED[rule]
    rest = [row for row in range(6) if row not in ranked]
    # Rollouts 0 and 2 tie exactly under bis and reliable.
    assert all(np.diff(key[ranked]) <= 0)
    assert not rest or (max(key[rest]) < key[ranked[-1]] and max(key[rest]) == 0)
    order = np.argsort(-key, kind="stable")[: len(ranked)].tolist()
    assert order == ranked


@given(labelled, st.sampled_from(["bis", "reliable", "low-mc", "max-drop"]), ratios)
def test_anyones_scores_are_ranked_as_a_rule_of_the_same_keys(corpus, rule, rho):
    content = hashes(corpus.n_rollouts)
    ours = select(corpus, rule, rho, content)
    theirs = select(corpus, rule_key(rule, corpus), rho, content)
    np.testing.assert_array_equal(theirs.rows, ours.rows)
    assert theirs.cuts == ours.cuts


@pytest.mark.parametrize("scores", [[1.0], [[1.0, 2.0]], [1.0, np.nan]])
def test_scores_that_fit_no_corpus_are_refused(scores):
    with pytest.raises(ValueError, match=r"shape|finite"):
        select(uniform([1, 2]), np.array(scores), 0.5, hashes(2))
