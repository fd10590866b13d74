"""What each format's published form means, on small records made here."""

import copy
import json

import pytest

from mprm_jax.data.formats import by_name
from mprm_jax.data.formats.base import ReadOptions
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import Record, Step


def read(name, value, **options):
    data = json.dumps(value).encode()
    (record,) = by_name(name).decode(data, ReadOptions(**options))
    return record


def counts(record):
    return [(step.successes, step.trials) for step in record.steps]


def texts(record):
    return [step.text for step in record.steps]


def prm(process, labels, question="q", **fields):
    prompt = f"Question: {question}\nProcess: {process}"
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": labels}]
    return {"conversations": turns, **fields}


def test_prm_keeps_inner_newlines_and_strips_around():
    record = read("prm", prm(" a\n\nb <prm>\n\n c<prm>\n", [1, 0.0], image="x.png"))
    assert record == Record("q", (Step("a\n\nb", 1, 1), Step("c", 0, 1)), "x.png")


def test_prm_question_ends_at_the_first_process():
    record = read("prm", prm("a\nProcess: b<prm>", [1]))
    assert (record.question, texts(record)) == ("q", ["a\nProcess: b"])


def test_prm_soft_labels_are_read_with_and_without_the_number_of_trials():
    value = prm("a<prm>\n\nb<prm>\n\nc<prm>", [0.1875, 1.0, 0])
    assert counts(read("prm", value)) == [(3, 16), (1, 1), (0, 1)]
    assert [step.stated for step in read("prm", value).steps] == [0.1875, None, None]
    assert counts(read("prm", value, trials=16)) == [(3, 16), (16, 16), (0, 16)]
    with pytest.raises(BadRecord, match="no multiple of 1/N"):
        read("prm", value, trials=8)


def test_prm_text_without_a_marker_runs_on_and_ends_unlabelled():
    record = read("prm", prm("a<prm>\n\nb\n\nc<prm>\n\nd", [13 / 15, 0]))
    unlabelled = Step("d", 0, 0)
    steps = (Step("a", 13, 15, 13 / 15), Step("b\n\nc", 0, 1), unlabelled)
    assert record.steps == steps


def test_conversations_may_begin_with_a_system_turn():
    system = {"from": "system", "value": "Judge every step."}
    for name, value in [
        ("prm", prm("a<prm>", [1])),
        ("visualprm", visualprm(FIRST, "+")),
        ("rlhflow", rlhflow("q Step 1: a", "+")),
    ]:
        told = value | {"conversations": [system, *value["conversations"]]}
        assert read(name, told) == read(name, value)
        twice = value | {"conversations": [system, *told["conversations"]]}
        with pytest.raises(BadRecord, match=f"not a {name} record"):
            read(name, twice)


# (placeholders before the frame, in front of the question, behind it), as many pictures
@pytest.mark.parametrize(
    ("before", "leading", "behind", "pictures"),
    [
        *((1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 0, 2), (2, 0, 0, 2), (1, 1, 0, 2)),
        *((1, 0, 1, 2), (0, 1, 1, 1), (0, 0, 1, 1)),
    ],
)
def test_placeholders_fit_the_pictures_or_there_are_none(
    before, leading, behind, pictures
):
    question = "<image>\n" * leading + "q" + " <image>" * behind
    images = [f"{number}.png" for number in range(pictures)]
    value = prm("a<prm>", [1], question, image=images)
    value["conversations"][0]["value"] = (
        "<image>\n" * before + value["conversations"][0]["value"]
    )
    turn = "<image>\n" * before + FIRST.removeprefix("<image>\n").replace("q", question)
    for record in (
        read("prm", value),
        read("visualprm", visualprm(turn, "+", image=images)),
    ):
        assert record.question == "q" + " <image>" * behind
        assert record.images == tuple(images)


def visualprm(first, *later, image: object = "x.png"):
    speakers = ["human", "gpt"] * len(later)
    turns = [
        {"from": speaker, "value": value}
        for speaker, value in zip(speakers, [first, *later], strict=False)
    ]
    return {"id": 3, "image": image, "conversations": turns}


FIRST = "<image>\n### Question:\nq\n\n### Solution Process:\na"


def test_visualprm():
    record = read("visualprm", visualprm(FIRST, "+", "b\n\nc ", "-", "d", " +"))
    steps = (Step("a", 1, 1), Step("b\n\nc", 0, 1), Step("d", 1, 1))
    assert record == Record("q", steps, "x.png")
    several = visualprm("<image>\n" + FIRST, "+", image=["1.png", "2.png"])
    assert read("visualprm", several).images == ("1.png", "2.png")


