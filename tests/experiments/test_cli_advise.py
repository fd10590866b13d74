"""`mprm advise` as a user meets it: on worlds whose gains are planted."""

import numpy as np
import pytest

from experiments.advisor_model import fit_advisor
from experiments.cli.advise import KEEP_RATIOS
from experiments.regimes import ARMS
from experiments.regimes_design import AXES
from experiments.store import Result, append_results
from tests.cli import run


def planted(i, rng, gain):
    """A world that looks like any other; ``gain`` of bis over all data, by keep ratio.

    Its looks span those of the corpus that the tests simulate.
    """
    keep = float(rng.choice(AXES["keep_ratio"]))
    measures = {
        "mixed_share": float(np.exp(rng.uniform(np.log(0.02), np.log(0.3)))),
        "error_step_ratio": float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))),
        "mean_mc": float(rng.uniform(0.6, 1.0)),
        "between_share": float(rng.uniform(0.2, 0.9)),
        "low_positive_share": float(rng.uniform(0, 0.1)),
        "mixed_reliability": float(rng.uniform(0.1, 0.7)),
    }
    base = rng.normal(0.7, 0.01, 20)
    arms = {name: {"micro_f1": (base - 0.05).tolist()} for name in ARMS}
    arms["full"] = {"micro_f1": base.tolist()}
    noise = rng.normal(0, 0.001)
    arms["bis"] = {"micro_f1": (base + gain(keep) + noise).tolist()}
    updates = float(np.exp(rng.uniform(np.log(5), np.log(2000))))
    metrics = {"measures": measures, "updates": updates, "arms": arms}
    config = {"axes": {"keep_ratio": keep}, "held_out": i % 5 == 4, "index": i}
    return Result("regimes", config, 0, metrics)


def write_worlds(folder, gain):
    rng = np.random.default_rng(0)
    worlds = [planted(i, rng, gain) for i in range(200)]
    append_results(folder, worlds)
    return [w for w in worlds if not w.config["held_out"]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    import contextlib
    import io

    from experiments.cli import main

    folder = tmp_path_factory.mktemp("advised") / "corpus"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["simulate", "corpus", "--output", str(folder), "--scale", "0.01"])
    return folder


def test_a_rule_that_surely_gains_is_recommended(corpus, tmp_path, capsys):
    worlds = write_worlds(tmp_path, lambda keep: 0.02 - 0.01 * np.log(keep))
    asked = ["advise", corpus, "--results", tmp_path, "--batch", "16"]
    found = run(capsys, *asked, "--json").json
    assert found["worlds"] == 160
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
        x = np.array(
            [
                np.log(found["measures"]["mixed_share"]),
                np.log(found["measures"]["error_step_ratio"]),
                found["measures"]["mean_mc"],
                found["measures"]["between_share"],
                found["measures"]["low_positive_share"],
                found["measures"]["mixed_reliability"],
                np.log(advice["keep_ratio"]),
                np.log(advice["keep_ratio"] / found["measures"]["mixed_share"]),
                np.log(advice["updates"]),
            ]
        )
        for treated, baseline in (("bis", "random"), ("low-mc", "full")):
            expected = advisor.predict((treated, baseline), x)._asdict()
            assert advice["gains"][f"{treated} - {baseline}"] == pytest.approx(expected)
    page = run(capsys, *asked).out
    assert "recommended: --rule bis --keep-ratio 0.05 --alpha 0.05" in page
    assert max(map(len, page.splitlines()[:-1])) <= 100


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


def test_too_few_worlds_and_odd_numbers_are_refused(corpus, tmp_path, capsys):
    rng = np.random.default_rng(0)
    append_results(tmp_path, [planted(i, rng, lambda keep: 0.0) for i in range(10)])
    few = run(capsys, "advise", corpus, "--results", tmp_path)
    assert few.status == 1
    assert "at least 20 worlds, not 8; mprm run regimes makes them" in few.err
    for option in ("--batch", "--passes"):
        assert run(capsys, "advise", corpus, option, "0").status == 2


def test_the_package_brings_worlds_of_its_own(corpus, tmp_path, capsys):
    done = run(capsys, "advise", corpus, "--results", tmp_path / "none", "--json")
    assert done.json["worlds"] == 205
