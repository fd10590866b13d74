"""`mprm annotate`: plan, run and merge, as a user types them."""

import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import beta

from experiments.corpora.scenes import read_truth, write_world
from mprm_jax.data.continuations import final_answer
from mprm_jax.data.corpus import read_corpus
from mprm_jax.data.formats.raw import recount
from sim.scenes.world import PLENTIFUL
from tests.raw_files import line, record, step, write_corpus, write_pictures
from theory.annotation import flip_probability
from theory.rollouts import Rollouts
from theory.scores import moment_prior

COUNTS = [((4, 4), (2, 4), (0, 4), (0, 4)), ((4, 4), (4, 4)), ((1, 4), (0, 0), (0, 4))]


@pytest.fixture
def small(tmp_path):
    """Three rollouts; the bytes of their lines are not those that a writer makes."""
    lines = [
        line(record(counts, i, extra=[1.50, "é"])) for i, counts in enumerate(COUNTS)
    ]
    lines[0] = lines[0].replace('"answer": "3"', '"answer" :  3')
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "one.jsonl").write_text("\n".join([lines[0], "", *lines[1:]]) + "\r\n")
    return folder


def planned(mprm, corpus, out, *more):
    found = mprm("annotate plan", corpus, "--json --output", out, *more)
    assert found.status == 0, found.err
    return found.json, [json.loads(row) for row in out.read_text().splitlines()]


def answers_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def merged(mprm, corpus, plan, answers, out, *more):
    return mprm(
        "annotate merge", corpus, "--plan", plan, "--answers", answers, "--output", out,
        "--json", *more,
    )  # fmt: skip


def test_a_plan_names_the_steps_and_spends_no_more_than_its_budget(
    mprm, small, tmp_path
):
    out = tmp_path / "p.jsonl"
    value, rows = planned(mprm, small, out, "--budget 12 --criterion flip --block 2")
    assert sum(row["n"] for row in rows) == value["continuations"] == 12
    # K = 0, or no N at all; never the last step of a rollout.
    assert {(row["line"], row["step"]) for row in rows} == {(1, 3), (4, 2)}
    for row in rows:
        counts = COUNTS[{1: 0, 3: 1, 4: 2}[row["line"]]]
        assert (row["successes"], row["trials"]) == counts[row["step"] - 1]
        assert len(row["steps"]) == row["step"]
    assert len({row["id"] for row in rows}) == len(rows)
    # Too few for a law by neighbours: one law, of all steps but the last ones.
    k, n = np.array([of for counts in COUNTS for of in counts[:-1]]).T
    (law,) = value["priors"]
    rollouts = Rollouts(k, n, np.array([0, 3, 4, 6]), np.zeros(3, int), ("a",))
    assert law == pytest.approx(moment_prior(rollouts))
    asked = np.array([[row["successes"], row["trials"], row["n"]] for row in rows]).T
    assert value["expected"]["flip"]["plan"] == pytest.approx(
        flip_probability(*asked, *law).sum()
    )
    right = beta.sf(0.5, law[0] + k, law[1] + n - k)
    assert value["doubt"] == pytest.approx((right * (1 - right)).sum())
    last, _ = planned(
        mprm, small, out, "--budget 100 --criterion flip --last-steps --most 8"
    )
    assert last["parts"][-1]["continued"] == 2
    manifest = json.loads((tmp_path / "p.jsonl.manifest.json").read_text())
    assert manifest["continuations"] == last["continuations"]


def test_a_plan_as_openai_requests_is_merged_alike(mprm, tmp_path):
    records = [record(COUNTS[0], 0, image=None), record(COUNTS[2], 1, image=None)]
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": records})
    plan = tmp_path / "p.jsonl"
    options = "--budget 12 --criterion flip --block 2 --form openai --model m"
    _, rows = planned(mprm, corpus, plan, options)
    body = rows[0]["body"]
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"].endswith("step 2 of 0\n\n")
    assert (body["model"], body["continue_final_message"]) == ("m", True)
    texts = ["Final answer: 3", "it is \\boxed{3.0}", "", "The answer is 4."]
    answers = answers_file(
        tmp_path / "a.jsonl",
        [
            {
                "custom_id": row["custom_id"],
                "response": {
                    "status_code": 200,
                    "body": {
                        "choices": [
                            {"message": {"content": texts[i % 4]}}
                            for i in range(row["body"]["n"])
                        ]
                    },
                },
                "error": None,
            }
            for row in rows
        ],
    )
    found = merged(mprm, corpus, plan, answers, tmp_path / "m").json
    n = [row["body"]["n"] for row in rows]
    assert found["successes"] == sum(sum(i % 4 < 2 for i in range(m)) for m in n)
    assert found["without_answer"] == sum(sum(i % 4 == 2 for i in range(m)) for m in n)
    assert found["trials"] == sum(n) - found["without_answer"]


