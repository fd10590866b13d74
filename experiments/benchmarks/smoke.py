"""The first minute on an accelerator: what it is, and whether it computes rightly.

    uv run python -m experiments.benchmarks.smoke

One JSON line a check, so that what was found stays if a later one fails: versions and
devices; which attention the decoder is given; gradients of cuDNN's attention against
XLA's at the shapes of both backbones, and what each costs; whether a float32 product is
TF32 by default; the rate of a large bfloat16 product; and whether the same updates from
the same start give the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks import full_depth
from experiments.benchmarks.gpu_step import matmul_rate

# Relative difference of bfloat16 gradients: a few of its roundings, of 2^-9 each.
TOLERANCE = 1e-2

_LIBRARIES = (
    "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpy", "flax", "optax",
    "orbax-checkpoint", "grain", "msgspec", "xxhash", "torch", "transformers",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip
# Runs of a thing that is timed; the median counts.
_REPEATS = 10
# Of the same updates, each of three; two equal runs may be luck.
_RUNS, _UPDATES = 4, 3


@dataclasses.dataclass(frozen=True)
class Options:
    """Check an accelerator.

    Attributes:
        tokens: Of the attention's and the update's sequences.
        toy: Small products, on the CPU if need be.
    """

    tokens: int = 4096
    toy: bool = False


@dataclasses.dataclass(frozen=True)
class Heads:
    """Attention of one kind.

    Attributes:
        rows: sequences.
        length: of each.
        queries: heads.
        keys: heads of keys and values.
        width: of a head.
        causal: whether a position sees none behind it.
    """

    rows: int
    length: int
    queries: int
    keys: int
    width: int
    causal: bool


def kinds(tokens: int) -> dict[str, Heads]:
    """Attention of both decoders and both towers."""
    return {
        "qwen2.5-vl decoder": Heads(1, tokens, 28, 4, 128, True),
        "internvl2.5 decoder": Heads(1, tokens, 32, 8, 128, True),
        "internvl2.5 tower": Heads(8, min(tokens, 1024) + 1, 16, 16, 64, False),
        "qwen2.5-vl tower": Heads(1, min(tokens, 1024), 16, 16, 80, False),
    }


def environment(options: Options) -> dict[str, Any]:
    """Versions, and the devices that JAX sees."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
    }


def chosen_attention(options: Options) -> dict[str, Any]:
    """What training would take here, and why where it is not the fused one."""
    from mprm_jax.models.layers import AttentionUse, choose_attention

    def use(heads: Heads) -> AttentionUse:
        # Of the towers Qwen's hides pairs of patches, and neither is trained.
        return AttentionUse(
            heads.queries,
            heads.keys,
            heads.width,
            heads.length,
            causal=heads.causal,
            masked=heads is of["qwen2.5-vl tower"],
            trained=heads.causal,
            dtype="bfloat16",
        )

    of = kinds(options.tokens)
    return {
        name: dataclasses.asdict(choose_attention(use(heads)))
        for name, heads in of.items()
    }


def attention(options: Options, heads: Heads) -> dict[str, Any]:
    """cuDNN's gradients against XLA's, and milliseconds of both."""
    from mprm_jax.models.layers import attend

    keys = jax.random.split(jax.random.key(0), 4)
    numbers = heads.queries, heads.keys, heads.keys, heads.queries
    q, k, v, weight = (
        jax.random.normal(key, (heads.rows, heads.length, n, heads.width), jnp.bfloat16)
        for key, n in zip(keys, numbers, strict=True)
    )

    def gradients_by(implementation: Any) -> Callable[[], Any]:
        def total(q: Any, k: Any, v: Any, weight: Any) -> jax.Array:
            mixed = attend(q, k, v, implementation, causal=heads.causal)
            return (mixed * weight).astype(jnp.float32).sum()

        gradients = jax.jit(jax.grad(total, (0, 1, 2)))
        return functools.partial(gradients, q, k, v, weight)

    found, told = {}, {}
    for implementation in ("xla", "cudnn"):
        try:
            of = gradients_by(implementation)
            found[implementation] = [np.asarray(x, np.float32) for x in of()]
            told[implementation] = {"ms": 1e3 * median_seconds(of, options)}
        except (NotImplementedError, ValueError, RuntimeError) as error:
            told[implementation] = {"error": _first_line(error)}
    if len(found) == 2:
        told["relative_differences"] = [
            float(np.linalg.norm(a - b) / np.linalg.norm(a))
            for a, b in zip(found["xla"], found["cudnn"], strict=True)
        ]
        told["agree"] = max(told["relative_differences"]) < TOLERANCE
    return told


