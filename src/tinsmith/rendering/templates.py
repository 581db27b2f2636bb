"""Chat templates, rendered in a sandbox with the environment that Hugging Face gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ImagePart, Message, TextPart, ThinkingPart, Tool

BEGIN, END = "\ufdd0", "\ufdd1"
"""Stand where `{% generation %}` and `{% endgeneration %}` stood."""
GUARD = "\ufdd2"
"""Put into text that spells a control token, so that it spells it no more; taken out of what becomes tokens."""
_ESCAPE = "\ufdd3"
_ESCAPED = {ord(c): _ESCAPE + str(n) for n, c in enumerate((BEGIN, END, GUARD, _ESCAPE))}
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


def escaped(text: str) -> str:
    """A text without the four characters that are signs here; all else stays."""
    return text.translate(_ESCAPED)


def plain(text: str) -> str:
    """What a guarded and escaped text stands for."""
    text = text.replace(GUARD, "")
    return re.sub(f"{_ESCAPE}([0-3])", lambda m: (BEGIN, END, GUARD, _ESCAPE)[int(m[1])], text)


class ChatTemplate:
    """A template and the names that it knows. `variables` are given to it as they are (`enable_thinking`, ...).

    `date` is what `strftime_now` tells; a template that asks for it without one being given is refused, or takes the
    date that it has itself for that case, so that today never gets into a prompt unasked.
    """

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None, *, date: date | None = None) -> None:
        self.source = source
        self.variables = dict(variables or {})
        if date is not None:
            self.variables["strftime_now"] = date.strftime
        self._dated = date is not None
        self._thinking_keys = tuple(k for k in _THINKING_KEYS if re.search(rf"\b{k}\b", source))
        self._arguments_as_text = bool(re.search(r"arguments\s*\)?\s+is\s+(not\s+)?string", source))
        self.as_parts = False
        """It reads content as a list of parts only, as those of some models with images do."""
        self.marks = bool(re.search(r"\{%-?\s*generation\s*-?%\}", source))

    @property
    def shows_thinking(self) -> bool:
        return bool(self._thinking_keys)

    @property
    def shows_tools(self) -> bool:
        return bool(re.search(r"\btools\b|\btool_calls\b", self.source))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        ask: bool = False,
        guard: Callable[[Any], Any] = lambda value: value,
    ) -> str:
        """The text for messages; `ask` adds what comes before an answer. `guard` is applied to all that messages and
        tools hold. Raises RenderError for a template that cannot be read or that refuses the messages."""
        try:
            template = _compiled(self.source)
            text: str = template.render(
                messages=[guard(self._seen(m)) for m in messages],
                tools=[guard(t.definition) for t in tools] or None,
                add_generation_prompt=ask,
                **self.variables,
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            if isinstance(error, RenderError):
                raise
            hint = "; it asks for the date: give date=" if "strftime_now" in str(error) and not self._dated else ""
            raise RenderError(f"the chat template fails: {error}{hint}") from None
        return text

    def _seen(self, message: Message) -> dict[str, Any]:
        """A message in the layout that chat templates read, in the keys that this one reads."""
        out = as_template_sees(message)
        thinking = out.pop("reasoning_content", None)
        if thinking is not None:
            out |= dict.fromkeys(self._thinking_keys, thinking)
        if self.as_parts and isinstance(out["content"], str):
            out["content"] = [{"type": "text", "text": out["content"]}]
        if not self._arguments_as_text:
            for call in out.get("tool_calls", ()):
                call["function"]["arguments"] = _object(call["function"]["arguments"])
        return out


def render_template(
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text that a template gives, without marks."""
    chat = ChatTemplate(template, variables)
    text = chat.render(messages, tools, ask=add_generation_prompt)
    return text.replace(BEGIN, "").replace(END, "") if chat.marks else text


def as_template_sees(message: Message) -> dict[str, Any]:
    """A message in the layout that chat templates read."""
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.media:
        out["content"] = [_part(p) for p in message.content if not isinstance(p, ThinkingPart)]
    if message.thinking is not None:
        out["reasoning_content"] = message.thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "type": "function",
                **({"id": c.id} if c.id is not None else {}),
                "function": {"name": c.name, "arguments": c.arguments},
            }
            for c in message.tool_calls
        ]
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    kind = "image" if isinstance(part, ImagePart) else "audio"
    return {"type": kind, kind: part.source}


def _object(arguments: str) -> Any:
    """Arguments as a template that prints them itself wants them; what is no JSON stays as it is."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: what a model writes."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return [begin, *body, end]


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    text = json.dumps(value, ensure_ascii=ensure_ascii, **options)
    return text.replace("\\ufdd2", GUARD) if ensure_ascii else text


def _refuse(message: str) -> None:
    raise RenderError(f"the chat template refuses the messages: {message}")
