import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mprm_jax.data.batches import buckets_for, collate
from mprm_jax.models.backbone import Backbone
from mprm_jax.models.layers import Compute
from mprm_jax.models.registry import model_files, read_model
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.train import objective
from mprm_jax.train.features import DESCRIPTION, cached
from mprm_jax.train.open_model import open_model
from mprm_jax.train.optimizer import join, split
from mprm_jax.train.sharding import MeshShape, make_mesh, parameter_shardings
from tests.mprm_jax.backbone_folder import picture
from tests.mprm_jax.quick import quick_compilation as quick_compilation
from tests.mprm_jax.tiny_backbones import SHORT, example
from tests.mprm_jax.tiny_backbones import loaded as loaded

A, B, C = picture(56, 84, 1), picture(28, 28, 2), picture(84, 56, 3)
PROMPTS = [
    ("two apples", ["so two", "two"], (A,), [3, 0]),
    ("apples", ["so"], (), [16]),
    ("so", ["a", "b", "two"], (B, A, C), [9, 1, 2]),
]


def batch_of(model, prompts=PROMPTS):
    rows = [example(model, *prompt) for prompt in prompts]
    return collate(rows, buckets_for(rows), 4)


def loss_and_gradient(model, params, batch):
    trained, frozen = split(params, model.trainable(params))

    def loss(trained):
        logits = model.reward_logits(join(trained, frozen), batch)
        return objective.loss_sum(logits, batch, objective.Objective()), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)
    return logits, gradient


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent != folder)


