"""Rollouts that another library runs: it holds the conversation and asks a model as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

from tinsmith.domain.messages import Message, Tool


@frozen(eq=False, kw_only=True)
class Ask:
    """What a rollout wants to be answered next."""

    messages: tuple[Message, ...]
    """The whole conversation."""
    tools: tuple[Tool, ...] = ()
    stop: tuple[str, ...] = ()
    """Strings that end the answer, besides what ends every message."""
    seen: int = 0
    """How many messages are, unchanged, those of the ask before and the answer that it got; 0 where they are not."""


@frozen(eq=False, kw_only=True)
class Scored:
    """What a rollout earned at its end."""

    reward: float
    metrics: Mapping[str, float] = field(factory=dict)


class ForeignRollout(Protocol):
    """One rollout. It begins at the first `next`; every ask is answered, or ended, before the one after it."""

    async def next(self) -> Ask | Scored:
        """The next ask, or the end. Raises WorldError where the library failed."""
        ...

    async def answer(self, message: Message, *, truncated: bool) -> None:
        """truncated: a limit of tokens cut the message."""
        ...

    async def end(self) -> None:
        """Nothing more is said: the library ends as it does where a prompt is too long, and pays for what it has."""
        ...

    async def close(self) -> None:
        """Stop it, wherever it is, and let it clean up."""
        ...


class ForeignEnvironment(Protocol):
    """A loaded environment: problems, and a rollout of each."""

    @property
    def name(self) -> str: ...
    def rows(self, split: Literal["train", "test"]) -> Sequence[Mapping[str, Any]] | None:
        """Its problems by index; None where it has none to test on."""
        ...

    def fingerprint(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Changes when the environment, its arguments or the problems do."""
        ...

    @property
    def compares(self) -> bool:
        """The rollouts of a group are scored together, so that none ends before all do."""
        ...

    def rollouts(self, row: Mapping[str, Any], n: int) -> Sequence[ForeignRollout]:
        """n rollouts of one problem."""
        ...

    def close(self) -> None: ...
