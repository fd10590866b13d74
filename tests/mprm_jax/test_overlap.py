"""Words, n-grams and hashes, against their definitions written out over sets."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.overlap import (
    NOT_FOUND,
    SAME,
    Benchmark,
    Overlap,
    OverlapSettings,
    QuestionIndex,
    Roots,
    hash_picture,
    perceptual_hash,
    words_of,
)
from mprm_jax.data.scored import Solution
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step
from tests.raw_files import png, record, write_corpus

# Few words, so that runs of them recur.
TEXTS = st.lists(st.sampled_from("abcd"), min_size=0, max_size=24).map(tuple)


def nearness(asked, other, settings):
    """How a question is another one, word by word."""
    if asked and asked == other:
        return SAME
    if len(asked) < 8:
        return NOT_FOUND
    n = min(settings.ngram, max(3, int((1 - settings.share) * len(asked) + 1e-9)))
    runs = {other[j : j + n] for j in range(len(other) - n + 1)}
    covered = {
        j + i
        for j in range(len(asked) - n + 1)
        if asked[j : j + n] in runs
        for i in range(n)
    }
    share = len(covered) / len(asked)
    return share if covered and share >= settings.share else NOT_FOUND


@given(
    st.lists(TEXTS, min_size=1, max_size=6, unique=True),
    TEXTS,
    st.builds(
        OverlapSettings, st.integers(3, 6), st.sampled_from([0.1, 0.5, 0.75, 0.8, 1.0])
    ),
)
def test_questions_are_found_as_over_sets(questions, other, settings):
    near, shares = QuestionIndex(questions, settings).find(other)
    found = dict(zip(near.tolist(), shares.tolist(), strict=True))
    wanted = {i: nearness(asked, other, settings) for i, asked in enumerate(questions)}
    assert found == {i: share for i, share in wanted.items() if share > NOT_FOUND}
    assert len(near) == len(found)


@given(
    st.integers(15, 120),
    st.randoms(use_true_random=False),
    st.sampled_from([0.5, 0.7, 0.8, 0.9]),
)
def test_one_changed_word_is_near_and_other_questions_are_not(length, random, share):
    asked = [f"w{i}" for i in range(length)]
    index = QuestionIndex([tuple(asked)], OverlapSettings(share=share))
    assume(length * (1 - share) >= 3)
    changed = list(asked)
    changed[random.randrange(length)] = "other"
    near, shares = index.find(("before", *changed, "after"))
    assert near.tolist() == [0]
    assert share <= shares[0] < 1
    random.shuffle(asked)
    unrelated = tuple(f"v{i}" for i in range(length))
    assert len(index.find(unrelated)[0]) == 0
    # Half of the words in their order are not enough.
    assert len(index.find((*unrelated, *changed[: length * 3 // 10]))[0]) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is AB, in cm?", "  what\nis\tab in CM "),
        ("<image>\nFind $x$.", "Find x"),
        ("Area of a ½ circle", "area of a 1⁄2 circle"),
        ("求三角形的面积", "求 三角形 的 面积。"),
        ("Straße 5", "STRASSE 5"),
    ],
)
def test_spelling_does_not_count(one, other):
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 + 4", "3 * 4"), ("3+4", "34"), ("x = 2", "x < 2"), ("5 %", "5"), ("山", "川")],
)
def test_signs_that_change_a_sum_count(one, other):
    assert words_of(one) != words_of(other)


def test_characters_of_scripts_without_spaces_are_words():
    assert len(words_of("求三角形ABC的面积")) == 8


@pytest.mark.parametrize(
    "wrong", [{"ngram": 2}, {"share": 0}, {"share": 1.01}, {"distance": 33}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OverlapSettings(**wrong)


# --- pictures


def drawing(seed):
    """A figure of lines on white, as geometry problems have."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(image)
    corners = [tuple(map(int, rng.integers(10, 230, 2))) for _ in range(4)]
    draw.line([*corners, corners[0]], fill="black", width=3)
    return image


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def distance(folder, one, other):
    (folder / "1.png").write_bytes(one)
    (folder / "2.png").write_bytes(other)
    look = perceptual_hash()
    assert look is not None
    first, second = (hash_picture(folder, f"{i}.png", look) for i in (1, 2))
    assert (first.content == second.content) == (one == other)
    assert first.seen is not None
    assert second.seen is not None
    return (first.seen ^ second.seen).bit_count()


def test_a_picture_saved_anew_is_near_and_another_is_not(tmp_path):
    least = OverlapSettings().distance
    for seed in range(8):
        image = drawing(seed)
        again = encoded(image.resize((160, 120)), "JPEG", quality=60)
        assert distance(tmp_path, encoded(image), again) <= least
        assert distance(tmp_path, encoded(image), encoded(drawing(seed + 50))) > least


def test_pictures_of_one_colour_are_the_same_by_their_bytes_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (9, 9), "red")))
    assert hash_picture(tmp_path, "a.png", perceptual_hash()).seen is None


