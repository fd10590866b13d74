"""The tiny model with its tokeniser: what the trainer sees, and the shipped weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tokenizers import Tokenizer

from mprm_jax.data.batches import Batch
from mprm_jax.data.problems import BadRecord, DataError
from mprm_jax.data.prompt import encode_prompt, marker_id
from mprm_jax.models.model import Params
from mprm_jax.models.tiny import TinyConfig, TinyModule, merge_module, patchify

TOKENIZER = "tokenizer.json"
WEIGHTS = "tiny_base.safetensors"

# Side of the pictures that the patch embedding was trained on.
IMAGE_PX = 48
# Longer prompts than the world writes; beyond it steps are cut off and counted.
MAX_TOKENS = 192


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """See :class:`mprm_jax.models.model.Model`.

    Attributes:
        config: shape.
        tokenizer: of the prompts.
    """

    config: TinyConfig
    tokenizer: Tokenizer = dataclasses.field(compare=False)

    @property
    def name(self) -> str:
        """Of the family."""
        return "tiny"

    def init(self, key: jax.Array) -> Params:
        """Random parameters, float32."""
        return nnx.to_pure_dict(nnx.state(TinyModule(self.config, nnx.Rngs(key))))

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits at every step marker, [B, S, 3]."""
        return merge_module(_graph(self.config), params).reward_logits(batch)

    def trainable(self, params: Params) -> Any:
        """All but the patch embedding and the vision blocks, as in the paper."""
        frozen = ("stem1", "stem2", "vision")
        return {
            name: jax.tree.map(lambda _, free=name not in frozen: free, part)
            for name, part in params.items()
        }

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image.Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Tokens, patches and markers; a picture of another size is resized.

        Raises:
            BadRecord: there is not exactly one picture, or the text cannot be encoded.
        """
        if len(images) != 1:
            raise BadRecord(
                "one image needed", f"the tiny model reads one, here are {len(images)}"
            )
        (image,) = images
        if image.size != (IMAGE_PX, IMAGE_PX):
            image = image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR)
        (patches_PxD,) = patchify(np.asarray(image.convert("RGB"))[None])
        tokens_L, marker_S, truncated = encode_prompt(
            self.tokenizer, question, steps, MAX_TOKENS
        )
        return tokens_L, patches_PxD, marker_S, truncated

    def description(self) -> dict[str, Any]:
        """Shape of the model as JSON values."""
        return dataclasses.asdict(self.config)

    def assets(self) -> dict[str, bytes]:
        """The tokeniser."""
        return {TOKENIZER: self.tokenizer.to_str(pretty=True).encode()}


@cache
def _graph(config: TinyConfig) -> Any:
    """The module's structure without parameters: a pure function worth remembering."""
    abstract = nnx.eval_shape(lambda: TinyModule(config, nnx.Rngs(0)))
    return nnx.split(abstract)[0]


def from_description(config: dict[str, Any], folder: Path) -> TinyModel:
    """The model of a checkpoint's folder.

    Raises:
        DataError: its files do not make one.
    """
    path = folder / TOKENIZER
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    return _assemble(config, text, str(folder))


def _assemble(config: dict[str, Any], tokenizer_json: str, where: str) -> TinyModel:
    try:
        shape = msgspec.convert(config, TinyConfig)
        # The library raises bare Exceptions.
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:
        raise DataError(f"{where}: no tiny model ({error})") from error
    marker_id(tokenizer)
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise DataError(
            f"{where}: {tokenizer.get_vocab_size()} tokens in the tokeniser, "
            f"{shape.vocab_size} in the model"
        )
    return TinyModel(shape, tokenizer)


def weights_bytes(model: TinyModel, params: Params, metadata: dict[str, str]) -> bytes:
    """Parameters, configuration and tokeniser in one float16 safetensors file.

    Args:
        model: whose they are.
        params: float32.
        metadata: how they were made.
    """
    arrays = {
        _name(path): np.asarray(leaf, np.float16)
        for path, leaf in flatten_dict(params).items()
    }
    described = {
        "config": msgspec.json.encode(model.description()).decode(),
        "tokenizer": model.tokenizer.to_str(),
    }
    return save(arrays, metadata=metadata | described)


def read_weights(data: bytes, where: str) -> tuple[TinyModel, Params, dict[str, str]]:
    """Model, parameters (float32) and metadata of :func:`weights_bytes`.

    Raises:
        DataError: the file is none of these, or parts of it are missing.
    """
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = msgspec.json.decode(data[8 : 8 + size])["__metadata__"]
        config = msgspec.json.decode(metadata.pop("config"))
        tokenizer = metadata.pop("tokenizer")
    except (
        SafetensorError,
        msgspec.DecodeError,
        KeyError,
        ValueError,
        RecursionError,
    ) as error:
        raise DataError(f"{where}: no weights of a tiny model ({error})") from error
    model = _assemble(config, tokenizer, where)
    shapes: dict[Any, Any] = flatten_dict(jax.eval_shape(model.init, jax.random.key(0)))
    expected = {_name(path): leaf.shape for path, leaf in shapes.items()}
    if expected != {name: array.shape for name, array in arrays.items()}:
        raise DataError(f"{where}: its arrays are not those of its configuration")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{where}: a weight is not a finite number")
    params = {path: jnp.asarray(arrays[_name(path)], jnp.float32) for path in shapes}
    return model, unflatten_dict(params), metadata


def _name(path: tuple[str | int, ...]) -> str:
    return "/".join(map(str, path))


def pretrained() -> tuple[TinyModel, Params]:
    """The backbone that ships with the package, with a head of zeros.

    A zero head scores every step 1/2: nothing of the pretraining is in it.
    """
    model, params, _ = read_weights(*_shipped())
    return model, params


def pretraining_facts() -> dict[str, str]:
    """How the shipped backbone was made: command, seed, data and metrics."""
    return read_weights(*_shipped())[2]


def _shipped() -> tuple[bytes, str]:
    file = resources.files("mprm_jax.models") / WEIGHTS
    return file.read_bytes(), WEIGHTS