def test_visualprm_takes_either_naming_of_turns_and_texts_in_parts():
    told = {"type": "text", "text": FIRST.removeprefix("<image>\n")}
    turns = [
        {"role": "user", "content": [{"type": "image"}, told]},
        {"role": "assistant", "content": "+"},
    ]
    value = {"image": "x.png", "messages": turns}
    assert read("visualprm", value) == read("visualprm", visualprm(FIRST, "+"))
    turns[0]["content"] = [{"type": "image", "image": "y.png"}, told]
    with pytest.raises(BadRecord, match="picture inside a turn"):
        read("visualprm", value)


def rlhflow(*said, key="conversations", **fields):
    roles = ["user", "assistant"] * len(said)
    turns = [
        {"content": content, "role": role}
        for content, role in zip(said, roles, strict=False)
    ]
    return {key: turns, **fields}


def test_rlhflow():
    said = "Is 1 + 1 = 2? Step 1: yes", "+", "Step 2: so\n", " - ", "and", "+"
    steps = (Step("yes", 1, 1), Step("so", 0, 1), Step("and", 1, 1))
    assert read("rlhflow", rlhflow(*said)) == Record("Is 1 + 1 = 2?", steps)
    assert read("rlhflow", rlhflow(*said, key="messages")).steps == steps
    sharegpt = [{"from": "human", "value": said[0]}, {"from": "gpt", "value": "+"}]
    assert read("rlhflow", {"conversations": sharegpt}).steps == steps[:1]


@pytest.mark.parametrize("marker", ["ки", "<prm>", "<extra_0>", "\n\n\n\n\n"])
@pytest.mark.parametrize("key", ["value", "label", "labels"])
def test_openrlhf_labels_are_a_list(marker, key):
    text = f"Ошибки? Step 1: a {marker}\nStep 2: b{marker}\nc{marker}"
    if marker == "ки":
        text = text.replace("Ошибки", "q")
    record = read("openrlhf", {"input": text, key: ["+", 0, 0.875]})
    steps = (Step("a", 1, 1), Step("b", 0, 1), Step("c", 7, 8, 0.875))
    assert record.steps == steps
    assert read("openrlhf", {"input": text, key: [True, "-", 1.0]}).steps[2].trials == 1
    with_trials = read("openrlhf", {"input": text, key: ["+", 0, 0.875]}, trials=16)
    assert counts(with_trials) == [(1, 1), (0, 1), (14, 16)]


@pytest.mark.parametrize("marker", ["ки", "<prm>", "<extra_0>", "\n\n\n\n\n"])
@pytest.mark.parametrize("key", ["label", "labels"])
def test_openr(marker, key):
    value = {"question": " q", "process": f"Step 1: a {marker}\nb {marker}"}
    expected = Record("q", (Step("a", 1, 1), Step("b", 0, 1)))
    for labels in (["+", "-"], [1, 0], [True, False], [1.0, 0.0]):
        assert read("openr", value | {key: labels}) == expected
    both = value | {"label": ["+", "-"], "labels": ["+", "+"]}
    with pytest.raises(BadRecord, match="two keys hold different labels"):
        read("openr", both)


def trl(labels, **fields):
    return {"prompt": " q ", "completions": ["a\n", "b"], "labels": labels, **fields}


def test_trl_reads_booleans_and_binary_integers():
    expected = Record("q", (Step("a", 1, 1), Step("b", 0, 1)))
    assert read("trl", trl([True, False])) == expected
    assert read("trl", trl([1, 0])) == expected
    assert read("trl", trl([1.0, 0.0])) == expected
    assert read("trl", trl([1, 0], image="x.png")).images == ("x.png",)


@pytest.mark.parametrize(
    "labels", [[1.5, 0.0], [2, 0], ["+", "-"], [None, 1], [-1, 1], True, [True]]
)
def test_trl_refuses_other_labels(labels):
    with pytest.raises(BadRecord, match=r"trl record|differ|label unk|score out"):
        read("trl", trl(labels))


def test_trl_reads_other_numbers_as_scores():
    assert counts(read("trl", trl([0.75, 0.0]))) == [(3, 4), (0, 1)]
    assert counts(read("trl", trl([0.75, 0.0]), trials=16)) == [(12, 16), (0, 16)]


