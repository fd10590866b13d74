"""Files, names, signals, neighbours that mean harm: one line, never a lost record."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash

from mprm_jax.data.index import CACHE_FOLDER, COLUMNS
from mprm_jax.data.outputs import PARTIAL_SUFFIX
from tests.cli import run
from tests.mprm_jax.test_index import mutate
from tests.raw_files import line, random_records, record, write_corpus

GOOD = [record(number=i) for i in range(8)]
PYTHON = [sys.executable, "-c"]
MPRM = [*PYTHON, "import sys; from experiments.cli import main; sys.exit(main())"]


def mutated(rng, n=6):
    records = random_records(
        np.random.default_rng(rng.randrange(99)), n, unmeasured=0.1
    )
    return mutate("".join(line(r) + "\n" for r in records).encode(), rng)


def commands(folder, out, rng):
    policy = rng.choice(["error", "drop", "negative", "keep"])
    default = ["--unmeasured", policy, "--max-bad", rng.choice(["0", "2", "99"])]
    kept = ["--keep-ratio", rng.choice(["0.2", "0.5", "1"])]
    form = rng.choice(["prm", "raw", "trl", "visualprm", "math-shepherd"])
    output = ["--output", out / "o.jsonl"]
    rule = rng.choice(["bis", "ccs", "low-mc", "random"])
    yield ["stats", folder, *default, "--rule", rule, *kept]
    masked = form in ("prm", "raw") and rng.random() < 0.5
    labels = ["--labels", "masked"] if masked else []
    chosen = ["--rule", rule, *kept, *output, "--format", form, *labels]
    yield ["select", folder, *default, *chosen]
    yield ["verify", out / "o.jsonl"]
    yield ["score", folder, *default, "--output", out / "s.jsonl"]
    yield ["convert", folder, *default, "--output", out / "c", "--format", form]
    yield ["select", folder, *kept, "--output", out / "p.jsonl", "--compat", "official"]
    yield ["verify", out / "p.jsonl"]


def check_counts(result):
    """Every line is a rollout, blank, bad, or emptied by the policy."""
    counts = result["counts"]
    bad = sum(row["count"] for row in result["bad_lines"])
    whole = sum(r["count"] for r in result["bad_lines"] if r["reason"] == "empty file")
    assert counts["bad"] == bad
    known = counts["rollouts"] + counts["blank"] + bad - whole
    assert known + counts["emptied_rollouts"] == counts["lines"]


def fuzz(capsys, tmp_path, seeds):
    done = {"ok": 0, "refused": 0}
    for seed in seeds:
        rng = random.Random(seed)
        files = {name: mutated(rng) for name in ("a.jsonl", "b.jsonl")}
        folder = write_corpus(tmp_path / str(seed), files)
        out = tmp_path / f"out{seed}"
        for arguments in commands(folder, out, rng):
            if arguments[0] == "verify" and not arguments[1].exists():
                continue
            found = run(capsys, *arguments, "--json")
            assert found.status in (0, 1), (seed, arguments, found.err)
            assert "Traceback" not in found.err
            done["ok" if found.status == 0 else "refused"] += 1
            result = found.json
            if found.status:
                # Nothing is written, and there is a reason with its place.
                assert result["error"]
                assert "\n" not in result["error"]
            elif arguments[0] == "verify":
                assert result["verified"]
            elif result.get("compat"):
                written = (out / "p.jsonl").read_bytes().count(b"\n")
                assert written == result["written"]
                assert written + sum(result["dropped"].values()) == result["selected"]
            elif arguments[0] != "score":
                check_counts(result)
            else:
                assert (out / "s.jsonl").read_bytes().count(b"\n") == result["rows"]
        assert not list(out.rglob(f"*{PARTIAL_SUFFIX}"))
    return done


def test_mutated_files_are_read_or_refused_by_every_command(capsys, tmp_path):
    done = fuzz(capsys, tmp_path, range(60))
    assert min(done.values()) > 50
    assert run(capsys, "doctor", "--json").json["cpus"]


# --- names and kinds of files --------------------------------------------------------

ODD_NAMES = ["a b", "-rf", 'it\'s "so"', "ü角🙂", "$(x);&|*?", "%s{}\\n", "a\u00a0b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(name, capsys, tmp_path):
    folder = write_corpus(tmp_path / name, {f"{name}.jsonl": GOOD})
    output = tmp_path / f"{name}.out.jsonl"
    assert run(capsys, "select", folder, "--output", output, "--json").json
    assert run(capsys, "verify", output).status == 0
    rows = run(capsys, "score", folder, "--output", tmp_path / "s.jsonl")
    assert rows.status == 0
    first = (tmp_path / "s.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["source"] == name
    assert run(capsys, "convert", folder, "--output", tmp_path / "c").status == 0


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\udcffb", "\t"])
def test_names_that_no_line_can_show_are_refused(name, capsys, tmp_path):
    inside = write_corpus(tmp_path / "inside", {f"{name}.jsonl": GOOD})
    around = write_corpus(tmp_path / name, {"a.jsonl": GOOD})
    fine = write_corpus(tmp_path / "fine", {"a.jsonl": GOOD})
    for folder, output in ((inside, "o"), (around, "o"), (fine, name)):
        for command in ("select", "convert"):
            failed = run(capsys, command, folder, "--output", tmp_path / "out" / output)
            assert failed.status == 1
            assert failed.err.count("\n") == 1
            assert "rename it" in failed.err
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_or_a_loop_with_a_files_name_is_named(capsys, tmp_path):
    for kind in ("folder", "loop", "pipe"):
        folder = write_corpus(tmp_path / kind, {"a.jsonl": GOOD})
        odd = folder / "b.jsonl"
        match kind:
            case "folder":
                odd.mkdir()
            case "loop":
                odd.symlink_to(odd)
            case "pipe":
                os.mkfifo(odd)
        failed = run(capsys, "stats", folder)
        assert failed.status == 1
        assert f"{odd}: is no file" in failed.err
        if kind != "folder":
            failed = run(capsys, "stats", odd)
            assert (failed.status, failed.err.count("\n")) == (1, 1)


def test_outputs_replace_files_only(capsys, tmp_path):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD})
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for output in (pipe, Path("/dev/full"), Path("/dev/null")):
        failed = run(capsys, "select", folder, "--output", output)
        assert (failed.status, failed.err) == (
            1,
            f"mprm select: {output}: is no regular file; name another\n",
        )
        assert not output.is_file()
    # /dev/stdout is such a link, and was once replaced by the subset.
    link, target = tmp_path / "link", tmp_path / "target"
    target.write_text("stays")
    link.symlink_to(target)
    for output in (link, loop):
        failed = run(capsys, "select", folder, "--output", output)
        assert (failed.status, failed.err.count("\n")) == (1, 1)
        assert f"{output}: is a link" in failed.err
        assert output.is_symlink()
    assert target.read_text() == "stays"
    failed = run(capsys, "select", folder, "--output", target / "o.jsonl")
    assert f"{target} is no folder" in failed.err
    for command in ("select", "convert", "score"):
        found = run(capsys, command, folder, "--output", loop / "o.jsonl")
        assert found.status == 1
        assert found.err.count("\n") == 1


# --- a cache that lies ---------------------------------------------------------------


def poisoned(data, rng):
    """Another cache file: cut, flipped, or changed under a valid checksum."""
    body = bytearray(data[8:])
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            return data[:8] + bytes(body)
        case 2:
            for _ in range(rng.randint(1, 3)):
                body[rng.randrange(len(body))] = rng.randrange(256)
        case 3:
            entry = msgspec.msgpack.decode(bytes(body))
            name = rng.choice(COLUMNS)
            kind, column = entry["index"][name]
            entry["index"][name] = rng.choice(
                [[kind, column[:-1]], ["|O", column], ["<f8", column], [kind, b""]]
            )
            body = msgspec.msgpack.encode(entry)
    return xxhash.xxh3_64_digest(bytes(body)) + bytes(body)


def test_a_poisoned_cache_is_noticed_or_harmless(capsys, tmp_path):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD})
    output = tmp_path / "o.jsonl"
    arguments = ["select", folder, "--keep-ratio", "1", "--output", output, "--json"]
    assert run(capsys, *arguments).status == 0
    (cache,) = (folder / CACHE_FOLDER).iterdir()
    good, whole = output.read_bytes(), cache.read_bytes()
    rng = random.Random(3)
    same = 0
    for _ in range(60):
        cache.write_bytes(poisoned(whole, rng))
        found = run(capsys, *arguments)
        assert found.status in (0, 1), found.err
        assert "Traceback" not in found.err
        same += output.read_bytes() == good
    assert same > 40


# --- signals, pools and neighbours ---------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_the_old_output_whole(number, tmp_path):
    many = random_records(np.random.default_rng(0), 4000)
    folder = write_corpus(tmp_path / "c", {"a.jsonl": many})
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    output.write_text("the old subset\n")
    options = ["--keep-ratio", "1", "--no-cache", "--output", str(output)]
    arguments = ["select", str(folder), *options]
    process = subprocess.Popen([*MPRM, *arguments], stderr=subprocess.PIPE)
    # At the moment at which there is most to lose.
    while process.poll() is None and len(list(output.parent.iterdir())) == 1:
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate()
    left = [p.name for p in output.parent.iterdir() if p.name != "o.jsonl"]
    assert b"Traceback" not in err
    if process.returncode == 0:
        assert output.read_bytes().count(b"\n") == 4000
        return
    assert output.read_text() == "the old subset\n"
    if number == signal.SIGKILL:
        assert all(name.endswith(PARTIAL_SUFFIX) for name in left)
    else:
        assert left == []


def test_forked_workers_read_what_one_process_reads(capsys, tmp_path):
    files = {f"{c}.jsonl": random_records(np.random.default_rng(i), 9)
             for i, c in enumerate("abc")}  # fmt: skip
    folder = write_corpus(tmp_path / "c", files)
    alone, forked = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    options = ["select", str(folder), "--no-cache", "--output"]
    assert run(capsys, *options, alone).status == 0
    # In a process of its own: this one has threads by now, where only spawning is safe.
    script = (
        "import sys; from experiments.cli import main;"
        "from experiments.console import corpus;"
        "corpus._PARALLEL_BYTES = 1;"
        "assert corpus._may_fork() == (sys.platform == 'linux');"
        "sys.exit(main())"
    )
    subprocess.run([*PYTHON, script, *options, str(forked)], check=True, timeout=60)
    assert alone.read_bytes() == forked.read_bytes()


def test_neighbours_share_a_corpus_and_an_output(capsys, tmp_path):
    folder = write_corpus(tmp_path / "c", {"a.jsonl": GOOD * 20})
    output = tmp_path / "o.jsonl"
    arguments = [*MPRM, "select", str(folder), "--output", str(output)]
    both = [subprocess.Popen(arguments, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert run(capsys, "verify", output).status == 0
    assert not list(tmp_path.rglob(f"*{PARTIAL_SUFFIX}"))


@pytest.mark.parametrize("arguments", [["--help"], ["stats", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(arguments, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*MPRM, *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*MPRM, *arguments], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr
