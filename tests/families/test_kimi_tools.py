"""Tools as TypeScript, beside what another library writes, recorded; and where its copy and Moonshot's own part."""

from __future__ import annotations

import re
from pathlib import Path

from cases import CASES
from oracles import digest, neutral, recorded
from table import real_conversations

from tinsmith.domain.messages import Tool
from tinsmith.rendering.kimi_tools import declaration


def tool(**parameters: object) -> Tool:
    return Tool({"type": "function", "function": {"name": "f", "parameters": {"type": "object", **parameters}}})


def test_tools_of_the_cases() -> None:
    found = recorded("kimi_tools")["cases"]
    compared = 0
    for name, case in CASES.items():
        if case.tools and not case.prefill:
            assert declaration([Tool(t) for t in neutral(case)["tools"]]) == bytes(found[name]["ids"]).decode(), name
            compared += 1
    assert compared > 10


def test_tools_of_real_conversations(shared: Path) -> None:
    chats = real_conversations(shared / "data" / "chat")
    compared = 0
    for conversation, found in zip(chats, recorded("kimi_tools")["chats"], strict=True):
        if conversation.tools:
            text = declaration(conversation.tools)
            shown = re.sub(r"(?<=// Default: )(True|False)$", lambda m: m[0].lower(), text, flags=re.M)
            assert digest(list(shown.encode())) == found
            compared += 1
    assert compared > 200


def test_a_default_is_shown_as_python_prints_it() -> None:
    """As Moonshot's tokenizer has it; the recorded library writes `true`."""
    shown = declaration(
        [tool(properties={"a": {"type": "boolean", "default": True}, "b": {"default": "x", "enum": ["x"]}})]
    )
    assert "  // Default: True\n  a?: boolean,\n" in shown
    assert '  // Default: "x"\n  b?: "x"\n' in shown


def test_definitions_and_references() -> None:
    schema = {"$defs": {"P": {"type": "object", "description": "A place", "properties": {"in": {"$ref": "#/$defs/P"}}}}}
    assert declaration([tool(**schema, properties={"p": {"$ref": "#/$defs/P"}})]) == (
        "# Tools\n\n## functions\nnamespace functions {\n// A place\ninterface P {\n  in?: P\n}\n"
        "type f = (_: {\n  p?: P\n}) => any;\n}\n"
    )
    assert declaration([tool(properties={"next": {"$ref": "#"}}, required=["next"])]) == (
        "# Tools\n\n## functions\nnamespace functions {\ninterface parameters {\n  next: parameters\n}\n"
        "type f = (_: parameters) => any;\n}\n"
    )


def test_a_schema_without_a_typescript_is_json() -> None:
    for bad in ({"$ref": "#/elsewhere"}, {"description": "x"}, {"type": "integer", "enum": ["a"]}, {"type": ["dict"]}):
        shown = declaration([tool(properties={"a": bad})])
        assert shown.startswith('[{"function":{"name":"f","parameters":{"properties":{"a":')
