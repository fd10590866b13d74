"""`mprm select --scores`: a table of anyone's scores is joined, or refused with its
place.
"""

import json

import numpy as np
import pandas as pd
import pytest

from mprm_jax.data.outputs import manifest_path, read_manifest
from tests.raw_files import random_records, write_corpus


@pytest.fixture
def scored(tmp_path, mprm, corpus):
    """What `mprm score` writes of the corpus, as a table."""
    return scores_of(mprm, corpus, tmp_path / "scores.jsonl")


def scores_of(mprm, corpus, path):
    # pandas' own reader and writer of JSON round, and rounded scores tie otherwise.
    assert mprm("score", corpus, "--output", path).status == 0
    return pd.DataFrame(map(json.loads, path.read_text().splitlines()))


def save(table, path):
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        rows = [json.dumps(row) for row in table.to_dict("records")]
        text = "\n".join(rows) if path.suffix == ".jsonl" else f"[{','.join(rows)}]"
        path.write_text(text)
    return path


def selects(mprm, corpus, scores, output, *more):
    return mprm(
        "select", corpus, "--scores", scores, "--column bis --output", output, *more
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
@pytest.mark.parametrize("by", ["id", "file and line", "order"])
def test_bis_as_somebody_s_own_scores_keeps_what_bis_keeps(
    suffix, by, tmp_path, mprm, corpus, scored
):
    table = scored
    if by != "id":
        table = table.drop(columns="id")
    if by == "order":
        table = table.drop(columns=["file", "line"])
    else:
        table = table.sample(frac=1, random_state=0)
    output, theirs = tmp_path / "mine.jsonl", tmp_path / "bis.jsonl"
    done = selects(mprm, corpus, save(table, tmp_path / f"s{suffix}"), output)
    assert done.status == 0, done.err
    assert mprm("select", corpus, "--output", theirs).status == 0
    assert output.read_bytes() == theirs.read_bytes()
    mine, bis = read_manifest(output), read_manifest(theirs)
    assert mine["selection"]["joined_by"] == by
    for name in ("rows", "cuts", "tied_share", "subset", "counts"):
        assert mine[name] == bis[name]


def test_the_largest_are_kept_with_the_budgets_of_a_rule(
    tmp_path, mprm, corpus, scored
):
    scored["bis"] = np.random.default_rng(0).normal(size=len(scored))
    output = tmp_path / "mine.jsonl"
    table = save(scored, tmp_path / "s.csv")
    done = selects(mprm, corpus, table, output, "--global --keep-ratio 0.2 --json")
    best = scored.nlargest(30, "bis").index
    assert done.json["cuts"][0]["budget"] == 30
    assert read_manifest(output)["rows"] == sorted(best.tolist())


def test_verify_selects_again_where_the_scores_are_and_says_where_they_are_not(
    tmp_path, mprm, corpus, scored
):
    output, table = tmp_path / "mine.jsonl", tmp_path / "s.csv"
    selects(mprm, corpus, save(scored, table), output)
    checks = mprm("verify", output, "--json").json["checks"]
    assert sum("selecting again" in check["what"] for check in checks) == 1
    manifest = manifest_path(output)
    text = manifest.read_text()
    rows = json.loads(text)["rows"]
    other = next(row for row in range(len(scored)) if row not in rows)
    moved = sorted([other, *rows[1:]])
    old, new = (json.dumps(of, separators=(",", ":")) for of in (rows, moved))
    manifest.write_text(text.replace(old, new))
    assert mprm("verify", output).status == 1
    manifest.write_text(text)
    away = table.rename(tmp_path / "away.csv")
    unchecked = mprm("verify", output, "--json")
    assert unchecked.status == 0
    assert not any("again the" in check["what"] for check in unchecked.json["checks"])
    assert mprm("verify", output, "--scores", away).status == 0
    away.write_text(away.read_text().replace("file,", "file ,"))
    assert mprm("verify", output, "--scores", away).status == 1
    by_rule = tmp_path / "bis.jsonl"
    mprm("select", corpus, "--output", by_rule)
    assert mprm("verify", by_rule, "--scores", away).status == 2


def test_rollouts_of_equal_bytes_share_a_row_or_have_one_each(tmp_path, mprm):
    records = random_records(np.random.default_rng(0), 10)
    corpus = write_corpus(
        tmp_path / "twice", {"a.jsonl": [*records, records[0]], "b.jsonl": records[:1]}
    )
    table = scores_of(mprm, corpus, tmp_path / "scores.jsonl")
    output, path = tmp_path / "mine.jsonl", tmp_path / "s.jsonl"

    def kept(table):
        done = selects(mprm, corpus, save(table, path), output, "--keep-ratio 0.1")
        return read_manifest(output)["rows"] if done.status == 0 else done.err

    table["bis"] = 0.0
    table.loc[[0, 10], "bis"] = 5.0, 7.0
    # The eleventh line of a.jsonl, as its place says, in whatever order rows come.
    assert kept(table) == kept(table[::-1]) == [10, 11]
    placeless = table.drop(columns=["file", "line"])
    assert f"{path}:11: " in kept(placeless)
    table["bis"] = 1.0
    assert kept(table.drop_duplicates("id")) == kept(placeless.assign(bis=1.0))
    assert f"{path}:2: " in kept(table.iloc[[0, 0, *range(1, 12)]])


def spoil(table, name):
    """The table with one fault, and the row (from 0) that it is in."""
    bis = table.columns.get_loc("bis")
    if name == "missing":
        return table.drop(index=5), None
    if name == "doubled":
        return pd.concat([table, table.iloc[[3]]]), len(table)
    if name == "foreign":
        table.loc[7, "id"] = "0123456789abcdef"
        return table, 7
    if name == "no id":
        table.loc[4, "id"] = None
        return table, 4
    if name == "other id":
        table.loc[0, "id"] = "question-7"
        return table, 0
    table["bis"] = table["bis"].astype(object)
    table.iloc[6, bis] = {"nan": None, "text": "good", "bool": True}[name]
    return table, 6


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize(
    "name",
    ["missing", "doubled", "foreign", "no id", "other id", "nan", "text", "bool"],
)
def test_a_faulty_table_is_refused_with_its_place(
    name, suffix, tmp_path, mprm, corpus, scored
):
    table, row = spoil(scored, name)
    path, output = tmp_path / f"s{suffix}", tmp_path / "mine.jsonl"
    done = selects(mprm, corpus, save(table, path), output)
    assert done.status == 1
    line = done.err.splitlines()[-1]
    if row is None:
        assert f"{corpus}/AI2D-00000-of-00002.jsonl:6: " in line
    else:
        assert f"{path}:{row + 1 + (suffix == '.csv')}: " in line
    assert not output.exists()
    assert not manifest_path(output).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inf.jsonl", '{"bis": Infinity}\n'),
        ("nan.jsonl", '{"bis": NaN}\n'),
        ("huge.jsonl", '{"bis": 1%s}\n' % ("0" * 400)),
        ("list.jsonl", '{"bis": [1]}\n'),
        ("null.jsonl", '{"bis": null}\n'),
        ("list.json", "[1, 2]"),
        ("empty.jsonl", ""),
        ("empty.csv", ""),
        ("header.csv", "bis\n"),
        ("twice.csv", "bis,bis\n1,2\n"),
        ("other.csv", "score\n1\n"),
        ("wide.csv", "bis\n1,2\n"),
        ("quote.csv", 'file,"bis\nx,1\n'),
        ("nul.csv", "bis\n1\0\n"),
        ("field.csv", "bis\n" + "1" * 200_000 + "\n"),
        ("line.csv", "bis,file,line\n1,AI2D-00000-of-00002.jsonl,first\n"),
        ("lines.csv", "bis,line\n1,1\n"),
        ("latin.csv", "bis\n\udce9\n"),
        ("none.parquet", "PAR1"),
        ("none.arrow", "ARROW1"),
        ("few.jsonl", '{"bis": 1}\n' * 149),
        ("many.jsonl", '{"bis": 1}\n' * 151),
    ],
)
def test_what_is_no_table_of_this_corpus_is_refused_in_one_line(
    name, content, tmp_path, mprm, corpus
):
    path = tmp_path / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    done = selects(mprm, corpus, path, tmp_path / "mine.jsonl")
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert str(path) in done.err