@pytest.mark.parametrize("path", ["../a.png", "none.png", "/etc/hostname", "text.png"])
def test_what_is_no_picture_below_the_root_is_refused(path, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadRecord):
        hash_picture(tmp_path, path, perceptual_hash())


# --- the whole


def asked(i, question, *images, source="a"):
    steps = (Step("a step", 1, 1),)
    made = Record(question, steps, images or None, source=source)
    return Solution(f"some: file.jsonl:{i + 1}: record {i + 1}", made, (1,), i + 1)


def compare(corpus, judged):
    rows = np.arange(corpus.rollouts.n_rollouts)
    return Overlap(corpus, rows, Benchmark(judged), OverlapSettings())


def test_pairs_and_counts_are_those_of_every_pair_compared_with_every_other(tmp_path):
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(list("abcdef"), n)) for n in (2, 2, 9, 9, 14, 40)]
    texts += [f"{text} extra" for text in texts]

    def some(kinds):
        return [f"{kinds}{i}.png" for i in rng.choice(6, int(rng.integers(0, 3)))]

    rollouts = [record(question=str(rng.choice(texts)), image=some("c") or None)
                for _ in range(60)]  # fmt: skip
    judged = [
        asked(i, str(rng.choice(texts)), *some("b"), source=("", "b")[i % 2])
        for i in range(40)
    ]
    # Pictures b0 to b2 are c0 to c2.
    for i in range(6):
        (tmp_path / f"c{i}.png").write_bytes(png(i, (8, 8)))
        (tmp_path / f"b{i}.png").write_bytes(png(i if i < 3 else 90 + i, (8, 8)))
    corpus = read_corpus(write_corpus(tmp_path / "c", {"s.jsonl": rollouts}))
    overlap = compare(corpus, judged)
    with ThreadPoolExecutor(2) as pool:
        roots = Roots(tmp_path, tmp_path, None)
        overlap.compare_pictures(roots, pool, lambda done: None)

    wanted, seen = set(), {}
    for i, of in enumerate(one.record for one in judged):
        words, images = words_of(of.question), of.images
        number = seen.setdefault((of.source, words, images), i)
        same = {f"c{image[1:]}" for image in images if int(image[1]) < 3}
        for row, rollout in enumerate(rollouts):
            share = nearness(words, words_of(rollout["question"]), OverlapSettings())
            picture = SAME if same & {*(rollout["image"] or [])} else NOT_FOUND
            if max(share, picture) > NOT_FOUND:
                wanted.add((number, row, share, picture))
    lines = {of.line - 1: n for n, of in enumerate(overlap.benchmark.problems)}
    pairs = list(overlap.pairs())
    assert {(lines[i], *rest) for i, *rest in wanted} == set(pairs)
    assert len(pairs) == len(set(pairs))
    assert [pair.row for pair in pairs] == sorted(pair.row for pair in pairs)

    tally = overlap.tally()
    for source in (None, "", "b"):
        mine = [i for i, of in enumerate(judged) if source in (None, of.record.source)]
        of = {
            i: [pair for pair in wanted if pair[0] == seen[key(judged[i])]]
            for i in mine
        }
        assert tally[source]["solutions"] == len(mine)
        same = {i for i in mine if any(pair[2] == SAME for pair in of[i])}
        near = {i for i in mine if any(pair[2] > NOT_FOUND for pair in of[i])}
        assert tally[source]["question_same"] == len(same)
        assert tally[source]["question_near"] == len(near - same)
        assert tally[source]["picture_same"] == sum(
            any(pair[3] == SAME for pair in of[i]) for i in mine
        )
        assert tally[source]["problem"] == sum(
            any(min(pair[2:]) > NOT_FOUND for pair in of[i])
            if judged[i].record.images
            else i in near
            for i in mine
        )
    worst = overlap.worst(3)
    assert [pair.badness for pair in worst] == sorted(
        (
            max(pair.badness for pair in pairs if pair.problem == i)
            for i in {pair.problem for pair in pairs}
        ),
        reverse=True,
    )[:3]


def key(judged):
    of = judged.record
    return of.source, words_of(of.question), of.images


def test_instructions_around_a_question_do_not_hide_it(tmp_path):
    told = (
        "Look at the picture before you answer and go over every step once more "
        "until all of them hold, then say what it is."
    )
    rollouts = [
        record(question=f"How wide is {name}?\n{told}") for name in "abcdefghijklmn"
    ]
    corpus = read_corpus(write_corpus(tmp_path / "c", {"s.jsonl": rollouts}))
    judged = [
        asked(0, "How wide is c?"),
        asked(1, "How wide is z?"),
        asked(2, f"How tall is c?\n{told}"),
    ]
    found = [pair[:3] for pair in compare(corpus, judged).pairs()]
    assert found == [(0, 2, SAME)]
