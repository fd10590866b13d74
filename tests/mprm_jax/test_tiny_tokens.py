"""The tokeniser knows every text that the world writes."""

import dataclasses

import numpy as np
import pytest

from experiments.corpora.scene_text import questions, step_texts
from mprm_jax.data.prompt import render
from mprm_jax.models.tiny_model import MAX_TOKENS, pretrained
from mprm_jax.models.tiny_tokens import UNKNOWN, build_tokenizer
from sim.scenes.grammar import BENCHMARK_SOURCES, TRAINING_SOURCES, vocabulary
from sim.scenes.policy import Care
from sim.scenes.solutions import sample_problems, solve
from tests.scene_reader import words


def prompts(per_source):
    rng = np.random.default_rng(0)
    for source in TRAINING_SOURCES + BENCHMARK_SOURCES:
        erring = dataclasses.replace(source, repair=(0.5, 0.5), check=(0.5, 0.5))
        problems = sample_problems(erring, per_source, 0.0, rng)
        solutions = solve(problems, Care(5.0), 0.3, rng)
        yield from map(render, questions(solutions), step_texts(solutions))


@pytest.mark.parametrize("shipped", [True, False])
def test_no_text_of_the_world_has_an_unknown_word(shipped):
    tokenizer = pretrained()[0].tokenizer if shipped else build_tokenizer(vocabulary())
    texts = list(prompts(300))
    unknown = tokenizer.token_to_id(UNKNOWN)
    for text, encoded in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert unknown not in encoded.ids, text
        assert encoded.tokens == words(text.replace("<prm>", " <prm> "))
        assert len(encoded.ids) < MAX_TOKENS


def test_ids_are_distinct_and_the_first_ones_fixed():
    tokenizer = build_tokenizer(["a1", "red", "a1", "question"])
    ids = tokenizer.get_vocab()
    assert [ids[word] for word in ("<pad>", "<unk>", "<prm>")] == [0, 1, 2]
    assert sorted(ids.values()) == list(range(7))
    assert tokenizer.encode("Purple RED?").ids == [1, ids["red"]]
