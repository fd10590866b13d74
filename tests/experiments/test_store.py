"""The results store: whole lines, cells told apart by content, none lost."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from experiments.store import provenance
from experiments.store.manifests import (
    RunManifest,
    command_line,
    read_run_manifest,
    write_run_manifest,
)
from experiments.store.results import (
    SCHEMA,
    Result,
    append_results,
    cell_key,
    read_results,
    store_path,
)
from mprm_jax.records.problems import DataError


def cell(number: int = 0, seed: int | None = 0, **metrics):
    return Result("e", {"arm": f"a{number}", "rho": 0.25}, seed, metrics or {"x": 1.5})


def test_what_is_appended_is_read_in_order(tmp_path):
    assert read_results(tmp_path / "none", "e") == []
    first, second = [cell(0), cell(1, None)], [cell(2, 5, y=[1, None], z={"a": "ü"})]
    append_results(tmp_path / "new" / "folder", first)
    append_results(tmp_path / "new" / "folder", second)
    assert read_results(tmp_path / "new" / "folder", "e") == first + second
    assert all(result.versions["numpy"] for result in first)
    assert read_results(tmp_path / "new" / "folder", "other") == []


def test_results_say_which_code_and_packages_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "git_revision", lambda: "0a1b+")
    append_results(tmp_path, [cell(0)])
    (found,) = read_results(tmp_path, "e")
    assert found.versions["git"] == "0a1b+"
    for name in ("jax", "optax", "scipy", "numpy", "msgspec"):
        assert found.versions[name] == importlib.metadata.version(name)
    assert not {"git", "jax", "optax", "scipy"} & set(provenance.versions())
    monkeypatch.setattr(provenance, "git_revision", lambda: None)
    assert "git" not in cell(0).versions
    # Neither is part of what a resumed run looks for.
    assert cell(0).key == found.key == cell_key(found.config, 0)


def test_lines_of_before_are_read_as_they_are(tmp_path):
    old = {"mprm": "0.1", "python": "3.12", "numpy": "2.0", "msgspec": "0.19"}
    append_results(tmp_path, [msgspec.structs.replace(cell(0), versions=old)])
    (found,) = read_results(tmp_path, "e")
    assert (found.versions, found.key) == (old, cell(0).key)


def test_the_revision_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=no"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    revision = provenance.git_revision.__wrapped__
    assert revision(tmp_path) is None
    git("init", "--quiet")
    # A checkout without a commit.
    assert revision(tmp_path) is None
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "--quiet", "--message", "one")
    head = git("rev-parse", "HEAD")
    (tmp_path / "results.jsonl").write_text("{}")
    assert revision(tmp_path) == head
    # A hook's variables name another repository.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert revision(tmp_path) == head
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "a.py").write_text("a = 2\n")
    assert revision(tmp_path) == f"{head}+"
    # Installed in a folder of a repository that is not its own.
    (tmp_path / "site-packages").mkdir()
    assert revision(tmp_path / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    assert revision(tmp_path) is None


def test_versions_are_read_without_importing_the_packages():
    code = """
