"""Runs that are killed while they write, and what the next one finds."""

import contextlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from mprm_jax.data.outputs import (
    OutputSet,
    _partial,
    finish_interrupted,
)
from mprm_jax.records.problems import DataError
from tests.cli import run
from tests.raw_files import random_records, write_corpus

ROOT = Path(__file__).parents[2]

# Kills a command at its n-th rename, removal or opening to write in a folder, for
# every n, in forks of one process; after each, a line on what lies there.
_KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from experiments.cli import main
from mprm_jax.data.outputs import PARTIAL_SUFFIX

old, work, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
WATCHED = {"open", "os.rename", "os.remove"}

def forked(act):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(act())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killed_at(n):
    count = 0
    def hook(event, values):
        nonlocal count
        if event not in WATCHED or not str(values[0]).startswith(str(work)):
            return
        if event != "open" or values[2] & (os.O_WRONLY | os.O_RDWR):
            count += 1
            if count == n:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    return main(arguments)

def files():
    found = sorted(p for p in work.rglob("*") if p.is_file())
    return {
        str(p.relative_to(work)): p.read_text()
        for p in found if not p.name.endswith(PARTIAL_SUFFIX)
    }

# Imports once, for all forks.
sys.stdout, out = open(os.devnull, "w"), sys.stdout
main(arguments), main(["verify", str(old / "s.jsonl")])
sys.stdout = out
n, status = 0, -signal.SIGKILL
while status == -signal.SIGKILL:
    n += 1
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(old, work)
    status = forked(lambda: killed_at(n))
    raw = files()
    verified = forked(lambda: main(["verify", str(work / "s.jsonl")]))
    found = files()
    again = forked(lambda: main(arguments))
    left = sum(p.name.endswith(PARTIAL_SUFFIX) for p in work.rglob("*"))
    print(json.dumps([status, raw, verified, found, again, left]))
"""


def _states(old, work, *arguments):
    command = [sys.executable, "-c", _KILLER, old, work, *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_kill_leaves_a_subset_beside_the_manifest_of_another(tmp_path, capsys):
    rng = np.random.default_rng(0)
    corpus = write_corpus(tmp_path / "corpus", {"a.jsonl": random_records(rng, 40)})
    old, work = tmp_path / "old", tmp_path / "work"
    chosen = ["select", corpus, "--rule", "random", "--no-cache"]
    assert run(capsys, *chosen, "--output", old / "s.jsonl").status == 0
    before = {path.name: path.read_text() for path in old.iterdir()}
    chosen[3:4] = ["bis", "--keep-ratio", "0.5"]
    states = _states(old, work, *chosen, "--output", work / "s.jsonl")
    after = states[-1][1]
    names = {"s.jsonl", "s.jsonl.manifest.json", "s.meta.json"}
    assert before.keys() == after.keys() == names
    assert all(before[name] != after[name] for name in names)
    assert len(states) > 12, len(states)
    olds = news = lone = 0
    for status, raw, verified, found, again, left in states[:-1]:
        assert status < 0
        # What lies there is of one run, even before anybody repairs it.
        generations = {"old" if raw[n] == before[n] else "new" for n in raw}
        assert all(raw[name] in (before[name], after[name]) for name in raw)
        lone += "s.jsonl.manifest.json" not in raw
        assert len(generations) == 1
        # A reader then finds all of the old run or all of the new one.
        assert (verified, found) in ((0, before), (0, after))
        olds += found == before
        news += found == after
        assert (again, left) == (0, 0)
    assert min(olds, news, lone) > 2
    assert states[-1][0] == 0


def test_a_living_run_keeps_its_partial_files(tmp_path):
    output, manifest = tmp_path / "s.jsonl", tmp_path / "s.jsonl.manifest.json"
    with OutputSet() as one:
        one.add(output).write(b"one")
        with OutputSet() as two:
            two.add(output).write(b"two")
            two.add_manifest(manifest, {"of": "two"})
        assert output.read_bytes() == b"two"
        one.add_manifest(manifest, {"of": "one"})
    assert output.read_bytes() == b"one"
    assert json.loads(manifest.read_bytes())["of"] == "one"
    assert {path.name for path in tmp_path.iterdir()} == {output.name, manifest.name}


def test_partial_files_go_though_the_next_run_writes_fewer(tmp_path):
    kill = "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    kill += "from mprm_jax.data.outputs import OutputSet\n"
    kill += "with OutputSet() as outputs:\n    for name in 'a', 'b.c.meta.json':\n"
    kill += "        outputs.add(Path(sys.argv[1]) / name).write(b'x')\n    os._exit(9)"
    subprocess.run([sys.executable, "-c", kill, tmp_path, ROOT], check=False)
    (tmp_path / ".mine.0123456789abcdef.partial").touch()
    assert len(list(tmp_path.iterdir())) == 4
    with OutputSet() as outputs:
        outputs.add(tmp_path / "a").write(b"y")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a", ".mine.0123456789abcdef.partial"}


def test_a_plan_from_elsewhere_reaches_nothing_outside_its_folder(tmp_path):
    output, other = tmp_path / "in" / "s.jsonl", tmp_path / "x"
    output.parent.mkdir()
    output.write_text("old")
    other.write_text("mine")
    _partial(output, "0", other).write_text("theirs")
    names = ("../x", str(other), "..", "", ".", "\0")
    for name, part in itertools.product(names, ("files", "describing", "dropped")):
        plan = {"files": [], "describing": [], "dropped": [], part: [name]}
        _partial(output, "0").write_text(json.dumps(plan))
        with contextlib.suppress(DataError):
            finish_interrupted(output)
        assert (output.read_text(), other.read_text()) == ("old", "mine")
    with OutputSet() as outputs:
        outputs.add(output).write(b"new")
    assert [path.name for path in output.parent.iterdir()] == ["s.jsonl"]


def test_a_world_is_not_lost_while_it_is_exchanged(tmp_path, capsys):
    command = ["simulate", "scenes", "--rollouts", "5", "--judged", "5"]
    command += ["--problems", "5", "--output", tmp_path / "w"]
    assert run(capsys, *command).status == 0
    code = """
import os, sys
from experiments.cli import main
before = os.rename
os.rename = lambda *names: (before(*names), os._exit(9))
main(sys.argv[1:])
"""
    killed = [sys.executable, "-c", code, *map(str, command), "--seed", "1"]
    assert subprocess.run(killed, cwd=ROOT, check=False).returncode == 9
    # Taken away, with the new one not yet in its place.
    assert not (tmp_path / "w").exists()
    assert run(capsys, *command).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
