"""The contract of searching, kept by the fake, by BM25, and by Chroma as far as its client is spoken to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinsmith.adapters.search.bm25 import BM25Index
from tinsmith.adapters.search.chroma import ADDED_AT_ONCE, ChromaIndex
from tinsmith.domain.documents import Document, document_from_row
from tinsmith.domain.errors import ConfigError, DataError, DeadlineError, WorldError
from tinsmith.testing import MemorySearch
from tinsmith.testing.contracts import SearchContract
from tinsmith.testing.contracts.search import CORPUS


class TestMemorySearch(SearchContract):
    def make(self, documents):
        return contextlib.nullcontext(MemorySearch(documents))


class TestBM25(SearchContract):
    def make(self, documents):
        pytest.importorskip("bm25s", reason="needs the extra: search")
        return contextlib.nullcontext(BM25Index(documents))


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Each text as the direction that its words point in; a word's place is fixed by its letters."""
    out = []
    for text in texts:
        vector = [1e-6] * 256
        for word in re.findall(r"\w+", text.casefold()):
            vector[hashlib.blake2b(word.encode()).digest()[0]] += 1.0
        out.append(vector)
    return out


class FakeCollection:
    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self.rows: dict[str, tuple[str, dict[str, Any], list[float]]] = {}

    async def count(self) -> int:
        return len(self.rows)

    async def upsert(self, ids, documents, metadatas, embeddings) -> None:
        assert len(set(ids)) == len(ids) <= ADDED_AT_ONCE
        self.rows |= dict(zip(ids, zip(documents, metadatas, embeddings, strict=True), strict=True))

    async def query(self, query_embeddings, n_results, include) -> dict[str, Any]:
        found: dict[str, list[Any]] = {"ids": [], **{name: [] for name in include}}
        await asyncio.sleep(0.001)
        for asked in query_embeddings:
            near = sorted((1 - cosine(asked, row[2]), name) for name, row in self.rows.items())[:n_results]
            found["ids"].append([name for _, name in near])
            found["documents"].append([self.rows[name][0] for _, name in near])
            found["metadatas"].append([self.rows[name][1] for _, name in near])
            found["distances"].append([distance for distance, _ in near])
        return found


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


class FakeClient:
    def __init__(self) -> None:
        self.collections: dict[str, FakeCollection] = {}

    async def get_or_create_collection(self, name, metadata):
        return self.collections.setdefault(name, FakeCollection(metadata))

    async def get_collection(self, name):
        return self.collections[name]


def served(client: FakeClient):
    async def connect() -> FakeClient:
        return client

    return connect


class TestChromaByAFakeOfItsClient(SearchContract):
    @contextlib.contextmanager
    def make(self, documents):
        with contextlib.closing(
            ChromaIndex("words", documents, embed=embed, client=served(FakeClient()), timeout_s=5.0)
        ) as index:
            yield index


@pytest.fixture(scope="class")
def chroma_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("chromadb", reason="needs the extra: chroma")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(tmp_path_factory.mktemp("chroma"))]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.filterwarnings("default")
class TestChroma(SearchContract):
    names = itertools.count()

    @pytest.fixture(autouse=True)
    def server(self, chroma_port: int) -> None:
        type(self).port = chroma_port

    @contextlib.contextmanager
    def make(self, documents):
        name = f"words{next(self.names)}"
        with contextlib.closing(ChromaIndex(name, documents, embed=embed, port=self.port)) as index:
            yield index


def test_a_collection_is_filled_once_and_never_with_another_corpus() -> None:
    client = FakeClient()
    many = [Document(str(i), f"word{i}") for i in range(2 * ADDED_AT_ONCE + 7)]
    for _ in range(2):
        ChromaIndex("many", many, embed=embed, client=served(client)).close()
        assert len(client.collections["many"].rows) == len(many)
    with pytest.raises(ConfigError, match="another corpus"):
        ChromaIndex("many", CORPUS, embed=embed, client=served(client))
    rows = client.collections["many"].rows
    for name in list(rows)[300:]:
        del rows[name]
    ChromaIndex("many", many, embed=embed, client=served(client)).close()
    assert list(rows) == [d.id for d in many], "a fill that was broken off goes on"
    ChromaIndex("words", CORPUS, embed=embed, client=served(client)).close()
    with contextlib.closing(ChromaIndex("words", embed=embed, client=served(client))) as index:
        assert asyncio.run(index.search([CORPUS[3].text], 1))[0][0].document == CORPUS[3], "as it was filled before"


def test_a_server_that_fails_or_hangs_is_the_worlds_failure_within_the_deadline() -> None:
    client = FakeClient()
    index = ChromaIndex("words", CORPUS, embed=embed, client=served(client), timeout_s=0.2)

    async def hangs(**_: Any) -> None:
        await asyncio.sleep(60)

    async def breaks(**_: Any) -> None:
        raise RuntimeError("connection reset\nby peer")

    with contextlib.closing(index):
        client.collections["words"].query = hangs  # type: ignore[method-assign]
        began = time.monotonic()
        with pytest.raises(DeadlineError, match=r"0\.2 s"):
            asyncio.run(index.search(["apple"], 1))
        assert time.monotonic() - began < 5
        client.collections["words"].query = breaks  # type: ignore[method-assign]
        with pytest.raises(WorldError, match=r"RuntimeError: connection reset$"):
            asyncio.run(index.search(["apple"], 1))
    with pytest.raises(WorldError, match="closed"):
        asyncio.run(index.search(["apple"], 1))

    other = ChromaIndex("words", CORPUS, embed=embed, client=served(client), timeout_s=30.0)
    client.collections["words"].query = hangs  # type: ignore[method-assign]

    async def closed_meanwhile() -> None:
        asyncio.get_running_loop().call_later(0.1, other.close)
        await other.search(["apple"], 1)

    with pytest.raises(WorldError, match="was closed before"):
        asyncio.run(closed_meanwhile())

    async def nobody() -> None:
        raise OSError("nobody listens")

    with pytest.raises(WorldError, match="nobody listens"):
        ChromaIndex("words", CORPUS, client=nobody)


def test_of_equal_documents_the_first_is_the_better_one() -> None:
    pytest.importorskip("bm25s", reason="needs the extra: search")
    same = [Document(str(i), "stone and river") for i in range(50)]
    index = BM25Index([Document("x", "stone stone stone"), *same])
    (hits,) = asyncio.run(index.search(["river"], 7))
    assert [hit.document.id for hit in hits] == [str(i) for i in range(7)]
    with pytest.raises(DataError, match="no document"):
        BM25Index([Document("0", "?!")])


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ({"text": "A town."}, Document("4", "A town.")),
        ({"id": 7, "title": "Bree", "text": " A town. "}, Document("7", "A town.", "Bree")),
        ({"id": "w", "title": None, "text": "A town."}, Document("w", "A town.")),
        ({"id": "1", "contents": '"Bree"\nA town.\nOld.'}, Document("1", "A town.\nOld.", "Bree")),
        ({"contents": "A town."}, Document("4", "A town.")),
    ],
)
def test_a_row_is_a_document(row: dict[str, Any], document: Document) -> None:
    assert document_from_row(row, source="f", line=4) == document


@pytest.mark.parametrize("row", [{}, {"text": ""}, {"text": 3}, {"contents": " \n"}, {"text": "a", "id": [1]}])
def test_another_row_is_none(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="f, line 4"):
        document_from_row(row, source="f", line=4)
