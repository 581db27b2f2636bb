"""Options: an attrs field that knows its meaning and its range.

    @attrs.frozen(kw_only=True)
    class Config:
        learning_rate: float = option(1e-4, help="Peak learning rate.", exclusive_min=0)
        lora: Lora = option(factory=Lora, help="The adapter that is trained.")     # a group: lora.rank, lora.alpha, ...

A class of options is complete by itself: made in code, it converts what fits (1 to 1.0, a list to a tuple) and refuses
the rest with one ConfigError that names every bad option. Files and the command line go the same way (`resolve`).

Types: int, float, bool, str, Path, Literal, Enum, tuple[...], list[...], dict[str, ...], unions of these and None, and
groups (other attrs classes), which may also be None. In a union of a list with its own items, or of str with Path or
Enum, text is ambiguous: do not declare one.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import attrs

from tinsmith.config.values import Misfit, fit, members_of, name_of, show, show_as, suggestion
from tinsmith.domain.errors import ConfigError

T = TypeVar("T")
_KEY = "tinsmith.option"


@attrs.frozen(kw_only=True)
class Bounds:
    """What an option means and accepts beyond its type."""

    help: str = ""
    choices: tuple[Any, ...] = ()
    min: float | None = None
    max: float | None = None
    exclusive_min: float | None = None
    exclusive_max: float | None = None

    def range(self) -> str:
        """E.g. ">= 1, < 32"; empty without limits."""
        limits = ((">=", self.min), (">", self.exclusive_min), ("<=", self.max), ("<", self.exclusive_max))
        return ", ".join(f"{sign} {limit}" for sign, limit in limits if limit is not None)

    def refusal(self, value: Any) -> str | None:
        """Why a value of the right type is refused. Limits and choices hold for each item of a list or dict."""
        if isinstance(value, Mapping):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            return next((why for item in value if (why := self.refusal(item))), None)
        if self.choices and value is not None and value not in self.choices:
            words = [show(choice) for choice in self.choices]
            return "one of " + ", ".join(words) + suggestion(str(value), words)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            inside = (
                (self.min is None or value >= self.min)
                and (self.max is None or value <= self.max)
                and (self.exclusive_min is None or value > self.exclusive_min)
                and (self.exclusive_max is None or value < self.exclusive_max)
            )
            if inside and isinstance(value, float) and math.isinf(value) and self.range():
                return (
                    f"a finite number, {self.range()}"  # 1e400 is a typing error; no limit is `none` where there is one
                )
            return None if inside else self.range()
        return None


@overload
def option(
    default: T,
    *,
    help: str,
    choices: Sequence[Any] = (),
    min: float | None = None,
    max: float | None = None,
    exclusive_min: float | None = None,
    exclusive_max: float | None = None,
) -> T: ...
@overload
def option(
    *,
    help: str,
    factory: Callable[[], T],
    choices: Sequence[Any] = (),
    min: float | None = None,
    max: float | None = None,
    exclusive_min: float | None = None,
    exclusive_max: float | None = None,
) -> T: ...
@overload
def option(
    *,
    help: str,
    choices: Sequence[Any] = (),
    min: float | None = None,
    max: float | None = None,
    exclusive_min: float | None = None,
    exclusive_max: float | None = None,
) -> Any: ...
def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    choices: Sequence[Any] = (),
    **limits: float | None,
) -> Any:
    """An option of a config class; without `default` and `factory` it has to be given.

    `help` is its meaning, one sentence or two. `choices` are the allowed values where the type does not list them;
    `min`, `max` (inclusive), `exclusive_min` and `exclusive_max` limit numbers.
    """
    bounds = Bounds(help=help, choices=tuple(choices), **limits)
    return attrs.field(
        default=default,
        factory=factory,
        converter=attrs.Converter(_converted, takes_self=True, takes_field=True),
        validator=_validate,
        metadata={_KEY: bounds},
    )


def bounds_of(field: attrs.Attribute[Any]) -> Bounds:
    """What was said of a field; a plain attrs field has no meaning and no limits."""
    found: Bounds = field.metadata.get(_KEY, Bounds())
    return found


@functools.cache
def kinds(cls: Any) -> Mapping[str, Any]:
    """The types of the options of a class, by name."""
    return typing.get_type_hints(cls)


def group_of(kind: Any) -> type | None:
    """The attrs class of a group (also of one that may be None); None for a single value."""
    return next((member for member in members_of(kind) if isinstance(member, type) and attrs.has(member)), None)


def fields(cls: type) -> Iterator[tuple[attrs.Attribute[Any], Any]]:
    """The options of a class with their types."""
    types = kinds(cls)
    for field in attrs.fields(cls):
        if field.init:
            yield field, types[field.name]


def fit_option(value: Any, field: attrs.Attribute[Any], kind: Any) -> Any:
    """`value` as this option holds it. Raises Misfit."""
    fitted = fit(value, kind)
    refusal = bounds_of(field).refusal(fitted)
    if refusal is not None:
        raise Misfit(refusal)
    return fitted


def _converted(value: Any, instance: Any, field: attrs.Attribute[Any]) -> Any:
    try:
        return fit(value, kinds(instance.__class__)[field.name])
    except Misfit:
        return value  # refused by _validate, which sees all fields and so names all that are wrong


def _validate(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    cls = instance.__class__
    try:
        fit_option(value, field, kinds(cls)[field.name])
    except Misfit:
        problems = []
        for other, kind in fields(cls):
            try:
                fit_option(getattr(instance, other.name), other, kind)
            except Misfit as misfit:
                problems.append(Problem(other.name, f"expected {misfit}", given=getattr(instance, other.name)))
        raise ConfigError(explain(cls, problems)) from None


@attrs.frozen(kw_only=True)
class Option:
    """One option as help shows it."""

    name: str
    """Dotted."""
    kind: Any
    default: Any
    """`attrs.NOTHING` where it has to be given."""
    bounds: Bounds

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING

    @property
    def type(self) -> str:
        if group_of(self.kind) is not None:
            return "group" if group_of(self.kind) is self.kind else "group | none"
        return " | ".join(show(choice) for choice in self.bounds.choices) or name_of(self.kind)

    def meaning(self) -> str:
        """Its help and its range, e.g. "peak learning rate (> 0)"."""
        limits = self.bounds.range()
        return f"{self.bounds.help} ({limits})" if limits else self.bounds.help

    def shown_default(self) -> str:
        """As the command line reads it; empty for a group, whose options have theirs."""
        return (
            "required" if self.required else "" if attrs.has(type(self.default)) else show_as(self.default, self.kind)
        )

    def signature(self) -> str:
        """E.g. "float, > 0, default 0.0001"."""
        default = self.shown_default()
        given = default if self.required or not default else f"default {default}"
        return ", ".join(part for part in (self.type, self.bounds.range(), given) if part)


def options_of(cls: type, *, defaults: Any = None, prefix: str = "") -> list[Option]:
    """Every option of a class, in order; a group is a row before its own options."""
    rows = []
    for field, kind in fields(cls):
        default = default_of(field) if defaults is None else getattr(defaults, field.name)
        name, group = prefix + field.name, group_of(kind)
        rows.append(Option(name=name, kind=kind, default=default, bounds=bounds_of(field)))
        if group is not None:
            instance = default if isinstance(default, group) else None
            rows += options_of(group, defaults=instance, prefix=name + ".")
    return rows


def default_of(field: attrs.Attribute[Any]) -> Any:
    """What an option is when nothing is said; `attrs.NOTHING` where it has to be given."""
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return attrs.NOTHING if field.default.takes_self else field.default.factory()  # type: ignore[union-attr]
    return field.default


_NOT_GIVEN = object()


@attrs.frozen
class Problem:
    """One mistake: the dotted path of the option, what is wrong, the value, and who gave it."""

    path: str
    what: str
    given: Any = attrs.field(default=_NOT_GIVEN, kw_only=True)
    source: str = attrs.field(default="", kw_only=True)
    meant: str | None = attrs.field(default=None, kw_only=True)
    """The option to explain where `path` names none."""

    def __str__(self) -> str:
        value = "" if self.given is _NOT_GIVEN else f"={_short(self.given)}"
        source = f" ({self.source})" if self.source else ""
        return f"{self.path}{value}{source}: {self.what}" if self.path else f"{self.what}{source}"


def explain(cls: type, problems: Sequence[Problem]) -> str:
    """The message for these mistakes: each with its option's type, range, default and meaning."""
    known = {row.name: row for row in options_of(cls)}
    lines = [] if len(problems) == 1 else [f"{len(problems)} mistakes in the configuration:"]
    for problem in problems:
        lines.append(f"{'' if len(problems) == 1 else '- '}{problem}")
        row = known.get(problem.meant or problem.path)
        if row is not None:
            lines.append(f"    {row.name}: {row.signature()}. {row.bounds.help}".rstrip())
    return "\n".join(lines)


def _short(value: Any) -> str:
    try:
        text = show(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
