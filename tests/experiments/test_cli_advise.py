"""`mprm advise` as a user meets it: on worlds whose gains are planted."""

import json

import msgspec
import numpy as np
import pytest

from experiments.cli import main
from experiments.cli.advise import KEEP_RATIOS, REFERENCE, load_advisor
from experiments.map.advisor import fit_advisor, inputs
from experiments.map.design import ARMS
from experiments.store.results import append_results, store_path
from mprm_jax.data.problems import DataError
from tests.cli import run
from tests.experiments.map_worlds import world, write_worlds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advised") / "corpus"
    main(["simulate", "corpus", "--output", str(folder), "--scale", "0.01"])
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
        x = inputs(found["measures"], advice["keep_ratio"], advice["updates"])
        for treated, baseline in (("bis", "random"), ("low-mc", "full")):
            expected = advisor.predict((treated, baseline), x)._asdict()
            assert advice["gains"][f"{treated} - {baseline}"] == pytest.approx(expected)
    page = run(capsys, *asked).out
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
    assert "recommended: all data" in run(capsys, *asked).out


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


def test_odd_numbers_are_refused(corpus, capsys):
    for option in ("--batch", "--passes"):
        assert run(capsys, "advise", corpus, option, "0").status == 2


@pytest.mark.parametrize("count", [0, 10, 40])
def test_a_store_with_fewer_worlds_does_not_hide_the_reference(
    count, corpus, tmp_path, capsys
):
    write_worlds(tmp_path, lambda keep: 0.2, count)
    found = run(capsys, "advise", corpus, "--results", tmp_path, "--json").json
    assert (found["worlds"], found["results"]) == (205, str(REFERENCE))


def test_held_out_worlds_do_not_decide_which_folder_is_read(tmp_path):
    training = write_worlds(tmp_path / "a", lambda keep: 0.0, 100)
    rng = np.random.default_rng(1)
    held_out = [world(i, rng, lambda keep, mixed: 0.0) for i in range(4, 1000, 5)]
    append_results(tmp_path / "b", [*training[:30], *held_out])
    _, worlds, used = load_advisor(tmp_path / "b", tmp_path / "a")
    assert (worlds, used) == (80, tmp_path / "a")
    assert load_advisor(tmp_path / "a", tmp_path / "a")[2] == tmp_path / "a"


def test_the_advisor_has_each_world_once_and_of_one_seed(tmp_path):
    training = write_worlds(tmp_path, lambda keep: 0.01, 100)
    alone = load_advisor(tmp_path, tmp_path)[0]
    rng = np.random.default_rng(1)
    other = [world(i, rng, lambda keep, mixed: -0.1) for i in range(500)]
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


def in_arms(world):
    return world["metrics"]["arms"]


DAMAGES = {
    "metrics are no numbers": lambda world: world["metrics"].update(updates="many"),
    "null gains": lambda world: in_arms(world)["bis"].update(micro_f1=[None] * 20),
    "no measures": lambda world: world["metrics"].pop("measures"),
    "a null measure": lambda world: world["metrics"]["measures"].update(mean_mc=None),
    "no held_out": lambda world: world["config"].pop("held_out"),
    "no index": lambda world: world["config"].pop("index"),
    "nothing mixed": lambda world: world["metrics"]["measures"].update(mixed_share=0),
    "keep ratio 0": lambda world: world["config"]["axes"].update(keep_ratio=0),
    "no updates": lambda world: world["metrics"].update(updates=0),
    "unequal arms": lambda world: in_arms(world)["bis"].update(micro_f1=[0.5] * 19),
    "one seed": lambda world: in_arms(world).update(
        {name: {"micro_f1": [0.5]} for name in ARMS}
    ),
    "no arm": lambda world: in_arms(world).pop("mixed"),
    "arms in a list": lambda world: world["metrics"].update(arms=[]),
    "no metrics": lambda world: world.update(metrics={}),
    "no seed": lambda world: world.update(seed=None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_results_are_refused_by_file_and_cell(damage, corpus, tmp_path, capsys):
    write_worlds(tmp_path, lambda keep: 0.0, 40)
    path = store_path(tmp_path, "regimes")
    lines = path.read_bytes().splitlines()
    world = json.loads(lines[6])
    damage(world)
    lines[6] = json.dumps(world).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = run(capsys, "advise", corpus, "--results", tmp_path)
    assert (done.status, done.out) == (1, "")
    assert f"{path}: cell 7 is no world of the map (" in done.err.splitlines()[-1]
