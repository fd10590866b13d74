"""Tiny random checkpoints of the backbones, complete with a tokenizer."""

import ml_dtypes
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.mprm_jax.random_weights import (
    internvl_chat_config,
    internvl_config,
    qwen_config,
    text_config,
    write_checkpoint,
)

WORDS = ["Question", "Process", ":", "Yes", "No", "+", "-", "so", "two", "apples"]
# The ids that the configurations give.
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


def picture(height, width, seed=0):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def text_tokenizer(texts, size=600):
    """Byte-level BPE as the real ones, learned from some texts."""
    named = QWEN_TOKENS | INTERNVL_TOKENS | {0: "<|im_start|>", 1: "<|im_end|>"}
    special = [named.get(i, f"<|spare {i}|>") for i in range(10)]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens(["Yes", "No"])
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


def text_folder(folder, seed=0, kind="qwen3", **changes):
    """A text model whose vocabulary has no row to spare."""
    write_checkpoint(folder, text_config(kind, **changes), seed)
    tokenizer({1: "<|im_start|>", 2: "<|im_end|>"}, 120).save(
        str(folder / "tokenizer.json")
    )
    return folder


# Config of each layout, and the field that holds its language model's.
LAYOUTS = {
    "qwen2_5_vl": (qwen_config, "text_config"),
    "internvl": (internvl_config, "text_config"),
    "internvl_chat": (internvl_chat_config, "llm_config"),
}


def layout_folder(folder, layout, made, context=8192, seed=0):
    """A checkpoint of one layout whose vocabulary is that of a tokenizer, exactly.

    In bfloat16, as released ones are.
    """
    config, text = LAYOUTS[layout]
    value = config()
    value[text] |= {
        "vocab_size": made.get_vocab_size(),
        "max_position_embeddings": context,
    }
    added = {"<IMG_CONTEXT>": 7} if layout == "internvl_chat" else None
    _, _, tensors = write_checkpoint(folder, value, seed, added)
    rounded = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    save_file(rounded, folder / "model.safetensors")
    made.save(str(folder / "tokenizer.json"))
    return folder
