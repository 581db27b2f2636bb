"""The conversations that every format is compared on with its family's own template."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from tinsmith.domain.messages import Message, Part, TextPart, ThinkingPart, Tool, ToolCall


@frozen
class Case:
    messages: tuple[Message, ...]
    ask: bool = False
    """As a prompt, with what the format puts before an answer."""
    tools: tuple[Tool, ...] = ()
    prefill: str = ""


def _answer(text: str = "", thinking: str = "", *calls: ToolCall) -> Message:
    parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
    parts += [TextPart(text)] if text else []
    return Message("assistant", tuple(parts), tool_calls=calls)


def _call(name: str, id: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), id)


def _result(text: str, name: str, id: str) -> Message:
    return Message("tool", text, name=name, tool_call_id=id)


def _tool(name: str, description: str, required: list[str], **properties: Any) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": required}
    return Tool({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})


WEATHER = _tool(
    "get_weather",
    "Tells the weather of a place.",
    ["city"],
    city={"type": "string", "description": "The city, e.g. Zürich"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Unit of the temperature"},
)
ADD = _tool("add", "Adds two numbers.", ["x", "y"], x={"type": "number"}, y={"type": "integer", "default": 0})
NOW = Tool({"type": "function", "function": {"name": "now", "description": "Tells the time.", "parameters": {}}})
SEARCH = _tool(
    "search",
    "Searches.\nIn several places.",
    [],
    queries={"type": "array", "items": {"type": "string"}, "description": "What to look for", "minItems": 1},
    where={"type": "object", "properties": {"site": {"type": "string"}}, "required": ["site"]},
    exact={"type": ["boolean", "null"]},
    anything={},
)
SYSTEM = Message.system("You answer briefly.")
ASK, REPLY = Message.user("What is the capital of France?"), _answer("Paris.")
MORE, AGAIN = Message.user("And of Italy?\nOne word."), _answer("Rome")
LAST = Message.user("Thanks — 谢谢!")
THOUGHT, RETHOUGHT = _answer("Paris.", "France...\nits capital is Paris."), _answer("Rome", "Easy.")
WEATHER_ASK = Message.user("What is the weather in Zürich?")
CALL = _answer("", "", _call("get_weather", "call_1", city="Zürich", unit="celsius"))
SAID_CALL = _answer("Let me look.", "", _call("get_weather", "call_1", city="Zürich", unit="celsius"))
THOUGHT_CALL = _answer("", "I must look it up.", _call("get_weather", "call_1", city="Zürich", unit="celsius"))
RESULT, REPORT = _result('{"temperature": 18}', "get_weather", "call_1"), _answer("It is 18 °C.")
THOUGHT_REPORT = _answer("It is 18 °C.", "The tool says 18.")
CALLS = _answer("", "", _call("add", "call_1", x=1.5, y=-2), _call("add", "call_2", x=3, y=4))
RESULTS = (_result("-0.5", "add", "call_1"), _result("7", "add", "call_2"))
RICH_CALL = _answer(
    "", "", _call("search", "call_1", queries=["a b", "c\nd"], where={"site": "x"}, exact=True, anything=None)
)
WEATHER_TOOLS, MATH_TOOLS = (WEATHER,), (WEATHER, ADD, NOW)

CASES: dict[str, Case] = {
    "question": Case((ASK,), ask=True),
    "answer": Case((ASK, REPLY)),
    "system": Case((SYSTEM, ASK), ask=True),
    "system, answer": Case((SYSTEM, ASK, REPLY)),
    "turns": Case((ASK, REPLY, MORE), ask=True),
    "turns, answer": Case((SYSTEM, ASK, REPLY, MORE, AGAIN, LAST, REPLY)),
    "white space": Case((Message.user(" a \n"), _answer("\n\nb\n"), Message.user("\tc")), ask=True),
    "empty": Case((Message.user(""), _answer(""), Message.user("?")), ask=True),
    "prefill": Case((SYSTEM, ASK), ask=True, prefill="The capital"),
    "tools": Case((WEATHER_ASK,), ask=True, tools=WEATHER_TOOLS),
    "system, tools": Case((SYSTEM, WEATHER_ASK), ask=True, tools=MATH_TOOLS),
    "rich tools": Case((SYSTEM, WEATHER_ASK), ask=True, tools=(SEARCH,)),
    "call": Case((WEATHER_ASK, CALL), tools=WEATHER_TOOLS),
    "text, call": Case((WEATHER_ASK, SAID_CALL), tools=WEATHER_TOOLS),
    "rich call": Case((WEATHER_ASK, RICH_CALL), tools=(SEARCH,)),
    "result": Case((WEATHER_ASK, CALL, RESULT), ask=True, tools=WEATHER_TOOLS),
    "report": Case((SYSTEM, WEATHER_ASK, CALL, RESULT, REPORT), tools=WEATHER_TOOLS),
    "calls": Case((ASK, CALLS, *RESULTS), ask=True, tools=MATH_TOOLS),
    "calls, report": Case((ASK, CALLS, *RESULTS, REPORT), tools=MATH_TOOLS),
    "after calls": Case((WEATHER_ASK, CALL, RESULT, REPORT, MORE), ask=True, tools=WEATHER_TOOLS),
    "steps": Case((WEATHER_ASK, CALL, RESULT, SAID_CALL, RESULT, REPORT), tools=WEATHER_TOOLS),
    "thinking": Case((ASK, THOUGHT)),
    "thinking, history": Case((ASK, THOUGHT, MORE), ask=True),
    "thinking, turns": Case((SYSTEM, ASK, THOUGHT, MORE, RETHOUGHT)),
    "thinking, call": Case((WEATHER_ASK, THOUGHT_CALL), tools=WEATHER_TOOLS),
    "thinking, result": Case((WEATHER_ASK, THOUGHT_CALL, RESULT), ask=True, tools=WEATHER_TOOLS),
    "thinking, report": Case((WEATHER_ASK, THOUGHT_CALL, RESULT, THOUGHT_REPORT), tools=WEATHER_TOOLS),
    "thinking, after": Case((WEATHER_ASK, THOUGHT_CALL, RESULT, THOUGHT_REPORT, MORE), ask=True, tools=WEATHER_TOOLS),
}