@pytest.mark.parametrize(
    ("rule", "counts"), [("text", (1, 4)), ("math", (2, 3)), ("math wrong", (2, 4))]
)
def test_mathematics_says_what_is_the_record_s_answer(mprm, tmp_path, rule, counts):
    """3, 6/2 and 4; what nobody can compute has no answer, rather than a wrong one."""
    if rule != "text":
        pytest.importorskip("math_verify")
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": [record(COUNTS[0])]})
    plan = tmp_path / "p.jsonl"
    _, (row,) = planned(mprm, corpus, plan, "--budget 4 --criterion flip")
    given = {"id": row["id"], "answers": ["3", "6/2", "4", "9^{9^{9^9}}"]}
    answers = answers_file(tmp_path / "a.jsonl", [given])
    how = f"--answer-rule {rule}".replace(" wrong", " --unanswered wrong")
    found = merged(mprm, corpus, plan, answers, tmp_path / "m", how).json
    assert (found["successes"], found["trials"]) == counts
    assert found["without_answer"] == (rule != "text")


def test_equal_steps_are_planned_alike_in_whatever_order_they_stand(mprm, tmp_path):
    records = [record(COUNTS[0], i) for i in range(12)]
    found = []
    for name, rows in (("c", records), ("d", records[::-1])):
        corpus = write_corpus(tmp_path / name, {"a.jsonl": rows})
        _, asked = planned(mprm, corpus, tmp_path / f"{name}.jsonl", "--budget 12")
        found.append({(row["id"], row["n"]) for row in asked})
    assert found[0] == found[1]
    assert len(found[0]) < 12


def test_requests_show_the_pictures_of_their_record(mprm, small, tmp_path):
    write_pictures(tmp_path / "root" / "images", 3)
    options = "--budget 12 --criterion flip --form openai --images", tmp_path / "root"
    _, rows = planned(mprm, small, tmp_path / "p.jsonl", *options)
    assert rows
    for row in rows:
        picture, question = row["body"]["messages"][0]["content"]
        number = question["text"].split()[-1].strip("?")
        path = tmp_path / "root" / "images" / f"{number}.png"
        assert picture == {"type": "image_url", "image_url": {"url": path.as_uri()}}


@pytest.mark.parametrize("unanswered", ["skip", "wrong"])
def test_a_merge_changes_the_counts_and_nothing_else(mprm, small, tmp_path, unanswered):
    plan = tmp_path / "p.jsonl"
    _, rows = planned(mprm, small, plan, "--budget 8 --criterion flip --block 4")
    given = {1: ["3", "3.0", None, "4"], 4: [None, "x", "3", None]}
    answers = answers_file(
        tmp_path / "a.jsonl",
        [{"id": row["id"], "answers": given[row["line"]]} for row in rows],
    )
    out = tmp_path / "m"
    found = merged(mprm, small, plan, answers, out, f"--unanswered {unanswered}")
    assert found.status == 0, found.err
    before = (small / "one.jsonl").read_bytes().split(b"\n")
    after = (out / "one.jsonl").read_bytes().split(b"\n")
    assert len(before) == len(after)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == [0, 3]
    expected = {
        "skip": {0: (2, 7), 3: (1, 2)},
        "wrong": {0: (2, 8), 3: (1, 4)},
    }[unanswered]
    for i, (k, n) in expected.items():
        old, new = json.loads(before[i]), json.loads(after[i])
        j = {0: 2, 3: 1}[i]
        text = old["steps_with_score"][j]["step"]
        old["steps_with_score"][j] = step(k, n, text)
        assert new == old
        # What stands around the steps keeps its bytes, white space included.
        assert after[i].startswith(before[i].split(b'"steps_with_score"')[0])
        assert after[i].endswith(
            b'"extra": [1.5, "' + "é".encode() + b'"]}' + (b"\r" * (i == 3))
        )
    assert mprm("stats", out, "--json --unmeasured keep").status == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["added"] == [
        ["one.jsonl", 1, [[3, 2, expected[0][1] - 4]]],
        ["one.jsonl", 4, [[2, 1, expected[3][1]]]],
    ]


