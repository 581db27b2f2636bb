"""Formats beside the chat templates of their families, token by token: what docs/renderers.md is made of.

`FAMILIES` (families.py) lists which format is measured on which template with which tokenizer, and every difference
that is known, with its reason. A difference without a reason is a bug, and so is a reason without a difference.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen
from cases import CASES, Case
from family_tokenizers import family_tokenizer, package
from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment
from oracles import digest, recorded
from tokenizers import Tokenizer as Fast

from tinsmith import rendering
from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, Message, Tool
from tinsmith.rendering.kimi_tools import declaration
from tinsmith.rendering.script import Script, encode

DAY = datetime.date(2026, 1, 31)
"""What templates are told is today."""
BEGIN, END = "\ue000", "\ue001"


@frozen
class Family:
    """A format and the template that it is measured on."""

    format: str
    template: str
    """File under `data/chat_templates`, or `<requirement>:<file>` in a package; or, where `oracle` says so, the library
    whose tokens are recorded."""
    tokenizer: str
    variables: Mapping[str, Any] = {}
    """What the template is given beside the chat."""
    repairs: tuple[tuple[str, str], ...] = ()
    """What is replaced in the template, where it is known to be wrong in one thing and the rest is worth comparing."""
    options: Mapping[str, Any] = {}
    """What the format is given."""
    thinking_key: str = "reasoning_content"
    """Where the template looks for thinking."""
    arguments_as_text: bool = False
    """The template wants a call's arguments as JSON text, not as an object."""
    numbered_ids: bool = False
    """The template takes the ids of calls as they are, so they must be those of the family: `functions.<name>:<n>`."""
    no_content: bool = False
    """The template wants None for the content of a call without text."""
    differs: Mapping[str, str] = {}
    """Reason by case; the key "*" speaks for all cases that have none of their own and differ."""
    chats: Mapping[str, Callable[[Conversation], bool]] = {}
    """Reasons why real conversations differ, each with which these are; beside those that spell a control token."""
    wrapped_tools: bool = False
    """The template reads tools under `function` only."""
    typescript: bool = False
    """The template is given the tools as TypeScript, as the family's tokenizer does (test_kimi_tools.py)."""
    training: str | None = None
    """The twin of the template that marks what a model writes."""
    oracle: str | None = None
    """Name of the recorded tokens (see oracles.py)."""
    stops: bool = False
    """The twin ends the last answer with the stop that a model samples, which a finished conversation lacks."""
    marks_more: tuple[str, ...] = ()
    """Stretches that the twin marks and tinsmith does not train."""
    marks_less: tuple[str, ...] = ()
    """Stretches that tinsmith trains and the twin does not mark."""
    why: str = ""
    """Reason for these."""

    def reason(self, case: str) -> str | None:
        return self.differs.get(case) or self.differs.get("*")


@frozen
class Outcome:
    equal: bool
    ours: str
    """Text, or what was refused."""
    theirs: str


def _recorded(oracle: str, case: Case) -> Any:
    """Ids, or why the library refuses."""
    name = next(name for name, known in CASES.items() if known == case)
    found = recorded(oracle)["cases"].get(name, {"refused": "it has no prefill"})
    return found.get("ids", found.get("refused"))


def outcome(family: Family, case: Case, templates: Path) -> Outcome:
    case = case if not family.numbered_ids else evolve(case, messages=_numbered(case.messages))
    tokenizer = family_tokenizer(family.tokenizer)
    try:
        ours: Any = ids_of(family, case).tolist()
        shown = tokenizer.decode(ours)
    except RenderError as error:
        ours, shown = None, f"refused: {error}"
    if family.oracle is not None:
        theirs = _recorded(family.oracle, case)
        text = f"refused: {theirs}" if isinstance(theirs, str) else tokenizer.decode(theirs)
        theirs = None if isinstance(theirs, str) else theirs
    else:
        try:
            text = template_text(family, case, templates)
            theirs = whole(family.tokenizer).encode(text, add_special_tokens=False).ids
        except RenderError as error:
            text, theirs = f"refused: {error}", None
    return Outcome(ours == theirs, shown, text)


