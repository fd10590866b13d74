"""Subsets can be derived again, simulations repeat, and every change is noticed."""

import pytest

from tests.cli import run


@pytest.mark.parametrize("compat", [(), ("--compat", "official")])
def test_verify_confirms_a_subset_and_finds_every_change(
    compat, corpus, tmp_path, capsys
):
    output = tmp_path / "subset.jsonl"
    chosen = (*compat, "--keep-ratio", "0.3", "--output", output)
    run(capsys, "select", corpus, *chosen)
    assert run(capsys, "verify", output).status == 0
    verified = run(capsys, "verify", output, "--json").json
    assert verified["verified"]
    assert compat or len(verified["checks"]) >= 6

    whole = output.read_bytes()
    output.write_bytes(whole.replace(b"picture", b"Picture", 1))
    assert run(capsys, "verify", output).status == 1
    output.write_bytes(whole)

    manifest = tmp_path / "subset.jsonl.manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"keep_ratio":0.3', '"keep_ratio":0.4'))
    changed = run(capsys, "verify", output, "--json")
    assert changed.status == 1
    assert not changed.json["verified"]
    if not compat:
        for old, new in (('"rows": [', '"rows": [0,'), ('"blank":0', '"blank":1')):
            manifest.write_text(text.replace(old, new, 1))
            assert run(capsys, "verify", output).status == 1
    manifest.write_text(text)
    assert run(capsys, "verify", output).status == 0

    path = corpus / "ChartQA.jsonl"
    path.write_text(path.read_text().replace("Because", "because", 1))
    failed = run(capsys, "verify", output)
    assert failed.status == 1
    assert "FAIL  ChartQA.jsonl is unchanged" in failed.out


def test_verify_needs_a_manifest(corpus, tmp_path, capsys):
    output = tmp_path / "x.jsonl"
    output.write_text("{}\n")
    failed = run(capsys, "verify", output)
    assert (failed.status, "has its manifest beside it" in failed.err) == (1, True)
    for text in ("", "[]", "{}", '{"schema": "mprm-subset/1"}', '{"schema": 3}'):
        (tmp_path / "x.jsonl.manifest.json").write_text(text)
        failed = run(capsys, "verify", output)
        assert failed.status == 1
        assert len(failed.err.splitlines()) == 1
        assert "x.jsonl.manifest.json: " in failed.err


def test_simulated_corpora_read_like_real_ones(tmp_path, capsys):
    arguments = ["simulate", "corpus", "--scale", "0.002", "--json", "--output"]
    made = run(capsys, *arguments, tmp_path / "a").json
    run(capsys, *arguments, tmp_path / "b")
    files = sorted((tmp_path / "a" / "annotations").iterdir())
    assert len(files) == 38
    for file in files:
        assert (
            file.read_bytes()
            == (tmp_path / "b" / "annotations" / file.name).read_bytes()
        )
    read = run(capsys, "stats", tmp_path / "a", "--json").json
    for key in ("rollouts", "steps", "error_step_ratio", "mixed_share"):
        assert read["overall"][key] == made["overall"][key]
    stopped = tmp_path / "stopped"
    run(capsys, *arguments, stopped, "--early-stop")
    assert run(capsys, "stats", stopped).status == 1
    dropped = run(capsys, "stats", stopped, "--unmeasured", "drop", "--json").json
    assert dropped["counts"]["unmeasured_steps"] > 0


def test_what_each_rule_keeps(tmp_path, capsys):
    arguments = ["run", "kept", "--scale", "0.004", "--output", tmp_path, "--json"]
    result = run(capsys, *arguments).json
    rules = result["rules"]
    assert set(rules) == {"random", "bis", "mixed", "low-mc", "reliable"}
    assert len({row["rollouts"] for row in rules.values()}) == 1
    assert rules["mixed"]["mixed_share"] >= rules["bis"]["mixed_share"]
    assert rules["bis"]["mixed_share"] > rules["random"]["mixed_share"]
    # The true success probabilities are joined to the right rollouts: all of a
    # reliable subset's positives are sound, most of the low-MC subset's are not.
    assert rules["reliable"]["false_positive_share"] < 0.01
    assert rules["low-mc"]["false_positive_share"] > 0.4
    before = (tmp_path / "kept.jsonl").read_bytes()
    assert run(capsys, *arguments).json == result
    assert (tmp_path / "kept.jsonl").read_bytes() == before
