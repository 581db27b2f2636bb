"""Searching a corpus of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from tinsmith.domain.documents import Document


@frozen
class Hit:
    """A document that was found."""

    document: Document
    score: float
    """The larger the better; to be compared within one query alone."""


class SearchIndex(Protocol):
    """A corpus that can be searched, from any number of event loops at once."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when what is searched does, as far as that can be known."""
        ...

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query at most `k` documents, the best first; fewer, or none, where no more have to do with it. Any
        text may be asked. Raises WorldError, and DeadlineError where the answer takes too long; never for a query."""
        ...

    def close(self) -> None: ...