def test_what_would_count_twice_or_not_at_all_is_refused_with_its_place(
    mprm, small, tmp_path
):
    plan, out = tmp_path / "p.jsonl", tmp_path / "m"
    _, rows = planned(mprm, small, plan, "--budget 8 --criterion flip --block 4")
    good = [{"id": row["id"], "successes": 1, "trials": 4} for row in rows]
    path = tmp_path / "a.jsonl"

    def refused(answers, where, *more, corpus=small):
        answers_file(path, answers)
        found = merged(mprm, corpus, plan, path, out, *more)
        assert found.status == 1
        assert found.json["error"].startswith(str(where)), found.json
        assert not out.exists() or more

    first, second = good
    refused([first, second, first], f"{path}:3: id")
    refused([first, {**second, "id": "0-1"}], f"{path}:2: id 0-1")
    refused([first], f"{path}: no answers for 1")
    refused([first, {**second, "trials": 5}], f"{path}:2: 5 continuations")
    refused([{**second, "trials": 5}], f"{path}:1: 5 continuations", "--partial")
    refused([first, {**second, "trials": 3}], f"{path}:2: 3 continuations")
    refused([first, {**second, "successes": 9}], f"{path}:2: 9 successes")
    refused([first, {**second, "correct": [True] * 4}], f"{path}:2: answers in more")
    refused([first, {"id": second["id"]}], f"{path}:2: no answers")
    refused([first, 3], f"{path}:2: no answers")
    refused([{**first, "trials": 0, "successes": 0}], f"{path}: adds no", "--partial")
    answers_file(path, [first])
    assert merged(mprm, small, plan, path, out, "--partial").json["short"] == 4
    # The same once more, into what came of it; then with a plan of its own.
    assert merged(mprm, out, plan, path, tmp_path / "n").status == 1
    planned(mprm, out, tmp_path / "q.jsonl", "--budget 4 --block 4")
    found = merged(mprm, out, tmp_path / "q.jsonl", path, tmp_path / "n")
    assert found.status == 1
    assert "before" in found.json["error"]
    # A plan that was tampered with.
    text = plan.read_text()
    for changed, where in (
        (text + text.splitlines()[0] + "\n", f"{plan}:3: prefix"),
        (text.replace('"trials":4', '"trials":3', 1), f"{plan}:1: planned with"),
        (text.replace('"n":4', '"n":0', 1), f"{plan}:1: no prefix"),
        ("", f"{plan}: asks for nothing"),
    ):
        plan.write_text(changed)
        refused(good, where, "--partial")
    plan.write_text(text)
    data = small / "one.jsonl"
    data.write_bytes(data.read_bytes().replace(b"Because", b"Perhaps", 1))
    refused(good, f"{small}: one.jsonl", "--partial")


def test_a_record_without_an_answer_is_named(mprm, tmp_path):
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": [record(COUNTS[0], answer="")]})
    plan = tmp_path / "p.jsonl"
    _, rows = planned(mprm, corpus, plan, "--budget 4 --criterion flip")
    path = answers_file(
        tmp_path / "a.jsonl", [{"id": rows[0]["id"], "answers": ["3"] * 4}]
    )
    found = merged(mprm, corpus, plan, path, tmp_path / "m")
    assert found.status == 1
    assert f"{corpus}/a.jsonl:1:" in found.json["error"]
    correct = [{"id": rows[0]["id"], "correct": [True, None, False, True]}]
    answers_file(path, correct)
    assert merged(mprm, corpus, plan, path, tmp_path / "m").json["trials"] == 3


