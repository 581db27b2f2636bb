"""Tools as a TypeScript namespace, the way gpt-oss is shown them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.messages import Tool

_LONG = 50  # characters above which the type of an array's items is "any"
_INDENT = "\n" + 16 * " "  # before the type of a nested property


def namespace(name: str, tools: Sequence[Tool]) -> str:
    functions = "".join(_function(tool.definition.get("function", tool.definition)) for tool in tools)
    return f"## {name}\n\nnamespace {name} {{\n\n{functions}}} // namespace {name}"


def _function(function: Mapping[str, Any]) -> str:
    head = f"// {function['description']}\n" if "description" in function else ""
    head += f"type {function['name']} = "
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    if not properties:
        return head + "() => any;\n\n"
    required = parameters.get("required") or []
    return (
        f"{head}(_: {{\n{''.join(_parameter(n, spec, n in required) for n, spec in properties.items())}}}) => any;\n\n"
    )


def _parameter(name: str, spec: Mapping[str, Any] | bool, required: bool) -> str:
    spec = {} if isinstance(spec, bool) else spec
    out = f"// {spec['description']}\n" if spec.get("description") else ""
    out += f"{name}{'' if required else '?'}: {_type(spec)}"
    if "default" in spec:
        default = spec["default"]
        if spec.get("enum"):
            out += f", // default: {default}"
        elif spec.get("oneOf"):
            out += f"// default: {default}"
        else:
            out += f", // default: {_json(default)}"
    return out + ",\n"


def _type(spec: Mapping[str, Any] | bool) -> str:
    spec = {} if isinstance(spec, bool) else spec
    kind = spec.get("type")
    null = " | null" if spec.get("nullable") else ""
    if kind == "array":
        return _array(spec.get("items")) + null
    if isinstance(kind, Sequence) and not isinstance(kind, str) and kind:
        return " | ".join(str(k) for k in kind)
    if spec.get("oneOf"):
        return " | \n".join(_variant(v) for v in spec["oneOf"])
    if kind == "string":
        return '"' + '" | "'.join(str(v) for v in spec["enum"]) + '"' if spec.get("enum") else "string" + null
    if kind == "object":
        return _object(spec)
    return {"number": "number", "integer": "number", "boolean": "boolean"}.get(str(kind), "any")


def _array(items: Mapping[str, Any] | bool | None) -> str:
    if not items or isinstance(items, bool):
        return "any[]"
    simple = {"string": "string[]", "number": "number[]", "integer": "number[]", "boolean": "boolean[]"}
    kind = items.get("type")
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    inner = _type(items)
    return "any[]" if inner == "object | object" or len(inner) > _LONG else f"{inner}[]"


def _variant(spec: Mapping[str, Any] | bool) -> str:
    spec = {} if isinstance(spec, bool) else spec
    out = _type(spec)
    if spec.get("description"):
        out += f"// {spec['description']}"
    if "default" in spec:
        out += f"{20 * ' '}// default: {_json(spec['default'])}"
    return out


def _object(spec: Mapping[str, Any]) -> str:
    if not spec.get("properties"):
        return "object"
    required = spec.get("required") or []
    properties = [
        f"{name}{'' if name in required else '?'}: {_INDENT}{_type(inner)}"
        for name, inner in spec["properties"].items()
    ]
    return "{\n" + ", ".join(properties) + "}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
