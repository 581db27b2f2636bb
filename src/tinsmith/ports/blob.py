"""Where bytes are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tinsmith.domain.errors import ConfigError


class BlobStore(Protocol):
    """Bytes under keys like `a/b/c.json`. A write is whole or not at all, also across a crash."""

    @property
    def url(self) -> str: ...
    def put(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes:
        """Raises DataNotFoundError (a FileNotFoundError) when there is no such key."""
        ...

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The blob in chunks of at most `chunk_bytes`; raises as `get` does, at the first chunk or before."""
        ...

    def exists(self, key: str) -> bool: ...
    def list(self, prefix: str = "") -> list[str]:
        """Keys with this prefix, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...


def check_key(key: str) -> str:
    """`key`, if it is one: names joined by `/`, none of them empty, `.` or `..`. Stores call it before they act."""
    if "\x00" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ConfigError(f"blob key {key!r}: names joined by '/', none of them empty, '.' or '..'")
    return key
