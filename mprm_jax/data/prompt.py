"""The one prompt of training and evaluation, as text and as tokens.

Each backbone puts its chat around it: one placeholder per image, then repeated for as
many tokens as the image has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer

from mprm_jax.data.formats.prm import render_prompt
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import STEP_MARKER, check_text


def render(question: str, steps: Sequence[str]) -> str:
    """``Question: q\\nProcess: s1<prm>\\n\\ns2<prm>``, as the release writes it.

    Raises:
        BadRecord: a text holds the step marker, or half of a surrogate pair.
    """
    check_text(question, "the question")
    for number, step in enumerate(steps, 1):
        check_text(step, f"step {number}")
    return render_prompt(question, list(steps))


def marker_id(tokenizer: Tokenizer) -> int:
    """Token id of ``<prm>``.

    Raises:
        DataError: the tokenizer does not know it as one token.
    """
    return token_id(tokenizer, STEP_MARKER)


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """Id of a text that must be one token.

    Raises:
        DataError: the vocabulary lacks it.
    """
    found = tokenizer.token_to_id(text)
    if found is None:
        raise DataError(f"the tokenizer has no token {text!r}")
    return found


def encode_prompt(
    tokenizer: Tokenizer, question: str, steps: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens of the prompt, and where each step's ``<prm>`` lies among them.

    Returns:
        tokens_L, marker_S (both int32) and the number of steps cut off.

    Raises:
        BadRecord: as :func:`render`, or the tokens do not hold one marker per step.
        DataError: the tokenizer does not know ``<prm>``.
    """
    marker = marker_id(tokenizer)
    encoded = tokenizer.encode(render(question, steps), add_special_tokens=False)
    tokens_L = np.array(encoded.ids, np.int32)
    return _cut(tokens_L, marker, len(steps), max_length)


