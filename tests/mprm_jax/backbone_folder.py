"""Tiny random checkpoints of both backbones, complete with a tokenizer."""

from tokenizers import Tokenizer, models, pre_tokenizers

from tests.mprm_jax.random_weights import (
    internvl_chat_config,
    qwen_config,
    write_checkpoint,
)

WORDS = ["Question", "Process", ":", "Yes", "No", "+", "-", "so", "two", "apples"]
# The ids that the two configurations give.
QWEN_TOKENS = {3: "<|vision_start|>", 4: "<|vision_end|>", 5: "<|image_pad|>"}
INTERNVL_TOKENS = {7: "<IMG_CONTEXT>", 8: "<img>", 9: "</img>"}


def tokenizer(special, size=40):
    """One token a word; the ids between are filled, ``<prm>`` is not there yet."""
    words = iter(WORDS)
    names = [special.get(i) or ("<unk>" if i == 0 else next(words, f"w{i}"))
             for i in range(size)]  # fmt: skip
    vocabulary = {name: i for i, name in enumerate(names)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special.values()))
    return made


def qwen_folder(folder, seed=0, **changes):
    """A Qwen2.5-VL whose padded embedding has room for new tokens."""
    write_checkpoint(folder, qwen_config(**changes), seed)
    tokenizer(QWEN_TOKENS).save(str(folder / "tokenizer.json"))
    return folder


def internvl_folder(folder, seed=0):
    """An InternVL2.5 whose vocabulary has no row to spare."""
    config = internvl_chat_config()
    write_checkpoint(folder, config, seed, {"<IMG_CONTEXT>": 7})
    tokenizer(INTERNVL_TOKENS, 120).save(str(folder / "tokenizer.json"))
    return folder
