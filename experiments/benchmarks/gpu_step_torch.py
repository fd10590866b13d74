"""The PyTorch side of gpu_step: ``transformers``, SDPA, fused AdamW, autocast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from mprm_jax.train.optimizer import OptimizerConfig

# What PyTorch chooses among by itself.
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

_CLASSES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
}


def torch_worker(
    folder: Path, answers: tuple[int, int], *, warmup: int, updates: int, variant: str
) -> dict[str, Any]:
    """Reward logits before training, then timed updates.

    Args:
        folder: with weights/ and batch.npz.
        answers: rows of Yes and No in the head.
        warmup: updates before those that count.
        updates: timed.
        variant: torch; torch-compiled: through ``torch.compile``; torch-flash: that,
            and attention by the flash kernel or not at all.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    stored = np.load(folder / "batch.npz")
    tokens = torch.as_tensor(stored["tokens"], dtype=torch.long, device=device)
    marker = torch.as_tensor(stored["marker"], dtype=torch.long, device=device)
    labels = torch.as_tensor(stored["labels"], device=device)
    config = transformers.AutoConfig.from_pretrained(folder / "weights")
    kind = getattr(transformers, _CLASSES[config.model_type])
    model: Any = kind.from_pretrained(
        folder / "weights", dtype=torch.float32, attn_implementation="sdpa"
    ).to(device)
    rows_2xD = torch.nn.Parameter(model.lm_head.weight[list(answers)].detach().clone())
    body: Any = model.model.language_model
    compiled = variant != "torch"
    forward = torch.compile(body) if compiled else body
    kernels = [SDPBackend.FLASH_ATTENTION] if variant == "torch-flash" else _KERNELS

    def reward_logits() -> Any:
        hidden = forward(input_ids=tokens, use_cache=False).last_hidden_state
        states = hidden.gather(1, marker[..., None].expand(-1, -1, hidden.shape[-1]))
        return states.float() @ rows_2xD.T

    def in_bfloat16() -> Any:
        return torch.autocast(device.type, dtype=torch.bfloat16)

    if not compiled:
        with torch.no_grad():
            np.save(folder / "torch_exact.npy", reward_logits().cpu().numpy())
            with in_bfloat16():
                rounded = reward_logits()
            np.save(folder / "torch_bfloat16.npy", rounded.float().cpu().numpy())
    body.train()
    body.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    settings = OptimizerConfig()
    trained = [*body.named_parameters(), ("rows", rows_2xD)]
    decayed = [w for n, w in trained if w.ndim >= 2]
    plain = [w for n, w in trained if w.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        # The first update of our schedule of 1,000 updates.
        lr=1e-5 / 50,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=cuda,
    )

    def update() -> float:
        with sdpa_kernel(kernels), in_bfloat16():
            pair = reward_logits().flatten(0, 1)
        target = torch.where(labels.flatten() > 0, 0, 1)
        loss = torch.nn.functional.cross_entropy(pair.float(), target)
        # Which computes the layers again, attention included.
        with sdpa_kernel(kernels):
            loss.backward()
        torch.nn.utils.clip_grad_norm_([*decayed, *plain], settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds, losses = [], []
    for _ in range(warmup + updates):
        began = time.perf_counter()
        losses.append(update())
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    timed = seconds[warmup:]
    return {
        "compile_seconds": seconds[0] - float(np.median(timed)),
        "seconds": timed,
        "losses": losses,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }
