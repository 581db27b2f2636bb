"""The formats of the larger families under the contract of renderers, on a tokenizer of bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import evolve
from hypothesis import strategies as st

from tinsmith import rendering
from tinsmith.domain.messages import Conversation, Message, Part, TextPart, ThinkingPart, ToolCall
from tinsmith.rendering import Renderer, Termination
from tinsmith.rendering.answers import read_value
from tinsmith.rendering.xml_calls import read_xml_call, write_xml_call
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.contracts import RendererContract

HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
THINK = ("<think>", "</think>")
DEEPSEEK = (
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", *THINK),
    *(f"<｜tool▁{kind}▁{edge}｜>" for kind in ("calls", "call", "outputs", "output") for edge in ("begin", "end")),
    "<｜tool▁sep｜>",
)
KIMI = (
    *("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>", *THINK),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>"),
)
GEMMA = ("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>")
TAGS = (*THINK, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
GLM = (
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "/nothink", *TAGS),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
NEMOTRON = ("<|im_start|>", "<|im_end|>", *TAGS)
COMPACT: dict[str, Any] = {"separators": (",", ":")}
INKLING = (
    *(f"<|message_{role}|>" for role in ("user", "model", "system", "tool")),
    *(f"<|content_{kind}|>" for kind in ("text", "thinking", "xml", "invoke_tool_json", "invoke_tool_text")),
    *("<|end_message|>", "<|content_model_end_sampling|>"),
)
MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]"),
    *("[/TOOL_RESULTS]", "[THINK]", "[/THINK]"),
)


class Format(RendererContract):
    name = ""
    options: dict[str, Any] = {}  # noqa: RUF012
    tokens: tuple[str, ...] = ()

    def make(self) -> Renderer:
        return rendering.get(self.name, FakeTokenizer(self.tokens), **self.options)


def said(text: str, thinking: str | None, calls: tuple[ToolCall, ...] = ()) -> Message:
    parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
    parts += [TextPart(text)] if text else []
    return Message("assistant", parts, tool_calls=calls)


class TestGptOss(Format):
    name, options, tokens = "gpt_oss_low_reasoning", {"date": "2026-01-31"}, HARMONY
    goes_on_after_a_call = True

    def as_written(self, message: Message) -> Message:
        if message.tool_calls and not message.thinking:  # a text before a call is thinking
            return said("", message.text, message.tool_calls)
        return message

    def test_what_follows_a_call_has_not_ended(self) -> None:
        renderer = self.make()
        call, start = (renderer.tokenizer.special_tokens[t] for t in ("<|call|>", "<|start|>"))
        assert renderer.parse([call, start]).termination is Termination.LENGTH
        assert renderer.parse([call, start, call]).termination is not Termination.LENGTH

    def conversations(self, renderer: Renderer) -> st.SearchStrategy[Conversation]:
        """With one call at most in a message: of several, each is an answer of its own."""
        return super().conversations(renderer).filter(lambda c: all(len(m.tool_calls) < 2 for m in c.messages))


class TestGptOssWithoutSystemMessage(TestGptOss):
    name, options = "gpt_oss_no_sysprompt", {}


class TestDeepSeekV3(Format):
    name, tokens, avoid, trains_thinking = "deepseekv3", DEEPSEEK, ("</think>",), False


class TestDeepSeekV3Thinking(Format):
    name, tokens, avoid = "deepseekv3_thinking", DEEPSEEK, ("</think>",)


class TestDeepSeekR1(Format):
    name, tokens, avoid = "deepseek_r1", DEEPSEEK, ("</think>",)

    def as_written(self, message: Message) -> Message:
        return said(message.text.lstrip("\n"), (message.thinking or "").strip("\n"), message.tool_calls)

    def as_written_after(self, before: Sequence[Message], message: Message) -> Message:
        """After a tool's result the prompt opens no thinking, so line ends are words."""
        if before and before[-1].role == "tool" and not message.thinking:
            return said(message.text, "", message.tool_calls)
        return self.as_written(message)


class TestDeepSeekV30324(Format):
    name, tokens, avoid, trains_thinking = "deepseek_v3_0324", DEEPSEEK, ("</think>",), False


def numbered(conversation: Conversation, form: str = "functions.{name}:{number}") -> Conversation:
    """With the ids that the family gives to calls."""
    messages: list[Message] = []
    number, waiting = 0, list[str]()
    for message in conversation.messages:
        calls = []
        for call in message.tool_calls:
            calls.append(evolve(call, id=form.format(name=call.name, number=number)))
            waiting.append(str(calls[-1].id))
            number += 1
        answers = message.role == "tool"
        messages.append(evolve(message, tool_calls=calls, tool_call_id=waiting.pop(0) if answers else None))
    return Conversation(messages, conversation.tools)


class Kimi(Format):
    tokens = KIMI

    def conversations(self, renderer: Renderer) -> st.SearchStrategy[Conversation]:
        return super().conversations(renderer).map(numbered)