def test_trl_prompt_may_be_a_chat_of_one_question():
    asked = {"role": "user", "content": " q "}
    told = {"role": "system", "content": "Judge."}
    for prompt in ([asked], [told, asked]):
        chat = trl([1, 0]) | {"prompt": prompt}
        assert read("trl", chat) == read("trl", trl([1, 0]))
    for prompt in ([], [told], [asked, asked], [asked | {"content": None}]):
        with pytest.raises(BadRecord, match=r"not a trl record|turn is no text"):
            read("trl", trl([1, 0]) | {"prompt": prompt})


def shepherd(text, label=None, **fields):
    return {"input": text, "label": label or text.replace("ки", "+"), **fields}


def test_math_shepherd():
    text = "Is 1 + 1 - 1 = 1? Step 1: a + b - c = ки\nStep 2: The answer is: 1 ки"
    label = text.replace("ки", "+", 1).replace("ки", "-")
    record = read("math-shepherd", shepherd(text, label, task="GSM8K"))
    assert record == Record(
        "Is 1 + 1 - 1 = 1?",
        (Step("a + b - c =", 1, 1), Step("The answer is: 1", 0, 1)),
        source="GSM8K",
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("Step 1: Step 1: a ки\nStep 2: Step 2: b ки", ["Step 1: a", "Step 2: b"]),
        ("Step 1:a ки Step 2:b ки\n", ["a", "b"]),
        ("Step 1: a\nStep 2: b ки\nStep 3: c ки", ["a\nStep 2: b", "Step 3: c"]),
        ("\nStep 1: a ки\nb ки", ["a", "b"]),
        ("Step 1: a ки\nStep 12: b ки", ["a", "Step 12: b"]),
    ],
)
def test_math_shepherd_takes_away_exactly_the_step_number(steps, expected):
    record = read("math-shepherd", shepherd(f"q {steps}"))
    assert (record.question, texts(record)) == ("q", expected)


def said(text, rating):
    return {"text": text, "rating": rating, "flagged": False}


def turn(*completions, chosen=None, human=None):
    return {
        "completions": list(completions) or None,
        "human_completion": human and {**said(human, None), "source": "human"},
        "chosen_completion": chosen,
    }


def prm800k(*turns):
    return {
        "labeler": "x",
        "question": {"problem": "q\n", "ground_truth_answer": "29"},
        "label": {"steps": list(turns), "finish_reason": "solution"},
    }


def paths(*turns):
    """Of each rollout of a session its texts and, after ":", their ratings."""
    data = json.dumps(prm800k(*turns)).encode()
    marks = {(1, 1): "+", (0, 1): "-", (0, 0): "?"}
    return [
        " ".join(texts(one)) + ":" + "".join(marks[of] for of in counts(one))
        for one in by_name("prm800k").decode(data, ReadOptions())
    ]


def test_prm800k_every_rating_stands_in_a_rollout():
    session = (
        turn(said("a", 1), chosen=0),
        turn(said("bad", -1), said("neutral", 0), said("unrated", None), chosen=1),
        turn(said("wrong", -1), said("worse", -1), human="mine"),
        turn(said("z", 0), said("e\n\n# Answer\n\n29", 1), chosen=1),
    )
    found = paths(*session)
    assert found == [
        "a neutral mine e\n\n# Answer\n\n29:++?+",
        "a bad:+-",
        "a neutral wrong:++-",
        "a neutral worse:++-",
        "a neutral mine z:++?+",
    ]
    record = by_name("prm800k").decode(
        json.dumps(prm800k(*session)).encode(), ReadOptions()
    )[0]
    assert (record.question, record.answer, record.source) == ("q", "29", None)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (turn(said("o", 1), said("w", -1), said("u", None)), ["a o:++", "a w:+-"]),
        (turn(said("unsure", None)), ["a:+"]),
        (turn(), ["a:+"]),
    ],
)
def test_prm800k_ends_where_nothing_was_chosen(last, expected):
    first = turn(said("a", 1), chosen=0)
    assert paths(first, last) == expected
    assert paths(first, last, turn()) == expected
    with pytest.raises(BadRecord, match="behind the end"):
        paths(first, last, turn(said("never reached", 1), chosen=0))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (-1, [(1, 1), (1, 1), (1, 1)]),
        (0, [(0, 1), (0, 0), (0, 0)]),
        (1, [(1, 1), (0, 1), (0, 0)]),
        (2, [(1, 1), (1, 1), (0, 1)]),
    ],
)
def test_processbench_judges_up_to_the_first_wrong_step(label, expected):
    value = {"id": "gsm8k-0", "generator": "g", "problem": "q", "label": label}
    record = read("processbench", value | {"steps": ["a", "b ", "c"]})
    assert counts(record) == expected
    assert (record.question, texts(record)) == ("q", ["a", "b", "c"])
    assert record.source == "gsm8k"


