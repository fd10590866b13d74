"""`mprm advise` as a user meets it: on worlds whose gains are planted."""

import functools
import json

import msgspec
import numpy as np
import pytest

from experiments.cli import main
from experiments.cli.advise import KEEP_RATIOS, load_advisor
from experiments.map.advisor import fit_advisor
from experiments.map.design import ARMS
from experiments.map.worlds import read_worlds
from experiments.store.results import REFERENCE, append_results, store_path
from mprm_jax.records.problems import DataError
from tests.cli import run
from tests.experiments.map_worlds import lossy_world, write_worlds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advised") / "corpus"
    assert main(["simulate", "corpus", "--output", str(folder)]) == 0
    return folder


def test_a_rule_that_surely_gains_is_recommended(corpus, tmp_path, capsys):
    worlds = write_worlds(tmp_path, lambda keep: 0.02 - 0.01 * np.log(keep))
    asked = ["advise", corpus, "--results", tmp_path, "--batch", "16"]
    found = run(capsys, *asked, "--json").json
    assert (found["worlds"], found["results"]) == (240, str(tmp_path))
    best = found["recommended"]
    assert best["told_apart"]
    # BIS gains most at the smallest keep ratio, and all others lose.
    assert (best["rule"], best["alpha"]) == ("bis", 0.05)
    assert best["keep_ratio"] == min(KEEP_RATIOS)
    assert best["over_all_data"]["gain"] == pytest.approx(
        0.02 - 0.01 * np.log(0.05), abs=0.004
    )
    # The same numbers as the library's, from the measures that were printed.
    advisor = fit_advisor(worlds)
    for advice in found["keep_ratios"]:
        assert not advice["outside"]
        of, keep = found["measures"], advice["keep_ratio"]
        logs = [of["mixed_share"], of["error_step_ratio"]]
        plain = ("mean_mc", "between_share", "low_positive_share", "mixed_reliability")
        last = [keep, keep / of["mixed_share"], advice["updates"]]
        x = np.array([*np.log(logs), *map(of.get, plain), *np.log(last)])
        for treated, baseline in (("bis", "random"), ("low-mc", "full")):
            expected = advisor.predict((treated, baseline), x)._asdict()
            assert advice["gains"][f"{treated} - {baseline}"] == pytest.approx(expected)
    page = run(capsys, *asked).out
    assert f"compared with 240 simulated worlds: {tmp_path}\n" in page
    assert "recommended: --rule bis --keep-ratio 0.05 --alpha 0.05" in page
    lines = [line for line in page.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 100


def test_where_no_rule_surely_gains_all_data_are_recommended(corpus, tmp_path, capsys):
    write_worlds(tmp_path, lambda keep: -0.02)
    asked = ["advise", corpus, "--results", tmp_path, "--batch", "16"]
    found = run(capsys, *asked, "--json").json["recommended"]
    assert (found["rule"], found["keep_ratio"]) == (None, 1.0)
    assert not found["told_apart"]
    assert {one["rule"] for one in found["if_a_share"]} == {"bis"}
    page = run(capsys, *asked).out
    assert "recommended: all data" in page
    assert "if only a share can be trained on" in page


def test_a_corpus_outside_is_not_guessed_at(corpus, tmp_path, capsys):
    write_worlds(tmp_path, lambda keep: 0.01)
    far = ["advise", corpus, "--results", tmp_path, "--batch", "1", "--passes", "5000"]
    found = run(capsys, *far)
    assert found.status == 1
    assert "outside what was simulated (log updates on the subset)" in found.err
    assert "recommended" not in found.out
    assert run(capsys, *far, "--json").json["recommended"] is None


def test_too_few_worlds_everywhere_are_refused(tmp_path):
    write_worlds(tmp_path, lambda keep: 0.0, count=10)
    message = f"{tmp_path}: .* at least 20 worlds, not 8; mprm run regimes makes them"
    with pytest.raises(DataError, match=message):
        load_advisor(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("count", [0, 10, 40])
def test_a_store_with_fewer_worlds_does_not_hide_the_reference(
    count, corpus, tmp_path, capsys
):
    write_worlds(tmp_path, lambda keep: 0.2, count)
    asked = ["advise", corpus, "--results", tmp_path]
    found = run(capsys, *asked, "--json").json
    assert (found["worlds"], found["results"]) == (205, str(REFERENCE))
    page = run(capsys, *asked).out
    assert f"compared with 205 simulated worlds: {REFERENCE}\n" in page


def test_held_out_worlds_do_not_decide_which_folder_is_read(tmp_path):
    training = write_worlds(tmp_path / "a", lambda keep: 0.0, 100)
    rng = np.random.default_rng(1)
    held_out = [lossy_world(i, rng, lambda keep: 0.0) for i in range(4, 1000, 5)]
    append_results(tmp_path / "b", [*training[:30], *held_out])
    _, worlds, used = load_advisor(tmp_path / "b", tmp_path / "a")
    assert (worlds, used) == (80, tmp_path / "a")
    assert load_advisor(tmp_path / "a", tmp_path / "a")[2] == tmp_path / "a"


def test_the_advisor_has_each_world_once_and_of_one_seed(tmp_path):
    training = write_worlds(tmp_path, lambda keep: 0.01, 100)
    alone = load_advisor(tmp_path, tmp_path)[0]
    rng = np.random.default_rng(1)
    other = [lossy_world(i, rng, lambda keep: -0.1) for i in range(500)]
    append_results(tmp_path, [msgspec.structs.replace(w, seed=2) for w in other])
    # The first world again, under a configuration that makes it another cell.
    again = msgspec.structs.replace(
        training[0], config=training[0].config | {"seeds": 20}
    )
    append_results(tmp_path, [again])
    found, worlds, _ = load_advisor(tmp_path, tmp_path)
    assert worlds == 80
    np.testing.assert_array_equal(found.seen, alone.seen)
    x = alone.seen[0]
    assert found.predict(("bis", "full"), x) == alone.predict(("bis", "full"), x)


@pytest.mark.parametrize(("seeds", "readable"), [(20, True), (19, False)])
def test_worlds_may_have_the_arm_that_was_added_later(tmp_path, seeds, readable):
    rng = np.random.default_rng(1)
    worlds = [lossy_world(i, rng, lambda keep: 0.0) for i in range(2)]
    worlds[1].metrics["arms"]["contrast"] = {"micro_f1": [0.5] * seeds}
    append_results(tmp_path, worlds)
    if readable:
        assert len(read_worlds(tmp_path)) == 2
        return
    with pytest.raises(DataError, match="unequal numbers of seeds"):
        read_worlds(tmp_path)


# Where in a world, and what stands there instead; None: the key is missing.
DAMAGES = [
    ("metrics.updates", "many"),
    ("metrics.updates", 0),
    ("metrics.arms.bis.micro_f1", [None] * 20),
    ("metrics.arms.bis.micro_f1", [0.5] * 19),
    ("metrics.arms", {name: {"micro_f1": [0.5]} for name in ARMS}),
    ("metrics.arms", []),
    ("metrics.arms.mixed", None),
    ("metrics.measures", None),
    ("metrics.measures.mean_mc", "null"),
    ("metrics.measures.mixed_share", 0),
    ("metrics", {}),
    ("config.held_out", None),
    ("config.index", None),
    ("config.axes.keep_ratio", 0),
    ("seed", "null"),
]


@pytest.mark.parametrize(("where", "value"), DAMAGES)
def test_damaged_results_are_refused_by_file_and_cell(
    where, value, corpus, tmp_path, capsys
):
    write_worlds(tmp_path, lambda keep: 0.0, 40)
    path = store_path(tmp_path, "regimes")
    lines = path.read_bytes().splitlines()
    world = json.loads(lines[6])
    *path_to, key = where.split(".")
    part = functools.reduce(dict.__getitem__, path_to, world)
    part.pop(key)
    if value is not None:
        part[key] = None if value == "null" else value
    lines[6] = json.dumps(world).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = run(capsys, "advise", corpus, "--results", tmp_path)
    assert (done.status, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert f"{path}: cell 7 is no world of the map (" in last
    assert "Traceback" not in done.err
    assert "makes them" not in done.err