def test_copies_bad_lines_and_compressed_files_keep_their_places(mprm, tmp_path):
    same = line(record(COUNTS[0]))
    lines = [same, "no record", same, line(record(COUNTS[1], 1))]
    folder = tmp_path / "c"
    folder.mkdir()
    data = gzip.compress("\n".join(lines).encode())
    (folder / "a.jsonl.gz").write_bytes(data)
    plan, out = tmp_path / "p.jsonl", tmp_path / "m"
    options = "--max-bad 1 --budget 8 --criterion flip"
    _, rows = planned(mprm, folder, plan, options)
    assert [(row["line"], row["step"]) for row in rows] == [(1, 3), (3, 3)]
    answers = answers_file(
        tmp_path / "a.jsonl",
        [
            {
                "id": row["id"],
                "answers": ["3"] * row["line"] + ["4"] * (4 - row["line"]),
            }
            for row in rows
        ],
    )
    found = merged(mprm, folder, plan, answers, out, "--max-bad 1")
    assert found.status == 0, found.err
    after = (out / "a.jsonl").read_text().split("\n")
    assert [after[1], after[3]] == [lines[1], lines[3]]
    for i, k in ((0, 1), (2, 3)):
        assert json.loads(after[i])["steps_with_score"][2] == step(k, 8, "step 2 of 0")
    kept = "select --max-bad 1 --json --output", tmp_path / "s.jsonl"
    assert mprm(*kept, out).json["subset"]["rollouts"] == 1


def test_scores_without_counts_get_them_and_other_files_are_refused(mprm, tmp_path):
    bare = record(COUNTS[0], image=None)
    for of in bare["steps_with_score"]:
        del of["num_mc_correct"], of["num_mc_total"]
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": [bare]})
    array = tmp_path / "d"
    array.mkdir()
    (array / "a.json").write_text("[" + line(record(COUNTS[0])) + "]")
    plan, answers = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    assert mprm("annotate plan", corpus, "--budget 4 --output", plan).status == 1
    for folder, status in ((corpus, 0), (array, 1)):
        _, rows = planned(mprm, folder, plan, "--budget 4 --criterion flip --trials 4")
        answers_file(answers, [{"id": rows[0]["id"], "successes": 1, "trials": 4}])
        out = tmp_path / f"m{status}"
        found = merged(mprm, folder, plan, answers, out, "--trials 4")
        assert found.status == status, found.err
        assert out.exists() is (status == 0)
    (after,) = (tmp_path / "m0" / "a.jsonl").read_text().splitlines()
    assert json.loads(after)["steps_with_score"][2] == step(1, 8, "step 2 of 0")
    # Requests do not say with which N they were planned; their manifest does.
    options = "--budget 4 --criterion flip --trials 4 --form openai"
    (row,) = planned(mprm, corpus, plan, options)[1]
    answers_file(answers, [{"id": row["custom_id"], "successes": 1, "trials": 4}])
    found = merged(mprm, corpus, plan, answers, tmp_path / "m2", "--trials 8")
    assert found.status == 1
    assert found.json["error"].startswith(str(plan))


def test_no_output_takes_the_place_of_an_input(mprm, tmp_path):
    world = tmp_path / "world"
    write_world(world, PLENTIFUL, rollouts=20, judged=5, problems=5, seed=4)
    data = sorted((world / "annotations").glob("*.jsonl"))
    plan, answers = tmp_path / data[0].name, tmp_path / data[1].name
    _, rows = planned(mprm, world, plan, "--budget 20 --no-cache")
    answers_file(answers, [{"id": r["id"], "answers": ["3"] * r["n"]} for r in rows])
    manifest = tmp_path / (plan.name + ".manifest.json")
    made = world / "manifest.json"
    inputs = {
        path: path.read_bytes() for path in (*data, plan, answers, manifest, made)
    }
    again = tmp_path / "p.html"
    for words, outputs in (
        (f"annotate plan {world} --budget 20 --output", (data[0], made)),
        (
            f"annotate plan {world} --budget 20 --output {again} --page",
            (data[0], made, again),
        ),
        (
            f"annotate run {world} --plan {plan} --output",
            (data[0], plan, manifest, made),
        ),
        (
            f"annotate merge {world} --plan {plan} --answers {answers} --output",
            (world, world / "annotations", tmp_path),
        ),
    ):
        for output in outputs:
            status = 2 if output == again else 1
            assert (
                mprm(
                    words,
                    output,
                    "--json --no-cache" if "run" not in words else "--json",
                ).status
                == status
            ), (words, output)
    assert {path: path.read_bytes() for path in inputs} == inputs
    assert not again.exists()


