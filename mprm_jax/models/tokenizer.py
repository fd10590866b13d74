"""Tokenizers as files, and the one that is made for the tiny model's world."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from mprm_jax.records.problems import DataError, faults_of
from mprm_jax.records.record import STEP_MARKER

TOKENIZER = "tokenizer.json"

PAD, UNKNOWN = "<pad>", "<unk>"
# Words of the prompt itself.
_PROMPT_WORDS = ("question", "process")


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        DataError: there is no tokenizer.json, or it is not one.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise DataError(
            f"{path}: not found; transformers' AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...) writes one"
        )
    with faults_of(path):
        return parse_tokenizer(path.read_text(encoding="utf-8"), str(path))


def parse_tokenizer(text: str, where: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes.

    Raises:
        DataError: it describes none.
    """
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # The library raises nothing narrower.
        raise DataError(f"{where}: no tokenizer ({error})") from error


def build_tokenizer(words: Iterable[str]) -> Tokenizer:
    """One token per word, in lower case; words that are not given are unknown.

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
