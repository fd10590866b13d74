"""What the references compute, small enough to commit.

    python -m tests.parity.make_golden

The default tests read these files, so they need neither torch nor transformers. The
weights are not stored: ``random_tensor`` draws them again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mprm_jax.models.weights.names import canonical_name
from tests.mprm_jax.random_weights import random_tensor
from tests.parity.internvl_cases import make_internvl
from tests.parity.qwen_cases import make_qwen
from tests.parity.references import MARKER, Case
from tests.parity.text_cases import make_text

FOLDER = Path(__file__).parents[1] / "mprm_jax" / "golden"
CASES = {
    "qwen": (make_qwen, "many images"),
    "internvl": (make_internvl, "native llama"),
    "internvl_chat": (make_internvl, "remote internlm2"),
    "qwen3": (make_text, "qwen3"),
    "llama3": (make_text, "llama3"),
}


def golden(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Inputs, and what the reference makes of them.

    Of each gradient its norm and its product with a random direction.
    """
    with torch.no_grad():
        features = case.see().float().numpy()
    case.model.zero_grad()
    loss = case.loss()
    loss.backward()
    names, norms, probes = [], [], []
    for stored, weight in case.model.named_parameters():
        if weight.grad is not None:
            name = canonical_name(case.kind, stored)
            gradient = weight.grad.double().numpy()
            direction = random_tensor(name, gradient.shape, 1)
            names.append(name)
            norms.append(np.linalg.norm(gradient))
            probes.append((gradient * direction).sum())
    added = folder / "added_tokens.json"
    rows, columns = np.nonzero(case.tokens == MARKER)
    return {
        "config": np.array((folder / "config.json").read_text()),
        "added_tokens": np.array(added.read_text() if added.exists() else "{}"),
        "seed": np.array(case.seed),
        "tokens": case.tokens.astype(np.int16),
        "lengths": case.lengths,
        "images": case.images,
        "image_tokens": np.array(case.image_tokens),
        "labels": case.labels.astype(np.int8),
        "logits": case.logits()[rows, columns].astype(np.float32),
        "features": features,
        "loss": np.array(loss.item()),
        "gradient_names": np.array(names),
        "gradient_norms": np.array(norms),
        "gradient_probes": np.array(probes),
    }


def make(name: str) -> dict[str, np.ndarray]:
    """One of the committed files, computed anew."""
    build: Any
    build, case_name = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        return golden(build(case_name, Path(folder)), Path(folder))


def main() -> None:
    """Write all files."""
    for name in CASES:
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **make(name))  # pyright: ignore[reportArgumentType]
        print(f"{path}: {path.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
