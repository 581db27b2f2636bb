"""Tool calls as XML: `<function=NAME>`, `<parameter=NAME>`, the value, `</parameter>`, `</function>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ToolCall, UnparsedToolCall
from tinsmith.rendering.answers import read_value
from tinsmith.rendering.records import Hints

_ENDS = re.compile(r"</parameter>\s*<parameter=")
_CALL_FORM = re.compile(r"\s*<function=([^>\n]+)>\n?(.*)</function>\s*", re.DOTALL)
# A value ends where another parameter or the end of the call follows, not at a tag that is part of it.
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|\Z))", re.DOTALL)
_PYTHON = {"True": True, "False": False, "None": None}


def read_xml_call(text: str, hints: Hints | None = None, *, python_values: bool = False) -> ToolCall | UnparsedToolCall:
    """A call of the form `<function=NAME>`, `<parameter=NAME>` value `</parameter>` ..., `</function>`. A value that is
    JSON, but no JSON text, is taken as such; every other one is text: the format does not tell `1` from `"1"`, unless
    the tool says what the parameter is."""
    form = _CALL_FORM.fullmatch(text)
    if form is None:
        return UnparsedToolCall(text, "a tool call without <function=NAME> ... </function>")
    arguments: dict[str, Any] = {}
    types = {} if hints is None else hints.types.get(form[1], {})
    others = _PYTHON if python_values else {}
    body, at = form[2].rstrip(), 0
    while found := _PARAMETER.match(body, at):
        arguments[found[1]] = read_value(found[2], types.get(found[1], frozenset()), others)
        at = found.end()
    if body[at:].strip():
        return UnparsedToolCall(text, "a tool call with something else than parameters in it")
    return ToolCall(form[1], json.dumps(arguments, ensure_ascii=False))


def arguments_of(call: ToolCall) -> Mapping[str, Any] | None:
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_xml_call(call: ToolCall, *, python_values: bool = False) -> str:
    """What stands between the tags of a call. `python_values`: what is no text, list or object is written as Python
    prints it. RenderError for arguments that are no JSON object, and for what would be read back as something else."""
    arguments = arguments_of(call)
    if arguments is None:
        raise RenderError(f"the arguments of {call.name!r} are no JSON object: {call.arguments!r:.60}")

    def shown(value: Any) -> str:
        if isinstance(value, str):
            return value
        if python_values and not isinstance(value, dict | list):
            return str(value)
        return json.dumps(value, ensure_ascii=False)

    values = {name: shown(value) for name, value in arguments.items()}
    if any(c in name for name in (call.name, *values) for c in ">\n") or any(map(_ENDS.search, values.values())):
        raise RenderError(f"the call of {call.name!r} breaks the XML that holds it")
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"\n<function={call.name}>\n{parameters}</function>\n"
