"""Single values: what a type accepts, and how a value is written.

`fit` turns what a file, the command line or code gave into exactly the type that an option declares, or says what it
expects instead. Nothing is cut, rounded or evaluated: 1.5 is no whole number and NaN no setting. `show` writes a value
the way the command line reads it, `plain` as JSON data; `fit` undoes both.
"""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import types
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

NONE_WORDS = ("none", "null")
BOOL_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Text(str):
    """A value as it was typed. Text means what its option's type makes of it; a plain str is already a string."""

    __slots__ = ()


class Misfit(ValueError):
    """A value that does not fit; the message says what would, e.g. "a whole number"."""


def members_of(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none is its own only member."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def fit(value: Any, kind: Any) -> Any:
    """`value` as an instance of the type `kind`. Raises Misfit."""
    origin = get_origin(kind) or kind
    if kind is Any or (kind is types.NoneType and value is None):
        return value
    if origin in (Union, types.UnionType):
        return _fit_union(value, get_args(kind))
    if origin is Literal:
        return _fit_choice(value, {show(choice).strip('"'): choice for choice in get_args(kind)})
    if origin in (tuple, list):
        return _fit_sequence(value, kind, origin)
    if origin in (dict, Mapping):
        return _fit_dict(value, kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return value if isinstance(value, kind) else _fit_choice(value, {show(m).strip('"'): m for m in kind})
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise Misfit(name_of(kind))


def _fit_none(value: Any) -> None:
    if value is None or (isinstance(value, str) and value.lower() in NONE_WORDS):
        return
    raise Misfit("none")


def _fit_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in BOOL_WORDS:
        return BOOL_WORDS[value.lower()]
    raise Misfit("true or false")


def _fit_int(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii():
        with contextlib.suppress(ValueError):
            return int(value)
        with contextlib.suppress(InvalidOperation):
            number = Decimal(value)
            # 1e3 is a whole number too; 1e999999999 is not worth writing out.
            if number.is_finite() and number.adjusted() < 30 and number == number.to_integral_value():
                return int(number)
    raise Misfit("a whole number")


def _fit_float(value: Any) -> float:
    if isinstance(value, (numbers.Real, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise Misfit("a number") from None
        if not math.isnan(number):
            return number
    raise Misfit("a number")


def _fit_str(value: Any) -> str:
    if isinstance(value, Text):
        return _unquoted(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise Misfit("a text")


def _fit_path(value: Any) -> Path:
    text = str(value) if isinstance(value, Path) else _unquoted(value) if isinstance(value, str) else ""
    if "://" in text:
        raise Misfit("a path on this machine, no URL")
    if not text:
        raise Misfit("a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise Misfit("a path; there is no such home directory") from None


_SCALARS: dict[Any, Any] = {
    types.NoneType: _fit_none,
    bool: _fit_bool,
    int: _fit_int,
    float: _fit_float,
    str: _fit_str,
    Path: _fit_path,
}


def _fit_union(value: Any, members: tuple[Any, ...]) -> Any:
    if type(value) in members:
        return _SCALARS[type(value)](value) if type(value) in _SCALARS else value
    # Typed "none" is nothing before it is a word, "1" a number before it is true, anything else before it is a text.
    # In a file or code a word is a word, if the option takes words at all.
    rank = {types.NoneType: 0 if isinstance(value, Text) else 4, bool: 2, str: 3}
    ranked = sorted(members, key=lambda member: rank.get(member, 1))
    for member in ranked:
        try:
            return fit(value, member)
        except Misfit:
            continue
    raise Misfit(" or ".join(_expected(value, m) for m in members))


def _expected(value: Any, kind: Any) -> str:
    try:
        fit(value, kind)
    except Misfit as misfit:
        return str(misfit)
    return name_of(kind)


def _fit_choice(value: Any, choices: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        value = _unquoted(value)
        for choice in choices.values():
            if value == (choice.value if isinstance(choice, Enum) else choice):
                return choice
        if value in choices:
            return choices[value]
    else:
        for choice in choices.values():
            raw = choice.value if isinstance(choice, Enum) else choice
            if type(raw) is type(value) and raw == value:
                return choice
    raise Misfit("one of " + ", ".join(choices) + suggestion(str(value), choices))


def _fit_sequence(value: Any, kind: Any, origin: Any) -> Any:
    if isinstance(value, str):
        value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise Misfit(name_of(kind))
    args = get_args(kind) or (Any, ...)
    if origin is tuple and args[-1:] != (...,):
        if len(value) != len(args):
            raise Misfit(f"{len(args)} values, not {len(value)}")
        kinds = args
    else:
        kinds = (args[0],) * len(value)
    fitted = []
    for i, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            fitted.append(fit(item, item_kind))
        except Misfit as misfit:
            raise Misfit(f"{misfit} as item {i + 1}, not {show(item)}") from None
    return origin(fitted)


def _fit_dict(value: Any, kind: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _json_or(value, None)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Misfit(name_of(kind))
    _, item_kind = get_args(kind) or (str, Any)
    fitted = {}
    for key, item in value.items():
        try:
            fitted[key] = fit(item, item_kind)
        except Misfit as misfit:
            raise Misfit(f"{misfit} for {key}, not {show(item)}") from None
    return fitted


def _split(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _json_or(text, text)
    items = [Text(item.strip()) for item in text.split(",")]
    return items[:-1] if items[-1] == "" else items


def _json_or(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def _unquoted(text: str) -> str:
    """The string that typed text means: `"none"` in JSON quotes is the word, not nothing."""
    if isinstance(text, Text) and text.startswith('"'):
        string = _json_or(text, None)
        if isinstance(string, str):
            return string
    return str.__str__(text)


def _is_bare(text: str) -> bool:
    """Whether typed text can only mean itself, so that it needs no quotes."""
    if not text or text != text.strip() or text[0] in '"[{' or "," in text or not text.isprintable():
        return False
    if text.lower() in NONE_WORDS or text.lower() in BOOL_WORDS:
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def show(value: Any) -> str:
    """`value` as the command line reads it back."""
    if isinstance(value, Text):
        return str.__str__(value)
    if isinstance(value, Enum):
        return show(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, (str, Path)):
        text = str(value)
        return text if _is_bare(text) else json.dumps(text, ensure_ascii=False)
    if isinstance(value, (tuple, list)):
        shown = [show(item) for item in value]
        bare = all(
            isinstance(v, (str, Path, int, float, Enum)) and s[:1] != '"' for v, s in zip(value, shown, strict=True)
        )
        return ",".join(shown) if shown and bare else json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        return json.dumps(plain(value), ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def show_as(value: Any, kind: Any) -> str:
    """`show` without the quotes that a value of this type does not need."""
    raw = value.value if isinstance(value, Enum) else value
    text = str(raw)
    try:
        bare = isinstance(raw, (str, Path)) and text.isprintable() and fit(Text(text), kind) == value
    except Misfit:
        bare = False
    return text if bare and text else show(value)


def plain(value: Any) -> Any:
    """`value` as JSON data. Infinity, which JSON lacks, is written "inf"."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return str.__str__(value) if isinstance(value, Text) else value


def name_of(kind: Any) -> str:
    """A type as help shows it, e.g. "int | none", "adamw | sgd"."""
    origin = get_origin(kind) or kind
    if origin in (Union, types.UnionType):
        return " | ".join(name_of(m) for m in sorted(get_args(kind), key=lambda m: m is types.NoneType))
    if origin is Literal:
        return " | ".join(show_as(choice, kind) for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(show_as(member, kind) for member in kind)
    if origin in (tuple, list):
        args = get_args(kind) or (Any, ...)
        fixed = origin is tuple and args[-1] is not ...
        return "(" + ", ".join(map(name_of, args)) + ")" if fixed else f"list of {name_of(args[0])}"
    if origin in (dict, Mapping):
        return f"{{name: {name_of((get_args(kind) or (str, Any))[1])}}}"
    if kind is types.NoneType:
        return "none"
    names: dict[Any, str] = {Path: "path", bool: "true | false", Any: "any"}
    return names.get(kind) or str(getattr(kind, "__name__", kind))


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that `word` most likely means: "lr" learning_rate, "beta1" adam.beta1, "bach_size" batch_size."""
    import difflib

    word = word.lower()
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(name.rpartition(".")[2].lower(), []).append(name)
    for last in (word, word.rpartition(".")[2]):
        initials = [
            one for key, ones in by_last.items() if "".join(p[:1] for p in key.split("_")) == last for one in ones
        ]
        for ones in (by_last.get(last, []), initials if len(last) > 1 else []):
            if ones:
                return ones[0]
    whole = {name.lower(): name for ones in by_last.values() for name in ones}
    close = difflib.get_close_matches(word, whole, n=1, cutoff=0.6)
    part = [name for name in whole if len(word) > 2 and word in name]
    close = close or (part if len(part) == 1 else []) or difflib.get_close_matches(word, whole, n=1, cutoff=0.5)
    return whole[close[0]] if close else None


def suggestion(word: str, names: Iterable[str]) -> str:
    """ "; did you mean NAME?", or nothing when no name is near."""
    name = nearest(word, names)
    return "" if name is None else f"; did you mean {name}?"
