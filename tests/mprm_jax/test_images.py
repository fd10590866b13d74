import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mprm_jax.data import images
from mprm_jax.data.images import decode_image, read_images
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import ImageRoot, resolve_image


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "图 1.png").write_bytes(b"image")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "images-2").mkdir()
    (tmp_path / "images-2" / "x.png").write_bytes(b"secret")
    return folder


def test_links_may_stay_below_the_root_and_lead_to_it(root):
    (root / "inside.png").symlink_to("a/图 1.png")
    (root / "a" / "up").symlink_to("..")
    alias = root.parent / "alias"
    alias.symlink_to(root)
    for start in (root, alias):
        assert resolve_image(start, "inside.png").read_bytes() == b"image"
        assert resolve_image(start, "a/up/inside.png").read_bytes() == b"image"


def test_a_file_below_the_root_is_found(root, monkeypatch):
    file = root / "a" / "图 1.png"
    assert resolve_image(root, "a/图 1.png") == file
    assert resolve_image(root, "./a//图 1.png") == file
    monkeypatch.chdir(root.parent)
    found = resolve_image(root.relative_to(root.parent), "a/图 1.png")
    assert found.read_bytes() == b"image"


LINKS = {
    "secret": "../secret.png", "other": "../images-2/x.png", "passwd": "/etc/passwd",
    "gone": "../missing.png", "b": "../images-2", "loop": "loop",
}  # fmt: skip
REFUSED = {
    "unsafe image path": [
        *("secret", "other", "passwd", "gone", "b/x.png"),
        *("../secret.png", "a/../../secret.png", "/etc/passwd", "~/x", "file:x"),
        "x\0.png",
    ],
    "image not found": [
        *("x.png", "a", ".", "a/图 1.png/x", "x" * 300, "y/" * 3000, "loop"),
        "a//etc/passwd",
    ],
    "image empty": [" "],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_file_below_the_root_is_refused(root, reason):
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    for image in REFUSED[reason]:
        with pytest.raises(BadRecord, match=f"^{reason}"):
            resolve_image(root, image)
    with pytest.raises(BadRecord, match=r"^image not found"):
        resolve_image(root / "none", "x.png")
    with pytest.raises(BadRecord, match=r"^image not found"):
        resolve_image(ImageRoot(root, follow_links=True), "a//etc/passwd")


def picture(mode="RGB", size=(6, 4), seed=0):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return Image.fromarray(values, mode if len(mode) > 1 else "L")


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def decode(tmp_path):
    def one(data):
        (tmp_path / "file").write_bytes(data)
        return decode_image(tmp_path / "file")

    return one


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_pixels_come_back(decode, form):
    original = picture()
    found = decode(encoded(original, form, lossless=True))
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(original))


def test_jpeg_is_read(decode):
    flat = Image.new("RGB", (16, 16), (200, 30, 90))
    found = np.asarray(decode(encoded(flat, "JPEG", quality=95)), int)
    assert np.abs(found - [200, 30, 90]).max() < 8


def test_other_modes_become_rgb(decode):
    grey = picture("L")
    found = np.asarray(decode(encoded(grey)))
    np.testing.assert_array_equal(found, np.repeat(np.asarray(grey)[..., None], 3, 2))
    palette = picture().quantize(4)
    found = np.asarray(decode(encoded(palette, transparency=bytes([0, 128, 255, 255]))))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    assert decode(encoded(picture("RGBA"))).mode == "RGB"


def test_what_would_be_clipped_is_refused(decode):
    deep = Image.fromarray(np.full((3, 3), 40_000, np.uint16))
    with pytest.raises(BadRecord, match=r"unsupported pixels: .*8-bit"):
        decode(encoded(deep))


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_whatever_their_name(decode, form):
    with pytest.raises(BadRecord, match="unknown image format"):
        decode(encoded(picture(), form))


def test_animations_are_refused(decode):
    frames = [picture(seed=i) for i in range(2)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(BadRecord, match="several frames"):
        decode(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_refused(decode, form):
    data = encoded(picture(size=(64, 64)), form)
    for length in (0, 1, 10, len(data) // 2, len(data) - 20):
        with pytest.raises(BadRecord):
            decode(data[:length])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_give_an_image_of_that_size_or_one_error(decode, form):
    data = encoded(picture(size=(24, 16)), form)
    rng = np.random.default_rng(2)
    said = []
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged)).mode == "RGB"
        except BadRecord as error:
            said.append(str(error))
    assert said
    assert not any("\n" in message for message in said)


def png(width, height):
    """A PNG of a few bytes that claims any size."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [6_000, 12_000, 60_000])
def test_bombs_are_refused_before_they_are_decoded(decode, side, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(BadRecord, match="image too large"):
        decode(png(side, side))


def test_the_caps_are_exact(decode, monkeypatch):
    data = encoded(picture(size=(6, 4)))
    monkeypatch.setattr(images, "MAX_PIXELS", 24)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data))
    assert decode(data).size == (6, 4)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(BadRecord, match="image too large"):
        decode(data)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data))
    monkeypatch.setattr(images, "MAX_PIXELS", 23)
    with pytest.raises(BadRecord, match="6 x 4"):
        decode(data)


def test_images_are_found_below_the_root_only(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(encoded(picture()))
    (tmp_path / "b.png").write_bytes(encoded(picture()))
    (root / "link.png").symlink_to(tmp_path / "b.png")
    assert len(read_images(root, ("a.png", "a.png"))) == 2
    for path in ("../b.png", "link.png", "/etc/passwd", "none.png"):
        with pytest.raises(BadRecord):
            read_images(root, ("a.png", path))


def test_an_absolute_path_is_taken_below_the_root_alone(root):
    file = root / "a" / "图 1.png"
    assert resolve_image(root, str(file)) == file
    alias = root.parent / "alias"
    alias.symlink_to(root)
    assert resolve_image(alias, str(alias / "a" / "图 1.png")) == file
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        resolve_image(root, str(root.parent / "secret.png"))
    with pytest.raises(BadRecord, match=r"^image not found"):
        resolve_image(root, str(root / "none.png"))


def test_the_name_of_the_archive_may_lead_a_path(root):
    file = root / "a" / "图 1.png"
    assert resolve_image(root, "Archive-v1.1/a/图 1.png") == file
    # What is there under its whole path is never taken for another.
    (root / "Archive-v1.1" / "a").mkdir(parents=True)
    own = root / "Archive-v1.1" / "a" / "图 1.png"
    own.write_bytes(b"own")
    assert resolve_image(root, "Archive-v1.1/a/图 1.png") == own
    with pytest.raises(BadRecord, match=r"^image not found"):
        resolve_image(root, "one/two/a/图 1.png")


def test_links_of_a_snapshot_lead_into_its_own_store(tmp_path):
    store = tmp_path / "datasets--a--b"
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / "0123").write_bytes(b"image")
    (tmp_path / "secret").write_bytes(b"secret")
    snapshot = store / "snapshots" / "main" / "images"
    snapshot.mkdir(parents=True)
    (snapshot / "x.png").symlink_to("../../../blobs/0123")
    (snapshot / "out.png").symlink_to("../../../../secret")
    assert resolve_image(snapshot, "x.png") == store / "blobs" / "0123"
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        resolve_image(snapshot, "out.png")
    asked = ImageRoot(snapshot, follow_links=True)
    assert resolve_image(asked, "out.png").read_bytes() == b"secret"
    with pytest.raises(BadRecord, match=r"^unsafe image path"):
        resolve_image(asked, "../../../../secret")


def test_a_pointer_instead_of_a_picture_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BadRecord, match="Git LFS"):
        decode_image(path)
