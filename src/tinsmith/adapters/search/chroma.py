"""A collection of a Chroma server, searched by meaning (extra `chroma`)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tinsmith.domain.documents import Document, fingerprint
from tinsmith.domain.errors import ConfigError, MissingExtraError, TinsmithError, WorldError
from tinsmith.ports.loop import BackgroundLoop
from tinsmith.ports.search import Hit

T = TypeVar("T")

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Vectors of texts, one each, all of one length."""

ADDED_AT_ONCE = 256
MAX_CHARS = 4096
"""Characters of a query that count."""

_MARK = "tinsmith_corpus"
"""In a collection's metadata: the fingerprint of the corpus that it was filled with."""


class ChromaIndex:
    """A SearchIndex over a collection of a server.

    `documents` fill it where it is empty; one that was filled with others is refused, and without `documents` it is
    searched as it is. Vectors come from `embed`, else from the collection's own embedding function.
    """

    def __init__(
        self,
        collection: str,
        documents: Sequence[Document] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        ssl: bool = False,
        embed: Embed | None = None,
        timeout_s: float = 30.0,
        client: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        """timeout_s: seconds that a call may take. client: makes the client, in place of chromadb's AsyncHttpClient.

        Raises ConfigError, MissingExtraError, WorldError for a server that does not answer.
        """
        if client is None:
            try:
                import chromadb
            except ImportError:
                raise MissingExtraError("chromadb", "chroma") from None
            client = _connects(chromadb, host, port, ssl)
        self._where = f"{host}:{port}/{collection}"
        self._embed = embed
        self._timeout_s = timeout_s
        self._corpus = "" if documents is None else fingerprint(documents)
        self._loop = BackgroundLoop(f"chroma {self._where}")
        try:
            opening = self._open(client, collection, documents)
            self._collection: Any = self._loop.wait(lambda: opening, f"chroma at {self._where}", 60 * timeout_s)
        except BaseException:
            self._loop.close()
            raise

    @property
    def name(self) -> str:
        return f"chroma {self._where}"

    @property
    def fingerprint(self) -> str:
        return self._corpus or self._where

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        asked = [i for i, query in enumerate(queries) if re.search(r"\w", query)]
        out: list[list[Hit]] = [[] for _ in queries]
        if not asked:
            return out
        texts = [_unicode(queries[i])[:MAX_CHARS] for i in asked]

        async def query() -> Any:
            given = {"query_texts": texts} if self._embed is None else {"query_embeddings": list(self._embed(texts))}
            kept = ["documents", "metadatas", "distances"]
            return await self._collection.query(**given, n_results=k, include=kept)

        found = await self._loop.run(lambda: self._asked(query), self.name, self._timeout_s)
        for row, i in enumerate(asked):
            columns = (found[c][row] for c in ("ids", "documents", "metadatas", "distances"))
            hits = [
                Hit(Document(str(name), text or "", str((metadata or {}).get("title", ""))), -float(distance))
                for name, text, metadata, distance in zip(*columns, strict=True)
            ]
            out[i] = sorted(hits, key=lambda hit: -hit.score)[:k]
        return out

    def close(self) -> None:
        self._loop.close()

    async def _open(
        self, client: Callable[[], Awaitable[Any]], collection: str, documents: Sequence[Document] | None
    ) -> Any:
        made = await self._asked(client)
        if documents is None:
            return await self._asked(lambda: made.get_collection(collection))
        found = await self._asked(lambda: made.get_or_create_collection(collection, metadata={_MARK: self._corpus}))
        held = int(await self._asked(found.count))
        mark = (found.metadata or {}).get(_MARK)
        if held and mark != self._corpus:
            raise ConfigError(
                f"the collection {collection!r} at {self._where} holds another corpus ({held} documents): name another "
                "collection, or leave the corpus away to search it as it is"
            )
        begun = held // ADDED_AT_ONCE * ADDED_AT_ONCE if held < len(documents) else held
        for start in range(begun, len(documents), ADDED_AT_ONCE):
            await self._add(found, documents[start : start + ADDED_AT_ONCE])
        return found

    async def _add(self, collection: Any, documents: Sequence[Document]) -> None:
        """Add documents, or write them again: a fill that was broken off goes on."""
        texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in documents]
        vectors = {} if self._embed is None else {"embeddings": list(self._embed(texts))}
        await self._asked(
            lambda: collection.upsert(
                ids=[d.id for d in documents],
                documents=[d.text for d in documents],
                metadatas=[{"title": d.title} for d in documents],
                **vectors,
            )
        )

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call of the client gives; what it raises is the world's."""
        try:
            return await call()
        except TinsmithError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise WorldError(f"chroma at {self._where} failed: {said}") from error


def _connects(chromadb: Any, host: str, port: int, ssl: bool) -> Callable[[], Awaitable[Any]]:
    async def connect() -> Any:
        return await chromadb.AsyncHttpClient(host=host, port=port, ssl=ssl)

    return connect


def _unicode(text: str) -> str:
    """Without the halves of surrogate pairs that JSON can write and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
