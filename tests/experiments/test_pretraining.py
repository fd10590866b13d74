"""Pretraining: its labels as a reader finds them, and that it learns them."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.corpora import pretraining
from experiments.corpora.pretraining import (
    CheckedText,
    Keep,
    Pretrained,
    PretrainingConfig,
    check_quality,
    checked_text,
    pretrain,
)
from mprm_jax.models.tiny import TinyConfig, read_weights
from mprm_jax.models.tokenizer import build_tokenizer
from mprm_jax.records.problems import DataError
from sim.scenes.grammar import (
    BENCHMARK_SOURCES,
    CELLS,
    TRAINING_SOURCES,
    value_name,
    vocabulary,
)
from tests.cli import run
from tests.mprm_jax.tiny_case import random_params, small_model
from tests.scene_reader import judge, number, read_picture, running
from tests.scene_reader import read_question as asked_for

TOKENIZER = build_tokenizer(vocabulary())
CONFIG = PretrainingConfig(problems=200, updates=200, batch=16, warmup=10)
SOURCES = TRAINING_SOURCES + BENCHMARK_SOURCES
EACH = CONFIG.problems // (2 * len(SOURCES))


@pytest.fixture(scope="module")
def text():
    return checked_text(CONFIG, TOKENIZER, np.random.default_rng(1))


def pixels_of(patches_PxD):
    """The picture that 16 patches make."""
    grid = patches_PxD.reshape(4, 4, 12, 12, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(48, 48, 3)


def rows(text):
    """(source, whether right, row, words, pictured values) of every rollout."""
    for row in range(len(text.tokens_NxL)):
        source = SOURCES[row // (2 * EACH)]
        ids = text.tokens_NxL[row]
        said = [TOKENIZER.id_to_token(i) for i in ids[ids > 0].tolist()]
        shown = read_picture(source.kind, pixels_of(text.images_NxPxD[row]))
        yield source, row // EACH % 2 == 0, row, said, shown


def parts(said):
    """Words of the question, and of each step."""
    assert said[0] == "question"
    start = said.index("process")
    steps = " ".join(said[start + 1 :]).split("<prm>")
    assert steps[-1] == ""
    return said[1:start], [step.split() for step in steps[:-1]]


def test_every_source_comes_right_and_erring(text):
    assert len(text.tokens_NxL) == CONFIG.problems
    assert {name: column.shape[0] for name, column in text._asdict().items()} == (
        dict.fromkeys(text._fields, CONFIG.problems)
    )
    for source, right, row, said, shown in rows(text):
        asked, steps = parts(said)
        judged = [truth for truth, _ in judge(asked, steps, shown)]
        assert not right or -1 not in judged, (source.name, row)
    erring = [row // EACH % 2 == 1 for row in range(CONFIG.problems)]
    wrong = text.is_marker_NxL & ~text.true_NxL
    assert wrong[erring].any(axis=1).mean() > 0.7


def test_every_cell_is_named_as_it_is_pictured(text):
    for source, _, row, _, shown in rows(text):
        names = [TOKENIZER.id_to_token(i) for i in text.names_NxP[row].tolist()]
        assert names == [value_name(source.kind, value) for value in shown]
        assert [number(name) for name in names] == shown


def test_checks_are_what_a_reader_finds_at_every_marker(text):
    for _, _, row, said, shown in rows(text):
        asked, steps = parts(said)
        judged = judge(asked, steps, shown)
        places = [i for i, word in enumerate(said) if word == "<prm>"]
        assert np.flatnonzero(text.is_marker_NxL[row]).tolist() == places
        assert text.valid_NxL[row, places].tolist() == [of for _, of in judged]
        # A neutral step is as true as the result that is carried on.
        operation, cells, target = asked_for(asked)
        right = running(operation, [shown[cell] for cell in cells], target)
        expected, done, stated = [], 0, None
        for step, (truth, _) in zip(steps, judged, strict=True):
            if step[0] == "now":
                expected.append(stated == right[done - 1])
                continue
            expected.append(truth == 1)
            done, stated = done + 1, int(step[-1])
        assert text.true_NxL[row, places].tolist() == expected
        # Nothing is labelled elsewhere.
        elsewhere = ~text.is_marker_NxL[row]
        assert not text.valid_NxL[row, elsewhere].any()
        assert not text.true_NxL[row, elsewhere].any()


def test_values_and_results_of_right_solutions_are_predicted(text):
    for _, right, row, said, _ in rows(text):
        asked, steps = parts(said)
        expected, place = [], len(asked) + 2
        for step in steps:
            if step[0] == "final":
                expected.append(place + 2)
            elif step[0] in CELLS:
                expected += [place + 1, place + 3]
            place += len(step) + 1
        found = np.flatnonzero(text.predict_NxL[row]).tolist()
        assert found == (expected if right else [])


def test_it_learns_to_name_cells_and_the_loss_falls(text):
    """The smallest model: a larger one checks steps, after many more updates."""
    # Rollouts of one padded length: one compilation.
    lengths = (text.tokens_NxL > 0).sum(axis=1)
    some = np.flatnonzero((lengths > 48) & (lengths <= 64))[:60]
    assert len(some) == 60
    few = CheckedText(*(column[some] for column in text))
    ids = TOKENIZER.get_vocab()
    shape = TinyConfig(
        TOKENIZER.get_vocab_size(),
        tuple(ids[cell] for cell in CELLS),
        width=16,
        layers=1,
        vision_layers=0,
        mlp_ratio=1,
    )
    told = {}
    state = pretrain(shape, CONFIG, few, lambda n, means: told.update({n: means}))
    assert list(told) == [100, 200]
    assert set(told[100]) == {"names", "next_token", "follows", "true"}
    for name in told[100]:
        assert 0 < told[200][name] < told[100][name], name
    assert told[200]["names"] < np.log(TOKENIZER.get_vocab_size()) / 2
    quality = check_quality(shape, state, few)
    assert set(quality) == {"AUROC: follows", "AUROC: true"}
    # Better than chance on what it was trained on; a state of zeros cannot tell.
    assert quality["AUROC: true"] > 0.5
    nothing = state._replace(check=jax.tree.map(np.zeros_like, state.check))
    assert check_quality(shape, nothing, few)["AUROC: true"] == 0.5


def test_a_stopped_pretraining_goes_on_bit_for_bit(text, tmp_path):
    shape = TinyConfig(
        TOKENIZER.get_vocab_size(), tuple(range(16)), width=8, layers=1,
        vision_layers=0, mlp_ratio=1, heads=2,
    )  # fmt: skip
    config = dataclasses.replace(CONFIG, updates=300, batch=4)
    # Of one length, so that one shape is compiled.
    sizes = (text.tokens_NxL > 0).sum(axis=1)
    rows = np.flatnonzero(sizes == np.bincount(sizes).argmax())
    text = CheckedText(*(column[rows] for column in text))
    whole = pretrain(shape, config, text, lambda number, means: None)

    def stop(number, means):
        if number == 300:
            raise KeyboardInterrupt

    said = []
    keep = Keep(tmp_path / "run", 100, said.append)
    with pytest.raises(KeyboardInterrupt):
        pretrain(shape, config, text, stop, keep)
    assert said == []
    told = []
    again = pretrain(shape, config, text, lambda n, means: told.append(n), keep)
    assert told == [300]
    assert said == [f"{tmp_path / 'run'}: goes on after update 200"]
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(DataError, match="of another run"):
        pretrain(shape, other, text, stop, keep)


def test_a_stopped_run_is_not_overwritten_unasked(tmp_path, capsys):
    output = tmp_path / "base.safetensors"
    (tmp_path / "base.safetensors.checkpoints" / "checkpoints" / "100").mkdir(
        parents=True
    )
    failed = run(capsys, "pretrain", "scenes", "--output", output)
    assert failed.status == 1
    assert "--resume" in failed.err
    assert not output.exists()


def test_the_command_writes_a_backbone_and_how_it_was_made(
    tmp_path, capsys, monkeypatch
):
    model = small_model()
    asked = []

    def stand_in(config, tick, write, stages, keep):
        asked.append(config)
        params = random_params(model)
        for stage in stages:
            write(Pretrained(stage, model, params, {"AUROC: true": 0.5}))
        tick(config.updates)
        return Pretrained(config.updates, model, params, {"AUROC: true": 0.875})

    monkeypatch.setattr(pretraining, "pretrain_tiny", stand_in)
    output = tmp_path / "new" / "base.safetensors"
    arguments = ["pretrain", "scenes", "--output", output, "--problems", "300"]
    arguments += ["--updates", "400", "--seed", "3"]
    done = run(capsys, *arguments, "--json")
    assert done.json["metrics"] == {"AUROC: true": 0.875}
    assert done.json["written"] == [str(output)]
    assert asked == [PretrainingConfig(problems=300, updates=400, seed=3)]
    read, _, facts = read_weights(output.read_bytes(), "output")
    assert read == model
    assert facts["command"] == (
        "mprm pretrain scenes --problems 300 --updates 400 --seed 3"
    )
    assert facts["AUROC: true"] == "0.8750"
    assert facts["version of numpy"] == np.__version__
    assert "0.8750" in run(capsys, *arguments).out
    staged = run(capsys, *arguments, "--stages", "100", "350", "--json").json
    early = output.with_name("base-100.safetensors")
    assert staged["written"] == [
        str(early),
        str(output.with_name("base-350.safetensors")),
        str(output),
    ]
    _, _, facts = read_weights(early.read_bytes(), "early")
    assert facts["after update"] == "100"
    assert facts["command"].endswith("--updates 400 --seed 3 --stages 100")
    assert run(capsys, *arguments, "--stages", "400").status == 2
