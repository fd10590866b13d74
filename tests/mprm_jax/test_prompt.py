import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mprm_jax.data.formats.prm import split_prompt
from mprm_jax.data.prompt import (
    INTERNVL_TEMPLATE,
    QWEN_TEMPLATE,
    TEXT_TEMPLATES,
    chat_of,
    encode_chat,
    encode_prompt,
    marker_id,
    render,
    truncate_prompt,
)
from mprm_jax.records.problems import BadRecord, DataError
from mprm_jax.records.record import STEP_MARKER

WORDS = ("question", "process", ":", "a", "b", "c", "d", "e")


def tokenizer(marker=True):
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if marker:
        made.add_special_tokens(["<prm>"])
    return made


texts = (
    st.text(min_size=1)
    .map(str.strip)
    .filter(bool)
    .filter(str.isprintable)
    .filter(lambda text: STEP_MARKER not in text)
)


def test_the_prompt_is_the_release_s_character_by_character():
    assert render("q", ["s1", "s2"]) == "Question: q\nProcess: s1<prm>\n\ns2<prm>"


@given(texts, st.lists(texts, min_size=1, max_size=5))
def test_a_prompt_gives_its_parts_back(question, steps):
    assert split_prompt(render(question, steps)) == (question, steps, "")


@pytest.mark.parametrize(
    ("question", "steps", "reason"),
    [
        ("a <prm> b", ["c"], "the question contains the literal <prm>"),
        ("a", ["b", "c<prm>"], "step 2 contains the literal <prm>"),
        ("a", ["\ud800"], "surrogate"),
    ],
)
def test_texts_that_would_break_the_pairing_are_refused(question, steps, reason):
    with pytest.raises(BadRecord, match=reason):
        encode_prompt(tokenizer(), question, steps, 100)


def test_every_step_has_its_marker():
    made = tokenizer()
    tokens_L, marker_S, truncated = encode_prompt(made, "a b", ["c", "d e", "a"], 100)
    assert truncated == 0
    assert tokens_L.dtype == marker_S.dtype == np.int32
    assert (tokens_L[marker_S] == marker_id(made)).all()
    words = made.decode(tokens_L.tolist(), skip_special_tokens=False).split()
    ends = [words[: end + 1].count("<prm>") for end in marker_S]
    assert ends == [1, 2, 3]
    assert [words[end - 1] for end in marker_S] == ["c", "e", "a"]


def test_a_tokenizer_without_the_marker_is_refused():
    with pytest.raises(DataError, match="no token '<prm>'"):
        encode_prompt(tokenizer(marker=False), "a", ["b"], 10)


def test_a_tokenizer_that_makes_other_markers_is_refused():
    made = tokenizer()
    # A word that the vocabulary calls by the marker's own id.
    broken = Tokenizer.from_str(
        made.to_str().replace('"single_word":false', '"single_word":true')
    )
    with pytest.raises(BadRecord, match="markers and steps differ"):
        encode_prompt(broken, "a", ["b"], 10)


@given(st.data())
def test_truncation_never_parts_a_label_from_its_marker(data):
    length = data.draw(st.integers(1, 40))
    places = st.lists(st.integers(0, length - 1), unique=True, max_size=8)
    marker_S = np.array(sorted(data.draw(places)), np.int32)
    tokens_L = np.arange(length, dtype=np.int32)
    limit = data.draw(st.integers(1, 45))
    short_L, kept_S, truncated = truncate_prompt(tokens_L, marker_S, limit)
    assert 1 <= len(short_L) <= limit
    np.testing.assert_array_equal(short_L, tokens_L[: len(short_L)])
    np.testing.assert_array_equal(kept_S, marker_S[: len(kept_S)])
    assert len(kept_S) + truncated == len(marker_S)
    assert (kept_S < len(short_L)).all()
    # No more is cut off than must be: the next marker would not have fitted.
    assert truncated == 0 or marker_S[len(kept_S)] >= limit
    # What is cut ends at a marker: half a step is not shown.
    if truncated and len(kept_S):
        assert len(short_L) == kept_S[-1] + 1