def _numbered(messages: Sequence[Message]) -> tuple[Message, ...]:
    out: list[Message] = []
    number, waiting = 0, list[str]()
    for message in messages:
        calls = []
        for call in message.tool_calls:
            calls.append(evolve(call, id=f"functions.{call.name}:{number}"))
            number += 1
        waiting += [str(c.id) for c in calls]
        changed: dict[str, Any] = {"tool_call_id": waiting.pop(0)} if message.role == "tool" and waiting else {}
        out.append(evolve(message, tool_calls=calls, **changed))
    return tuple(out)


def ids_of(family: Family, case: Case) -> np.ndarray:
    renderer = rendering.get(family.format, family_tokenizer(family.tokenizer), **family.options)
    if case.ask:
        return renderer.generation_prompt(case.messages, tools=case.tools, prefill=case.prefill).ids
    return renderer.render(case.messages, case.tools).ids


def template_text(family: Family, case: Case, templates: Path, *, training: bool = False) -> str:
    """What the template gives; raises RenderError where it refuses. Training templates mark with BEGIN and END."""
    name = family.training if training and family.training else family.template
    requirement, _, inside = name.rpartition(":")
    file = package(requirement) / inside if requirement else templates / name
    template = _compiled(file, family.repairs)
    tokenizer = family_tokenizer(family.tokenizer)
    try:
        text: str = template.render(
            messages=[_seen(m, family) for m in case.messages],
            tools=[_declared(t, family) for t in case.tools] or None,
            tools_ts_str=declaration(case.tools) if family.typescript and case.tools else None,
            add_generation_prompt=case.ask,
            **{"bos_token": tokenizer.config.get("bos_token") or "", **family.variables},
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise RenderError(str(error)) from None
    return text + case.prefill if training else re.sub(f"[{BEGIN}{END}]", "", text) + case.prefill


@cache
def whole(name: str) -> Fast:
    """The tokenizer as it comes, which finds control tokens in text: a template's text needs that."""
    return Fast.from_str(json.dumps(family_tokenizer(name).spec))


@cache
def _compiled(file: Path, repairs: tuple[tuple[str, str], ...]) -> Any:
    """The environment that Hugging Face gives to chat templates, `generation` aside, but that lists may change: Kimi's
    queue of calls needs it."""
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = DAY.strftime
    source = file.read_text(encoding="utf-8")
    for wrong, right in repairs:
        assert wrong in source, f"{file}: nothing to repair"
        source = source.replace(wrong, right)
    for tag, mark in (("generation", BEGIN), ("endgeneration", END)):
        source = re.sub(rf"\{{%(-?)\s*{tag}\s*(-?)%\}}", rf"{{{{\1 '{mark}' \2}}}}", source)
    return environment.from_string(source)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise RenderError(message)


def _declared(tool: Tool, family: Family) -> Mapping[str, Any]:
    wrap = family.wrapped_tools and "function" not in tool.definition
    return {"type": "function", "function": tool.definition} if wrap else tool.definition


def _seen(message: Message, family: Family) -> dict[str, Any]:
    """A message in the layout that Hugging Face documents, so far as this template reads it."""
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if family.no_content and message.tool_calls and not message.text:
        out["content"] = None
    if message.thinking is not None:
        out[family.thinking_key] = message.thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {
                    "name": c.name,
                    "arguments": c.arguments if family.arguments_as_text else json.loads(c.arguments),
                },
            }
            for c in message.tool_calls
        ]
    if message.role == "tool":
        out |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return out


@frozen
class Marks:
    more: frozenset[str]
    less: frozenset[str]
    compared: int
    """Cases with equal tokens."""


