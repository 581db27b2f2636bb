"""A local index by words: BM25 through the `bm25s` package (extra `search`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinsmith.domain.documents import Document, fingerprint
from tinsmith.domain.errors import DataError, MissingExtraError
from tinsmith.ports.search import Hit

MAX_WORDS = 256
"""Words of a query that count: a model may ask for a book."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Letters and digits in a row, without case. No word is left out, none is cut to its stem."""
    return _WORD.findall(text.casefold())


class BM25Index:
    """A SearchIndex in memory, with bm25s' own k1 = 1.5 and b = 0.75 (the variant that Lucene uses).

    A document's title is searched with its text. A document that shares no word with the query is no hit; of two with
    the same score the one that stands first in the corpus is the better one.
    """

    def __init__(self, documents: Iterable[Document], *, name: str = "bm25") -> None:
        try:
            import bm25s
        except ImportError:
            raise MissingExtraError("bm25s", "search") from None
        self._documents = tuple(documents)
        self._name = name
        known: dict[str, int] = {}
        split = [[known.setdefault(w, len(known)) for w in words(f"{d.title} {d.text}")] for d in self._documents]
        if not known:
            raise DataError("no document of the corpus holds a word", source=name)
        self._fingerprint = fingerprint(self._documents)
        self._index: Any = bm25s.BM25(backend="numpy")
        self._index.index((split, known), show_progress=False)

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return await asyncio.to_thread(lambda: [self._one(query, k) for query in queries])

    def _one(self, query: str, k: int) -> list[Hit]:
        known = [word for word in words(query)[:MAX_WORDS] if word in self._index.vocab_dict]
        if not known:
            return []
        scores = self._index.get_scores(known)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:  # the k best and all that equal the last of them
            found = found[scores[found] >= np.partition(scores[found], -k)[-k]]
        best = found[np.argsort(-scores[found], kind="stable")][:k]
        return [Hit(self._documents[i], float(scores[i])) for i in best.tolist()]

    def close(self) -> None:
        """Nothing is held."""