def test_the_limit_is_exact():
    made = tokenizer()
    tokens_L, marker_S, _ = encode_prompt(made, "a", ["b", "c"], 100)
    whole = encode_prompt(made, "a", ["b", "c"], len(tokens_L))
    assert whole[2] == 0
    cut = encode_prompt(made, "a", ["b", "c"], len(tokens_L) - 1)
    assert (cut[2], cut[1].tolist()) == (1, marker_S[:1].tolist())
    nothing = encode_prompt(made, "a", ["b", "c"], int(marker_S[0]))
    assert (nothing[2], len(nothing[1]), len(nothing[0])) == (2, 0, marker_S[0])
    with pytest.raises(ValueError, match="at least 1"):
        encode_prompt(made, "a", ["b"], 0)


QUESTION, STEPS = "How many?", ["Two.", "So two."]

# What matters here of the chat template in Qwen2.5-VL's tokenizer_config.json.
QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)


def ours(template, images):
    return template.before + template.image * images + render(QUESTION, STEPS)


def test_qwen_reads_its_own_chat_template():
    images = [{"type": "image"}] * 2
    text = {"type": "text", "text": render(QUESTION, STEPS)}
    for content, count in (([*images, text], 2), ([text], 0)):
        expected = jinja2.Template(QWEN_CHAT, keep_trailing_newline=True).render(
            messages=[{"role": "user", "content": content}]
        )
        assert ours(QWEN_TEMPLATE, count) + "<|im_end|>\n" == expected


def test_internvl_reads_its_own_conversation():
    """Separator style MPT of its conversation.py, and its expansion of <image>."""
    system = "<|im_start|>system\n{system_message}"
    message = (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
        "联合开发的多模态大语言模型。"
    )
    separator, role = "<|im_end|>\n", "<|im_start|>user\n"
    question = "<image>\n" * 2 + render(QUESTION, STEPS)
    expected = system.format(system_message=message) + separator
    expected += role + question + separator
    expected = expected.replace("<image>", "<img><IMG_CONTEXT></img>")
    assert ours(INTERNVL_TEMPLATE, 2) + separator == expected


def chatml(system):
    """What matters here of a text model's chat template in ChatML."""
    if system:
        system = (
            "{% if messages[0].role != 'system' %}{{- '<|im_start|>system\\n"
            f"{system}<|im_end|>\\n' }}}}{{% endif %}}"
        )
    return system + (
        "{% for message in messages %}{{- '<|im_start|>' + message.role + '\\n' "
        "+ message.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    )


LLAMA_TURN = (
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>'"
)
# The chat templates of Qwen2, Qwen2.5, Qwen2.5-Math, SmolLM2, Llama 3, 3.1 and Qwen3
# where the user begins, without tools.
CHATS = {
    "qwen2": chatml("You are a helpful assistant."),
    "qwen2.5": chatml(
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    ),
    "qwen2.5-math": chatml(
        r"Please reason step by step, and put your final answer within \\boxed{}."
    ),
    "smollm2": chatml(
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    ),
    "llama3": "{% for message in messages %}{% set content = " + LLAMA_TURN + " %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}",
    "llama3.1": "{{- bos_token }}{%- set date_string = '26 Jul 2024' %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{{- " + LLAMA_TURN + " }}{%- endfor %}",
    "chatml": chatml(""),
}


@pytest.mark.parametrize("name", CHATS)
def test_text_models_read_their_own_chat_templates(name):
    assert chat_of([CHATS[name]]) == name
    messages = [{"role": "user", "content": render(QUESTION, STEPS)}]
    expected = jinja2.Template(CHATS[name], keep_trailing_newline=True).render(
        messages=messages, bos_token="<|begin_of_text|>"
    )
    found = ours(TEXT_TEMPLATES[name], 0)
    end = "<|eot_id|>" if "llama" in name else "<|im_end|>\n"
    assert found + end == expected


def test_without_a_chat_template_the_added_tokens_decide():
    assert chat_of(["<|endoftext|>", "<|im_start|>"]) == "chatml"
    assert chat_of(["<|begin_of_text|>", "<|start_header_id|>"]) == "llama3"
    assert chat_of(["<s>"]) == chat_of([]) == "none"


@pytest.mark.parametrize(
    ("chat", "bos"), [("none", "b"), ("llama3", "<|begin_of_text|>")]
)
def test_a_prompt_has_its_first_token_once(chat, bos):
    made = tokenizer()
    made.add_special_tokens(["<|begin_of_text|>"])
    first = made.token_to_id(bos)
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, first)]
    )
    tokens_L = encode_chat(made, TEXT_TEMPLATES[chat], "a", ["c"], (), 100)[0]
    assert tokens_L.tolist().count(first) == 1
    assert tokens_L[0] == first