def relative(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_scores_and_gradients_are_those_of_the_model(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    logits, gradient = loss_and_gradient(model, params, batch_of(model))
    batch = batch_of(quick)
    assert batch.images_BxPxD.dtype == np.uint8
    # Whatever the tower's parameters are by now: they are not read.
    broken = params | {
        "vision": {
            name: part
            if name.startswith("merger")
            else jax.tree.map(lambda leaf: jnp.nan * leaf, part)
            for name, part in params["vision"].items()
        }
    }
    found, of_cached = loss_and_gradient(quick, broken, batch)
    assert relative(found, logits) < 2e-6
    states = model.marker_states(params, batch_of(model))
    assert relative(quick.marker_states(broken, batch), states) < 2e-6
    assert jax.tree.structure(of_cached) == jax.tree.structure(gradient)
    for ours, theirs in zip(
        jax.tree.leaves(of_cached), jax.tree.leaves(gradient), strict=True
    ):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale + 1e-9)
    # Text alone has rows of the same width, and needs no tower.
    text = batch_of(quick, PROMPTS[1:2])
    alone = quick.reward_logits(broken, text)
    np.testing.assert_allclose(alone[0, 0], logits[1, 0], rtol=1e-4, atol=1e-5)


def test_the_tower_sees_every_image_once_wherever_it_stands(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    batch = batch_of(quick)
    # Where three share InternVL's tiles, A is cut otherwise than alone.
    assert quick.store.made == (3 if model.name == "qwen2.5-vl" else 4)
    again = cached(model, params, tmp_path / "cache")
    same = batch_of(again)
    assert again.store.made == 0
    jax.tree.map(np.testing.assert_array_equal, same, batch)
    assert again == quick
    assert hash(again) == hash(quick)
    darker = Image.fromarray(np.asarray(A) // 2)
    again.encode("so", ["two"], (darker,))
    assert again.store.made == 1
    # Other limits ask for other images; those that stay the same are known.
    limits = dataclasses.replace(SHORT, max_tiles=2, max_pixels=3136)
    smaller = dataclasses.replace(model, prompting=limits)
    other = cached(smaller, params, tmp_path / "cache")
    other.encode("so", ["two"], (B,))
    assert other.store.made == 0
    other.encode("so", ["two"], (C,))
    assert other.store.made == 1


def test_a_tower_split_over_devices_is_the_same_tower(loaded, tmp_path):
    model, params = loaded
    cached(model, params, tmp_path / "cache").encode("so", ["two"], (A,))
    mesh = make_mesh(MeshShape(1, 2))
    parts = jax.device_put(params, parameter_shardings(mesh, params))
    again = cached(model, parts, tmp_path / "cache")
    found = again.encode("so", ["two"], (A, B))[1]
    assert again.store.made >= 1
    whole = cached(model, params, tmp_path / "whole").encode("so", ["two"], (A, B))[1]
    np.testing.assert_array_equal(found, whole)


def test_threads_that_want_the_same_image_wait_for_one_of_them(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: quick.encode("so", ["a"], (A,))[1], range(16)))
    assert quick.store.made == 1
    for features in found:
        np.testing.assert_array_equal(features, found[0])


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_images_that_wait_are_seen_together_and_come_out_the_same(loaded, tmp_path):
    """Alone or in company, and at whatever place: not one bit differs."""
    model, params = loaded
    like = [picture(56, 84, seed) for seed in range(6)]
    rows = 1 << (len(model.cut((A,))[0]) - 1).bit_length()
    sequences, length = model.family.sequences(model.config, rows)
    room = int(4 * sequences * length)
    alone = cached(model, params, tmp_path / "alone", tower_rows=room)
    expected = [alone.encode("so", ["two"], (image,))[1] for image in like]
    quick = cached(model, params, tmp_path / "cache", tower_rows=room)
    calls, see = [], quick.store._see
    quick.store._see = lambda images: (calls.append(len(images)), see(images))[1]
    with ThreadPoolExecutor(8) as pool:
        with quick.store._tower:
            jobs = [
                pool.submit(quick.encode, "so", ["two"], (image,))
                for image in (*like, like[0], like[3])
            ]
            wait_until(lambda: len(quick.store._wanted) == 8)
        found = [job.result(30)[1] for job in jobs]
    assert sorted(calls) == [2, 4]
    assert quick.store.made == 6
    assert not quick.store._wanted
    for features, want in zip(
        found, [*expected, expected[0], expected[3]], strict=True
    ):
        np.testing.assert_array_equal(features, want)
    assert [p.read_bytes() for p in files_of(tmp_path / "cache")] == [
        p.read_bytes() for p in files_of(tmp_path / "alone")
    ]


def test_what_is_known_is_read_while_the_tower_is_busy(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    expected = quick.encode("so", ["two"], (A,))[1]
    with ThreadPoolExecutor(1) as pool, quick.store._tower:
        found = pool.submit(quick.encode, "so", ["two"], (A,)).result(30)[1]
    np.testing.assert_array_equal(found, expected)


def test_no_image_waits_for_the_disk_and_none_is_left_half(
    loaded, tmp_path, monkeypatch
):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", None)
    quick.encode("so", ["two"], (A,))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("x")))
    with pytest.raises(DataError):
        quick.encode("so", ["two"], (B,))
    assert len([p for p in (tmp_path / "cache").rglob("*") if p.is_file()]) == 2


def test_one_that_fails_takes_none_of_those_beside_it_along(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache", tower_rows=1 << 12)
    see, bad = quick.store._see, model.family.alone(model.cut((A,))[0])

    def failing(images):
        if any(np.array_equal(rows, bad) for rows in images):
            raise MemoryError
        return see(images)

    quick.store._see = failing
    like = [A, picture(56, 84, 7), picture(56, 84, 8)]
    with ThreadPoolExecutor(3) as pool:
        with quick.store._tower:
            jobs = [
                pool.submit(quick.encode, "so", ["two"], (image,)) for image in like
            ]
            wait_until(lambda: len(quick.store._wanted) == 3)
        failed = [job.exception(30) for job in jobs]
    assert isinstance(failed[0], MemoryError)
    assert failed[1:] == [None, None]
    quick.encode("so", ["two"], (like[1], like[2]))
    assert not quick.store._wanted


def test_a_refused_text_costs_no_look_at_its_image(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    with pytest.raises(BadRecord, match="step marker in text"):
        quick.encode("so", ["two <prm>"], (A,))
    assert quick.store.made == 0


def test_bfloat16_features_round_and_no_more(loaded, tmp_path):
    model, params = loaded
    half = cached(model, params, tmp_path / "half", dtype="bfloat16")
    exact = jax.jit(model.reward_logits)(params, batch_of(model))
    found = jax.jit(half.reward_logits)(params, batch_of(half))
    assert 1e-6 < relative(found, exact) < 2e-2
    row = half.store.row_bytes
    # A model that computes in bfloat16 loses nothing by keeping its states in it.
    coarse = dataclasses.replace(model, compute=Compute("bfloat16", remat="none"))
    kept = cached(coarse, params, tmp_path / "coarse")
    wide = cached(coarse, params, tmp_path / "wide", dtype="float32")
    assert kept.dtype == "bfloat16"
    assert (kept.store.row_bytes, wide.store.row_bytes) == (row, 2 * row)
    of_kept, of_wide = (
        np.asarray(jax.jit(m.reward_logits)(params, batch_of(m))) for m in (kept, wide)
    )
    np.testing.assert_array_equal(of_kept, of_wide)


def test_an_interrupted_run_goes_on_where_it_was(loaded, tmp_path, monkeypatch):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    see = quick.store._see
    seen = []

    def failing(rows):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(rows)
        return see(rows)

    monkeypatch.setattr(quick.store, "_see", failing)
    with pytest.raises(KeyboardInterrupt):
        batch_of(quick)
    assert len(files_of(tmp_path / "cache")) == 2
    after = cached(model, params, tmp_path / "cache")
    batch_of(after)
    assert after.store.made == (1 if model.name == "qwen2.5-vl" else 2)


def damages(folder):
    first, second = files_of(folder)
    whole = first.read_bytes()
    yield "cut off", whole[:-1]
    yield "empty", b""
    yield "longer", whole + b"\0"
    yield "one bit", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    yield "the digest", bytes([whole[0] ^ 1]) + whole[1:]
    # Whole, and of the right size, but of another image.
    yield "another image's", second.read_bytes()


def test_damaged_features_are_made_anew_and_said(loaded, tmp_path):
    model, params = loaded
    told = []
    quick = cached(model, params, tmp_path / "cache", report=told.append)
    first, second = picture(28, 28, 4), picture(28, 28, 5)
    expected = quick.encode("so", ["two"], (first, second))[1]
    path = files_of(tmp_path / "cache")[0]
    whole = path.read_bytes()
    for name, data in list(damages(tmp_path / "cache")):
        path.write_bytes(data)
        told.clear()
        found = quick.encode("so", ["two"], (first, second))[1]
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert told == [f"{path}: damaged; the features are made anew"], name
        assert path.read_bytes() == whole, name


def changed(params, *path):
    name, *rest = path
    part = params[name]
    return params | {name: changed(part, *rest) if rest else part.at[0].add(1e-3)}


def test_features_of_another_tower_are_refused_by_name(loaded, tmp_path):
    model, params = loaded
    folder = tmp_path / "cache"
    cached(model, params, folder)
    leaf = ("vision", "layers", "query", "bias")
    with pytest.raises(DataError, match=r"cache: holds the features.*tower differ"):
        cached(model, changed(params, *leaf), folder)
    with pytest.raises(DataError, match="dtype differ"):
        cached(model, params, folder, dtype="bfloat16")
    coarse = dataclasses.replace(model, compute=Compute("bfloat16", remat="none"))
    with pytest.raises(DataError, match="computed_in, dtype differ"):
        cached(coarse, params, folder)
    vision = dataclasses.replace(model.config.vision, heads=1)
    config = dataclasses.replace(model.config, vision=vision)
    with pytest.raises(DataError, match="tower differ"):
        cached(dataclasses.replace(model, config=config), params, folder)
    # What is trained may be anything: it comes after the features.
    trained = ("projector", "in", "bias")
    if model.name == "qwen2.5-vl":
        trained = ("vision", "merger_in", "bias")
    cached(model, changed(params, *trained), folder)


def test_a_folder_of_other_things_is_refused(loaded, tmp_path):
    model, params = loaded
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="holds other things than features"):
        cached(model, params, tmp_path / "other")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        cached(model, params, tmp_path / "other" / "thesis.tex")
    (tmp_path / "bad").mkdir()
    for data in (b"{", b'{"tower": 1}', b"\xff", b"[" * 100_000):
        (tmp_path / "bad" / DESCRIPTION).write_bytes(data)
        with pytest.raises(DataError, match="describes no features") as caught:
            cached(model, params, tmp_path / "bad")
        assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Unfrozen(Backbone):
    def trainable(self, params):
        return jax.tree.map(lambda _: True, params)


def test_only_a_frozen_tower_has_features_to_keep(loaded, tmp_path):
    model, params = loaded
    trained = Unfrozen(**vars(model))
    with pytest.raises(DataError, match="its vision tower is trained"):
        cached(trained, params, tmp_path / "cache")
    with pytest.raises(DataError, match="tiny: has no vision tower"):
        cached(*open_model("tiny"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_saved_is_the_backbone(loaded, tmp_path):
    model, params = loaded
    quick = cached(model, params, tmp_path / "cache")
    # The run is another one, because its last bits are.
    assert quick.description() != model.description()
    for name, data in model_files(quick).items():
        (tmp_path / name).write_bytes(data)
    assert read_model(tmp_path) == model
