"""Placeholder records: the raw format, the right counts, and no signal."""

import json

import numpy as np
import pytest

from sim.corpus.calibrate import PAPER_MODELS
from sim.corpus.draw import early_stop, sample
from sim.corpus.sources import PAPER_SOURCES, Source
from sim.corpus.text import file_stem, placeholder_records
from theory.paper import FULL_DATA
from theory.rollouts import Rollouts


@pytest.fixture(scope="module")
def corpus():
    return sample(
        PAPER_MODELS["hierarchical"], PAPER_SOURCES, np.random.default_rng(0), 0.01
    )


def records_of(rollouts, seed=1):
    return list(placeholder_records(rollouts, np.random.default_rng(seed)))


def test_records_hold_the_counts_and_survive_json(corpus):
    records = records_of(corpus)
    assert [source for source, _ in records] == [
        corpus.source_names[i] for i in corpus.source
    ]
    k, n, lengths = [], [], []
    for _, record in records:
        assert json.loads(json.dumps(record, ensure_ascii=False)) == record
        steps = record["steps_with_score"]
        lengths.append(len(steps))
        for step in steps:
            assert set(step) == {"step", "score", "num_mc_correct", "num_mc_total"}
            assert step["score"] == step["num_mc_correct"] / step["num_mc_total"]
            k.append(step["num_mc_correct"])
            n.append(step["num_mc_total"])
        assert record["num_mc_sequences"] == 16
    assert k == corpus.successes.tolist()
    assert n == corpus.trials.tolist()
    assert lengths == corpus.lengths.tolist()


def test_text_has_the_corpus_s_length_and_alphabet(corpus):
    records = [record for _, record in records_of(corpus)]
    steps = [[step["step"] for step in r["steps_with_score"]] for r in records]
    words = [len(text.split()) for rollout in steps for text in rollout]
    assert abs(np.mean(words) - FULL_DATA.words_per_step) < 1
    everything = "".join(text for rollout in steps for text in rollout)
    assert "\\frac{" in everything
    assert "∠" in everything
    assert "<prm>" not in everything
    # No field of a template is left unfilled.
    assert not any(field in everything for field in ("{a}", "{b}", "{c}", "{row}"))
    for record, texts in zip(records, steps, strict=True):
        assert all(text and text == text.strip() for text in texts)
        assert texts[-1] == f"Final answer: {record['answer']}"
        assert record["response"] == "\n\n".join(texts)
        assert record["question"].startswith(record["question_orig"])
    for field in ("question_orig", "image", "response"):
        assert len({record[field] for record in records}) == len(records)


def test_text_knows_nothing_of_the_counts(corpus):
    other = Rollouts(
        np.zeros_like(corpus.successes),
        corpus.trials,
        corpus.offsets,
        corpus.source,
        corpus.source_names,
    )
    for (_, a), (_, b) in zip(records_of(corpus), records_of(other), strict=True):
        assert a["question"] == b["question"]
        assert a["response"] == b["response"]
        assert a["image"] == b["image"]


def test_equal_generators_give_equal_text(corpus):
    part = corpus.take(np.arange(50))
    assert records_of(part) == records_of(part)
    assert records_of(part) != records_of(part, seed=2)


def test_blocks_of_random_numbers_do_not_show():
    # More rollouts than one block holds: rows go on counting, texts go on differing.
    corpus = sample(
        PAPER_MODELS["hierarchical"],
        (Source("a", 0.9, 10_000, 5_000),),
        np.random.default_rng(0),
    )
    records = [record for _, record in records_of(corpus)]
    assert len({record["question"] for record in records}) == 5_000
    assert [
        step["num_mc_correct"] for r in records for step in r["steps_with_score"]
    ] == corpus.successes.tolist()
    assert records[4500]["image"] == "a/0004500.png"


def test_never_sampled_steps_are_written_as_the_annotator_writes_them(corpus):
    stopped = early_stop(corpus)
    seen = 0
    for _, record in records_of(stopped):
        for step in record["steps_with_score"]:
            if step["num_mc_total"] == 0:
                assert step["score"] == 0.0
                assert step["num_mc_correct"] == 0
                seen += 1
    assert seen == np.count_nonzero(stopped.trials == 0) > 0


def test_a_rollout_without_steps_is_refused_before_anything_is_written():
    empty = Rollouts(
        np.array([1]), np.array([1]), np.array([0, 1, 1]), np.zeros(2, int), ("a",)
    )
    with pytest.raises(ValueError, match="rollout 1 has no step"):
        placeholder_records(empty, np.random.default_rng(0))


def test_source_names_become_distinct_file_names():
    stems = {file_stem(source.name) for source in PAPER_SOURCES}
    assert len(stems) == 38
    assert file_stem("Super-CLEVR (Y/N)") == "Super-CLEVR_Y_N"
    assert file_stem("GeoQA+ (MC)") == "GeoQA+_MC"
    assert file_stem("../..") == "source"
    assert file_stem("図形") == "図形"
