"""Judged rollouts: read, counted and set beside the model by hand-made cases."""

import json

import numpy as np
import pytest

from experiments.corpora.judges import (
    Options,
    by_position,
    intervals,
    read_judged,
    read_truth_of,
    run,
    scene_steps,
    wrong_by_count,
)
from experiments.corpora.scenes import write_world
from experiments.store.results import read_results
from mprm_jax.records.problems import DataError
from sim.scenes.world import WORLDS


def sample(counts, one, two, **changes):
    return {
        "prm_soft_label": [k / 16 for k in counts],
        "prm_hard_label": [int(k > 0) for k in counts],
        "prm_one_label": one,
        "prm_two_label": two,
    } | changes


def write(folder, samples):
    path = folder / "samples.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path


def test_shares_are_those_counted_by_hand(tmp_path):
    path = write(
        tmp_path,
        [
            sample([16, 2, 0], [1, 0, 0], [1, 1, 0]),
            sample([0, 1], [1, 1], [0, 0]),
            sample([16, 16], [1], [1, 1]),
        ],
    )
    judged = read_judged(path)
    assert judged.left_out == {"a judge did not label every step": 1}
    assert judged.rollouts.successes.tolist() == [16, 2, 0, 0, 1]
    assert judged.rollouts.lengths.tolist() == [3, 2]
    one = wrong_by_count(judged.rollouts.successes, judged.wrong["one"])
    two = wrong_by_count(judged.rollouts.successes, judged.wrong["two"])
    # K = 0: steps 3 and 4; K = 1-2: steps 2 and 5; K = 16: step 1.
    np.testing.assert_array_equal(one, [0.5, 0.5, np.nan, np.nan, np.nan, 0])
    np.testing.assert_array_equal(two, [1, 0.5, np.nan, np.nan, np.nan, 0])


def test_intervals_are_of_whole_rollouts(tmp_path):
    # 100 rollouts of 20 like steps say as much as 100 steps, not as 2,000.
    rng = np.random.default_rng(0)
    wrong = rng.random(100) < 0.3
    samples = [sample([0] * 20, [int(not bad)] * 20, [1] * 20) for bad in wrong]
    judged = read_judged(write(tmp_path, samples))
    low, high = intervals(
        judged.rollouts, judged.wrong["one"].astype(float), np.random.default_rng(1)
    )[0]
    half = 1.96 * (wrong.mean() * (1 - wrong.mean()) / 100) ** 0.5
    assert low == pytest.approx(wrong.mean() - half, abs=0.02)
    assert high == pytest.approx(wrong.mean() + half, abs=0.02)


