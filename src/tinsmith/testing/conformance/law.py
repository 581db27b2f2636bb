"""A law of the protocol: its name, what it says, where that is written, and the check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from tinsmith.testing.conformance.world import World


class Broken(AssertionError):
    """The server does not keep the law; the message says what it did instead."""


class Unsupported(Exception):
    """The server says that it does not do this, or nothing can be seen of it."""


@frozen(eq=False)
class Law:
    name: str
    chapter: str
    statement: str
    source: str
    body: Callable[..., None]
    given: Mapping[str, Any] = field(factory=dict)
    """Hypothesis strategies by the name of the argument; none: the law is checked once."""


LAWS: dict[str, Law] = {}
"""By name, in the order of the chapters."""

SDK = "SDK 0.38.0"
DOCS = "Tinker documentation"


def law(*, source: str = SDK, **given: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a function as a law: its docstring, one sentence, is the statement. `source`: where it is written."""

    def enter(body: Callable[..., None]) -> Callable[..., None]:
        name, statement = body.__name__, " ".join((body.__doc__ or "").split())
        assert statement, f"{name} says nothing"
        assert name not in LAWS, f"{name} is there already"
        LAWS[name] = Law(name, body.__module__.rpartition(".")[2], statement, source, body, given)
        return body

    return enter


def expect(holds: bool, otherwise: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(otherwise)


Check = Callable[["World"], None]