def marks(family: Family, templates: Path) -> Marks:
    """What the training twin marks beside what tinsmith trains, over all cases whose tokens are the same."""
    tokenizer = family_tokenizer(family.tokenizer)
    more: set[str] = set()
    less: set[str] = set()
    compared = 0
    for case in CASES.values():
        if case.ask:
            continue
        try:
            text = template_text(family, case, templates, training=True)
            renderer = rendering.get(family.format, tokenizer, **family.options)
            rendered = renderer.render(case.messages, case.tools)
            if family.stops:
                rendered = renderer.written(case.messages, case.tools, sampled=True).render()
        except RenderError:
            continue
        plain, inside = _marked(text)
        encoded = whole(family.tokenizer).encode(plain, add_special_tokens=False)
        if encoded.ids != rendered.ids.tolist():
            continue
        compared += 1
        theirs = np.array([inside[start] for start, _ in encoded.offsets], np.bool_)
        answers = [i for i, m in enumerate(case.messages) if m.role == "assistant"]
        ours = rendered.is_output & np.isin(rendered.message, answers)
        more |= set(_runs(tokenizer, rendered.ids, theirs & ~ours))
        less |= set(_runs(tokenizer, rendered.ids, ours & ~theirs))
    return Marks(frozenset(more), frozenset(less), compared)


def _marked(text: str) -> tuple[str, list[bool]]:
    """The text without marks, and for each character whether it is inside them."""
    plain, inside, on = [], [], False
    for c in text:
        if c in (BEGIN, END):
            on = c == BEGIN
        else:
            plain.append(c)
            inside.append(on)
    return "".join(plain), inside


def _runs(tokenizer: Any, ids: np.ndarray, chosen: np.ndarray) -> list[str]:
    edges = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), len(ids)]
    return [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(edges) if a < b and chosen[a]]


@frozen
class RealChats:
    """How the real conversations compare, finished: how many are equal, and which are not."""

    equal: int
    spelled: tuple[int, ...]
    """Equal once text may write control tokens: a template's text makes one of each that people spell."""
    explained: tuple[int, ...]
    """Different for `Family.chats`."""
    unknown: tuple[int, ...]
    ours_refused: Mapping[int, str]
    theirs_refused: Mapping[int, str]


def real_chats(family: Family, conversations: Sequence[Conversation], templates: Path) -> RealChats:
    tokenizer = family_tokenizer(family.tokenizer)
    renderer = rendering.get(family.format, tokenizer, **family.options)
    scripts: list[Script] = []
    texts: list[str] = []
    ours_refused: dict[int, str] = {}
    theirs_refused: dict[int, str] = {}
    kept: list[tuple[int, Case]] = []
    for number, conversation in enumerate(conversations):
        messages = _numbered(conversation.messages) if family.numbered_ids else conversation.messages
        case = Case(messages, tools=conversation.tools)
        script: Script | None = None
        try:
            renderer.check(case.messages, case.tools)
            script = renderer.written(case.messages, case.tools)
        except RenderError as error:
            ours_refused[number] = str(error)
        try:
            text = digest_of(family, number) if family.oracle else template_text(family, case, templates)
        except RenderError as error:
            theirs_refused[number] = str(error)
        else:
            if script is not None:
                kept.append((number, case))
                scripts.append(script)
                texts.append(text)
    ours = [one.ids.tolist() for one in encode(tokenizer, scripts)]
    if family.oracle:
        same = [digest(a) == b for a, b in zip(ours, texts, strict=True)]
    else:
        theirs = whole(family.tokenizer).encode_batch_fast(texts, add_special_tokens=False)
        same = [a == b.ids for a, b in zip(ours, theirs, strict=True)]
    with warnings.catch_warnings(action="ignore"):
        loose = rendering.get(family.format, tokenizer, **family.options).allow_control_tokens()
    sorts: dict[str, list[int]] = {"spelled": [], "explained": [], "unknown": []}
    for (number, case), text, equal in zip(kept, texts, same, strict=True):
        if equal:
            continue
        written = loose.render(case.messages, case.tools).ids.tolist()
        if not family.oracle and written == whole(family.tokenizer).encode(text, add_special_tokens=False).ids:
            sorts["spelled"].append(number)
        else:
            known = any(holds(conversations[number]) for holds in family.chats.values())
            sorts["explained" if known else "unknown"].append(number)
    return RealChats(
        sum(same),
        *(tuple(sorts[sort]) for sort in ("spelled", "explained", "unknown")),
        ours_refused,
        theirs_refused,
    )


def digest_of(family: Family, number: int) -> str:
    found: str = recorded(str(family.oracle))["chats"][number]
    if " " in found:
        raise RenderError(found)
    return found
