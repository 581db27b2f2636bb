"""Tools that run elsewhere, under a name and a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen

from tinsmith.domain.messages import Tool


@frozen
class ToolReply:
    """What a tool gave."""

    text: str
    refused: bool = False
    """The tool says that the call was wrong: the model's mistake, which `text` explains to it."""


class ToolServer(Protocol):
    """A set of tools, called from any number of event loops at once."""

    @property
    def tools(self) -> Sequence[Tool]: ...

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolReply:
        """Raises WorldError where the server fails or is gone, DeadlineError where it takes too long."""
        ...

    def close(self) -> None: ...
