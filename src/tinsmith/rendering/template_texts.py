"""What goes into a chat template and what it wrote, as texts: guarded, marked, and owned character by character."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinsmith.domain.messages import Message, TextPart, ThinkingPart
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.templates import BEGIN, END, plain


def over_texts(change: Callable[[str], str]) -> Callable[[Any], Any]:
    """`change` applied to every text in a value, roles excepted."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, Mapping):
            return {k if not isinstance(k, str) else change(k): walk(v) for k, v in value.items()}
        return [walk(v) for v in value] if isinstance(value, list | tuple) else value

    return walk


def with_content(message: Message, parts: list[TextPart | ThinkingPart]) -> Message:
    return Message(
        message.role,
        tuple(parts),
        tool_calls=message.tool_calls,
        unparsed_tool_calls=message.unparsed_tool_calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def unmarked(text: str) -> tuple[str, tuple[bool, ...]]:
    if BEGIN not in text:
        return text, (False,) * len(text)
    plain: list[str] = []
    inside: list[bool] = []
    on = False
    for c in text:
        if c in (BEGIN, END):
            on = c == BEGIN
        else:
            plain.append(c)
            inside.append(on)
    return "".join(plain), tuple(inside)


def bridged(text: str, owners: list[int]) -> tuple[int, ...]:
    """White space between words of one message is its own too."""
    last = -1
    for n, owner in enumerate(owners):
        if owner >= 0:
            if last >= 0 and owners[last] == owner and text[last + 1 : n].isspace():
                owners[last + 1 : n] = [owner] * (n - last - 1)
            last = n
    return tuple(owners)


def owners_by_start(
    owners: Sequence[int] | None, answers: Sequence[tuple[int, int, int]], known: Mapping[int, int]
) -> dict[int, int]:
    """From which character on which message owns what the template writes: from where it starts, where that is known,
    else from its first word or its answer."""
    starts: dict[int, int] = {}
    for n, owner in enumerate(owners or ()):
        if owner >= 0:
            starts.setdefault(owner, n)
    for i, begin, _ in answers:
        starts.setdefault(i, begin)
    starts |= known
    out: dict[int, int] = {}
    least = -1
    for i in sorted(starts):
        if starts[i] > least:
            out[starts[i]] = i
            least = starts[i]
    return out


def index_after(text: str, characters: int) -> int:
    """Index in a guarded text after what stands for so many characters."""
    at = characters
    while len(plain(text[:at])) < characters:
        at += 1
    return at


def where_apart(a: str, b: str) -> str:
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return f"{plain(a[max(n - 20, 0) : n + 20])!r} for {plain(b[max(n - 20, 0) : n + 20])!r}"


def token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and the like, as the tokenizer's settings name them, or as its ids say."""
    text_of = {id: text for text, id in tokenizer.special_tokens.items()}
    names: dict[str, str] = {}
    if tokenizer.bos_id is not None and tokenizer.bos_id in text_of:
        names["bos_token"] = text_of[tokenizer.bos_id]
    if tokenizer.eos_ids:
        names["eos_token"] = text_of[tokenizer.eos_ids[0]]
    settings = getattr(tokenizer, "config", None)  # of tokenizers in Hugging Face form
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(key) if isinstance(settings, Mapping) else None
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            names[key] = value
    return names
