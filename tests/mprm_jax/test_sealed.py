import json

import pytest
import xxhash

from mprm_jax.train.file_hashes import MANIFEST, Damaged, seal, verify


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "a" / "deep").mkdir(parents=True)
    (made / "b").mkdir()
    (made / "a" / "deep" / "one").write_bytes(b"1" * 3000)
    (made / "a" / "two").write_bytes(b"")
    (made / "b" / "three").write_bytes(b"3")
    seal(made, {"update": 7})
    return made


def test_a_whole_folder_gives_its_facts(folder):
    assert verify(folder) == {"update": 7}
    hashes = json.loads((folder / MANIFEST).read_bytes())["contents"]["files"]
    assert hashes["a/deep/one"] == {
        "bytes": 3000,
        "xxh3_128": xxhash.xxh3_128_hexdigest(b"1" * 3000),
    }


def refused(folder, words, parts=None):
    with pytest.raises(Damaged, match=words) as error:
        verify(folder, parts)
    assert str(error.value).startswith(f"{folder}: damaged: ")
    assert "\n" not in str(error.value)


def test_every_damage_is_named(folder):
    one = folder / "a" / "deep" / "one"
    one.write_bytes(b"1" * 2999 + b"2")
    refused(folder, "a/deep/one has another hash")
    one.write_bytes(b"1" * 2999)
    refused(folder, "a/deep/one has 2999 bytes, not 3000")
    one.unlink()
    refused(folder, "a/deep/one is missing")
    (folder / "b" / "four").write_bytes(b"")
    refused(folder, "b/four does not belong to it")


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / MANIFEST
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 32):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            refused(folder, MANIFEST)
    for data in (b"", whole[:-1], whole + b" ", b"[" * 100_000, b"\xff" + whole):
        path.write_bytes(data)
        refused(folder, MANIFEST)
    path.unlink()
    refused(folder, MANIFEST)


def test_parts_that_are_not_asked_for_are_not_read(folder):
    (folder / "a" / "deep" / "one").write_bytes(b"other")
    assert verify(folder, ("b",)) == {"update": 7}
    refused(folder, "a/deep/one", ("a",))
    # but nothing may have come to them, and "a" is not the beginning of a name
    (folder / "ab").write_bytes(b"")
    refused(folder, "ab does not belong", ("b",))


def test_a_folder_that_is_not_there_is_damaged(tmp_path):
    refused(tmp_path / "none", MANIFEST)