def test_noise_by_position_has_intervals_of_whole_rollouts(tmp_path):
    """Rollouts of three steps, whose truth and counts go together within each."""
    rng = np.random.default_rng(0)
    early = rng.random(200) < 0.8
    # Wrong in the first and last third; the first is labelled positive in most.
    samples = [sample([16 * e, 3, 0], [0, 1, 0], [1, 1, 1]) for e in early.tolist()]
    judged = read_judged(write(tmp_path, samples))
    of = by_position(judged.rollouts, judged.wrong["one"], np.random.default_rng(1))
    share = early.mean()
    np.testing.assert_array_equal(of["positive_if_wrong_B"], [share, np.nan, 0])
    np.testing.assert_array_equal(of["negative_if_right_B"], [np.nan, 0, np.nan])
    assert (of["wrong_B"], of["right_B"]) == ([200, 0, 200], [0, 200, 0])
    # Positive ones are all first; of negative ones 200 are last, the rest first.
    negatives = 200 + (~early).sum()
    told = (200 + (~early).sum() / 2) / negatives
    assert of["position_auroc"] == pytest.approx(told)
    ends = of["intervals"]
    half = 1.96 * np.sqrt(share * (1 - share) / 200)
    expected = pytest.approx([share - half, share + half], abs=0.015)
    assert list(ends["positive_if_wrong_B"][0]) == expected
    assert list(ends["positive_if_wrong_B"][2]) == [0, 0]
    assert np.isnan(ends["negative_if_right_B"]).tolist() == [
        [True] * 2,
        [False] * 2,
        [True] * 2,
    ]
    # The AUROC is a function of the same share.
    at = [(1 + x / 2) / (1 + x) for x in (1 - share + half, 1 - share - half)]
    assert list(ends["position_auroc"]) == pytest.approx(at, abs=0.01)
    none = by_position(judged.rollouts, judged.wrong["two"], np.random.default_rng(1))
    assert np.isnan(
        [none["position_auroc"], *none["intervals"]["position_auroc"]]
    ).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"prm_soft_label": [1.0]}], "no judge's labels"),
        ([sample([16], [1], [1], prm_soft_label=None)], "sample 1: no prm_soft_label"),
        ([sample([16], [1], [1], prm_soft_label=[0.3])], "sample 1: "),
        ([sample([16], [2], [1])], "sample 1: prm_one_label holds more than 0 and 1"),
        ([sample([16], [], [1])], "no rollout that the judges labelled whole"),
        ({"a": 1}, "no JSON list of samples"),
    ],
)
def test_bad_samples_are_refused_by_number(samples, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_judged(write(tmp_path, samples))


def test_the_simulated_column_is_the_world_s_truth(tmp_path):
    write_world(
        tmp_path / "w", WORLDS["plentiful"], rollouts=60, judged=5, problems=5, seed=0
    )
    successes, wrong = scene_steps(tmp_path / "w")

    def lines(name, field):
        paths = sorted((tmp_path / "w" / name).glob("*.jsonl"))
        texts = [path.read_text(encoding="utf-8").splitlines() for path in paths]
        return [x for text in texts for line in text for x in json.loads(line)[field]]

    scores = [step["score"] for step in lines("annotations", "steps_with_score")]
    counts = [round(score * 16) for score in scores]
    facts = list(zip(counts, lines("truth", "correct"), strict=True))
    kept = [(k, c == -1) for k, c in facts if c != 0]
    assert successes.tolist() == [k for k, _ in kept]
    assert wrong.tolist() == [bad for _, bad in kept]
    next((tmp_path / "w" / "truth").iterdir()).unlink()
    with pytest.raises(DataError, match="No such file"):
        scene_steps(tmp_path / "w")


def test_the_run_stores_what_it_prints(tmp_path, capsys):
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(60):
        r = rng.beta(2, 1)
        counts = rng.binomial(16, np.clip(r * rng.uniform(0, 1.2, 4), 0, 1))
        right = [int(k > 2) for k in counts]
        samples.append(sample(counts.tolist(), right, right))
    path = write(tmp_path, samples)
    run(Options(samples=path, output=tmp_path / "results"))
    out = capsys.readouterr().out
    (result,) = read_results(tmp_path / "results", "judges")
    shares = result.metrics["wrong_by_count"]
    assert shares["one"][:3] == [1.0, 1.0, 0.0]
    assert "one and two agree on 100 %" in out
    assert set(result.metrics["fit"]) >= {"hierarchical", "absorbing"}
    assert len(samples) == result.metrics["rollouts"]


QUESTIONS = ["What is 2 + 3?", "What is 4 + 5?", "What is 6 + 7?"]
STEPS = [["Add.", "It is 5."], ["Add.", "It is 8.", "So 9."], ["Add.", "It is 13."]]


def corpus_of(folder, counts=((16, 3), (4, 0, 0), (0, 0)), places=(0, 1, 2)):
    """A folder with the rollouts of these places; returns it read."""
    from mprm_jax.data.corpus import read_corpus, usable_rollouts

    lines = [
        json.dumps(
            {
                "image": "a.png",
                "question": QUESTIONS[place],
                "answer": "5",
                "response": "",
            }
            | {
                "steps_with_score": [
                    {"step": text, "score": k / 16}
                    | {"num_mc_correct": k, "num_mc_total": 16}
                    for text, k in zip(STEPS[place], row, strict=True)
                ]
            }
        )
        for place, row in zip(places, counts, strict=True)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return usable_rollouts(read_corpus(folder / "corpus.jsonl", use_cache=False))


def trl(index, labels, **changes):
    # White space at the ends of a text is none of its content.
    row = {"prompt": f" {QUESTIONS[index]}", "completions": STEPS[index]}
    return json.dumps(row | {"labels": labels} | changes)


def truth_file(folder, *lines):
    path = folder / "truth.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_judged_records_are_found_in_the_corpus_by_content(tmp_path):
    usable = corpus_of(tmp_path)
    unknown = json.dumps({"prompt": "Who?", "completions": ["I."], "labels": [True]})
    again = trl(1, [True, False, True])
    path = truth_file(tmp_path, again, trl(0, [True, True]), unknown, again)
    found = read_truth_of(path, usable)
    assert found.rollouts.successes.tolist() == [16, 3, 4, 0, 0]
    assert found.right_S.tolist() == [True, True, True, False, True]
    assert found.known_S.all()
    assert found.left_out == {"not in the corpus": 1, "again": 1}
    assert found.source == "trl"


def test_processbench_says_nothing_after_the_first_wrong_step(tmp_path):
    usable = corpus_of(tmp_path)
    rows = [{"problem": QUESTIONS[1], "steps": STEPS[1], "label": 1}]
    rows += [{"problem": QUESTIONS[0], "steps": STEPS[0], "label": -1}]
    found = read_truth_of(truth_file(tmp_path, *map(json.dumps, rows)), usable)
    assert found.known_S.tolist() == [True, True, True, True, False]
    assert found.right_S[found.known_S].tolist() == [True, True, True, False]


def test_samples_with_judges_bring_their_counts(tmp_path):
    usable = corpus_of(tmp_path)
    sampled = sample([16, 2, 0], [1, 0, 0], [1, 1, 0])
    text = {
        "question": "Q",
        "options": "A",
        "data_source": "s",
        "steps": ["a", "b", "c"],
    }
    path = write(tmp_path, [sampled | text])
    found = read_truth_of(path, usable)
    assert found.source == "one"
    assert found.right_S.tolist() == [True, False, False]
    assert read_truth_of(path, usable, "two").right_S.tolist() == [True, True, False]
    with pytest.raises(DataError, match="no judge 'three'; its judges: one, two"):
        read_truth_of(path, usable, "three")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([trl(0, [True, True]), trl(0, [True, False])], ":2: judged twice"),
        ([trl(0, [True, True], prompt="Who?")], "none of 1 judged rollouts"),
        (
            [json.dumps({"problem": QUESTIONS[0], "steps": STEPS[0], "label": 5})],
            ":1: label names no step",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(lines, message, tmp_path):
    usable = corpus_of(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        read_truth_of(truth_file(tmp_path, *lines), usable)
    assert "\n" not in str(error.value)


def test_equal_texts_with_other_counts_are_ambiguous(tmp_path):
    path = truth_file(tmp_path, trl(0, [True, True]))
    twice = (0, 0, 2)
    alike = corpus_of(tmp_path, ((16, 3), (16, 3), (0, 0)), twice)
    assert read_truth_of(path, alike).rollouts.successes.tolist() == [16, 3]
    other = corpus_of(tmp_path, ((16, 3), (16, 4), (0, 0)), twice)
    with pytest.raises(DataError, match=r"ambiguous: .*corpus\.jsonl:2 "):
        read_truth_of(path, other)


def test_counts_are_no_judgements(tmp_path):
    usable = corpus_of(tmp_path)
    with pytest.raises(DataError, match="holds Monte-Carlo counts"):
        read_truth_of(tmp_path / "corpus.jsonl", usable)
