"""Hypothesis strategies for the values of the domain. Needs the extra `test`."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, Message, Part, TextPart, ThinkingPart, Tool, ToolCall
from tinsmith.rendering.answers import check_schema

HOSTILE = (
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
    "\n\nUser:",
    "\n\nAssistant: ",
    "\n",
    " ",
    ".\n",
    "\r\n",
    "\x00",
    "é",
    "e\u0301",
    "\U0001f9ee",
    "\ufffd",
    '{"name": ',
    "}",
)
"""Pieces of text that break naive rendering: control tokens in words, marks of formats, whitespace, UTF-8 of every
length."""


@cache
def texts(max_pieces: int = 3) -> st.SearchStrategy[str]:
    """Any text that UTF-8 can hold, rich in hostile pieces."""
    return st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), max_size=max_pieces).map("".join)


@cache
def json_objects() -> st.SearchStrategy[dict[str, Any]]:
    """Objects two levels deep."""
    values = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts(2) | st.lists(texts(1), max_size=2)
    return st.dictionaries(texts(1), values | st.dictionaries(texts(1), values, max_size=1), max_size=2)


@cache
def tool_names() -> st.SearchStrategy[str]:
    return st.text("abXY_09.-", min_size=1, max_size=6)


@cache
def tools() -> st.SearchStrategy[Tool]:
    """Tools whose parameters are a JSON schema, with keys that schemas do not know."""
    made = st.builds(lambda name, more: Tool({"name": name, "parameters": more}), tool_names(), json_objects())
    return made.filter(_is_shown)


def _is_shown(tool: Tool) -> bool:
    try:
        check_schema(tool)
    except RenderError:
        return False
    return True


@cache
def tool_calls(names: tuple[str, ...] = (), plain_keys: bool = False) -> st.SearchStrategy[ToolCall]:
    """A call of one of the tools named, of any where none is. `plain_keys`: arguments have names that any format can
    hold."""

    def written(value: dict[str, Any]) -> str:
        named = {f"k{i}" if plain_keys else key: v for i, (key, v) in enumerate(value.items())}
        return json.dumps(named, ensure_ascii=False)

    arguments = json_objects().map(written)
    return st.builds(ToolCall, st.sampled_from(names) if names else tool_names(), arguments)


@cache
def answers(
    *,
    thinking: bool = False,
    calls: bool = False,
    avoid: tuple[str, ...] = (),
    weights: bool = False,
    tools: tuple[str, ...] = (),
    plain_keys: bool = False,
) -> st.SearchStrategy[Message]:
    """An assistant message. `calls`: it calls tools, those named in `tools` where any are. `avoid`: strings that its
    text must not hold."""

    def build(text: str, thoughts: str, called: list[ToolCall], weight: float | None) -> Message:
        parts: list[Part] = [ThinkingPart(thoughts)] if thoughts else []
        parts += [TextPart(text)] if text else []
        return Message("assistant", tuple(parts), tool_calls=called, weight=weight)

    return st.builds(
        build,
        texts().filter(lambda text: not any(a in text for a in avoid)),
        st.just("") | texts() if thinking else st.just(""),
        st.lists(tool_calls(tools, plain_keys), min_size=1, max_size=2) if calls else st.just([]),
        message_weights() if weights else st.none(),
    )


@cache
def message_weights() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.5, 1.0, 2.0])


@st.composite
def conversations(
    draw: st.DrawFn,
    *,
    thinking: bool = False,
    calls: bool = False,
    avoid: tuple[str, ...] = (),
    weights: bool = False,
    max_turns: int = 2,
    plain_keys: bool = False,
) -> Conversation:
    """Turns of a question, perhaps some steps of tool calls and results, and an answer; perhaps a system message first
    and a question last. `weights`: every message has one."""

    weight = message_weights() if weights else st.none()
    declared = draw(st.lists(tools(), max_size=2)) if calls else []
    names = tuple(tool.name for tool in declared)

    def said(role: str) -> Message:
        return Message(role, draw(texts()), weight=draw(weight))

    def answered(calling: bool) -> Message:
        return draw(
            answers(thinking=thinking, calls=calling, avoid=avoid, weights=weights, tools=names, plain_keys=plain_keys)
        )

    messages = [said("system")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, max_turns))):
        messages.append(said("user"))
        for _ in range(draw(st.integers(0, 2)) if calls else 0):
            step = answered(True)
            messages += [step, *(said("tool") for _ in step.tool_calls)]
        messages.append(answered(False))
    if draw(st.booleans()):
        messages.append(said("user"))
    return Conversation(messages, declared)
