"""Where rows of data come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = Mapping[str, Any]


class DatasetSource(Protocol):
    """Rows in a fixed order. Each iteration starts at the first row and gives the same rows."""

    @property
    def name(self) -> str:
        """For messages and run directories, e.g. the path."""
        ...

    def __iter__(self) -> Iterator[Row]: ...

    def count(self) -> int | None:
        """Rows, when that is known without reading them all."""
        ...


class IndexedRows(Protocol):
    """Rows that can be had in any order."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str:
        """Fixed by the content of every row and their order."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[int, Row]:
        """(line in its source, from 1, for messages; the row)."""
        ...