import sys
from experiments.store.results import Result
assert Result("e", {}, 0, {}).versions["jax"]
print(sorted({"jax", "jaxlib", "optax", "scipy"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_experiments_have_files_of_their_own(tmp_path):
    other = Result("f", {"arm": "a0"}, 0, {"x": 2.0})
    append_results(tmp_path, [cell(0), other, cell(1)])
    assert read_results(tmp_path, "f") == [other]
    assert read_results(tmp_path, "e") == [cell(0), cell(1)]
    assert {path.name for path in tmp_path.iterdir()} == {"e.jsonl", "f.jsonl"}


def test_the_latest_of_a_cell_counts_at_its_first_place(tmp_path):
    append_results(tmp_path, [cell(0), cell(1), cell(0, x=9.0)])
    assert read_results(tmp_path, "e") == [cell(0, x=9.0), cell(1)]


def test_cells_are_equal_iff_configuration_and_seed_are():
    one, same = (
        {"a": 1, "b": {"c": 2, "d": [1, 2]}},
        {"b": {"d": [1, 2], "c": 2}, "a": 1},
    )
    assert cell_key(one, 0) == cell_key(same, 0)
    others = [(one, 1), (one, None), ({**one, "a": 2}, 0), ({**one, "e": None}, 0)]
    others += [({"a": 1, "b": {"c": 2, "d": [2, 1]}}, 0), ({**one, "a": "1"}, 0)]
    assert len({cell_key(*other) for other in others} | {cell_key(one, 0)}) == 7
    assert Result("e", one, 0, {}).key == Result("f", same, 0, {"x": 1}).key


def test_a_torn_line_is_left_out_and_does_not_swallow_the_next(tmp_path):
    append_results(tmp_path, [cell(0), cell(1)])
    path = store_path(tmp_path, "e")
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start + 1, len(whole) - 1, 17):
        path.write_bytes(whole[:end])
        assert read_results(tmp_path, "e") == [cell(0)]
        append_results(tmp_path, [cell(2)])
        # Repaired: nobody is told of it, now or later.
        assert read_results(tmp_path, "e", pytest.fail) == [cell(0), cell(2)]
        assert path.read_bytes().startswith(whole[:start] + b"{")
        assert path.read_bytes().count(b"\n") == 2
    # Only the newline is missing: the line is whole.
    path.write_bytes(whole[:-1])
    append_results(tmp_path, [cell(2)])
    assert read_results(tmp_path, "e") == [cell(0), cell(1), cell(2)]


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"[]",
        b"3",
        b'{"experiment": "e"}',
        b'{"experiment":"e","config":[],"seed":0,"metrics":{}}',
        b'{"experiment":"e","config":{},"seed":"0","metrics":{}}',
        b'{"experiment":"e","config":{},"seed":0,"metrics":{},"schema":"mprm-result/9"}',
    ],
)
def test_whole_lines_of_something_else_are_refused_by_number(line, tmp_path):
    append_results(tmp_path, [cell(0)])
    path = store_path(tmp_path, "e")
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"e\.jsonl:2: ") as raised:
        read_results(tmp_path, "e")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"experiment": "\xc3("}', b'{"a":', "größe".encode()[:3]]
)
def test_damaged_lines_are_counted_and_told_by_place(line, tmp_path):
    append_results(tmp_path, [cell(0)])
    path = store_path(tmp_path, "e")
    whole = path.read_bytes()
    told = []
    for lines, first, count in (
        ([line, whole[:-1]], 1, 1),
        ([whole[:-1], line, b"", line, line], 2, 3),
    ):
        # The last line is a whole one, or at least an ended one.
        path.write_bytes(b"\n".join(lines) + b"\n")
        assert read_results(tmp_path, "e", told.append) == [cell(0)]
        assert told[-1].startswith(f"{path}:{first}: ")
        assert (f" {count - 1} more" in told[-1]) == (count > 1)
    assert len(told) == 2
    # Unfinished: a run was killed there.
    path.write_bytes(whole + line)
    assert read_results(tmp_path, "e", pytest.fail) == [cell(0)]


def test_commands_of_runs_that_left_nothing_are_forgotten(tmp_path):
    def begun(command, experiment="selection", **arguments):
        write_run_manifest(
            tmp_path, RunManifest((command,), "b", experiment, arguments=arguments)
        )
        return read_run_manifest(tmp_path).commands

    assert begun("one", rules=("bis",)) == ("one",)
    # A shard that began at the same time; then the first one failed.
    assert begun("two", rules=("bis",)) == ("one", "two")
    assert begun("three", rules=("mixed",)) == ("three",)
    assert begun("four", "demo") == ("four",)
    (tmp_path / "manifest.json").write_text("{")
    assert begun("five", rules=("bis",)) == ("five",)
    append_results(tmp_path / "results", [cell(0)])
    assert begun("six", rules=("mixed",)) == ("five", "six")
    with pytest.raises(DataError, match="selection"):
        begun("seven", "demo")


def test_a_command_can_be_typed_as_it_is_shown():
    words = {"--corpus": Path("my corpus/a'b"), "--rules": ("bis", "low-mc")}
    command = command_line(
        "mprm run selection", words | {"--name": "$x; y", "--z": True}
    )
    assert shlex.split(command) == [
        *("mprm", "run", "selection", "--corpus", "my corpus/a'b"),
        *("--rules", "bis,low-mc", "--name", "$x; y", "--z"),
    ]


def test_not_a_number_is_stored_as_null(tmp_path):
    append_results(tmp_path, [cell(0, x=float("nan"))])
    (found,) = read_results(tmp_path, "e")
    assert found.metrics == {"x": None}
    line = json.loads(store_path(tmp_path, "e").read_text())
    assert line["schema"] == SCHEMA


def test_places_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        append_results(tmp_path / "file" / "x", [cell(0)])
    store_path(tmp_path, "e").mkdir()
    with pytest.raises(DataError, match=r"e\.jsonl: "):
        append_results(tmp_path, [cell(0)])
    with pytest.raises(DataError, match=r"e\.jsonl: "):
        read_results(tmp_path, "e")


_WRITER = """
import sys
from pathlib import Path
from experiments.store.results import Result, append_results
for i in range(40):
    metrics = {"curve": [float(i)] * 4_000}
    append_results(Path(sys.argv[1]), [Result("e", {"who": sys.argv[2]}, i, metrics)])
"""


def test_two_runs_at_a_time_do_not_write_into_each_other(tmp_path):
    """Lines longer than any buffer."""

    def write(who):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), who]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, ("one", "two")))
    found = read_results(tmp_path, "e")
    assert len(found) == 80
    for result in found:
        assert result.metrics["curve"] == [float(result.seed or 0)] * 4_000
    assert len(store_path(tmp_path, "e").read_bytes().splitlines()) == 80
