import os

import pytest

from mprm_jax.data.images import resolve_image
from mprm_jax.data.problems import BadRecord


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "图 1.png").write_bytes(b"image")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "images-2").mkdir()
    (tmp_path / "images-2" / "x.png").write_bytes(b"secret")
    return folder


def test_a_file_below_the_root_is_found(root):
    file = root / "a" / "图 1.png"
    assert resolve_image(root, "a/图 1.png") == file
    assert resolve_image(root, "./a//图 1.png") == file


def test_a_relative_root_is_found(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    found = resolve_image(root.relative_to(root.parent), "a/图 1.png")
    assert found.read_bytes() == b"image"


def test_links_may_stay_below_the_root_and_lead_to_it(root):
    (root / "inside.png").symlink_to("a/图 1.png")
    (root / "a" / "up").symlink_to("..")
    alias = root.parent / "alias"
    alias.symlink_to(root)
    for start in (root, alias):
        assert resolve_image(start, "inside.png").read_bytes() == b"image"
        assert resolve_image(start, "a/up/inside.png").read_bytes() == b"image"


@pytest.mark.parametrize(
    "target", ["../secret.png", "../images-2/x.png", "/etc/passwd", "../missing.png"]
)
def test_a_link_out_of_the_root_is_refused(root, target):
    (root / "link.png").symlink_to(target)
    with pytest.raises(BadRecord, match=r"^unsafe image path: 'link.png' leaves"):
        resolve_image(root, "link.png")


def test_a_linked_folder_out_of_the_root_is_refused(root):
    (root / "b").symlink_to(root.parent / "images-2")
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        resolve_image(root, "b/x.png")


@pytest.mark.parametrize(
    "image",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "~/x", "file:x", "x\0.png"],
)
def test_unsafe_paths_are_refused_before_any_file_is_touched(root, image):
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        resolve_image(root, image)


@pytest.mark.parametrize(
    "image", ["x.png", "a", ".", "a/图 1.png/x", "x" * 300, "y/" * 3000]
)
def test_what_is_no_file_is_not_found(root, image):
    with pytest.raises(BadRecord, match=r"^image not found"):
        resolve_image(root, image)


def test_a_missing_root_and_circular_links_are_not_found(root):
    os.symlink("loop.png", root / "loop.png")
    for folder, image in [(root, "loop.png"), (root / "none", "x.png")]:
        with pytest.raises(BadRecord, match=r"^image not found"):
            resolve_image(folder, image)


def test_an_empty_path_is_refused(root):
    with pytest.raises(BadRecord, match=r"^image empty"):
        resolve_image(root, " ")