def _cut(
    tokens_L: np.ndarray, marker: int, n_steps: int, max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    marker_S = np.flatnonzero(tokens_L == marker).astype(np.int32)
    if len(marker_S) != n_steps:
        raise BadRecord(
            "markers and steps differ",
            f"{len(marker_S)} {STEP_MARKER} tokens for {n_steps} steps",
        )
    return truncate_prompt(tokens_L, marker_S, max_length)


def truncate_prompt(
    tokens_L: np.ndarray, marker_S: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """At most ``max_length`` tokens, cut after the last marker that fits.

    A step is kept with its marker or not at all: the tokens of a step whose marker is
    cut off could not be scored, and nothing after them is. Where no marker fits, the
    first ``max_length`` tokens are left, with no step.

    Returns:
        tokens_L, marker_S and the number of steps cut off.

    Raises:
        ValueError: ``max_length`` is below 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}")
    if len(tokens_L) <= max_length:
        return tokens_L, marker_S, 0
    kept_S = marker_S[marker_S < max_length]
    end = int(kept_S[-1]) + 1 if len(kept_S) else max_length
    return tokens_L[:end], kept_S, len(marker_S) - len(kept_S)


@dataclass(frozen=True)
class ChatTemplate:
    """What stands around the prompt of training and evaluation.

    Nothing after the last step marker can change a score, so the template ends there:
    the turn of the user is left open.

    Attributes:
        before: system turn and the beginning of the user's.
        image: an image, with one ``image_token`` in it.
        image_token: repeated for as many tokens as the image has; None: a template
            without images.
        first_token: the tokenizer puts its own first token, if it has one, in front;
            else that token is in ``before``.
    """

    before: str
    image: str = ""
    image_token: str | None = None
    first_token: bool = True


def _chatml(system: str) -> str:
    """ChatML up to the user's words; no system turn where the system says nothing."""
    turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{turn}<|im_start|>user\n"


def _llama3(system: str) -> str:
    """Llama 3's chat up to the user's words (llama.com, "Llama 3 model card")."""
    turn, named = "<|begin_of_text|>", "<|start_header_id|>{}<|end_header_id|>\n\n"
    if system:
        turn += named.format("system") + system + "<|eot_id|>"
    return turn + named.format("user")


_ASSISTANT = _chatml("You are a helpful assistant.")
QWEN_TEMPLATE = ChatTemplate(
    before=_ASSISTANT,
    image="<|vision_start|><|image_pad|><|vision_end|>",
    image_token="<|image_pad|>",
)
# The system turn with which InternVL2.5 was trained; InternVL3 is given the same.
INTERNVL_TEMPLATE = ChatTemplate(
    before=_chatml(
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"
        "清华大学及多家合作单位联合开发的多模态大语言模型。"
    ),
    image="<img><IMG_CONTEXT></img>\n",
    image_token="<IMG_CONTEXT>",
)

ChatName = Literal[
    "qwen2", "qwen2.5", "qwen2.5-math", "smollm2", "llama3", "llama3.1", "chatml",
    "none",
]  # fmt: skip

# The chats that text models were trained with, as the chat_template of their
# tokenizer_config.json opens a conversation that gives no system turn of its own.
_BEFORE: dict[ChatName, str] = {
    "qwen2": _ASSISTANT,
    "qwen2.5": _chatml(
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    ),
    "qwen2.5-math": _chatml(
        r"Please reason step by step, and put your final answer within \boxed{}."
    ),
    "smollm2": _chatml(
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    ),
    "llama3": _llama3(""),
    # Llama 3.1 to 3.3; where no date is given, theirs is this one.
    "llama3.1": _llama3(
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    ),
    # Qwen3, and whoever knows ChatML but tells no system turn.
    "chatml": _chatml(""),
    "none": "",
}
TEXT_TEMPLATES = {
    name: ChatTemplate(before, first_token=not before)
    for name, before in _BEFORE.items()
}
# Where these stand in a chat template or among the added tokens, the first decides.
_SIGNS: tuple[tuple[str, ChatName], ...] = (
    ("put your final answer within", "qwen2.5-math"),
    ("You are Qwen, created by Alibaba Cloud", "qwen2.5"),
    ("named SmolLM, trained by Hugging Face", "smollm2"),
    ("Cutting Knowledge Date", "llama3.1"),
    ("<|start_header_id|>", "llama3"),
    ("You are a helpful assistant", "qwen2"),
    ("<|im_start|>", "chatml"),
)


def chat_of(texts: Sequence[str]) -> ChatName:
    """The chat of a text model whose tokenizer's files hold these texts.

    Args:
        texts: its own chat template, if there is one, and the tokens it adds.
    """
    for sign, name in _SIGNS:
        if any(sign in text for text in texts):
            return name
    return "none"


def add_step_marker(tokenizer: Tokenizer) -> int:
    """Add ``<prm>`` as one special token, if it is not there yet, and give its id."""
    if tokenizer.token_to_id(STEP_MARKER) is None:
        tokenizer.add_special_tokens([AddedToken(STEP_MARKER, special=True)])
    return marker_id(tokenizer)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    question: str,
    steps: Sequence[str],
    image_tokens: Sequence[int],
    max_length: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens of a prompt with images, and where each step's ``<prm>`` lies.

    Args:
        tokenizer: knows ``<prm>`` and the template's tokens.
        template: of the backbone.
        question: of the rollout.
        steps: of the rollout.
        image_tokens: of each image, in order.
        max_length: most tokens; steps beyond are cut off.

    Returns:
        tokens_L, marker_S (both int32) and the number of steps cut off.

    Raises:
        BadRecord: a text holds the marker or an image token, or the images alone do
            not fit ``max_length``.
        DataError: the tokenizer lacks a token.
    """
    placeholder = -1
    if template.image_token is not None:
        placeholder = token_id(tokenizer, template.image_token)
    text = template.before + template.image * len(image_tokens)
    encoded = tokenizer.encode(
        text + render(question, steps), add_special_tokens=template.first_token
    )
    tokens_L = np.array(encoded.ids, np.int32)
    is_image_L = tokens_L == placeholder
    if is_image_L.sum() != len(image_tokens):
        raise BadRecord(
            "control token in text",
            f"{is_image_L.sum()} {template.image_token} for {len(image_tokens)} images",
        )
    repeats_L = np.ones(len(tokens_L), np.int64)
    repeats_L[is_image_L] = image_tokens
    tokens_L = np.repeat(tokens_L, repeats_L)
    marker = marker_id(tokenizer)
    kept_L, kept_S, truncated = _cut(tokens_L, marker, len(steps), max_length)
    seen = int((kept_L == placeholder).sum())
    if seen != sum(image_tokens):
        raise BadRecord(
            "prompt longer than the context",
            f"its images alone take {sum(image_tokens)} of {max_length} tokens",
        )
    return kept_L, kept_S, truncated
