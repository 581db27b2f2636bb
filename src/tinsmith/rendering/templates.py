"""A tokenizer's own chat template, rendered in a sandbox: the measure that formats are held to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool


def render_template(
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text that a Jinja chat template gives, with the environment that Hugging Face gives it. Raises RenderError
    for a template that cannot be read or that refuses the messages."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template).render(
            messages=[as_template_sees(m) for m in messages],
            tools=[t.definition for t in tools] or None,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )
    except (TemplateError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise RenderError(f"the chat template fails: {error}") from None


def as_template_sees(message: Message) -> dict[str, Any]:
    """A message in the layout that chat templates read."""
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking is not None:
        out["reasoning_content"] = message.thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls
        ]
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _refuse(message: str) -> None:
    raise RenderError(f"the chat template refuses the messages: {message}")
