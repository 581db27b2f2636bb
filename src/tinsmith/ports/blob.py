"""Where bytes are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class BlobStore(Protocol):
    """Bytes under keys like `a/b/c.json`. A write is whole or not at all, also across a crash."""

    @property
    def url(self) -> str: ...
    def put(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes:
        """Raises FileNotFoundError when there is no such key."""
        ...

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]: ...
    def exists(self, key: str) -> bool: ...
    def list(self, prefix: str = "") -> list[str]:
        """Keys with this prefix, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...
