"""A small tiny model with random weights, and prompts of the visual world for it."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from experiments.corpora.scene_text import questions, step_texts
from mprm_jax.data.batches import Example
from mprm_jax.models.tiny import TinyConfig, TinyModel
from mprm_jax.models.tokenizer import build_tokenizer
from sim.scenes.grammar import CELLS, TRAINING_SOURCES, vocabulary
from sim.scenes.pictures import draw
from sim.scenes.policy import Care
from sim.scenes.solutions import sample_problems, solve


def small_model(**changes):
    tokenizer = build_tokenizer(vocabulary())
    ids = tokenizer.get_vocab()
    config = TinyConfig(
        tokenizer.get_vocab_size(), tuple(ids[cell] for cell in CELLS), width=16
    )
    shape = {"layers": 1, "mlp_ratio": 2} | changes
    return TinyModel(dataclasses.replace(config, **shape), tokenizer)


def examples_of(model, n=6, seed=0):
    """Solutions with errors, as the model reads them, with labels at random."""
    rng = np.random.default_rng(seed)
    source = TRAINING_SOURCES[0]
    problems = sample_problems(source, n, 0.0, rng)
    solutions = solve(problems, Care(4.0), 0.2, rng)
    pictures = draw(source.kind, problems.values, rng)
    examples = []
    for question, steps, pixels in zip(
        questions(solutions), step_texts(solutions), pictures, strict=True
    ):
        image = Image.fromarray(pixels)
        tokens, patches, marker, truncated = model.encode(question, steps, (image,))
        k = rng.integers(0, 2, len(marker)).astype(np.int32)
        examples.append(Example(tokens, patches, marker, k * 16, 0 * k + 16, truncated))
    return examples


def random_params(model, seed=0):
    return model.init(jax.random.key(seed))
