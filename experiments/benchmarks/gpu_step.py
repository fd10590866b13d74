"""What an update of a slice of each backbone costs on a GPU, beside PyTorch.

    uv run --group parity python -m experiments.benchmarks.gpu_step

A backbone of the real width and a few decoder layers gets random tensors, which both
sides read from the same safetensors files. Text alone is trained on: the vision tower,
which is frozen, is not measured. Both sides keep float32 masters and AdamW moments,
compute in bfloat16, recompute each layer in the backward pass, and read two rows of the
head at the step markers only. Processes alternate on the same card: JAX, PyTorch as it
is, compiled, and compiled with its attention held to the flash kernel. An update ends
when its loss has been read. Each prints a JSON line when it is done; a side that fails
says so and the others go on. Once the first two are done, their reward logits in
bfloat16 are compared with PyTorch's in float32: where ours err more than twice as much
as theirs, everything ends, and no verdict is given.

Model FLOPs are those of the matrix products of one forward and one backward pass (three
forwards), causal attention counted once, recomputation not at all. Without a GPU this
says so and stops; --toy runs a toy of both sides on the CPU, whose times mean nothing.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments.benchmarks.worker import run_worker
from experiments.console.tables import format_table

# Dense bfloat16 of an H100 SXM, its data sheet.
_PEAK = 989e12

# What an update shall reach: of the card's peak, and of the quickest PyTorch's speed.
TARGET_MFU, TARGET_OF_TORCH = 0.4, 1.0

# Timed for the rate of the card.
_PRODUCTS = 20


Side = Literal["jax", "torch", "torch-compiled", "torch-flash"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure one update of a slice of a backbone.

    Attributes:
        backbone: Whose width.
        layers: Decoder layers of the slice.
        batch_size: Rollouts per update.
        tokens: Of every rollout.
        steps: Of every rollout.
        warmup: Updates before those that count.
        updates: Timed, per process.
        rounds: Processes of each side.
        attention: Of the JAX side; by default what training would take here.
        sides: What is measured.
        toy: A toy width, on the CPU if need be: to see that the script runs.
        worker: For the script itself: what a process of it is to do.
        folder: For the script itself: where the case lies.
    """

    backbone: Literal["internvl2.5-8b", "qwen2.5-vl-7b"] = "internvl2.5-8b"
    layers: int = 8
    batch_size: int = 4
    tokens: int = 4096
    steps: int = 8
    warmup: int = 3
    updates: int = 20
    rounds: int = 2
    attention: Literal["xla", "cudnn"] | None = None
    sides: tuple[Side, ...] = ("jax", "torch", "torch-compiled", "torch-flash")
    toy: bool = False
    worker: Literal["make", Side] | None = None
    folder: Path = Path("runs/gpu_step")


def slice_config(options: Options) -> Any:
    """The backbone's shape with few layers, and a vision tower of next to nothing."""
    from mprm_jax.models.internvl import InternViTConfig
    from mprm_jax.models.qwen import QwenVisionConfig, QwenVLConfig
    from tests.mprm_jax.backbone_shapes import full_config

    config = full_config(options.backbone, options.toy)
    language = dataclasses.replace(config.language, layers=options.layers)
    if isinstance(config, QwenVLConfig):
        vision = QwenVisionConfig(32, 1, 2, 32, language.width, full_layers=(0,))
        return dataclasses.replace(config, language=language, vision=vision)
    vision = InternViTConfig(32, 1, 2, 32, 56)
    return dataclasses.replace(config, language=language, vision=vision)


def update_flops(config: Any, options: Options) -> float:
    """Model FLOPs of one update; see above."""
    text, length = config.language, options.tokens
    inner, kv = text.heads * text.head_width, text.kv_heads * text.head_width
    weights = text.width * (2 * inner + 2 * kv + 3 * text.hidden)
    # Scores and mixture over the lower triangle: 2 x 2 L^2 / 2 multiply-adds of width.
    attention = 2 * length**2 * inner
    forward = text.layers * (2 * length * weights + attention)
    return 3.0 * options.batch_size * forward


