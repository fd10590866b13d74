"""Folders and names that are no model: which fault, which file, in one line."""

import json
import shutil

import pytest

from mprm_jax.models.registry import read_model
from mprm_jax.records.problems import DataError
from mprm_jax.train.open_backbone import Opening, planned_model
from mprm_jax.train.open_model import open_model
from tests.mprm_jax.backbone_folder import LAYOUTS, qwen_folder

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    f"oid sha256:{'0' * 64}\nsize 11421896\n"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return qwen_folder(tmp_path_factory.mktemp("whole") / "weights")


@pytest.fixture
def folder(weights, tmp_path):
    return shutil.copytree(weights, tmp_path / "weights")


def refusal(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refusals(folder):
    """What training, and pricing it, say of a folder: the same."""
    said = refusal(open_model, str(folder))
    assert said == refusal(planned_model, folder, Opening())
    return said


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_name_that_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(open_model, "Qwen/Qwen2.5-VL-7B-Instruct")
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct" in said
    for other in ("nothing", "/no/where", "a/b/c", "../x"):
        assert "hf download" not in refusal(open_model, other)
    write(tmp_path / "model-q4_k_m.gguf", "GGUF")
    assert "GGUF" in refusal(open_model, "model-q4_k_m.gguf")
    write(tmp_path / "model.safetensors", "")
    assert "the folder that holds it" in refusal(open_model, "model.safetensors")


def test_an_adapter_is_no_model(folder):
    adapter = {"base_model_name_or_path": "OpenGVLab/InternVL2_5-8B", "r": 16}
    write(folder / "adapter_config.json", adapter)
    # Merged weights, with what described the adapter left beside them.
    assert planned_model(folder, Opening())[0].name
    write(folder / "adapter_model.safetensors", "")
    assert "OpenGVLab/InternVL2_5-8B" in refusals(folder)
    (folder / "config.json").unlink()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).unlink()
    said = refusals(folder)
    assert "merge" in said
    assert said == refusal(read_model, folder)


def quantised(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", config | values)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_quantised_weights_are_refused(folder, method):
    quantised(folder, quantization_config={"quant_method": method, "bits": 4})
    said = refusals(folder)
    assert "quantised" in said
    assert method in said


def test_quantised_weights_that_say_so_elsewhere(folder):
    quantised(folder, quantization_config=None)
    assert planned_model(folder, Opening())[0].name
    write(folder / "quantize_config.json", {"bits": 4})
    assert "quantised" in refusals(folder)
    (folder / "quantize_config.json").unlink()
    text = json.loads((folder / "config.json").read_text())["text_config"]
    quantised(folder, text_config=text | {"quantization_config": {"bits": 8}})
    assert "quantised" in refusals(folder)


def test_a_folder_of_models_names_them(folder, tmp_path):
    for step in (500, 1000, 1500, 2000):
        write(tmp_path / f"out/checkpoint-{step}/config.json", {})
    write(tmp_path / "out/trainer_state.json", {})
    said = refusals(tmp_path / "out")
    # In the order of their numbers: the last ones, and how many more there are.
    assert "checkpoint-1000, " in said
    assert "checkpoint-2000 (and 1 more)" in said
    assert said == refusal(read_model, tmp_path / "out")
    # The last weights beside them are a model.
    shutil.copytree(tmp_path / "out/checkpoint-500", folder / "checkpoint-500")
    assert planned_model(folder, Opening())[0].name
    cached = tmp_path / "models--org--name"
    write(cached / "snapshots/0123abc/config.json", {})
    assert "snapshots/0123abc" in refusals(cached)


def test_a_part_of_a_run_names_the_run(tmp_path):
    write(tmp_path / "run/model.json", {})
    (tmp_path / "run/checkpoints/100").mkdir(parents=True)
    said = refusal(read_model, tmp_path / "run/checkpoints/100")
    assert str(tmp_path / "run") in said.partition(": ")[2]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_named(folder, name):
    write(folder / name, POINTER)
    said = refusals(folder)
    assert said.startswith(f"{folder / name}: a Git LFS pointer")


def test_links_that_lead_nowhere_are_named(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs/abc")
    assert refusals(folder).startswith(f"{folder / 'model.safetensors'}: a link")


@pytest.mark.parametrize("name", ["model.Q8_0.gguf", "tf_model.h5", "weights.npz"])
def test_weights_of_others_are_named(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    assert "original safetensors" in refusal(open_model, str(folder))
    (folder / "config.json").unlink()
    assert "original safetensors" in refusals(folder)


def test_shards_that_are_missing_are_counted(folder):
    names = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    (folder / "model.safetensors").rename(folder / names[0])
    index = {"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    write(folder / "model.safetensors.index.json", index)
    said = refusals(folder)
    assert "2 of 3" in said
    assert f"{names[1]}, {names[2]}" in said


@pytest.mark.parametrize("size", [10**15, 10**30, 2**31])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vocabulary_beyond_the_cap_says_so(tmp_path, layout, size):
    make, text = LAYOUTS[layout]
    config = make()
    config[text]["vocab_size"] = size
    write(tmp_path / "tokenizer.json", {})
    write(tmp_path / "config.json", config)
    shutil.copy(qwen_folder(tmp_path / "w") / "tokenizer.json", tmp_path)
    said = refusals(tmp_path)
    assert said.startswith(f"{tmp_path / 'config.json'}: too large")
    assert "2147483647" in said
    assert f"{text}.vocab_size" in said