def test_a_merge_of_what_it_cannot_name_or_hold(mprm, small, tmp_path):
    plan, answers = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    # A manifest of somebody else's beside the corpus says nothing of merges.
    (small / "manifest.json").write_text('{"merged": 5}')
    _, (row, *_) = planned(mprm, small, plan, "--budget 8 --criterion flip")
    answers_file(answers, [{"id": row["id"], "successes": 1, "trials": 4}])
    found = merged(mprm, small, plan, answers, tmp_path / "m", "--partial")
    assert found.json["rounds"] == 1
    # What a killed run left is no stranger; another corpus is let alone.
    (tmp_path / "m" / ".one.jsonl.0123456789abcdef.partial").write_text("{}")
    found = merged(mprm, small, plan, answers, tmp_path / "m", "--partial")
    assert found.status == 0, found.err
    (tmp_path / "n" / "annotations").mkdir(parents=True)
    assert merged(mprm, small, plan, answers, tmp_path / "n", "--partial").status == 1
    assert [path.name for path in (tmp_path / "n").iterdir()] == ["annotations"]
    (tmp_path / "n" / "annotations").rmdir()
    # More than a record may hold.
    plan.write_text(plan.read_text().replace('"n":4', '"n":65532', 1))
    answers_file(answers, [{"id": row["id"], "successes": 1, "trials": 65532}])
    found = merged(mprm, small, plan, answers, tmp_path / "n", "--partial")
    assert found.status == 1
    assert found.json["error"].startswith(f"{small}/one.jsonl:1:")
    # Two files that would be one.
    (small / "one.jsonl.gz").write_bytes(
        gzip.compress(line(record(COUNTS[0], 9)).encode())
    )
    _, (row, *_) = planned(mprm, small, plan, "--budget 8 --criterion flip")
    answers_file(answers, [{"id": row["id"], "successes": 1, "trials": row["n"]}])
    found = merged(mprm, small, plan, answers, tmp_path / "n", "--partial")
    assert found.status == 1
    assert found.json["error"].startswith(f"{small}/one.jsonl.gz:")
    assert not list((tmp_path / "n").iterdir())


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--budget 0", 2),
        ("--budget 3", 1),
        ("--budget 100 --most 4 --criterion information", 1),
        ("", 2),
        ("--budget 8 --block 0", 2),
        ("--budget 8 --rule random", 2),
        ("--budget 8 --unmeasured negative", 2),
        ("--budget 8 --model m", 2),
    ],
)
def test_budgets_that_buy_nothing_and_options_out_of_range(
    mprm, tmp_path, words, status
):
    corpus = write_corpus(tmp_path / "c", {"a.jsonl": [record(COUNTS[0])]})
    found = mprm("annotate plan", corpus, "--json --output", tmp_path / "p", words)
    assert found.status == status
    assert found.json["error"]
    assert not (tmp_path / "p").exists()


