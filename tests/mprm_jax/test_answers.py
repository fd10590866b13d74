"""Answers: classes of equal ones, as text and as mathematics."""

import threading

import pytest

from mprm_jax.data.answers import answer_classes


def test_equal_texts_and_numbers_are_one_answer():
    found = answer_classes(["B", " b", "0.50", None, ".5", "1/2", ""], "text")
    assert found == ((0, 0, 1, -1, 1, 2, 3), 0)


MATHEMATICS = [
    ("1/2", ["0.5", r"\frac12", r"\boxed{\frac{1}{2}}", ".50"], ["2", "1/3"]),
    ("x^2+1", ["1+x^2", "1 + x**2"], ["x^2"]),
    ("B", ["(B)", "b"], ["C"]),
    ("1,000", ["1000", "10**3"], ["1"]),
    ("1 < x < 2", ["(1, 2)"], ["(1, 3)"]),
    (r"\$18.90", ["$18.90", "18.9"], [r"\$18"]),
]


@pytest.mark.parametrize(("one", "same", "others"), MATHEMATICS)
def test_equal_expressions_are_one_answer(one, same, others):
    pytest.importorskip("math_verify")
    found = answer_classes(["some other", one, *same, *others], "math")
    assert found.of[: 2 + len(same)] == (0, 1) + (1,) * len(same)
    assert not {0, 1} & {*found.of[2 + len(same) :]}
    assert found.undecided == 0


def test_what_cannot_be_decided_is_counted_and_differs():
    pytest.importorskip("math_verify")
    found = answer_classes(["9^{9^{9^9}}", "3", "3.0"], "math")
    assert found == ((0, 1, 1), 1)
    # Of an empty one mathematics reads nothing.
    assert answer_classes([r"\boxed{}", "3", "3.0"], "math") == ((0, 1, 1), 1)


def test_threads_compare_answers_too():
    pytest.importorskip("math_verify")
    found = []
    work = threading.Thread(
        target=lambda: found.append(answer_classes(["1/2", ".5"], "math"))
    )
    work.start()
    work.join()
    assert found == [((0, 0), 0)]
