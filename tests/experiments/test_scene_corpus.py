"""A world on disk: read by the readers of real data, with its truth line by line."""

import json
import os
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.corpora import scenes
from experiments.corpora.scenes import CANDIDATES, write_world
from mprm_jax.data.corpus import read_corpus, usable_rollouts
from mprm_jax.data.images import read_images
from mprm_jax.data.scored import read_benchmark, read_candidates
from mprm_jax.records.problems import DataError
from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES
from sim.scenes.world import PLENTIFUL, SCARCE
from tests.raw_files import read_lines as lines
from tests.scene_reader import judge, read_picture, running, words
from tests.scene_reader import read_question as asked_for

SIZES: dict[str, Any] = {"rollouts": 63, "judged": 22, "problems": 6}
KINDS = {source.name: source.kind for source in TRAINING_SOURCES + BENCHMARK_SOURCES}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "world"
    corpus = write_world(folder, PLENTIFUL, **SIZES, seed=3)
    return folder, corpus


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".mprm-index" not in path.parts
    }


def shown(root, image, kind):
    """What a person sees in a picture."""
    (picture,) = read_images(root, (image,))
    return read_picture(kind, np.asarray(picture))


def judged(record_words, kind, root, image):
    question, steps = record_words
    return judge(words(question), [words(s) for s in steps], shown(root, image, kind))


def test_one_seed_makes_the_same_bytes(world, tmp_path):
    folder, _ = world
    write_world(tmp_path / "again", PLENTIFUL, **SIZES, seed=3)
    assert files(folder) == files(tmp_path / "again")
    write_world(tmp_path / "other", PLENTIFUL, **SIZES, seed=4)
    other = files(tmp_path / "other")
    assert other.keys() == files(folder).keys()
    assert all(other[name] != data for name, data in files(folder).items())


def test_further_corpora_of_a_world_are_others_under_its_one_benchmark(world, tmp_path):
    folder, corpus = world
    first, own = files(folder), {}
    for number in (1, 2):
        other = write_world(
            tmp_path / str(number), PLENTIFUL, **SIZES, seed=3, number=number
        )
        found = files(tmp_path / str(number))
        assert found.keys() == {
            name for name in first if not name.startswith("benchmark/")
        }
        for name, data in found.items():
            # Not even one picture: nothing is shared but the world.
            assert data != first[name], name
        assert [len(of.r) for of in other] != [len(of.r) for of in corpus]
        own |= {f"{number}/{name}": data for name, data in found.items()}
    every = [*first.items(), *own.items()]
    pictures = [data for name, data in every if name.endswith(".png")]
    assert len(set(pictures)) == len(pictures)


def test_pictures_do_not_know_the_policy(world, tmp_path):
    """Another policy on the same problems: other steps, the same pictures."""
    folder, _ = world
    write_world(tmp_path / "scarce", SCARCE, **SIZES, seed=3)
    one, other = files(folder), files(tmp_path / "scarce")
    images = [name for name in one if name.startswith("images/")]
    assert len(images) == SIZES["rollouts"]
    assert all(one[name] == other[name] for name in images)
    assert one["annotations/dice.jsonl"] != other["annotations/dice.jsonl"]


def test_the_corpus_reads_like_a_real_one(world):
    folder, corpus = world
    usable = usable_rollouts(read_corpus(folder, use_cache=False))
    assert usable.bad_lines.total == 0
    rollouts = usable.rollouts
    assert rollouts.source_names == tuple(sorted(s.name for s in TRAINING_SOURCES))
    by_name = {part.solutions.problems.source.name: part for part in corpus}
    parts = [by_name[name] for name in rollouts.source_names]
    np.testing.assert_array_equal(
        rollouts.successes, np.concatenate([part.successes for part in parts])
    )
    assert set(rollouts.trials.tolist()) == {16}
    assert rollouts.n_rollouts == SIZES["rollouts"]


@pytest.mark.parametrize("source", TRAINING_SOURCES, ids=lambda s: s.name)
def test_truth_lies_beside_the_annotations_line_by_line(source, world):
    """Steps and pictures are read as a person would, and judged anew."""
    folder, _ = world
    records = lines(folder / "annotations" / f"{source.name}.jsonl")
    facts = lines(folder / "truth" / f"{source.name}.jsonl")
    assert len(records) == len(facts) > 0
    for record, fact in zip(records, facts, strict=True):
        steps = [step["step"] for step in record["steps_with_score"]]
        assert record["response"] == "\n\n".join(steps)
        texts = record["question"], steps
        found = judged(texts, source.kind, folder / "images", record["image"])
        assert fact["correct"] == [truth for truth, _ in found]
        operation, cells, target = asked_for(words(record["question"]))
        values = shown(folder / "images", record["image"], source.kind)
        right = running(operation, [values[cell] for cell in cells], target)
        assert record["answer"] == str(right[-1])
        assert len(fact["r"]) == len(steps)
        # K of an impossible or certain success is 0 or N; the last step is one.
        for r, step in zip(fact["r"], record["steps_with_score"], strict=True):
            assert step["score"] == step["num_mc_correct"] / step["num_mc_total"]
            if r in (0.0, 1.0):
                assert step["num_mc_correct"] == 16 * r
        assert fact["r"][-1] == float(fact["correct"][-1] == 1)
        assert 0 < fact["slip_rate"] <= 0.5


