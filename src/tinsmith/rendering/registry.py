"""Formats by name, and the formats that a model was made with.

Each module of a format has a table `FORMATS` of its names and, where models were made with it, a table `MODELS`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from itertools import chain
from types import ModuleType
from typing import Any, TypeAlias

from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import Message, Tool
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering import (
    chatml,
    deepseek_r1,
    deepseek_v3,
    gemma3,
    glm4,
    gpt_oss,
    hf_template,
    kimi,
    llama3,
    mistral,
    nemotron3,
    qwen3,
    qwen3_5,
    role_colon,
    tml_v0,
)
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.templates import render_template

Factory = Callable[..., Renderer]
"""Called with name, tokenizer and the format's own options."""
TokenizerLoader: TypeAlias = Callable[[str], tuple[Tokenizer, str | None]]
"""Called with a model's name; gives its tokenizer, and the name of the format stored with it, if one is."""

_MODULES: tuple[ModuleType, ...] = (
    role_colon,
    chatml,
    llama3,
    mistral,
    nemotron3,
    qwen3,
    qwen3_5,
    gpt_oss,
    deepseek_v3,
    deepseek_r1,
    kimi,
    gemma3,
    glm4,
    tml_v0,
    hf_template,
)
_BUILT_IN: dict[str, Factory] = {name: make for module in _MODULES for name, make in module.FORMATS.items()}
_FORMATS = dict(_BUILT_IN)
# By the last part of a model's name, in lower case; the first match wins.
_MODELS: tuple[tuple[str, str], ...] = (
    (r".*-base", "role_colon"),
    *chain.from_iterable(getattr(module, "MODELS", ()) for module in _MODULES),
)


def names() -> tuple[str, ...]:
    """Names of all formats."""
    return tuple(_FORMATS)


def register(name: str, factory: Factory, *, replace: bool = False) -> None:
    """Make a format of one's own known by name. `factory(name, tokenizer, **options)` makes the renderer. ConfigError
    for a name that is taken, unless `replace`."""
    if name in _FORMATS and not replace:
        raise ConfigError(f"renderer {name!r} exists; choose another name, or register it with replace=True")
    _FORMATS[name] = factory


def unregister(name: str) -> None:
    """Forget a registered format; a built-in one that it replaced is there again."""
    if name not in _FORMATS or _FORMATS[name] is _BUILT_IN.get(name):
        raise ConfigError(f"renderer {name!r} was not registered, so it cannot be unregistered")
    del _FORMATS[name]
    if name in _BUILT_IN:
        _FORMATS[name] = _BUILT_IN[name]


def get(name: str, tokenizer: Tokenizer, **options: Any) -> Renderer:
    """The renderer of a format. ConfigError for an unknown name or option, RenderError for a tokenizer without its
    control tokens."""
    if name not in _FORMATS:
        name = re.sub(r"[.-]", "_", name.lower())  # qwen3.5 is qwen3_5
    if name not in _FORMATS:
        near = difflib.get_close_matches(name, _FORMATS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"unknown renderer {name!r}{hint} Known: {', '.join(_FORMATS)}")
    factory = _FORMATS[name]
    if options:
        try:
            inspect.signature(factory).bind(name, tokenizer, **options)
        except TypeError:
            known = ", ".join(list(inspect.signature(factory).parameters)[2:]) or "none"
            raise ConfigError(f"renderer {name!r}: unknown option among {sorted(options)}; it has: {known}") from None
    return factory(name, tokenizer, **options)


def recommended(model: str, tokenizer: Tokenizer | None = None) -> str:
    """Name of the format that a model was made with: by the model's name (as on the hub, or a path that ends in it;
    what follows a colon is ignored), else by its tokenizer: the format that writes what its chat template writes, and
    hf_template where none
    does; role_colon where it has none. ConfigError when neither says anything."""
    base = re.split(r"[/\\]", model.rstrip("/\\"))[-1].split(":")[0].lower()
    for pattern, found in _MODELS:
        if re.fullmatch(pattern, base):
            return found
    if tokenizer is not None:
        if tokenizer.chat_template is None:
            return "role_colon"
        for name in _FORMATS:
            if name != "hf_template" and _writes_as_template(name, tokenizer, tokenizer.chat_template):
                return name
        return "hf_template"
    raise ConfigError(
        f"no format is known for model {model!r} (its name says nothing): name one with renderer= "
        f"({', '.join(_FORMATS)})"
    )


_load_tokenizer: TokenizerLoader | None = None


def tokenizers_from(load: TokenizerLoader) -> None:
    """Have `for_model` find tokenizers by `load`: where they lie is known above this layer alone."""
    global _load_tokenizer
    _load_tokenizer = load


def for_model(model: str, tokenizer: Tokenizer | None = None) -> Renderer:
    """The renderer that is recommended for a model; its tokenizer too, from a path or the hub, unless one is given.
    ConfigError where none is given and `tokenizers_from` was not called, which `tinsmith.bootstrap` does."""
    if tokenizer is None:
        if _load_tokenizer is None:
            raise ConfigError(f"model {model!r}: give its tokenizer, or import tinsmith.bootstrap, which finds it")
        tokenizer, stored = _load_tokenizer(model)
        if stored is not None:
            return get(stored, tokenizer)
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
