"""Tools as Kimi K2.5 and later are shown them: TypeScript, as the tokenizer that Moonshot ships with them writes it;
where that gives up on a schema, compact JSON. Keys are in order at every depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinsmith.domain.messages import Tool

_STEP = "  "
_BOUNDS = {
    "string": ("maxLength", "minLength", "pattern"),
    **dict.fromkeys(("number", "integer"), ("maximum", "minimum")),
    "array": ("maxItems", "minItems"),
}
_UNION = {
    **{name: name for name in ("string", "number", "boolean", "null")},
    "integer": "number",
    "object": "{}",
    "array": "Array<any>",
}
_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "number": lambda v: isinstance(v, int | float),
    "integer": lambda v: isinstance(v, int),
    "boolean": lambda v: isinstance(v, bool),
}


class _NoTypescript(Exception):
    """A schema has no TypeScript."""


def declaration(tools: Sequence[Tool]) -> str:
    functions = [_sorted(tool.definition.get("function", tool.definition)) for tool in tools]
    try:
        written = "\n".join(_Function(function).written() for function in functions)
    except (_NoTypescript, TypeError, ValueError, KeyError, AttributeError):  # a schema that is none
        definitions = [_sorted(tool.definition) for tool in tools]
        return json.dumps(definitions, ensure_ascii=False, separators=(",", ":"))
    return f"# Tools\n\n## functions\nnamespace functions {{\n{written}\n}}\n"


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(inner) for key, inner in sorted(value.items())}
    return [_sorted(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Function:
    """One function, with the definitions that its schemas name."""

    def __init__(self, function: Mapping[str, Any]) -> None:
        self.function = function
        self.definitions: dict[str, Any] = {}
        self.names_itself = False

    def written(self) -> str:
        parameters = self.function.get("parameters") or {}
        type_ = self.object(parameters, "")
        lines = []
        if self.names_itself:
            fields = [self.field(name, spec, parameters, _STEP) for name, spec in parameters["properties"].items()]
            lines.append(f"interface parameters {_braced(fields, '')}")
            type_ = "parameters"
        for name, schema in list(self.definitions.items()):
            written = self.type(schema, "")
            lines += [_comment(schema["description"], "")] if schema.get("description") else []
            lines.append(f"interface {name} {written}")
        lines += [_comment(self.function["description"], "")] if self.function.get("description") else []
        return "\n".join([*lines, f"type {self.function['name']} = (_: {type_}) => any;"])

    def object(self, schema: Mapping[str, Any], indent: str) -> str:
        self.definitions |= schema.get("$defs") or {}
        inner = indent + _STEP
        properties = schema.get("properties") or {}
        optional = properties.keys() - set(schema.get("required") or ())
        order = sorted(properties, key=lambda name: (name in optional, name))
        written = {name: self.field(name, spec, schema, inner) for name, spec in properties.items()}
        fields = [written[name] for name in order]
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping):
            fields.append(f"{inner}[k: string]: {self.type(others, inner)}")
        elif isinstance(others, bool):
            fields.append(f"{inner}[k: string]: {'any' if others else 'never'}")
        elif others is not None:
            raise _NoTypescript(f"additionalProperties: {others!r}")
        return _braced(fields, indent) if fields else "{}"

    def field(self, name: str, schema: Any, parent: Mapping[str, Any], indent: str) -> str:
        notes = _notes(schema, indent)
        default = schema.get("default") if isinstance(schema, Mapping) else None
        if default is not None:
            shown = repr(default) if isinstance(default, int | float) else json.dumps(default, ensure_ascii=False)
            notes += f"{indent}// Default: {shown}\n"
        mark = "" if name in (parent.get("required") or ()) else "?"
        return f"{notes}{indent}{name}{mark}: {self.type(schema, indent)}"

    def type(self, schema: Any, indent: str) -> str:
        if isinstance(schema, bool):
            return "any" if schema else "null"
        if "$ref" in schema:
            return self.reference(schema["$ref"])
        if "anyOf" in schema:
            return " | ".join(self.type(one, indent) for one in schema["anyOf"])
        if "enum" in schema:
            return _enum(schema)
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(_UNION[one] for one in kind)
        if kind == "object":
            return self.object(schema, indent)
        if kind == "array":
            item = schema.get("items") or {}
            notes = _notes(item, indent + _STEP)
            if not notes:
                return f"Array<{self.type(item, indent)}>"
            return f"Array<\n{notes}{indent}{_STEP}{self.type(item, indent + _STEP)}\n{indent}>"
        if kind is None and schema:
            raise _NoTypescript(f"no type: {schema!r}")
        return "any" if kind is None else "number" if kind == "integer" else str(kind)

    def reference(self, to: str) -> str:
        if to == "#":
            self.names_itself = True
            return "parameters"
        name = to.removeprefix("#/$defs/")
        if name == to or name.split("/")[-1] not in self.definitions:
            raise _NoTypescript(f"reference to {to}")
        return name.split("/")[-1]


def _braced(fields: Sequence[str], indent: str) -> str:
    inside = ",\n".join(fields)
    return f"{{\n{inside}\n{indent}}}" if fields else "{}"


def _comment(text: str, indent: str) -> str:
    return "\n".join(f"{indent}// {line}" if line else "" for line in text.split("\n"))


def _notes(schema: Any, indent: str) -> str:
    """Comments before a field: what it is, and its bounds."""
    if not isinstance(schema, Mapping):
        return ""
    notes = _comment(schema["description"], indent) + "\n" if schema.get("description") else ""
    kind = None if {"$ref", "anyOf", "enum"} & schema.keys() else schema.get("type")
    bounds = (
        [f"{key}: {schema[key]}" for key in _BOUNDS.get(kind, ()) if key in schema] if isinstance(kind, str) else []
    )
    return notes + (f"{indent}// {', '.join(bounds)}\n" if bounds else "")


def _enum(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        others = [one for one in kind if one != "null"]
        if len(kind) > 2 or len(others) > 1 or not kind:
            raise _NoTypescript(f"an enum of the types {kind}")
        kind = others[0] if others else "null"
    holds = _VALUES.get(str(kind), lambda _: True)
    if not all(value is None or holds(value) for value in schema["enum"]):
        raise _NoTypescript(f"an enum whose values are not of type {kind}")
    return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in schema["enum"])
