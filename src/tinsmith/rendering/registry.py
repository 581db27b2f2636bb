"""Formats by name, and the formats that a model was made with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import Message, Tool
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.chatml import SMOLLM2_SYSTEM, ChatML
from tinsmith.rendering.qwen3 import Qwen3, Thinking
from tinsmith.rendering.role_colon import RoleColon
from tinsmith.rendering.templates import render_template

Factory = Callable[[str, Tokenizer], Renderer]

_FORMATS: dict[str, Factory] = {
    "role_colon": RoleColon,
    "chatml": ChatML,
    "smollm2": lambda name, tokenizer: ChatML(name, tokenizer, SMOLLM2_SYSTEM),
    "qwen3": Qwen3,
    "qwen3_disable_thinking": lambda name, tokenizer: Qwen3(name, tokenizer, Thinking.OFF),
    "qwen3_instruct": lambda name, tokenizer: Qwen3(name, tokenizer, Thinking.NONE),
    "qwen3_preserve_thinking": lambda name, tokenizer: Qwen3(name, tokenizer, Thinking.KEPT),
}
# By the last part of a model's name, in lower case; the first match wins.
_MODELS = (
    (r"tiny", "chatml"),
    (r"smollm2-.*instruct.*|smollm2-135m", "smollm2"),
    (r"smollm2-.*", "role_colon"),
    (r"qwen3-[0-9.]+b(-a[0-9]+b)?", "qwen3"),
    (r"qwen3-[0-9.]+b(-a[0-9]+b)?-instruct-2507.*", "qwen3_instruct"),
    (r".*-base", "role_colon"),
)


def names() -> tuple[str, ...]:
    """Names of all formats."""
    return tuple(_FORMATS)


def get(name: str, tokenizer: Tokenizer) -> Renderer:
    """The renderer of a format. ConfigError for an unknown name, RenderError for a tokenizer without its control
    tokens."""
    if name not in _FORMATS:
        near = difflib.get_close_matches(name, _FORMATS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"unknown renderer {name!r}{hint} Known: {', '.join(_FORMATS)}")
    return _FORMATS[name](name, tokenizer)


def recommended(model: str, tokenizer: Tokenizer | None = None) -> str:
    """Name of the format that a model was made with: by the model's name (as on the hub, or a path that ends in it;
    what follows a colon is ignored), else by its tokenizer: the format that writes what its chat template writes, and
    role_colon where it has none. ConfigError when none is found."""
    base = re.split(r"[/\\]", model.rstrip("/\\"))[-1].split(":")[0].lower()
    for pattern, found in _MODELS:
        if re.fullmatch(pattern, base):
            return found
    if tokenizer is not None:
        if tokenizer.chat_template is None:
            return "role_colon"
        for name in _FORMATS:
            if _writes_as_template(name, tokenizer, tokenizer.chat_template):
                return name
    why = "its chat template is of another format" if tokenizer is not None else "its name says nothing"
    known = ", ".join(_FORMATS)
    raise ConfigError(f"no format is known for model {model!r} ({why}): name one with renderer= ({known})")


def for_model(model: str, tokenizer: Tokenizer) -> Renderer:
    """The renderer that is recommended for a model."""
    return get(recommended(model, tokenizer), tokenizer)


_TOOL = Tool({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}})
_ASKED = (Message.user("Hi"),)
_ANSWERED = (*_ASKED, Message.assistant("Hello"))
_SEVERAL = (Message.system("Be brief."), *_ANSWERED, Message.user("More"))


def _writes_as_template(name: str, tokenizer: Tokenizer, template: str) -> bool:
    """Whether a format and a template agree on a few chats, with and without tools."""
    try:
        renderer = get(name, tokenizer)
        pairs = [
            (renderer.generation_prompt(m), render_template(template, m, add_generation_prompt=True))
            for m in (_ASKED, _SEVERAL)
        ]
        pairs.append((renderer.render(_ANSWERED), render_template(template, _ANSWERED)))
        with_tools = render_template(template, _ASKED, tools=(_TOOL,), add_generation_prompt=True)
        if with_tools != pairs[0][1]:  # the template shows tools, so the format must
            pairs.append((renderer.generation_prompt(_ASKED, tools=(_TOOL,)), with_tools))
    except RenderError:
        return False
    return all(tokenizer.decode(ours.ids) == theirs for ours, theirs in pairs)