def test_the_benchmark_is_read_and_its_labels_are_true(world):
    folder, _ = world
    path = folder / "benchmark" / "test.jsonl"
    solutions = read_benchmark(path)
    facts = lines(folder / "benchmark" / "truth.jsonl")
    assert len(solutions) == len(facts) == SIZES["judged"]
    labels = []
    for solution, fact in zip(solutions, facts, strict=True):
        record = solution.record
        texts = record.question, [step.text for step in record.steps]
        kind = KINDS[record.source or ""]
        (image,) = record.images
        found = judged(texts, kind, path.parent / "images", image)
        assert list(solution.labels) == [truth for truth, _ in found]
        assert len(fact["slip_prior"]) == len(found)
        assert all(0 < p < 1 for p in fact["slip_prior"])
        labels += solution.labels
    assert set(labels) == {-1, 0, 1}
    assert {s.record.source for s in solutions} == {s.name for s in BENCHMARK_SOURCES}
    raw = lines(path)[0]
    assert set(raw) >= {"image", "question", "response", "data_source"}
    assert set(raw["response"]) == {"steps", "process_correctness"}


def test_candidates_are_read_and_their_answers_are_judged(world):
    folder, _ = world
    path = folder / "benchmark" / "candidates.jsonl"
    sets = read_candidates(path, scored=False)
    assert len(sets) == SIZES["problems"]
    for problem in sets:
        assert len(problem.candidates) == CANDIDATES
        (image,) = problem.images
        values = shown(path.parent / "images", image, KINDS[problem.source])
        operation, cells, target = asked_for(words(problem.question))
        right = running(operation, [values[cell] for cell in cells], target)[-1]
        for one in problem.candidates:
            assert one.correct == (words(one.steps[-1])[-1] == str(right))
    flat = [one.correct for problem in sets for one in problem.candidates]
    assert 0 < sum(flat) < len(flat)


def test_pictures_are_small_rgb_files_and_counted(world, tmp_path):
    folder, _ = world
    told = []
    write_world(tmp_path / "w", SCARCE, **SIZES, seed=0, tick=told.append)
    assert told == sorted(told)
    assert told[-1] == sum(SIZES.values())
    found = [*folder.rglob("*.png")]
    assert len(found) == sum(SIZES.values())
    for path in found[::7]:
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((48, 48), "RGB", "PNG")


def test_the_manifest_says_how_it_was_made(world):
    folder, _ = world
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {**SIZES, "world": "plentiful", "seed": 3}.items() <= manifest.items()
    assert manifest["versions"]["numpy"] == np.__version__


def test_a_world_is_replaced_whole(tmp_path):
    folder = tmp_path / "w"
    # An empty folder may be used.
    folder.mkdir()
    write_world(folder, SCARCE, **SIZES, seed=0)
    before = files(folder)
    small: dict[str, Any] = {"rollouts": 5, "judged": 5, "problems": 5}
    write_world(folder, SCARCE, **small, seed=1)
    after = files(folder)
    assert len([name for name in after if name.endswith(".png")]) == 15
    assert before["manifest.json"] != after["manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    # As any other new folder, not for its owner alone.
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("foreign", ["", "notes.txt", "mine/subset.jsonl"])
def test_a_folder_with_somebodys_files_is_refused(foreign, ours, tmp_path):
    """A file in its place, a folder of somebody's, a world that somebody added to."""
    folder = tmp_path / "w"
    if ours and foreign:
        write_world(folder, SCARCE, **SIZES, seed=0)
    path = folder / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(DataError, match="no simulation wrote"):
        write_world(folder, SCARCE, **SIZES, seed=0)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left")])
def test_an_interrupted_write_leaves_the_old_world_whole(
    failure, tmp_path, monkeypatch
):
    folder = tmp_path / "w"
    write_world(folder, SCARCE, **SIZES, seed=0)
    before = files(folder)
    calls = []

    def draw(kind, values, rng):
        calls.append(kind)
        if len(calls) == 7:
            raise failure
        return np.zeros((len(values), 48, 48, 3), np.uint8)

    monkeypatch.setattr(scenes, "draw", draw)
    expected = DataError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        write_world(folder, SCARCE, **SIZES, seed=1)
    if expected is DataError:
        assert str(raised.value) == f"{folder}: No space left"
    assert files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_failed_exchange_brings_the_old_world_back(tmp_path, monkeypatch):
    folder = tmp_path / "w"
    write_world(folder, SCARCE, **SIZES, seed=0)
    before = files(folder)
    rename = os.rename

    def fails_for_the_new(source, target):
        if str(source).endswith(".partial"):
            raise OSError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_for_the_new)
    with pytest.raises(DataError, match="Permission denied"):
        write_world(folder, SCARCE, **SIZES, seed=1)
    assert files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.w: "):
        write_world(tmp_path / "file" / "w", SCARCE, **SIZES, seed=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_parent_is_named(tmp_path):
    parent = tmp_path / "closed"
    parent.mkdir(mode=0o500)
    with pytest.raises(DataError, match="Permission denied"):
        write_world(parent / "w", SCARCE, **SIZES, seed=0)
