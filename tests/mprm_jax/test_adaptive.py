"""Adaptive best-of-N: chances, costs, and settings from the other half."""

import dataclasses

import msgspec
import numpy as np
import pytest
import xxhash

from mprm_jax.adaptive import adaptive, candidate_costs, success_chances
from mprm_jax.data.scored import read_candidates
from mprm_jax.rerank import Choosing, best_of_n
from tests.raw_files import write_lines
from theory.stopping import Candidates, stop_at_leader

QUICK = Choosing(replicates=50)


def problems(n, seed=0, m=6):
    """Right candidates score higher; concentrations tell how far a score can be off."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        candidates = []
        for _ in range(m):
            right = bool(rng.random() < 0.4)
            c = float(rng.choice([1.0, 50.0]))
            off = 0.25 if c == 50 else 0.6
            scores = np.clip(0.3 + 0.4 * right + off * rng.normal(size=3), 0.01, 0.99)
            candidates.append(
                {
                    "correct": right,
                    "prm_scores": scores.tolist(),
                    "prm_concentrations": [c] * 3,
                }
            )
        yield {"id": f"p{i}", "data_source": "ab"[i % 2], "candidates": candidates}


def altered(of, **fields):
    """The problem, each of its candidates with these fields."""
    some = [msgspec.structs.replace(one, **fields) for one in of.candidates]
    return msgspec.structs.replace(of, candidates=tuple(some))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "c.jsonl"
    return read_candidates(write_lines(path, *problems(60)), scored=True)


def test_chances_are_those_of_drawn_rates(sets):
    """Exact for one step; for several the Beta of the same moments, close to it."""
    (of, *_) = sets
    one = msgspec.structs.replace(
        of.candidates[0], scores=(0.7,), concentrations=(4.0,)
    )
    several = msgspec.structs.replace(
        of.candidates[0], scores=(0.9, 0.6, 0.8), concentrations=(2.0, 9.0, 5.0)
    )
    certain = msgspec.structs.replace(
        of.candidates[0], scores=(1.0, 1.0), concentrations=(2.0, 2.0)
    )
    some = msgspec.structs.replace(of, candidates=(one, several, certain))
    rng = np.random.default_rng(0)
    for level in (0.5, 0.8):
        (found,) = success_chances([some], level)
        rates = rng.beta(4 * 0.7, 4 * 0.3, 100_000)
        assert found[0] == pytest.approx((rates >= level).mean(), abs=0.006)
        m, c = np.array([0.9, 0.6, 0.8]), np.array([2.0, 9.0, 5.0])
        means = rng.beta(c * m, c * (1 - m), (100_000, 3)).mean(axis=1)
        assert found[1] == pytest.approx((means >= level).mean(), abs=0.03)
        assert found[2] == 1


def test_costs_are_tokens_else_words_else_steps(sets):
    assert candidate_costs(sets[:1]) == ("steps", [[3.0] * 6])
    of = sets[0]
    assert candidate_costs([altered(of, truncated=2)]) == ("steps", [[5.0] * 6])
    assert candidate_costs([altered(of, words=7)]) == ("words", [[7.0] * 6])
    tokens = candidate_costs([altered(of, words=7, tokens=9)])
    assert tokens == ("tokens", [[9.0] * 6])
    assert candidate_costs([altered(of, words=7), sets[1]])[0] == "steps"


def test_rules_cost_less_than_all_and_stay_accurate(sets):
    tokens = [1 + 4 * (i % 3) for i in range(len(sets))]
    sets = [altered(of, tokens=n) for of, n in zip(sets, tokens, strict=True)]
    found = adaptive(sets, QUICK)
    assert found is not None
    assert found.accuracy == pytest.approx(best_of_n(sets, QUICK).accuracy["mean"])
    for judged in found.rules.values():
        assert judged is not None
        assert 0 < judged.cost <= 1
        assert judged.change == pytest.approx(judged.accuracy - found.accuracy)
        assert judged.frontier[0].cost == pytest.approx(1 / 6)
        assert judged.frontier[0].accuracy == pytest.approx(
            best_of_n(sets, QUICK).accuracy["random"]
        )
        assert len(judged.frontier) == 6
        assert judged.intervals is not None
        for name in ("change", "cost"):
            low, high = judged.intervals[name] or (0, 0)
            assert low <= getattr(judged, name) <= high
            assert high - low < 0.5
    posterior, score = found.rules["posterior"], found.rules["score"]
    assert posterior is not None
    assert score is not None
    assert None not in [of.level for of in posterior.settings]
    assert {of.level for of in score.settings} == {None}
    # What is told of a setting is what it does, and it was as accurate as drawing all
    # on the other half.
    second = np.array([xxhash.xxh3_64_intdigest(of.id.encode()) >> 63 for of in sets])
    done = []
    for at in score.settings:
        each = []
        for of in sets:
            means = [float(np.mean(one.scores or ())) for one in of.candidates]
            right = [one.correct for one in of.candidates]
            drawn = Candidates(means, means, right, [1] * 6)
            stopped = stop_at_leader(drawn, [at.threshold])
            each.append([column[0, at.most - 1] for column in stopped[:2]])
        done.append(np.array(each))
    accuracy, drawn = np.where(second[:, None] == 0, *done).T
    assert accuracy.mean() == pytest.approx(score.accuracy)
    assert drawn.mean() == pytest.approx(score.drawn)
    assert drawn @ tokens / (6 * sum(tokens)) == pytest.approx(score.cost)
    for half in (0, 1):
        other = np.flatnonzero(second != half)
        whole = best_of_n([sets[i] for i in other], QUICK).accuracy["mean"]
        assert done[half][other, 0].mean() >= whole - 1e-9
    assert found.saved == pytest.approx(score.cost - posterior.cost)


def test_nothing_is_saved_where_only_the_best_of_all_is_right(tmp_path):
    lines = [
        {
            "id": i,
            "candidates": [
                {"correct": k == 0, "prm_scores": [0.9 - 0.01 * i - 0.1 * k]}
                for k in range(2 + i % 3)
            ],
        }
        for i in range(12)
    ]
    sets = read_candidates(write_lines(tmp_path / "c", *lines), scored=True)
    found = adaptive(sets, QUICK)
    assert found is not None
    fixed = found.rules["fixed"]
    assert fixed is not None
    assert [of.most for of in fixed.settings] == [4, 4]
    assert (fixed.accuracy, fixed.change) == (1, 0)
    assert (fixed.cost, fixed.drawn) == (1, 3)
    assert fixed.intervals == {"change": (0, 0), "cost": (1, 1)}


def test_what_is_chosen_does_not_see_what_it_is_judged_by(sets):
    """Turning all judgements of one half leaves its own settings as they are."""

    def turned(of):
        some = [
            msgspec.structs.replace(one, correct=not one.correct)
            for one in of.candidates
        ]
        return msgspec.structs.replace(of, candidates=tuple(some))

    second = [xxhash.xxh3_64_intdigest(of.id.encode()) >> 63 for of in sets]
    other = [turned(of) if half else of for of, half in zip(sets, second, strict=True)]
    before, after = adaptive(sets, QUICK), adaptive(other, QUICK)
    assert before is not None
    assert after is not None
    changed = 0
    for rule in before.rules:
        one, two = before.rules[rule], after.rules[rule]
        assert one is not None
        assert two is not None
        assert one.settings[1] == two.settings[1]
        changed += one.settings[0] != two.settings[0]
    assert changed


def test_without_concentrations_or_a_second_half_there_is_less(sets):
    bare = [altered(of, concentrations=None) for of in sets]
    found = adaptive(bare, dataclasses.replace(QUICK, replicates=0))
    assert found is not None
    assert (found.rules["posterior"], found.saved) == (None, None)
    assert found.rules["score"] is not None
    assert found.rules["score"].intervals is None
    assert adaptive(sets[:1], QUICK) is None
