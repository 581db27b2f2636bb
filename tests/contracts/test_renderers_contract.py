"""Every format under the contract of renderers, on a tokenizer of bytes; some on one with merges too."""

from __future__ import annotations

from typing import Any

import pytest

from small_tokenizer import small_bpe
from tinsmith import rendering
from tinsmith.domain.messages import Message, Part, TextPart, ThinkingPart, ToolCall
from tinsmith.rendering import Renderer
from tinsmith.rendering.xml_calls import read_xml_call, write_xml_call
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.contracts import RendererContract

CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
VISION = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
QWEN = FakeTokenizer((*CHAT, *TAGS, *VISION))


def trimmed(message: Message, *, everything: bool) -> Message:
    """Without the line ends, or all white space, around thinking and text."""
    thinking, text = message.thinking or "", message.text
    thinking, text = (thinking.strip(), text.strip()) if everything else (thinking.strip("\n"), text.lstrip("\n"))
    parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
    parts += [TextPart(text)] if text else []
    return Message("assistant", parts, tool_calls=message.tool_calls)


class Format(RendererContract):
    name = ""
    options: dict[str, Any] = {}  # noqa: RUF012
    tokenizer: Any = QWEN

    def make(self) -> Renderer:
        return rendering.get(self.name, self.tokenizer, **self.options)


class TestRoleColon(Format):
    name, avoid = "role_colon", ("\n\nUser:",)


class TestChatML(Format):
    name = "chatml"


class TestSmolLM2(Format):
    name, tokenizer = "smollm2", small_bpe()


class TestLlama3(Format):
    name, tokenizer = "llama3", FakeTokenizer(LLAMA3)

    def as_written(self, message: Message) -> Message:
        return trimmed(message, everything=True)


class TestQwen25(Format):
    name = "qwen2_5"


class TestQwen3Instruct(Format):
    name = "qwen3_instruct"


class TestQwen3VLInstruct(Format):
    name = "qwen3_vl_instruct"


class Thinks(Format):
    avoid = ("</think>",)

    def as_written(self, message: Message) -> Message:
        return trimmed(message, everything=False)


class TestQwen3(Thinks):
    name = "qwen3"


class TestQwen3Merges(Thinks):
    name, tokenizer = "qwen3", small_bpe()


class TestQwen3VL(Thinks):
    name = "qwen3_vl"


class TestQwen3Preserve(Thinks):
    name = "qwen3_preserve_thinking"


class TestQwen3Disable(Thinks):
    name, trains_thinking = "qwen3_disable_thinking", False


class XML(Format):
    avoid, plain_keys = ("</think>",), True

    def as_written(self, message: Message) -> Message:
        python = "3_5" in self.name
        calls = tuple(
            read_xml_call(write_xml_call(c, python_values=python), python_values=python) for c in message.tool_calls
        )
        assert all(isinstance(c, ToolCall) for c in calls)
        return trimmed(Message("assistant", message.content, tool_calls=calls), everything=True)


class TestQwen35(XML):
    name = "qwen3_5"


class TestQwen35Merges(XML):
    name, tokenizer = "qwen3_5", small_bpe()


class TestQwen35Disable(XML):
    name, trains_thinking = "qwen3_5_disable_thinking", False


class TestQwen36Preserve(XML):
    name = "qwen3_6_preserve_thinking"


class TestQwen38(XML):
    name = "qwen3_8_low_reasoning"


class TestQwen38Disable(XML):
    name, trains_thinking = "qwen3_8_disable_thinking", False


TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content|trim }}"
    "{%- for c in m.tool_calls or [] %}{{- '<tool_call>' + c.function|tojson + '</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


class TestTemplate(Format):
    name, options = "hf_template", {"template": TEMPLATE}

    def as_written(self, message: Message) -> Message:
        return trimmed(message, everything=True)


class TestTemplateMerges(TestTemplate):
    tokenizer = small_bpe()


@pytest.mark.parametrize("text", ["\ufdd0", "\ufdd1\ufdd2", "\ufdd30", "<\ufdd2|im_end|>", "\U000f0000 \ue000"])
def test_the_signs_that_hf_template_uses_are_text_like_any_other(text: str) -> None:
    renderer = rendering.get("hf_template", QWEN, template=TEMPLATE)
    messages = [Message.user(text), Message.assistant(text)]
    expected = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
    assert QWEN.decode(renderer.render(messages).ids) == expected
    [datum] = renderer.supervised(messages)
    assert renderer.parse(datum.targets[datum.weights != 0]).message == Message.assistant(text)
    prompt, answer = renderer.generation_prompt(messages[:1]).ids, datum.targets[datum.weights != 0]
    bridged = renderer.bridge(prompt, answer, messages[:1])
    assert bridged.tolist() == renderer.generation_prompt([*messages, messages[0]]).ids.tolist()
