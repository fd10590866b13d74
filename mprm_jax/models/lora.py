"""LoRA (Hu et al. 2021): a product of two thin matrices is trained beside each kernel.

y = x W + (alpha / r) (x A) B, with A [in, r] and B [r, out]; W is frozen. Multiplied in
this order, neither the product A B nor the gradient of a kernel is ever made: an
adapter costs r (in + out) multiply-adds where the kernel costs in x out.

Checkpoints keep adapters apart. Added to a kernel of bfloat16, what a few updates at
1e-5 have learned is mostly less than half of its last digit and would be rounded away;
so :func:`merged`, for export, makes kernels of float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from PIL.Image import Image

from mprm_jax.data.batches import Batch
from mprm_jax.models.model import HEAD, Model, Params
from mprm_jax.records.problems import DataError

# Kernels of a decoder layer; the paper's backbones all have these seven.
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")

# The subtree of the adapters, and where the kernels beside it lie.
ADAPTERS = "adapters"
_LANGUAGE, _LAYERS, _KERNEL = "language", "layers", "kernel"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which kernels get an adapter, and how large.

    Attributes:
        rank: r, columns of A and rows of B, at least 1.
        alpha: of the scale alpha / r, > 0.
        targets: kernels of each decoder layer, of :data:`TARGETS`.

    Raises:
        ValueError: a value is out of its range.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora_rank must be at least 1, not {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(
                f"lora_alpha must be finite and positive, not {self.alpha}"
            )
        wrong = [name for name in self.targets if name not in TARGETS]
        if wrong or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"lora_targets must be some of {','.join(TARGETS)}, each once, not "
                f"{','.join(self.targets)}"
            )

    @property
    def scale(self) -> float:
        """Alpha / r."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class LoraModel:
    """A backbone of which only adapters and the reward head are trained.

    Its parameters are the backbone's, and ``adapters``. See
    :class:`mprm_jax.models.model.Model`.
    """

    base: Model
    config: LoraConfig

    @property
    def name(self) -> str:
        """Which backbone."""
        return self.base.name

    def init(self, key: jax.Array) -> Params:
        """Random parameters: the backbone's, and adapters that change nothing yet."""
        first, second = jax.random.split(key)
        return attach(self.base.init(first), self.config, second)

    def reward_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits at every step marker, [B, S, 3], of the adapted backbone."""
        return self.base.reward_logits(adapted(params, self.config), batch)

    def marker_states(self, params: Params, batch: Batch) -> jax.Array:
        """What the head reads at every marker, [B, S, D], of the adapted backbone."""
        return self.base.marker_states(adapted(params, self.config), batch)

    def trainable(self, params: Params) -> Any:
        """Adapters and head; reward rows that are the embedding's stay as they are."""
        return {
            name: jax.tree.map(lambda _, free=name in (ADAPTERS, HEAD): free, part)
            for name, part in params.items()
        }

    def encode(
        self, question: str, steps: Sequence[str], images: tuple[Image, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """As the backbone does."""
        return self.base.encode(question, steps, images)

    def description(self) -> dict[str, Any]:
        """The backbone's, with the adapters: :func:`from_description` reads it."""
        return {**self.base.description(), "lora": dataclasses.asdict(self.config)}

    def assets(self) -> dict[str, bytes]:
        """As the backbone's."""
        return dict(self.base.assets())


def attach(params: Params, config: LoraConfig, key: jax.Array) -> Params:
    """The parameters with adapters: A ~ N(0, 1 / (3 in)), B = 0, both float32.

    So W' = W before the first update; the variance is that of the reference
    implementation's uniform draw.

    Raises:
        DataError: the model has no such kernels.
    """
    made = {}
    for number, target in enumerate(config.targets):
        *stack, inner, outer = _kernel(params, target).shape
        draw = jax.random.normal(
            jax.random.fold_in(key, number), (*stack, inner, config.rank), jnp.float32
        )
        made[target] = {
            "a": draw * (3 * inner) ** -0.5,
            "b": jnp.zeros((*stack, config.rank, outer), jnp.float32),
        }
    return {**params, ADAPTERS: {_LAYERS: made}}


def adapted(params: Params, config: LoraConfig) -> Params:
    """The backbone's parameters, with an adapter in each adapted linear layer.

    :func:`mprm_jax.models.layers.linear` applies it. The scale is taken into A in
    float32, before either is rounded to the precision of the computation.
    """

    def change(linear: Any, adapter: Any) -> dict[str, Any]:
        return linear | {"adapter": adapter | {"a": config.scale * adapter["a"]}}

    return _each(params, config, change)


def merged(params: Params, config: LoraConfig) -> Params:
    """The backbone's parameters with every adapter added to its kernel for good.

    W + (alpha / r) A B, in float32, whatever the kernel was stored in.
    """

    def change(linear: Any, adapter: Any) -> dict[str, Any]:
        a, b = config.scale * adapter["a"], adapter["b"]
        return linear | {_KERNEL: _sum(linear[_KERNEL], a, b)}

    return _each(params, config, change)


def _sum(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """W + A B of a stack of layers, float32."""
    product = jnp.einsum(
        "...ir,...ro->...io", a, b, precision=jax.lax.Precision.HIGHEST
    )
    return kernel.astype(jnp.float32) + product


def _each(params: Params, config: LoraConfig, change: Any) -> Params:
    """The backbone's parameters with ``change`` made to every adapted linear layer."""
    base = {name: part for name, part in params.items() if name != ADAPTERS}
    layers = dict(base[_LANGUAGE][_LAYERS])
    for target in config.targets:
        adapter = params[ADAPTERS][_LAYERS][target]
        layers[target] = change(layers[target], adapter)
    return {**base, _LANGUAGE: {**base[_LANGUAGE], _LAYERS: layers}}


def _kernel(params: Params, target: str) -> Any:
    try:
        return params[_LANGUAGE][_LAYERS][target][_KERNEL]
    except (KeyError, TypeError):
        raise DataError(
            f"LoRA needs a backbone with stacked layers: this model has no {target}"
        ) from None


def base_of(model: Model) -> Model:
    """The model below the adapters, if there are any."""
    return model.base if isinstance(model, LoraModel) else model


def from_description(base: Model, values: Any) -> LoraModel:
    """The model of a folder whose description has adapters.

    Raises:
        DataError: it describes none.
    """
    try:
        return LoraModel(base, msgspec.convert(values, LoraConfig))
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError(f"no description of adapters ({error})") from error
