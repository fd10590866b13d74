"""The prompts of both backbones against the templates that came with them."""

import jinja2

from mprm_jax.data.render import render
from mprm_jax.data.vision_prompt import INTERNVL_TEMPLATE, QWEN_TEMPLATE

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