def test_the_policy_continues_its_own_world_and_the_counts_stay_true(mprm, tmp_path):
    """A plan in two rounds: all that is added follows the exact r of its step."""
    world = tmp_path / "world"
    write_world(world, PLENTIFUL, rollouts=60, judged=5, problems=5, seed=4)
    truth = read_truth(world, read_corpus(world, use_cache=False))
    r = np.array([value for of in truth for value in of.r])
    corpus, z, added_trials = world, [], []
    plan = answers = out = tmp_path
    start = read_corpus(world, use_cache=False).rollouts
    for number, criterion in enumerate(("information", "cut")):
        plan, answers = tmp_path / f"p{number}.jsonl", tmp_path / f"a{number}.jsonl"
        out = tmp_path / f"m{number}"
        page = "--most 64 --page", tmp_path / "page.html"
        options = f"--budget 600 --no-cache --criterion {criterion}"
        value, _ = planned(mprm, corpus, plan, options, *page)
        made = mprm(
            "annotate run", corpus, "--plan", plan, "--output", answers, "--json"
        )
        assert made.json["answers"] == value["continuations"] > 300
        again = tmp_path / "again.jsonl"
        for seed in (1, 0):
            words = "--json --output", again, f"--seed {seed}"
            assert mprm("annotate run", corpus, "--plan", plan, *words).status == 0
            same = again.read_bytes() == answers.read_bytes()
            assert same is (seed == 0)
        # Another plan, of the same prefixes: other continuations.
        text = plan.read_bytes()
        plan.write_bytes(text + b"\n")
        assert mprm("annotate run", corpus, "--plan", plan, *words).status == 0
        assert again.read_bytes() != answers.read_bytes()
        plan.write_bytes(text)
        found = merged(mprm, corpus, plan, answers, out, "--no-cache")
        assert found.status == 0, found.err
        now = read_corpus(out, use_cache=False).rollouts
        added = now.trials.astype(int) - start.trials
        k = now.successes.astype(int) - start.successes
        assert added.sum() == found.json["trials"] == value["continuations"]
        assert k.sum() == found.json["successes"]
        added_trials.append(found.json["trials"])
        variance = (added * r * (1 - r)).sum()
        z.append((k.sum() - (added * r).sum()) / np.sqrt(variance))
        assert np.all(k[added > 0][r[added > 0] == 0] == 0)
        start, corpus = now, out
    assert np.abs(z).max() < 4
    rounds = json.loads((out / "manifest.json").read_text())["merged"]
    assert [of["trials"] for of in rounds] == added_trials
    html = (tmp_path / "page.html").read_text()
    # Without its contents the page has one column, as wide as they are.
    assert (html.count("<svg"), html.count("<nav")) == (2, 1)
    # Typed again, the page's command makes the same plan.
    (command,) = re.findall("mprm (annotate plan .*)</pre>", html)
    same = tmp_path / "same.jsonl"
    assert mprm(command.replace(str(plan), str(same))).status == 0
    assert same.read_bytes() == plan.read_bytes()
    assert mprm("stats", corpus, "--json --no-cache").status == 0
    # Another world's prefixes, and a corpus of no world.
    other = tmp_path / "other"
    write_world(other, PLENTIFUL, rollouts=60, judged=5, problems=5, seed=5)
    for folder in (other, tmp_path):
        found = mprm("annotate run", folder, "--plan", plan, "--json --output", answers)
        assert found.status == 1


def test_plan_and_merge_start_without_jax(small, tmp_path):
    script = (
        "import sys; from experiments.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 'jax' in sys.modules)"
    )
    words = ["annotate", "plan", str(small), "--budget", "8", "--output"]
    subprocess.run(
        [sys.executable, "-c", script, *words, str(tmp_path / "p.jsonl")], check=True
    )


def test_of_equal_steps_the_right_one_is_counted_anew_and_empty_ones_are_passed_over():
    steps = [step(1, 4, "a"), step(0, 4, " "), step(1, 4, "a"), step(1, 4, "a")]
    old = record(steps_with_score=steps)
    new = json.loads(recount(line(old).encode(), {1: (3, 6)}))
    steps[2] = step(3, 6, "a")
    assert new == old
    # The same bytes elsewhere in the line are something else.
    old = {"raw": {"steps_with_score": [step(1, 4)]}} | record([(1, 4)], 0)
    old["steps_with_score"] = [step(1, 4)]
    new = json.loads(recount(line(old).encode(), {0: (3, 6)}))
    assert new == old | {"steps_with_score": [step(3, 6)]}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First \\boxed{1}, then \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}"),
        ("\\boxed{2", None),
        ("The answer is 3\nFinal answer: **12.5**", "12.5"),
        ("Final answer is: blue.", "blue"),
        ("Final Answer: The final answer is $4$. I hope it is correct.", "4"),
        ("Final answer:\n\n4\nDone", "4"),
        ("so the answer is", None),
        ("", None),
    ],
)
def test_the_final_answer_of_a_text(text, answer):
    assert final_answer(text) == answer