@pytest.mark.parametrize("label", [-2, 3])
def test_processbench_label_must_name_a_step(label):
    with pytest.raises(BadRecord, match=f"label names no step: label {label} with 3"):
        read("processbench", {"problem": "q", "steps": ["a"] * 3, "label": label})


VISUAL = {
    "image": ["a.png", "b.png"],
    "question": "q ",
    "response": {"steps": ["a", "b", "c"], "process_correctness": [1, -1, 0]},
    "data_source": "MMMU",
    "policy_model": "m",
    "answer": 4,
}


def test_visualprocessbench_leaves_neutral_steps_unmeasured():
    steps = (Step("a", 1, 1), Step("b", 0, 1), Step("c", 0, 0))
    images = ("a.png", "b.png")
    expected = Record("q", steps, images, answer="4", source="MMMU")
    assert read("visualprocessbench", VISUAL) == expected


def test_visualprocessbench_pairs_judgements_with_steps():
    value = copy.deepcopy(VISUAL)
    value["response"]["process_correctness"].pop()
    with pytest.raises(BadRecord, match="3 steps, 2 labels"):
        read("visualprocessbench", value)


MED = {
    "question": "Which?",
    "options": "  A. x\n  B. y",
    "data_source": "med_qa",
    "correct_answer": "B",
    "steps": ["Step 1:  a ки", "Step 2: ошибки ки", "Step 3: c"],
    "prm_soft_label": [0.125, 1.0, 0],
    "prm_hard_label": [1, 1, 0],
    "prm_gemini_label": [1, 1],
}


def test_medprm():
    steps = (
        Step("Step 1:  a", 2, 16),
        Step("Step 2: ошибки", 16, 16),
        Step("Step 3: c", 0, 16),
    )
    question = "Which?\n  A. x\n  B. y"
    expected = Record(question, steps, answer="B", source="med_qa")
    assert read("medprm", MED) == expected
    assert counts(read("medprm", MED, trials=32)) == [(4, 32), (32, 32), (0, 32)]


def test_medprm_scores_are_sixteenths_one_per_step():
    with pytest.raises(BadRecord, match="no multiple of 1/N"):
        read("medprm", MED | {"prm_soft_label": [0.3, 1, 0]})
    with pytest.raises(BadRecord, match="3 steps, 2 labels"):
        read("medprm", MED | {"prm_soft_label": [1, 0]})


