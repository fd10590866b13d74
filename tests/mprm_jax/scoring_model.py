"""A tiny stand-in for a model: what it says depends on all that it may read."""

import io
import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from PIL import Image

from mprm_jax.records.problems import BadRecord


@dataclass(frozen=True)
class StubModel:
    """Causal, of float32: a marker's logit is made of the tokens up to it and the
    pixels; padding that is read would change it."""

    max_length: int = 10_000
    name: str = "stub"

    def reward_logits(self, params, batch):
        length = batch.tokens_BxL.shape[1]
        place_L = jnp.arange(1, length + 1, dtype=jnp.float32)
        # Padding tokens would count 1 each if they were read.
        upto_BxL = jnp.cumsum((batch.tokens_BxL + 1) * jnp.sin(place_L)[None], axis=1)
        read_BxS = jnp.take_along_axis(upto_BxL, batch.marker_BxS, axis=1)
        pixels_B = (batch.images_BxPxD.astype(jnp.float32) - 100).mean((1, 2))
        yes = params["scale"] * read_BxS + pixels_B[:, None] / 64
        return jnp.stack([yes, yes * 0 + 0.25, yes * 0], axis=-1)

    def init(self, key):
        return PARAMS

    def trainable(self, params):
        return {"scale": True}

    def description(self):
        return {}

    def assets(self):
        return {}

    def encode(self, question, steps, images):
        tokens, markers = [ord(c) % 50 for c in question], []
        for step in steps:
            if len(tokens) + len(step) + 1 > self.max_length:
                break
            tokens += [ord(c) % 50 for c in step] + [60]
            markers.append(len(tokens) - 1)
        if not images:
            raise BadRecord("image missing", "this model looks")
        pixels = np.concatenate([np.asarray(one).reshape(-1, 12) for one in images])
        return (
            np.array(tokens, np.int32),
            pixels,
            np.array(markers, np.int32),
            len(steps) - len(markers),
        )


PARAMS = {"scale": np.float32(0.02)}


def png(seed=0, side=4):
    """Bytes of a small image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def solution(number, steps, labels=None, **fields):
    """One record in VisualProcessBench's format."""
    texts = [f"step {j} of {number} says {'so ' * (j % 4)}it" for j in range(steps)]
    return {
        "image": [f"{number}.png"],
        "question": f"what is in {number}?",
        "response": {
            "steps": texts,
            "process_correctness": labels or [(1, -1, 0)[j % 3] for j in range(steps)],
        },
        "data_source": ("a", "b")[number % 2],
    } | fields


def benchmark(folder, records):
    """Write test.jsonl and an image for each record below images/."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(len(records)):
        (folder / "images" / f"{number}.png").write_bytes(png(number))
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
