import pytest

from mprm_jax.data.formats import FORMATS, by_name, detect
from mprm_jax.data.formats.base import WriteOptions, check_options
from mprm_jax.data.problems import DataError
from mprm_jax.data.write import internvl_meta

READ_ONLY = {"prm800k", "processbench", "visualprocessbench", "medprm"}


def test_every_format_is_found_by_its_name():
    names = [form.name for form in FORMATS]
    assert len(set(names)) == len(names) == 9
    assert all(by_name(form.name) is form for form in FORMATS)
    with pytest.raises(ValueError, match="no format 'jsonl'; known: raw, prm, "):
        by_name("jsonl")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_only_writable_formats_take_write_options(form):
    assert (form.write is None) == (form.name in READ_ONLY)
    if form.write is None:
        with pytest.raises(DataError, match="can be read, not written"):
            check_options(form, WriteOptions())
    else:
        check_options(form, WriteOptions())
        soft = WriteOptions(labels="soft")
        if form.name in {"raw", "prm"}:
            check_options(form, soft)
        else:
            with pytest.raises(DataError, match="holds no soft labels"):
                check_options(form, soft)


def test_detection_tells_what_it_saw_and_what_it_knows():
    with pytest.raises(DataError) as caught:
        detect({"foo\n": 1, "x" * 99: 2, **{str(n): 3 for n in range(40)}})
    message = str(caught.value)
    assert message.isprintable()
    assert r"'foo\n'" in message
    assert "'39'" not in message
    assert "x" * 99 not in message
    assert all(form.name in message for form in FORMATS)
    with pytest.raises(DataError, match=r"\(none\)"):
        detect({})


@pytest.mark.parametrize("tree", [{"text": "q", "children": []}, []])
def test_search_trees_are_told_from_rollouts(tree):
    with pytest.raises(DataError, match="search tree of OpenR or OmegaPRM"):
        detect({"question": "q", "final_answer": "3", "reasoning_steps": tree})


def test_internvl_meta():
    assert internvl_meta("bis", "images", "bis.jsonl", 7) == {
        "bis": {
            "root": "images",
            "annotation": "bis.jsonl",
            "data_augment": False,
            "repeat_time": 1,
            "length": 7,
        }
    }
    with pytest.raises(ValueError, match="length must be at least 1"):
        internvl_meta("bis", "images", "bis.jsonl", 0)
