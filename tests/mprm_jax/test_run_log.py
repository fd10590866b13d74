import json

import pytest

from mprm_jax.data.problems import DataError
from mprm_jax.train.run_log import METRICS, TENSORBOARD, RunLog, read_metrics


def write(output, updates, after=0, tensorboard=False):
    with RunLog(output, after, tensorboard) as log:
        for update in updates:
            log.write(update, {"loss": update / 2})


def test_every_update_is_a_line_at_once(tmp_path):
    with RunLog(tmp_path, 0, False) as log:
        log.write(1, {"loss": 0.5})
        assert read_metrics(tmp_path) == [{"update": 1, "loss": 0.5}]
        log.write(2, {"loss": 1.0})
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2]


@pytest.mark.parametrize("rest", [b"", b'{"update": 4, "lo', b"\x00\xff", b"[]\n"])
def test_updates_that_are_made_again_are_cut_off(tmp_path, rest):
    write(tmp_path, range(1, 4))
    with open(tmp_path / METRICS, "ab") as file:
        file.write(rest)
    write(tmp_path, [3, 4], after=2)
    assert [line["update"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_run_that_begins_anew_has_no_old_lines(tmp_path):
    write(tmp_path, range(1, 4))
    write(tmp_path, [1])
    assert [line["update"] for line in read_metrics(tmp_path)] == [1]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, [1, 2], tensorboard=True)
    (events,) = (tmp_path / TENSORBOARD).iterdir()
    assert events.read_bytes().count(b"loss") == 2
    write(tmp_path, [1])
    assert len(list((tmp_path / TENSORBOARD).iterdir())) == 1


def test_files_that_cannot_be_used_are_one_line_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        RunLog(tmp_path / "file", 0, False)
    with pytest.raises(DataError, match=METRICS):
        read_metrics(tmp_path / "none")
    (tmp_path / METRICS).write_text("no json\n")
    with pytest.raises(DataError, match=METRICS):
        read_metrics(tmp_path)