def float32_products(options: Options) -> dict[str, Any]:
    """Relative errors of a float32 product; TF32 keeps 11 bits and errs by 1e-3."""
    a, b = np.random.default_rng(0).standard_normal((2, 1024, 1024)).astype(np.float32)
    exact = a.astype(np.float64) @ b

    def error(precision: str | None) -> float:
        found = np.asarray(jnp.matmul(a, b, precision=precision), np.float64)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    default, highest = error(None), error("highest")
    # float32's own error grows with the root of 1,024 roundings of 2^-24.
    return {"default": default, "highest": highest, "tf32": default > 1e-4}


def product_rate(options: Options) -> dict[str, Any]:
    """TFLOP per second of a large bfloat16 product."""
    return {"tflops": matmul_rate(256 if options.toy else 8192) / 1e12}


def same_update_twice(options: Options) -> dict[str, Any]:
    """The largest difference of parameters after the same updates from the same start.

    A toy of Qwen2.5-VL, pictures and adapters included, in the precision and with the
    attention that training takes here.
    """
    from mprm_jax.train.objective import Objective
    from mprm_jax.train.optimizer import OptimizerConfig
    from mprm_jax.train.update import UpdateRule, compiled_step, initial_state
    from mprm_jax.train.update_plan import plan

    chosen = full_depth.Options(batch_size=8, tokens=512, toy=True)
    model = full_depth.make_model(chosen, "qwen2.5-vl-7b")
    config = model.base.config
    # Heads as wide as cuDNN's attention takes them.
    language = dataclasses.replace(
        config.language,
        width=256,
        head_width=64,
        rope=dataclasses.replace(config.language.rope, sections=(8, 12, 12)),
    )
    vision = dataclasses.replace(config.vision, output=language.width)
    config = dataclasses.replace(config, language=language, vision=vision)
    base = dataclasses.replace(model.base, config=config)
    model = dataclasses.replace(model, base=base)
    batch = full_depth.make_batch(chosen, model.base)
    rule = UpdateRule(model, OptimizerConfig(), Objective())
    weight = np.float32(batch.weight_BxS.sum())

    def after() -> list[np.ndarray]:
        params = full_depth.parameters(model, jax.random.key(0))
        state, frozen = initial_state(model, params, plan(80, 8), rule.optimizer, 1e-3)
        for _ in range(_UPDATES):
            state, _ = compiled_step(state, frozen, batch, weight, rule=rule)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.trained)]

    first, *others = [after() for _ in range(_RUNS)]
    worst = max(
        float(np.abs(a - b).max())
        for other in others
        for a, b in zip(first, other, strict=True)
    )
    return {"bit_for_bit": worst == 0, "largest_difference": worst}


def median_seconds(call: Callable[[], Any], options: Options) -> float:
    """Of a call whose result is waited for, compiled beforehand."""
    seconds = []
    for _ in range(1 if options.toy else _REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def checks(options: Options) -> dict[str, Callable[[Options], dict[str, Any]]]:
    """All checks, in order."""
    of_attention = {
        f"attention: {name}": functools.partial(attention, heads=heads)
        for name, heads in kinds(options.tokens).items()
    }
    return {
        "environment": environment,
        "attention chosen": chosen_attention,
        **of_attention,
        "float32 products": float32_products,
        "bfloat16 product": product_rate,
        "same update twice": same_update_twice,
    }


def main(options: Options) -> None:
    """Check, and print a line each; one that fails says so and the others go on."""
    began = time.perf_counter()
    for name, check in checks(options).items():
        try:
            found = check(options)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        seconds = round(time.perf_counter() - began, 1)
        print(json.dumps({"check": name, "at_second": seconds, **found}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
