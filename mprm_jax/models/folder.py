"""What a name given as a model stands for, where it is no folder of a whole model.

The names and layouts are those of transformers, PEFT, huggingface_hub, llama.cpp,
DeepSpeed and this package's own runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mprm_jax.records.problems import DataError, faults_of, what_instead

# Of released weights, and of a model that this package trained.
CONFIG, DESCRIPTION = "config.json", "model.json"
# Weights that are not safetensors: those that can run code when read, and others.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_FOREIGN = {
    "*.gguf": "GGUF, which llama.cpp reads",
    "*.onnx": "ONNX",
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.npz": "MLX's",
    "*.distcp": "sharded by PyTorch's FSDP",
    "*_states.pt": "sharded by DeepSpeed (zero_to_fp32.py beside them joins them)",
}
# ORGANISATION/NAME as huggingface.co takes it.
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)


def no_folder(name: str, known: str = "a folder that holds one") -> DataError:
    """Why a name that is no folder is no model, and what to give instead."""
    path = Path(name)
    if path.is_file():
        return _foreign(name, path.match) or DataError(
            f"{name}: is a file; give the folder that holds it, with {CONFIG} and "
            "tokenizer.json"
        )
    if path.is_symlink():
        return DataError(f"{name}: a link to a folder that is not there")
    if _REPOSITORY.fullmatch(name):
        return DataError(
            f"{name}: no such folder; if it is a repository of huggingface.co, fetch "
            f"it (hf download {name} --local-dir DIR) and give the folder DIR"
        )
    return DataError(f"{name}: no such model; give {known}")


def _foreign(name: object, has: Callable[[str], bool]) -> DataError | None:
    """Why weights that fit one of the patterns cannot be read; None: none of them."""
    for what in (what for pattern, what in _FOREIGN.items() if has(pattern)):
        return DataError(
            f"{name}: weights are {what}; give a folder with the original safetensors, "
            "config.json and tokenizer.json"
        )
    return None


def model_folder(name: str) -> Path:
    """The folder of a model to train.

    Raises:
        DataError: there is no folder of that name, or no whole model in it.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise no_folder(name, "tiny, or a folder with weights")
    if not (folder / DESCRIPTION).is_file():
        check_released(folder)
    return folder


def check_released(folder: Path) -> None:
    """Refuse a folder that cannot be released weights, before anything of it is used.

    Raises:
        DataError: it is an adapter without its base, quantised, made of Git LFS
            pointers or dangling links, or a folder of models.
    """
    if not folder.is_dir():
        raise no_folder(str(folder))
    check_fetched(folder)
    _check_adapter(folder)
    if not (folder / CONFIG).is_file():
        raise no_model(folder)
    with faults_of(folder / CONFIG):
        method = _quantised(msgspec.json.decode((folder / CONFIG).read_bytes()))
    for name in ("quantize_config.json", "quant_config.json"):
        if method is None and (folder / name).is_file():
            method = name
    if method is not None:
        raise DataError(
            f"{folder}: quantised weights ({method[:40]}), which cannot be trained or "
            "read here; give the model they were made from"
        )


def no_model(folder: Path) -> DataError:
    """Why a folder without ``config.json`` and ``model.json`` is no model."""
    try:
        _check_adapter(folder)
    except DataError as error:
        return error
    # A checkpoint within a run, or a folder in it.
    for parent in list(folder.absolute().parents)[:3]:
        if (parent / DESCRIPTION).is_file():
            return DataError(f"{folder}: a part of a run; give the run: {parent}")
    inside = list(_models_below(folder))
    if inside:
        listed = ", ".join(map(str, inside[-3:]))
        others = f" (and {len(inside) - 3} more)" if inside[3:] else ""
        return DataError(
            f"{folder}: holds models in folders of their own, and is none; give one "
            f"of them: {listed}{others}"
        )
    return _foreign(folder, lambda of: any(folder.glob(of))) or DataError(
        f"{folder}: neither {DESCRIPTION}, as in a model trained here, nor {CONFIG}, "
        "as in released weights"
    )


def no_safetensors(folder: Path, wanted: str) -> DataError:
    """Why the weights of a folder cannot be read."""
    if foreign := _foreign(folder, lambda of: any(folder.glob(of))):
        return foreign
    pickles = sorted(path.name for end in PICKLES for path in folder.glob(end))
    if pickles:
        wanted = (
            f"only pickled weights ({pickles[0]}), which can run code when read; "
            "transformers' from_pretrained(...).save_pretrained(..., "
            "safe_serialization=True) writes safetensors"
        )
    return DataError(f"{folder}: {wanted}")


def _models_below(folder: Path) -> Iterator[Path]:
    """Models in a folder's own folders, or a Hugging Face cache's, oldest first."""

    def number(path: Path) -> tuple[int, str]:
        digits = re.search(r"\d+$", path.name)
        return int(digits[0]) if digits else -1, path.name

    try:
        found = [*folder.iterdir(), *(folder / "snapshots").glob("*")]
    except OSError:
        return
    for path in sorted(found, key=number):
        named = (CONFIG, DESCRIPTION, "adapter_config.json")
        if any((path / name).is_file() for name in named):
            yield path


def _check_adapter(folder: Path) -> None:
    described = folder / "adapter_config.json"
    if not described.is_file():
        return
    whole = (folder / CONFIG).is_file() and any(
        path.name.startswith("model") for path in folder.glob("*.safetensors")
    )
    if whole and not any(folder.glob("adapter_model.*")):
        return
    with faults_of(described):
        base = msgspec.json.decode(described.read_bytes(), type=dict[str, Any]).get(
            "base_model_name_or_path"
        )
    of = f" for {base[:80]!r}" if isinstance(base, str) and base else ""
    raise DataError(
        f"{folder}: an adapter (PEFT){of}, not a whole model; merge it first: peft's "
        "merge_and_unload().save_pretrained(DIR), the tokenizer beside it, and give DIR"
    )


def _quantised(config: Any) -> str | None:
    """How a model was quantised, as its config.json says; None: it was not."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config", "quantization"):
        if found := config.get(name):
            method = found.get("quant_method") if isinstance(found, dict) else None
            return method if isinstance(method, str) else name
    parts = (config.get(f"{part}_config") for part in ("text", "llm", "vision"))
    return next(filter(None, map(_quantised, parts)), None)


def check_fetched(folder: Path) -> None:
    """Refuse files that stand for others which are not here.

    Raises:
        DataError: naming the first, and how many there are.
    """
    wrong: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".safetensors"):
            continue
        if path.is_symlink() and not path.exists():
            wrong.append((path, "a link to a file that is not there; fetch it again"))
        elif path.is_file():
            with open(path, "rb") as file:
                what = what_instead(file.read(64))
            if what is not None:
                wrong.append((path, what))
    if wrong:
        path, what = wrong[0]
        more = f"; {len(wrong) - 1} more files here are like it" if wrong[1:] else ""
        raise DataError(f"{path}: {what}{more}")
