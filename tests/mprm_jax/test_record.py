import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm_jax.records import record
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import (
    Record,
    Step,
    check_image_path,
    check_record,
    resolve_unmeasured,
    scored_step,
)
from theory import rollouts

STEPS = (Step("a", 1, 2), Step("b", 0, 2))


def test_every_count_a_file_may_hold_is_one_the_arithmetic_is_exact_for():
    assert record.MAX_TRIALS <= rollouts.MAX_TRIALS


@pytest.mark.parametrize(
    "record",
    [
        Record("q", STEPS),
        Record("q", STEPS, "a/b.png"),
        Record("q <prm", (Step("<PRM> prm>", 0, 0),), ("a.png", "b.png")),
        Record("🙂\u2028", STEPS),
    ],
)
def test_usable_records_come_back_as_they_are(record):
    assert check_record(record) is record


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record("", STEPS), "question missing"),
        (Record("q", ()), "no steps"),
        (Record("q", (*STEPS, Step("", 1, 1))), "empty step: step 3"),
        (Record("q<prm>", STEPS), "step marker in text: the question"),
        (Record("q", (Step("a", 1, 1), Step("<prm>", 1, 1))), "step marker .*step 2"),
        (Record("\ud800", STEPS), "lone surrogate: the question"),
        (Record("q", (Step("a\udfff", 1, 1),)), "lone surrogate: step 1"),
        (Record("q", STEPS, ""), "image empty"),
        (Record("q", STEPS, ()), "image empty"),
        (Record("q", STEPS, ("a", " ")), "image empty"),
        (Record("q", STEPS, ("a", "//b")), "unsafe image path: '//b'"),
        (Record("q", STEPS, "a<prm>"), "step marker in text: the image path"),
        (Record("q", STEPS, "\ud800"), "lone surrogate: the image path"),
    ],
)
def test_unusable_records_are_refused(record, reason):
    with pytest.raises(BadRecord, match=f"^{reason}"):
        check_record(record)


@pytest.mark.parametrize(
    "image",
    [
        *("a.png", "a/b/c.png", "a b.png", "..a/b..c", "a/...", ".hidden", "./a"),
        *("图/1.jpg", "a~b", "a/~b", "100%.png", "a\\b", "a /b:c", "/a"),
    ],
)
def test_paths_below_the_root_are_safe(image):
    check_image_path(image)


@pytest.mark.parametrize(
    "image",
    [
        *("//a", "\\a", "\\\\host\\share", "C:\\a", "c:a", "~", "~user/a"),
        *("..", "../a", "a/..", "a/../b", "a\\..\\b", "a\\..", "a/b/../../../c"),
        *("http://a/b", "data:image/png;base64,xx", "file:///a", "S3+x.y-z:a"),
        *("a\0", "a\nb", "a\n../b", "a\x1f", "a\r", "\n/etc/passwd"),
    ],
)
def test_paths_that_could_leave_the_root_are_unsafe(image):
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        check_image_path(image)


GAPS = Record("q", (Step("a", 2, 4), Step("b", 0, 0), Step("c", 1, 4)))


def test_policies_of_unmeasured_steps():
    with pytest.raises(
        BadRecord, match=r"step 2 .*--unmeasured drop, negative or keep"
    ):
        resolve_unmeasured(GAPS, "error")
    assert resolve_unmeasured(GAPS, "drop") == Record("q", GAPS.steps[:1])
    assert resolve_unmeasured(Record("q", GAPS.steps[1:]), "drop") is None
    steps = (GAPS.steps[0], Step("b", 0, 1), GAPS.steps[2])
    assert resolve_unmeasured(GAPS, "negative") == Record("q", steps)
    whole = Record("q", STEPS, "x.png", "1", "s")
    assert resolve_unmeasured(GAPS, "keep") is GAPS
    assert resolve_unmeasured(Record("q", GAPS.steps[1:2]), "keep") is None
    for policy in ("error", "drop", "negative", "keep"):
        assert resolve_unmeasured(whole, policy) is whole


@given(
    st.integers(1, 65_535).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
)
def test_counts_come_back_from_scores(pair):
    successes, trials = pair
    score = successes / trials
    whole = Step("a", successes, trials)
    assert scored_step("a", score, trials, 1) == whole
    assert scored_step("a", round(score, 12), trials, 1) == whole
    # Without N the score is kept, and stands for the same fraction.
    guessed = scored_step("a", score, None, 1)
    assert guessed.score == score == guessed.successes / guessed.trials
    assert (guessed.stated is None) == (score in (0, 1))


def test_binary_scores_have_one_trial_where_none_is_given():
    assert scored_step("a", 1.0, None, 1) == Step("a", 1, 1)
    assert scored_step("a", 0.0, None, 1) == Step("a", 0, 1)
    assert scored_step("a", 1.0, 16, 1) == Step("a", 16, 16)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_soft_score_without_trials_keeps_its_value_and_its_side(score):
    step = scored_step("a", score, None, 1)
    assert step.score == score
    assert 0 < step.successes < step.trials <= 65_535
    assert abs(step.successes / step.trials - score) <= 1 / 65_535


@pytest.mark.parametrize(
    ("score", "trials", "reason"),
    [
        (0.5, 15, "score is no multiple of 1/N: step 3 has score 0.5 with 15"),
        (0.0625001, 16, "score is no multiple"),
        (-0.1, 16, r"score outside \[0, 1\]"),
        (1.0000001, 16, r"score outside \[0, 1\]"),
        (float("nan"), 16, r"score outside \[0, 1\]"),
        (float("inf"), None, r"score outside \[0, 1\]"),
    ],
)
def test_scores_that_are_no_ratio_are_refused(score, trials, reason):
    with pytest.raises(BadRecord, match=f"^{reason}"):
        scored_step("a", score, trials, 3)
