"""Rows of JSON lines in a blob store, read as a stream."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from tinsmith.domain.errors import DataNotFoundError
from tinsmith.domain.rows import parse_rows, split_lines
from tinsmith.ports.blob import BlobStore


class BlobRows:
    """A DatasetSource of a `.jsonl` blob, gzipped when its key ends in `.gz`. Memory is a chunk and a line."""

    def __init__(self, store: BlobStore, key: str) -> None:
        self._store = store
        self._key = key
        if not store.exists(key):
            raise DataNotFoundError(f"{self.name}: no such blob")

    @property
    def name(self) -> str:
        url = self._store.url
        return f"{url}{self._key}" if url.endswith("/") else f"{url}/{self._key}"

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chunks = self._store.stream(self._key)
        if self._key.endswith(".gz"):
            chunks = gunzip(chunks)
        return parse_rows(split_lines(chunks), self.name)


def object_rows(url: str) -> BlobRows:
    """Rows of the object at a URL, e.g. `s3://bucket/folder/train.jsonl.gz`. Raises when there is none."""
    from tinsmith.adapters.objectstore.store import ObjectStore, split_url

    store, key = split_url(url)
    return BlobRows(ObjectStore(store), key)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip stream of one or more members. Raises EOFError when it is cut, zlib.error when damaged."""
    member = zlib.decompressobj(wbits=31)
    begun = False
    for chunk in chunks:
        data = chunk
        while data:
            begun = True
            yield member.decompress(data)
            data = member.unused_data
            if member.eof:
                member, begun = zlib.decompressobj(wbits=31), bool(data)
    if begun:
        raise EOFError("the stream ends before its end-of-stream marker")
