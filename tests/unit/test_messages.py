"""Rows of every layout become conversations; what cannot be carried is refused where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tinsmith.domain.chat_rows import conversation_from_row, preference_from_row
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Conversation, Message, TextPart, ThinkingPart, Tool, ToolCall
from tinsmith.rendering.templates import as_template_sees
from tinsmith.testing.strategies import conversations

HI, HELLO = Message.user("Hi"), Message.assistant("Hello")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Hi"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Hello"}], "name": None},
            ],
            "tools": None,
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "tools": "[]"},
        {"prompt": "Hi", "completion": "Hello", "id": 7},
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]},
        {"prompt": "Hi", "response": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ],
)
def test_layouts(row: dict[str, Any]) -> None:
    assert conversation_from_row(row) == Conversation((HI, HELLO))


def test_an_instruction_may_have_an_input_a_system_message_and_a_history() -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Sum.", "history": [["Hi", "Hello"]]}
    expected = (Message.system("Sum."), HI, HELLO, Message.user("Add\n\n1 2"), Message.assistant("3"))
    assert conversation_from_row(row).messages == expected


def test_thinking_tool_calls_and_weights() -> None:
    call = {"name": "add", "arguments": {"x": [1, 2]}}
    openai = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": [1, 2]}'}}
    read = conversation_from_row(
        {
            "messages": [
                {"role": "user", "content": "Hi", "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "Sum."},
                        {"type": "tool_call", "value": json.dumps(call)},
                    ],
                    "loss_weight": 0.5,
                },
                {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [openai],
                    "reasoning_content": "Again.",
                    "weight": 1,
                },
                {"role": "tool", "content": "3"},
                {"role": "assistant", "content": "Three.", "trainable": False},
            ],
            "tools": [{"type": "function", "function": {"name": "add", "strict": True}}],
        }
    )
    assert read.messages == (
        Message("user", "Hi", weight=0.0),
        Message("assistant", (ThinkingPart("Sum."),), tool_calls=(ToolCall("add", '{"x": [1, 2]}'),), weight=0.5),
        Message("tool", "3", tool_call_id="c1", name="add"),
        Message(
            "assistant", (ThinkingPart("Again."),), tool_calls=(ToolCall("add", '{"x": [1, 2]}', "c1"),), weight=1.0
        ),
        Message("tool", "3"),
        Message("assistant", "Three.", weight=0.0),
    )
    assert read.tools[0].name == "add"
    assert json.loads(read.tools[0].json())["function"]["strict"] is True


def one(**message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, message]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no conversation in keys"),
        ({"messages": None}, "no conversation in keys"),
        ({"text": "Hi"}, "no conversation in keys ['text']"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "Hi"}, "must be a list of messages, not str"),
        ({"messages": ["Hi"]}, "message 0: must be an object, not str"),
        (one(content="a"), 'message 1: "role" (or "from") is missing'),
        (one(role=3, content="a"), "message 1: role must be text"),
        (one(role="asistant", content="a"), "message 1: unknown role 'asistant' (known: system, developer, user, "),
        (one(role="asistant", content="a"), "did you mean 'assistant'"),
        (one(role="assistant"), "message 1: content is null or missing"),
        (one(role="assistant", content=None), "message 1: content is null or missing"),
        (one(role="assistant", content=3), "message 1: content must be text or a list of parts, not int"),
        (one(role="assistant", content=[{"type": "image"}]), "message 1: part 0: source must be bytes, a URL or a"),
        (one(role="assistant", content=[{"type": "video", "value": "x"}]), "part 0: type 'video' is not one of"),
        (one(role="assistant", content="a", images=["x.png"]), "'images' cannot be carried"),
        (one(role="assistant", content="a", tool_cals=[{}]), "unknown key 'tool_cals'; did you mean 'tool_calls'"),
        (one(role="user", content="a", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), "cannot call"),
        (one(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]), "tool call 0: the "),
        (one(role="assistant", tool_calls=[{"function": {"arguments": "{}"}}]), 'a tool call needs "name"'),
        (one(role="assistant", content="a", weight="1"), "'weight' must be a number"),
        (one(role="assistant", content="a", weight=-1.0), "weight=-1.0: finite, 0 or more"),
        (one(role="assistant", content="a", weight=1.0, trainable=False), "contradict each other"),
        (one(role="assistant", content="\ud800"), "lone surrogate at character 0"),
        ({**one(role="assistant", content="a"), "tools": "{"}, '"tools" is not JSON'),
        ({**one(role="assistant", content="a"), "tools": [{}]}, 'tool 0: a tool needs a "name"'),
        ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, "message 0: a function call is not JSON"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "a preference pair"),
        ({"messages": [{"role": "system", "content": "a"}], "system": "b"}, "keep one"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as error:
        conversation_from_row(row, source="chats.jsonl", line=7)
    assert str(error.value).startswith("chats.jsonl, line 7: ")
    assert reason in str(error.value)
    assert (error.value.source, error.value.line) == ("chats.jsonl", 7)


def test_a_preference_row() -> None:
    answers = {"chosen": {"from": "gpt", "value": "Hello"}, "rejected": [{"role": "assistant", "content": "No"}]}
    for asked in (
        {"conversations": [{"from": "human", "value": "Hi"}]},
        {"prompt": "Hi"},
        {"prompt": [{"role": "user", "content": "Hi"}]},
    ):
        pair = preference_from_row({**asked, **answers})
        assert (pair.prompt, pair.chosen, pair.rejected) == (Conversation((HI,)), (HELLO,), (Message.assistant("No"),))


def test_no_text_is_no_part() -> None:
    assert Message("assistant", "").content == ()
    assert Message("assistant", (TextPart("a"), TextPart("b"))).text == "ab"
    assert HELLO.thinking is None
    with pytest.raises(DataError, match="at least one message"):
        Conversation(())
    with pytest.raises(DataError, match='needs a "name"'):
        Tool({"function": {}})


@given(conversations(thinking=True, calls=True))
def test_a_conversation_written_as_a_row_is_read_again(conversation: Conversation) -> None:
    row = {
        "messages": [as_template_sees(m) for m in conversation.messages],
        "tools": json.dumps([t.definition for t in conversation.tools]),
    }
    assert conversation_from_row(json.loads(json.dumps(row))) == conversation


def real_rows(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines() if file.suffix == ".jsonl" else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines] if lines else json.loads(text)
    return rows


def test_real_chats_are_read_whole(shared: Path) -> None:
    """Every word of the file is a word of a conversation."""
    folder = shared / "data" / "chat"
    counted = {}
    for name in ("v1_sft_demo.jsonl", "glaive_toolcall_en_demo.json", "reason_tool_use_demo_50.jsonl"):
        for row in real_rows(folder / name):
            read = conversation_from_row(row)
            counted[name] = counted.get(name, 0) + 1
            given = row.get("messages") or row["conversations"]
            assert len(read.messages) == len(given)
            for message, raw in zip(read.messages, given, strict=True):
                written = raw.get("content") or raw["value"]
                parts = written if isinstance(written, list) else [{"type": raw["from"], "value": written}]
                calls = [json.loads(p["value"]) for p in parts if p["type"] in ("tool_call", "function_call")]
                silent = ("reasoning", "tool_call", "function_call")
                said = "".join(p["value"] for p in parts if p["type"] not in silent)
                thought = "".join(p["value"] for p in parts if p["type"] == "reasoning")
                assert (message.text, message.thinking or "") == (said, thought)
                assert [c.name for c in message.tool_calls] == [c["name"] for c in calls]
                assert [json.loads(c.arguments) for c in message.tool_calls] == [c["arguments"] for c in calls]
                assert message.weight == raw.get("loss_weight")
            assert [dict(t.definition) for t in read.tools] == json.loads(row.get("tools") or "[]")
    assert list(counted.values()) == [500, 300, 50]
    pairs = [preference_from_row(row) for row in real_rows(folder / "dpo_en_demo.json")]
    assert len(pairs) == 300
    assert all(p.chosen != p.rejected for p in pairs)
