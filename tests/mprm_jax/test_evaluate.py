"""Scores do not depend on batching; benchmark files as users have them."""

import jax
import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from mprm_jax.data.batches import Example, collate
from mprm_jax.data.scored import columns, read_benchmark, without_repeats
from mprm_jax.evaluate import Scoring, _plan, predict, score_prompts
from mprm_jax.judge import Judge
from mprm_jax.records.problems import DataError
from mprm_jax.records.record import image_root
from tests.mprm_jax.stub_model import PATCH_DIM, StubModel
from tests.raw_files import benchmark, solution, write_lines

PARAMS = StubModel().init(jax.random.key(0))
FOUR = Scoring(4, threads=2)


def example(rng, tokens, steps, patches=2):
    markers = np.sort(rng.choice(tokens, steps, replace=False)).astype(np.int32)
    ones = np.ones(steps, np.int32)
    return Example(
        rng.integers(1, 11, tokens, dtype=np.int32),
        rng.integers(0, 256, (patches, PATCH_DIM), dtype=np.uint8),
        markers,
        0 * ones,
        ones,
    )


def by_hand(one):
    """The stub's score, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), PARAMS)
    embedding, head = params["blocks"][0]["embedding"], params["head"]["kernel"]
    place = np.arange(1, len(one.tokens_L) + 1)
    mean = np.cumsum(embedding[one.tokens_L], axis=0) / place[:, None]
    image = one.images_PxD.sum(axis=0) / 255 @ params["vision"]["kernel"]
    return expit(np.tanh(mean + image)[one.marker_S] @ (head[:, 0] - head[:, 1]))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_padding_and_bucketing_never_change_a_score(batch_size):
    rng = np.random.default_rng(0)
    examples = [
        example(rng, int(rng.integers(9, 65)), int(rng.integers(1, 9)), 1 + i % 2)
        for i in range(90)
    ]
    scores = score_prompts(StubModel(), PARAMS, examples, Scoring(batch_size))
    assert len(scores) == 90
    for one, found in zip(examples, scores, strict=True):
        assert found.dtype == np.float64
        assert found == pytest.approx(by_hand(one), abs=2e-6)


def test_few_shapes_are_compiled_and_none_twice(monkeypatch):
    seen = []

    def traced(self, params, batch, logits=StubModel.reward_logits):
        seen.append((*batch.tokens_BxL.shape, batch.marker_BxS.shape[1]))
        return logits(self, params, batch)

    monkeypatch.setattr(StubModel, "reward_logits", traced)
    rng = np.random.default_rng(1)
    examples = [
        example(rng, int(rng.integers(20, 65)), int(rng.integers(1, 17)))
        for _ in range(300)
    ]
    for _ in range(2):
        # Equal models share what was compiled, whichever object they are.
        score_prompts(StubModel(vocabulary=12), PARAMS, examples, Scoring(8))
    assert len(seen) == len(set(seen))
    assert set(seen) <= {(8, tokens, s) for tokens in (32, 48, 64) for s in (8, 16)}


def test_patches_are_padded_to_powers_of_two(monkeypatch):
    rng = np.random.default_rng(2)
    seen = []

    def spy(examples, buckets, rows):
        (shape,) = buckets.shapes
        seen.append((shape.patches, {len(one.images_PxD) for one in examples}))
        return collate(examples, buckets, rows)

    monkeypatch.setattr("mprm_jax.evaluate.collate", spy)
    examples = [example(rng, 30, 2, (1, 3, 4, 9)[i % 4]) for i in range(16)]
    score_prompts(StubModel(), PARAMS, examples, Scoring(8))
    assert seen == [(1, {1}), (4, {3, 4}), (16, {9})]
    words = [one._replace(images_PxD=one.images_PxD[:0]) for one in examples]
    assert [shape.shapes[0].patches for _, shape in _plan(words, 16)] == [0]


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_change_no_bit_and_no_place(threads):
    rng = np.random.default_rng(4)
    examples = [example(rng, int(rng.integers(9, 65)), 3) for _ in range(70)]
    plain = score_prompts(StubModel(), PARAMS, examples, Scoring(2))
    # Windows of 32, the last of them short.
    read = score_prompts(StubModel(), PARAMS, examples, Scoring(2, threads))
    assert list(map(bytes, read)) == list(map(bytes, plain))


def test_the_next_batch_is_dispatched_before_one_is_waited_for(monkeypatch):
    done = []

    class Array:
        def __init__(self, number):
            self.number = number

        def __array__(self, *_, **__):
            done.append(("read", self.number))
            return np.zeros((2, 8, 3), np.float32)

    def dispatch(model, params, batch):
        done.append(("dispatched", sum(what == "dispatched" for what, _ in done)))
        return Array(done[-1][1])

    monkeypatch.setattr("mprm_jax.evaluate._logits", dispatch)
    examples = [example(np.random.default_rng(5), 20, 2) for _ in range(100)]
    told = []
    how = Scoring(2, threads=1, tick=told.append)
    assert len(score_prompts(StubModel(), PARAMS, examples, how)) == 100
    assert told == list(range(2, 101, 2))
    order = {one: place for place, one in enumerate(done)}
    # Across windows, too; and never two behind.
    for number in range(48):
        read = order["read", number]
        assert order["dispatched", number + 1] < read < order["dispatched", number + 2]


def test_the_first_prompt_that_cannot_be_read_is_named():
    rng = np.random.default_rng(6)

    class Damaged(list):
        def __getitem__(self, place):
            if place in (41, 43, 90):
                raise DataError(f"prompt {place}")
            return super().__getitem__(place)

    examples = Damaged(example(rng, 20, 2) for _ in range(100))
    for threads in (0, 4):
        with pytest.raises(DataError, match="prompt 41"):
            score_prompts(StubModel(), PARAMS, examples, Scoring(1, threads))


def with_bias(yes):
    bias = np.array([yes, 0, 0], np.float32)
    return PARAMS | {"head": PARAMS["head"] | {"bias": bias}}


def test_a_look_is_the_auroc_and_the_cross_entropy_of_the_known_steps():
    rng = np.random.default_rng(8)
    prompts = [example(rng, 30, 3) for _ in range(12)]
    # A fourth step was cut off.
    labels = [rng.integers(-1, 2, 4) for _ in prompts]
    scores = np.concatenate(score_prompts(StubModel(), PARAMS, prompts, Scoring(4)))
    label = np.concatenate([of[:3] for of in labels])
    right, scores = label[label != 0] > 0, scores[label != 0]
    told = Judge(StubModel(), prompts, labels, 4)(PARAMS)
    assert told["eval_auroc"] == pytest.approx(roc_auc_score(right, scores))
    assert told["eval_loss"] == pytest.approx(log_loss(right, scores))
    for of in (np.array([1, 0, 1]), np.array([0])):
        with pytest.raises(DataError, match="all right, or all wrong"):
            Judge(StubModel(), prompts[:1], [of], 4)


def test_very_sure_scores_stay_apart():
    # In float32 both would be 1.
    examples = [example(np.random.default_rng(3), 9, 1) for _ in range(2)]
    sure = [with_bias(30.0), with_bias(30.5)]
    first, second = (
        score_prompts(StubModel(), params, examples[:1], Scoring(1))[0][0]
        for params in sure
    )
    margins = [np.log(value / (1 - value)) for value in (first, second)]
    assert margins[1] - margins[0] == pytest.approx(0.5, abs=0.01)


def test_a_benchmark_keeps_its_neutral_steps(tmp_path):
    path = benchmark(tmp_path, [solution(0, 4), solution(1, 1, [0])])
    solutions = read_benchmark(path)
    assert [one.labels for one in solutions] == [(1, -1, 0, 1), (0,)]
    assert [one.record.source for one in solutions] == ["a", "b"]
    other = benchmark(tmp_path / "b", [solution(0, 4, [1] * 4), solution(1, 1)])
    # What is asked, not how it was judged.
    assert [one.id for one in read_benchmark(other)] == [one.id for one in solutions]
    assert len({one.id for one in solutions}) == 2


PAIR = {
    "idx": "x_0",
    "question": "q",
    "modified_question": "q, but",
    "original_process": ["a", "b"],
    "modified_process": ["a", "c", "d"],
    "modified_steps": [2, 3],
    "error_steps": [2],
    "reason": "r",
    "classification": "circular",
}
TASK = {
    "id": "x",
    "image": ["0.png"],
    "question": "<image>\nq",
    "step_list": ["STEP1: a\n\n", "STEP2: b\n\n"],
    "reasoning_error": "STEP1: a. STEP3: no mark\nSTEP4: nor this\n\nSTEP2:  c",
    "task_gt": [0, 1],
    "category": "location_error",
}
FIRST = {"id": "gsm8k-7", "problem": "q", "steps": ["a", "b", "c"], "label": 1}


def test_benchmarks_are_told_from_their_records(tmp_path):
    same = PAIR | {"idx": "y_0", "classification": "redundency", "error_steps": []}
    records = [
        FIRST,
        FIRST | {"id": 7, "images": ["0.png", "1.png"], "label": -1},
        PAIR,
        same,
        TASK,
        TASK | {"reasoning_error": None, "image": "0.png"},
        solution(0, 2),
    ]
    path = write_lines(tmp_path / "mixed.jsonl", *records)
    solutions = read_benchmark(path)
    assert [(one.number, one.record.source, one.labels) for one in solutions] == [
        (1, "gsm8k", (1, -1, 0)),
        (2, "mixed", (1, 1, 1)),
        (3, "circular", (1, -1, 1)),
        (3, "correct", (1, 1)),
        (4, "redundency", (1, 1, 1)),
        (4, "correct", (1, 1)),
        (5, "location_error", (1, -1)),
        (6, "location_error", (1, -1)),
        (7, "a", (1, -1)),
    ]
    by_number = {one.number: one.record for one in solutions}
    assert by_number[2].images == ("0.png", "1.png")
    assert (solutions[2].record.question, solutions[3].record.question) == (
        "q, but",
        "q",
    )
    assert [step.text for step in by_number[5].steps] == [
        "STEP1: a. STEP3: no mark\nSTEP4: nor this",
        "STEP2:  c",
    ]
    assert (by_number[5].question, by_number[5].images) == ("q", ("0.png",))
    # The original process of the second pair was judged already.
    assert without_repeats(solutions) == [*solutions[:5], *solutions[6:]]


@pytest.mark.parametrize(
    "record",
    [
        FIRST | {"label": 3},
        FIRST | {"image_url": "0.png"},
        FIRST | {"images": [{"bytes": "iVBO"}]},
        PAIR | {"error_steps": [0]},
        PAIR | {"error_steps": [4]},
        PAIR | {"modified_question": "", "question": " "},
        TASK | {"task_gt": [0, 1, 0]},
        TASK | {"task_gt": True, "category": "foresight"},
        TASK | {"task_gt": "the error is", "category": "error_reason_analysis"},
        TASK | {"task_gt": None, "category": "multi_solution"},
        TASK | {"reasoning_error": "So STEP1: a\nSTEP2: b"},
        {"prompt": "q", "completions": ["a"], "labels": [True]},
        {"question": "q"},
    ],
)
def test_what_judges_no_steps_is_refused_by_its_place(record, tmp_path):
    path = write_lines(tmp_path / "b.jsonl", FIRST, record)
    with pytest.raises(DataError) as error:
        read_benchmark(path)
    assert str(error.value).startswith(f"{path}:2: record 2: ")


def test_a_benchmark_is_scored_in_its_own_order(tmp_path):
    records = [solution(i, 1 + i % 3) for i in range(20)]
    path = benchmark(tmp_path, records)
    solutions = read_benchmark(path)
    told = []
    root = image_root(path, solutions[0].record.images)
    rows = predict(StubModel(), PARAMS, solutions, root, Scoring(2, 2, told.append))
    assert (told[-1], sorted(set(told))) == (20, told)
    assert [row.record for row in rows] == list(range(1, 21))
    for one, row in zip(solutions, rows, strict=True):
        alone = predict(StubModel(), PARAMS, [one], root, Scoring(1))
        assert row.scores == pytest.approx(alone[0].scores, abs=1e-6)
        assert (row.id, row.labels) == (one.id, one.labels)
    assert columns(rows).n_steps == sum(
        of.count(1) + of.count(-1) for of in (one.labels for one in solutions)
    )


def test_steps_that_do_not_fit_have_no_score_and_are_counted(tmp_path):
    path = benchmark(tmp_path, [solution(0, 8), solution(1, 2)])
    solutions = read_benchmark(path)
    model = StubModel(max_length=100)
    long, short = predict(model, PARAMS, solutions, tmp_path / "images", FOUR)
    assert long.truncated > 0
    assert len(long.scores) == len(long.labels) == 8 - long.truncated
    assert long.labels == solutions[0].labels[: len(long.labels)]
    assert short.truncated == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "9.png"}, "record 2: image not found: '9.png' below"),
        ({"image": "../0.png"}, "record 2: unsafe image path"),
        ({"image": "bad.png"}, "record 2: (unknown image format|damaged image)"),
        ({"response": {"steps": "x", "process_correctness": []}}, "record 2: "),
        ({"response": {"steps": ["x"], "process_correctness": [2]}}, "record 2: not a"),
        ({"question": " "}, "record 2: question missing"),
    ],
)
def test_a_bad_solution_is_refused_by_its_number(change, words, tmp_path):
    path = benchmark(tmp_path, [solution(0, 2), solution(1, 1) | change])
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=words):
        predict(StubModel(), PARAMS, read_benchmark(path), tmp_path / "images", FOUR)


def test_a_score_that_is_no_number_stops_the_evaluation(tmp_path):
    path = benchmark(tmp_path, [solution(0, 2)])
    params = with_bias(np.nan)
    with pytest.raises(DataError, match="record 1: the model's score is not a number"):
        predict(StubModel(), params, read_benchmark(path), tmp_path / "images", FOUR)


def test_images_are_looked_for_where_they_are(tmp_path):
    path = tmp_path / "test.jsonl"
    assert image_root(path, ["a.png"]) == tmp_path
    (tmp_path / "images").mkdir()
    assert image_root(path, ["a.png"]) == tmp_path / "images"
    (tmp_path / "a.png").touch()
    assert image_root(path, ["a.png"]) == tmp_path
    (tmp_path / "images" / "a.png").touch()
    assert image_root(path, ["a.png"]) == tmp_path / "images"
    assert image_root(path, []) == tmp_path / "images"