class TestKimiK2(Kimi):
    name = "kimi_k2"


class TestKimiK2Instruct(Kimi):
    name, trains_thinking = "kimi_k2_instruct", False


class TestKimiK25(Kimi):
    name = "kimi_k25"


class TestKimiK25Disable(Kimi):
    name, trains_thinking = "kimi_k25_disable_thinking", False


class TestKimiK26Preserve(Kimi):
    name = "kimi_k26_preserve_thinking"


class TestGemma3(Format):
    name, tokens = "gemma3", GEMMA

    def as_written(self, message: Message) -> Message:
        return said(message.text.strip(), None)


class TestGlm4(Format):
    name, tokens, avoid = "glm4", GLM, ("</think>",)

    def as_written(self, message: Message) -> Message:
        return said(message.text.strip(), (message.thinking or "").strip(), tuple(map(self.call, message.tool_calls)))

    @staticmethod
    def call(call: ToolCall) -> ToolCall:
        """A value is written bare, so text that spells JSON reads as that."""
        arguments = {
            key: read_value(value) if isinstance(value, str) else value
            for key, value in json.loads(call.arguments).items()
        }
        return ToolCall(call.name, json.dumps(arguments, ensure_ascii=False))


class TestGlm4Disable(TestGlm4):
    name, trains_thinking = "glm4_disable_thinking", False


class TestNemotron3(Format):
    name, tokens, avoid, plain_keys = "nemotron3", NEMOTRON, ("</think>",), True

    def as_written(self, message: Message) -> Message:
        thinking, text = message.thinking or "", message.text.rstrip()
        if "disable" not in self.name:
            text = text.lstrip("\n")
        calls = tuple(
            read_xml_call(write_xml_call(c, python_values=True), python_values=True) for c in message.tool_calls
        )
        return said(text, thinking.strip("\n") if thinking.strip() else "", calls)  # type: ignore[arg-type]


class TestNemotron3Low(TestNemotron3):
    name = "nemotron3_low_thinking"


class TestNemotron3Disable(TestNemotron3):
    name, trains_thinking = "nemotron3_disable_thinking", False


class TestNemotron3Preserve(TestNemotron3):
    name = "nemotron3_preserve_thinking"


class TestNemotron3Ultra(TestNemotron3):
    name = "nemotron3_ultra"


class TestNemotron3UltraDisable(TestNemotron3):
    name, trains_thinking = "nemotron3_ultra_disable_thinking", False


class TestMistral(Format):
    name, tokens = "mistral", MISTRAL

    def conversations(self, renderer: Renderer) -> st.SearchStrategy[Conversation]:
        return super().conversations(renderer).map(lambda c: numbered(c, "{number:09d}"))

    def as_written(self, message: Message) -> Message:
        return said(message.text.rstrip(" "), message.thinking, message.tool_calls)


class TestMistralV3(TestMistral):
    name = "mistral_v3"

    def conversations(self, renderer: Renderer) -> st.SearchStrategy[Conversation]:
        """Calls have no text beside them."""
        return super().conversations(renderer).map(lambda c: evolve(c, messages=map(silent, c.messages)))


def silent(message: Message) -> Message:
    return evolve(message, content=()) if message.tool_calls else message


class TestMistralV7(TestMistral):
    name = "mistral_v7"


class TestMistralV13(TestMistral):
    name = "mistral_v13"

    def as_written(self, message: Message) -> Message:
        calls = (evolve(call, id=None) for call in message.tool_calls)
        return said(message.text.rstrip(" "), message.thinking, tuple(calls))


class TestTmlV0(Format):
    name, tokens, prefill_marks = "tml_v0", INKLING, "<|message_model|><|content_text|>"

    def as_written(self, message: Message) -> Message:
        calls = [
            ToolCall(
                c.name, json.dumps(json.loads(c.arguments), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            )
            for c in message.tool_calls
        ]
        return said(message.text, message.thinking, tuple(calls))


class TestTmlV0WithoutEffort(TestTmlV0):
    options = {"effort": None}  # noqa: RUF012


def test_mistral() -> None:
    call = Message("assistant", tool_calls=(ToolCall("add", '{"x": 1}', "abcdefghi"),))
    renderer = rendering.get("mistral", FakeTokenizer(MISTRAL))
    messages = [Message.system("S"), Message.user("Q"), call, Message("tool", "2", tool_call_id="abcdefghi")]
    tool = {"name": "add"}
    assert renderer.tokenizer.decode(renderer.generation_prompt(messages, tools=[tool]).ids) == (
        '<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][AVAILABLE_TOOLS][{"type": "function", "function": {"name": "add", '
        '"description": "", "parameters": {}}}][/AVAILABLE_TOOLS][INST]Q[/INST][TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]'
        '{"x": 1}</s>[TOOL_RESULTS]abcdefghi[TOOL_CONTENT]2[/TOOL_RESULTS]'
    )