def make_case(options: Options) -> None:
    """Weights, and the batch, into the folder."""
    import jax

    from mprm_jax.models import families
    from mprm_jax.models.weights import tensors

    config = slice_config(options)
    params = families.init(config, jax.random.key(0))
    tensors.save_pretrained(options.folder / "weights", config, params)
    rng = np.random.default_rng(0)
    shape = options.batch_size, options.tokens
    marker = np.linspace(8, options.tokens - 1, options.steps).astype(np.int32)
    np.savez(
        options.folder / "batch.npz",
        tokens=rng.integers(20, config.language.vocabulary, shape).astype(np.int32),
        marker=np.tile(marker, (options.batch_size, 1)),
        labels=rng.integers(0, 2, (options.batch_size, options.steps)),
    )


def jax_worker(options: Options) -> dict[str, Any]:
    """Reward logits before training, then timed updates, by this package."""
    import jax
    import jax.numpy as jnp
    from tokenizers import Tokenizer, models

    from experiments.benchmarks.updates import compile_update, peak_bytes, time_updates
    from mprm_jax.data.batches import Batch
    from mprm_jax.models import reward_head
    from mprm_jax.models.backbone import Backbone
    from mprm_jax.models.families import Prompting, compute_here
    from mprm_jax.models.layers import Compute
    from mprm_jax.models.reward_head import RewardHead
    from mprm_jax.models.weights import tensors
    from mprm_jax.train.objective import Objective
    from mprm_jax.train.optimizer import OptimizerConfig
    from mprm_jax.train.update import UpdateRule, initial_state
    from mprm_jax.train.update_plan import plan

    stored = np.load(options.folder / "batch.npz")
    head = RewardHead((_YES, _NO), tied=False)
    config, params = tensors.load_pretrained(options.folder / "weights", jnp.float32)
    params = reward_head.attach(head, params)
    compute = compute_here(config, Compute())
    if options.attention is not None:
        compute = dataclasses.replace(compute, attention=options.attention)
    prompting = Prompting(options.tokens)
    model = Backbone(config, head, prompting, compute, Tokenizer(models.BPE()))
    row_bytes = model.cut(())[0].shape[1]
    ones = np.ones(stored["labels"].shape, np.int32)
    batch = Batch(
        stored["tokens"],
        np.zeros((options.batch_size, 0, row_bytes), np.uint8),
        stored["marker"],
        stored["labels"].astype(np.int32),
        ones,
        stored["labels"].astype(np.float32),
        ones.astype(np.float32),
    )
    logits = jax.jit(model.reward_logits)(params, batch)[..., :2]
    np.save(options.folder / "jax.npy", np.asarray(logits, np.float32))
    settings = OptimizerConfig()
    budget = plan(1000 * options.batch_size, options.batch_size)
    start = initial_state(model, params, budget, settings, 1e-5)
    del params
    batch = jax.device_put(batch)
    made = compile_update(start, batch, UpdateRule(model, settings, Objective()))
    timed = time_updates(made, start, batch, options.warmup + options.updates)
    return {
        "device": jax.local_devices()[0].device_kind,
        "attention": model.compute.attention,
        "compile_seconds": made.seconds,
        "seconds": timed.seconds[options.warmup :],
        "losses": timed.losses,
        "peak_bytes": peak_bytes(),
        "matmul_flops": matmul_rate(256 if options.toy else 8192),
    }


def matmul_rate(size: int) -> float:
    """FLOP per second of a bfloat16 product of two square matrices."""
    import time

    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a: a @ a * jnp.bfloat16(1 / size))
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product(a).block_until_ready()
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        a = product(a)
    a.block_until_ready()
    return _PRODUCTS * 2 * size**3 / (time.perf_counter() - began)


# Rows of the head that stand for Yes and No; any two would do.
_YES, _NO = 11, 12


def _spawn(options: Options, worker: str) -> dict[str, Any]:
    chosen = dataclasses.replace(options, worker=worker)  # pyright: ignore[reportArgumentType]
    return run_worker("gpu_step", chosen)


def _work(options: Options) -> None:
    if options.worker == "make":
        make_case(options)
        return
    if options.worker == "jax":
        result = jax_worker(options)
    else:
        from experiments.benchmarks.gpu_step_torch import torch_worker

        result = torch_worker(
            options.folder,
            (_YES, _NO),
            warmup=options.warmup,
            updates=options.updates,
            variant=str(options.worker),
        )
    print(json.dumps(result))


