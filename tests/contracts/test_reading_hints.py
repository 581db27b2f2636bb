"""What is known beside a completion helps to read it: its prompt, and the tools that it may call."""

from __future__ import annotations

import json

import pytest
from test_family_renderers_contract import DEEPSEEK, GLM, NEMOTRON

from tinsmith import rendering
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.testing import FakeTokenizer

VISION = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
ASK, TEXT = Message.user("q"), {"type": "string"}
TOOL = {
    "name": "f",
    "parameters": {
        "properties": {
            "id": TEXT,
            "zip": {"anyOf": [TEXT, {"type": "null"}]},
            "unit": {"enum": ["1", "2"]},
            "n": {"type": ["integer", "string"]},
            "old": {"type": "str, optional"},
            "any": {},
        }
    },
}
TEXTS = {"id": "12345", "zip": "true", "unit": "1", "n": 7, "old": "[1]", "any": 8, "undeclared": 9}


@pytest.mark.parametrize(
    ("name", "tokens"), [("qwen3_5", (*NEMOTRON, *VISION)), ("qwen3_6", (*NEMOTRON, *VISION)), ("glm4", GLM)]
)
def test_arguments_written_bare_are_text_where_the_tool_says_so(name: str, tokens: tuple[str, ...]) -> None:
    renderer = rendering.get(name, FakeTokenizer(tokens))
    call = Message("assistant", tool_calls=(ToolCall("f", json.dumps(TEXTS)),))
    [datum] = renderer.supervised([ASK, call])
    completion = datum.targets[datum.weights != 0]
    told = renderer.parse(completion, tools=[TOOL]).message.tool_calls[0]
    assert json.loads(told.arguments) == TEXTS
    untold = json.loads(renderer.parse(completion).message.tool_calls[0].arguments)
    assert untold["id"] == 12345
    stream = renderer.stream(tools=[TOOL])
    stream.feed(completion)
    assert stream.finish()[1].message.tool_calls == (told,)


@pytest.mark.parametrize("name", ["deepseekv3_thinking", "deepseek_r1"])
def test_after_a_result_no_thinking_is_open(name: str) -> None:
    renderer = rendering.get(name, FakeTokenizer(DEEPSEEK))
    call = Message("assistant", tool_calls=(ToolCall("f", "{}", "c"),))
    chat = [ASK, call, Message("tool", "r", tool_call_id="c")]
    after = renderer.generation_prompt(chat).ids
    completion = [*renderer.tokenizer.encode("It is r.").tolist(), renderer.stop.ids[0]]
    parsed = renderer.parse(completion, prompt=after)
    assert parsed.message == Message.assistant("It is r.")
    assert not parsed.failures
    asked = renderer.parse(completion, prompt=renderer.generation_prompt([ASK]).ids)
    assert asked.failures[0].reason == "thinking that never closes"
    assert asked.message.thinking == "It is r."
