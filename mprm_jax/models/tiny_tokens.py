"""The tiny model's tokeniser: one token per word, from the texts of its world."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from mprm_jax.data.record import STEP_MARKER

PAD, UNKNOWN = "<pad>", "<unk>"
# Words of the prompt itself.
_PROMPT_WORDS = ("question", "process")


def build_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A tokeniser that knows these words, in lower case; others are unknown.

    Signs between words are dropped: they are a third of the world's texts and carry
    nothing. ``<pad>`` is 0, ``<unk>`` 1, the step marker 2.
    """
    known = dict.fromkeys((PAD, UNKNOWN, STEP_MARKER, *_PROMPT_WORDS, *words))
    vocabulary = {word: index for index, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex("[.,:?]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, UNKNOWN, STEP_MARKER])
    return tokenizer
