"""Formats by name, and the formats that a model was made with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from tinsmith.domain.errors import ConfigError
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.chatml import SMOLLM2_SYSTEM, ChatML
from tinsmith.rendering.qwen3 import Qwen3, Thinking
from tinsmith.rendering.role_colon import RoleColon

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
# First match wins; the first name of a match is what `for_model` takes.
_MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"tiny", ("chatml", "role_colon")),
    (r"smollm2.*", ("smollm2", "chatml")),
    (r"qwen3-.*-base", ("role_colon",)),
    (r"qwen3-.*instruct.*", ("qwen3_instruct",)),
    (r"qwen3-.*", ("qwen3", "qwen3_disable_thinking", "qwen3_preserve_thinking")),
    (r".*-base", ("role_colon",)),
)


def names() -> tuple[str, ...]:
    """Names of all formats."""
    return tuple(_FORMATS)


def get(name: str, tokenizer: Tokenizer) -> Renderer:
    """The renderer of a format. ConfigError for an unknown name, RenderError for a tokenizer without its control
    tokens."""
    if name not in _FORMATS:
        near = difflib.get_close_matches(name, _FORMATS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown renderer {name!r}{hint} Known: {', '.join(_FORMATS)}")
    return _FORMATS[name](name, tokenizer)


def recommended(model: str) -> tuple[str, ...]:
    """Names of the formats that a model was made with, best first. `model` is a name as on the hub or a path that ends
    in it; what follows a colon is ignored."""
    base = re.split(r"[/\\]", model.rstrip("/\\"))[-1].split(":")[0].lower()
    for pattern, found in _MODELS:
        if re.fullmatch(pattern, base):
            return found
    raise ConfigError(f"no format is known for model {model!r}: name one with renderer= ({', '.join(_FORMATS)})")


def for_model(model: str, tokenizer: Tokenizer) -> Renderer:
    """The renderer that is recommended for a model."""
    return get(recommended(model)[0], tokenizer)
