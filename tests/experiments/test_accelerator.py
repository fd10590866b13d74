"""The plan of the accelerator's benchmark, with stand-ins for what it measures."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from experiments.benchmarks import accelerator
from experiments.benchmarks.accelerator import BUDGET_SECONDS, PARTS, Part


def run(code, tmp_path, seconds=20.0):
    command = [sys.executable, "-c", code]
    said = accelerator.run_part("part", command, seconds, tmp_path, dict(os.environ))
    assert json.loads((tmp_path / "part.json").read_text()) == said
    return said


def test_all_parts_fit_the_time_that_a_machine_is_lent():
    # Start and end of each process group are within its limit, but for the grace.
    assert sum(part.limit for part in PARTS) + len(PARTS) * 2 < BUDGET_SECONDS
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert [part.name for part in PARTS[:2]] == ["smoke", "step"]
    for part in PARTS:
        assert find_spec(f"experiments.benchmarks.{part.module}") is not None


def test_what_a_killed_part_had_found_stays(tmp_path):
    """It and what it started end, and half a line is no finding."""
    child = "import time; time.sleep(60)"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print('{{"child": %d}}' % child.pid, flush=True)
print('a table\\n{{"half": ', end="", flush=True)
print("slow", file=sys.stderr, flush=True)
time.sleep(60)
"""
    began = time.monotonic()
    said = run(code, tmp_path, seconds=1.5)
    assert time.monotonic() - began < 15
    assert (said["status"], said["why"]) == ("stopped", "slow")
    ((name, pid),) = said["found"][0].items()
    assert name == "child"
    assert len(said["found"]) == 1
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and not is_zombie(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_zombie(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("code", "status"), [("print('{}')", "done"), ("print('{}'); 1 / 0", "failed")]
)
def test_how_a_part_ended_is_told(code, status, tmp_path):
    said = run(code, tmp_path)
    assert said["status"] == status
    assert said["found"] == [{}]
    assert ("why" in said) == (status == "failed")
    if status == "failed":
        assert said["exit"] == 1
        assert "ZeroDivisionError" in said["why"]


def test_a_part_that_fails_leaves_the_others_and_their_time(
    tmp_path, monkeypatch, capsys
):
    """A limit is when a part must be done: what earlier ones left is its own, too."""
    parts = (Part("first", "none such", 30), Part("second", "none such", 40))
    monkeypatch.setattr(accelerator, "PARTS", parts)
    codes = {"first": "1 / 0", "second": "print('{\"a\": 1}')"}
    monkeypatch.setattr(
        accelerator,
        "command",
        lambda part, output, rehearse: [sys.executable, "-c", codes[part.name]],
    )
    assert accelerator.main(["--output", str(tmp_path)]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["status"], second["status"]) == ("failed", "done")
    assert 60 < second["limit"] <= 70
    assert json.loads((tmp_path / "second.json").read_text())["found"] == [{"a": 1}]


def test_the_command_itself_needs_the_standard_library_alone():
    """A bare machine has nothing else before the wheels are unpacked."""
    code = (
        "import sys; from experiments.benchmarks import accelerator; "
        "print([n for n in ('numpy', 'jax', 'tyro', 'msgspec') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