REFUSED = {
    "prm": [
        (prm("a<prm>", [1, 0]), "steps and labels differ in number: 1 steps, 2 labels"),
        (prm("a", [1]), "steps and labels differ in number: 0 steps, 1 labels"),
        (prm("", []), "no steps"),
        (prm("<prm>", [1]), "empty step"),
        (prm("a<prm>", [1], question=" "), "question missing"),
        (prm("a<prm>", [1], question="<prm>"), "step marker in text"),
        (prm("a<prm>", [1.5]), "score outside"),
        (prm("a<prm>", [True]), "not a prm record: .*conversations"),
        (prm("a<prm>", [1], image="../x.png"), "unsafe image path"),
        (prm("a<prm>", [1], image=[]), "image empty"),
        ({"conversations": []}, "not a prm record: no human turn"),
        (prm("a<prm>", "+"), "not a prm record: no human turn"),
        (prm("a<prm>", [1], question="<image>q"), "placeholders and images differ"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Q: q\nProcess: a<prm>"},
                    {"from": "gpt", "value": [1]},
                ]
            },
            "not a prm record: the human turn",
        ),
    ],
    "visualprm": [
        (visualprm(FIRST, "+", "b"), "not a visualprm record: user and assistant"),
        (visualprm(FIRST, "0"), "label unknown: step 1"),
        (visualprm(FIRST, "+", "b", "++"), "label unknown: step 2"),
        (visualprm(FIRST, "+", image=None), "placeholders and images differ: 1 .* 0"),
        (visualprm("<image>" + FIRST, "+"), "placeholders and images differ: 2 .* 1"),
        (visualprm(FIRST, "+", image=["1", "2"]), "placeholders and images differ"),
        (visualprm("<image>\nq\na", "+"), "not a visualprm record: the first turn"),
        (visualprm(FIRST.replace("Q", "q"), "+"), "not a visualprm record: the first"),
        (visualprm(FIRST, "+", " ", "-"), "empty step: step 2"),
        ({"conversations": []}, "not a visualprm record: user and assistant"),
        (rlhflow(FIRST, "+") | visualprm(FIRST, "+") | {"messages": [{}]}, "not a vis"),
    ],
    "rlhflow": [
        (rlhflow("q a", "+"), "not a rlhflow record: no 'Step 1:'"),
        (rlhflow("q Step 1: a", "+", "Step 2:", "-"), "empty step: step 2"),
        (rlhflow("q Step 1: a", "+", "b"), "not a rlhflow record: user and"),
        (rlhflow("q Step 1: a", "good"), "label unknown: step 1"),
        (rlhflow("q Step 1: a", 1), "turn is no text"),
    ],
    "openrlhf": [
        ({"input": "q Step 1: a ки"}, "not a openrlhf record: no list of labels"),
        ({"input": "q Step 1: a ки", "value": "+"}, "not a openrlhf record"),
        ({"input": "q Step 1: a ки", "value": ["+", "-"]}, "steps and labels differ"),
        ({"input": "q Step 1: a ки b", "value": ["+"]}, "text after the last step"),
        ({"input": "q a ки", "value": ["+"]}, "not a openrlhf record: no 'Step 1:'"),
        ({"input": "q Step 1: a ки", "value": [2]}, "label unknown: step 1"),
        ({"input": "q Step 1: a ки", "value": [1.5]}, "score outside"),
        ({"input": "q Step 1: a", "value": []}, "no steps"),
    ],
    "openr": [
        ({"question": "q", "process": "a ки"}, "not a openr record: no list"),
        ({"question": "q", "process": "a ки", "label": [1, 0]}, "steps and labels"),
        ({"question": "", "process": "a ки", "label": [1]}, "question missing"),
        ({"question": "q", "process": "Step 1: ки", "label": [1]}, "empty step"),
    ],
    "math-shepherd": [
        (shepherd("q Step 1: a"), "no steps"),
        (shepherd("q a ки"), "not a math-shepherd record: no 'Step 1:'"),
        (shepherd("q Step 1: a ки b"), "text after the last step marker"),
        (shepherd("q Step 1: a ки\nStep 2: ки"), "empty step: step 2"),
        (shepherd("Step 1: a ки"), "question missing"),
        (shepherd("q Step 1: a ки", "q Step 1: a "), "label does not match input"),
        (shepherd("q Step 1: a ки", "q Step 1: a *"), "label does not match input"),
        (shepherd("q Step 1: a ки", "q Step 1: b +"), "label does not match input"),
        (shepherd("q Step 1: a ки", "q Step 1: a ++"), "label does not match input"),
        (shepherd("q Step 1: a ки", "q Step 1: a ки"), "label does not match input"),
        (shepherd("q Step 1: a ки", task=3), "not a math-shepherd record: .*task"),
    ],
    "prm800k": [
        (prm800k(), "no steps"),
        (prm800k(turn()), "no steps"),
        (prm800k(turn(said("a", 1), chosen=1)), "not a prm800k record: step 1 chooses"),
        (prm800k(turn(said("a", 1), chosen=-1)), "not a prm800k record: step 1"),
        (prm800k(turn(said("a", 2), chosen=0)), "not a prm800k record: .*rating"),
        (prm800k(turn(said("", 1), chosen=0)), "empty step"),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name):
    for value, reason in REFUSED[name]:
        with pytest.raises(BadRecord, match=f"^{reason}"):
            read(name, value)


def test_the_source_can_be_any_field_with_text():
    assert read("medprm", MED, source_from="correct_answer").source == "B"
    value = prm("a<prm>", [1], origin="ChartQA", n=3, empty="", nothing=None)
    assert read("prm", value, source_from="origin").source == "ChartQA"
    assert read("prm", value).source is None
    for field in ["n", "empty", "nothing", "absent", "conversations"]:
        with pytest.raises(BadRecord, match=f"source missing: field '{field}'"):
            read("prm", value, source_from=field)