def test_options_that_make_no_sense_together(tmp_path, mprm, corpus):
    for words in (
        "--scores x.csv",
        "--column bis",
        "--scores x.csv --column id",
        "--scores x.csv --column bis --rule mixed",
        "--scores x.csv --column bis --compat official",
        "--scores x.csv --column bis --keep-ratio 0",
    ):
        assert mprm("select", corpus, words).status == 2, words
    missing = mprm("select", corpus, "--scores", tmp_path / "x.csv", "--column bis")
    assert missing.status == 1
    scores = tmp_path / "s.csv"
    scores.write_text("bis\n" + "1\n" * 150)
    assert selects(mprm, corpus, scores, scores).status == 1
    assert scores.read_text().startswith("bis")


@pytest.mark.parametrize("by", ["id", "order"])
def test_what_cannot_be_written_is_chosen_again_without_by_the_same_scores(
    by, tmp_path, mprm
):
    records = random_records(np.random.default_rng(3), 40)
    for record in records[:3]:
        record["steps_with_score"][0]["step"] = "as <image> shows"
    corpus = write_corpus(tmp_path / "marked", {"a.jsonl": records})
    table = scores_of(mprm, corpus, tmp_path / "scores.jsonl")
    table["bis"] = -np.arange(len(table), dtype=float)
    path, output = tmp_path / "s.csv", tmp_path / "mine.jsonl"
    save(table if by == "id" else table[["bis"]], path)
    done = selects(mprm, corpus, path, output, "--max-bad 3")
    assert done.status == 0, done.err
    assert read_manifest(output)["rows"] == [3, 4, 5]
    assert mprm("verify", output).status == 0


def test_score_says_which_rollouts_a_subset_kept(tmp_path, mprm, corpus):
    subset, output = tmp_path / "subset.jsonl", tmp_path / "kept.jsonl"
    assert mprm("select", corpus, "--keep-ratio 0.3 --output", subset).status == 0
    done = mprm("score", corpus, "--subset", subset, "--output", output)
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    manifest = read_manifest(subset)
    assert [row["row"] for row in rows if row["kept"]] == manifest["rows"]
    changed = next(corpus.rglob("*.jsonl"))
    changed.write_text(changed.read_text() + changed.read_text())
    failed = mprm("score", corpus, "--subset", subset, "--output", output)
    assert (failed.status, changed.name in failed.err) == (1, True)