def gate(folder: Path) -> tuple[float, float]:
    """Relative errors in bfloat16, ours and PyTorch's, against PyTorch in float32."""
    exact, theirs = (np.load(folder / f"torch_{n}.npy") for n in ("exact", "bfloat16"))
    ours = np.load(folder / "jax.npy")

    def error(logits: np.ndarray) -> float:
        # A score is a difference of two logits: what they share matters to nobody.
        apart = np.diff(logits - exact)
        return float(np.linalg.norm(apart) / np.linalg.norm(np.diff(exact)))

    return error(ours), error(theirs)


def main(options: Options) -> None:
    """Make, gate, measure in turns, print."""
    if options.worker is not None:
        _work(options)
        return
    if not options.toy and not _has_gpu():
        raise SystemExit("gpu_step: no GPU here: nothing is measured (--toy for a try)")
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    with tempfile.TemporaryDirectory() as folder:
        options = dataclasses.replace(options, folder=Path(folder))
        _spawn(options, "make")
        for number in range(options.rounds):
            for side in options.sides:
                try:
                    found = _spawn(options, side)
                except SystemExit as error:
                    print(json.dumps({"side": side, "error": str(error)}), flush=True)
                    continue
                results[side].append(found)
                print(json.dumps({"side": side, **found}), flush=True)
                if number == 0 and side == "torch" and results.get("jax"):
                    _check_parity(options.folder)
    told = {side: runs for side, runs in results.items() if runs}
    if "jax" in told:
        print(json.dumps(verdict(options, told)), flush=True)
        _print(options, told)


def _check_parity(folder: Path) -> None:
    ours, theirs = gate(folder)
    told = {"ours": ours, "torch": theirs, "holds": ours <= 2 * theirs}
    print(json.dumps({"error_in_bfloat16": told}), flush=True)
    if not told["holds"]:
        raise SystemExit("gpu_step: no parity: these times compare nothing")


def verdict(
    options: Options, results: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Our update's share of the card's peak and of the quickest PyTorch's speed, each
    beside its target.
    """
    seconds = {
        side: statistics.median(second for run in runs for second in run["seconds"])
        for side, runs in results.items()
    }
    ours = seconds.pop("jax")
    flops = update_flops(slice_config(options), options)
    best = min(seconds, key=seconds.__getitem__) if seconds else None
    return {
        "tflop_of_an_update": flops / 1e12,
        "mfu": flops / ours / _PEAK,
        "target_mfu": TARGET_MFU,
        "best_torch": best,
        "of_best_torch": None if best is None else seconds[best] / ours,
        "target_of_best_torch": TARGET_OF_TORCH,
    }


def _has_gpu() -> bool:
    """Asked of a process that then ends: this one must not hold the card."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return done.stdout.strip().endswith("gpu")


def _print(options: Options, results: dict[str, list[dict[str, Any]]]) -> None:
    flops = update_flops(slice_config(options), options)
    tokens = options.batch_size * options.tokens
    ceiling = statistics.median(run["matmul_flops"] for run in results["jax"])
    rows = []
    for side, runs in results.items():
        seconds = sorted(second for run in runs for second in run["seconds"])
        middle = statistics.median(seconds)
        peak = max((run["peak_bytes"] or 0) for run in runs)
        rows.append(
            (
                side,
                f"{1e3 * middle:,.1f}",
                f"{1e3 * seconds[0]:,.1f}-{1e3 * seconds[-1]:,.1f}",
                f"{tokens / middle:,.0f}",
                f"{flops / middle / _PEAK:.1%}",
                f"{flops / middle / ceiling:.1%}",
                f"{statistics.median(run['compile_seconds'] for run in runs):.1f}",
                f"{peak / 2**30:.1f}" if peak else "-",
                f"{runs[0]['losses'][0]:.4f} {runs[0]['losses'][-1]:.4f}",
            )
        )
    print(
        format_table(
            ("", "ms", "range", "tokens/s", "MFU", "of matmul", "compile s", "GiB",
             "first, last loss"),
            rows,
        )
    )  # fmt: skip
    first = results["jax"][0]
    print(
        f"{options.layers} layers at the width of {options.backbone}, "
        f"{options.batch_size} x {options.tokens} tokens, {flops / 1e12:.2f} TFLOP per "
        f"update; {first['device']}, attention {first['attention']}; MFU of "
        f"{_PEAK / 1e12:.0f} TFLOP/s; a large product reaches {ceiling / 1e12:.2f}"
    )
    if options.toy:
        print("a toy on the CPU: these times measure nothing")


if __name__ == "__main__":
    main(tyro.cli(Options))
