"""The contract of a SearchIndex. Subclass it and supply `make`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.documents import Document
from tinsmith.ports.search import Hit, SearchIndex
from tinsmith.testing.contracts._common import LAW

VOCABULARY = ("apple", "River", "stone", "cloud", "lamp", "Züge", "日本", "7", "green", "table", "music", "paper")

CORPUS = tuple(Document(str(i), " ".join(VOCABULARY[2 * i : 2 * i + 2]), f"Title{i}") for i in range(6))
"""No two documents share a word."""

HOSTILE = (
    *("", " ", "\n", "?!.", "'\"`;--", "\x00", "\ud800", "apple \udfff", "\u202e", "🦜", "%s {0} $1", "nothing of it"),
    *("apple " * 5000, "x" * 50_000, "apple AND (NOT river) OR *", '{"$gt": ""}'),
)


def queries() -> st.SearchStrategy[list[str]]:
    """Some words of the corpus, and some that it lacks."""
    one = st.lists(st.sampled_from((*VOCABULARY, "other", "words")), min_size=1, max_size=5).map(" ".join)
    return st.lists(one, min_size=1, max_size=4)


class SearchContract:
    """Laws of every SearchIndex."""

    def make(self, documents: Sequence[Document]) -> AbstractContextManager[SearchIndex]:
        """An index of these documents, while the context lasts."""
        raise NotImplementedError

    def ask(self, index: SearchIndex, queries: Sequence[str], k: int = 3) -> list[list[Hit]]:
        return asyncio.run(index.search(queries, k))

    @LAW
    @given(asked=queries(), k=st.integers(1, 8))
    def test_hits_are_documents_of_the_corpus_each_once_the_best_first_and_at_most_k(
        self, asked: list[str], k: int
    ) -> None:
        with self.make(CORPUS) as index:
            answers = self.ask(index, asked, k)
            assert len(answers) == len(asked)
            for hits in answers:
                assert len(hits) <= k
                assert len({hit.document.id for hit in hits}) == len(hits)
                assert all(hit.document in CORPUS for hit in hits), "id, title and text as they were given"
                scores = [hit.score for hit in hits]
                assert scores == sorted(scores, reverse=True)

    @LAW
    @given(asked=queries())
    def test_a_query_is_answered_beside_others_as_it_is_alone_and_each_time(self, asked: list[str]) -> None:
        with self.make(CORPUS) as index:
            together = [[hit.document.id for hit in hits] for hits in self.ask(index, asked)]
            alone = [[hit.document.id for hit in self.ask(index, [query])[0]] for query in asked]
            assert together == alone

    def test_a_document_is_found_first_by_its_own_words_in_any_case_and_by_its_title(self) -> None:
        with self.make(CORPUS) as index:
            for document in CORPUS:
                asked = [document.text, document.text.upper(), document.title, document.text.split()[0] + " unheard"]
                for query, hits in zip(asked, self.ask(index, asked), strict=True):
                    assert hits, query
                    assert hits[0].document == document, query

    def test_any_text_may_be_asked(self) -> None:
        with self.make(CORPUS) as index:
            answers = self.ask(index, HOSTILE)
            assert len(answers) == len(HOSTILE)
            assert [answers[i] for i in range(4)] == [[]] * 4, "nothing was asked, so nothing is found"
            assert answers[HOSTILE.index("apple \udfff")][0].document == CORPUS[0]
            assert self.ask(index, []) == []

    def test_searches_run_at_once_and_from_one_event_loop_after_another(self) -> None:
        async def many(index: SearchIndex) -> list[list[list[Hit]]]:
            return await asyncio.gather(*(index.search([d.text, "lamp"], 2) for d in CORPUS * 5))

        with self.make(CORPUS) as index:
            for _ in range(3):
                for document, (first, second) in zip(CORPUS * 5, asyncio.run(many(index)), strict=True):
                    assert first[0].document == document
                    assert second[0].document == CORPUS[2]

    def test_the_fingerprint_is_that_of_the_corpus(self) -> None:
        def of(documents: Sequence[Document]) -> str:
            with self.make(documents) as index:
                assert index.name
                return index.fingerprint

        assert of(CORPUS) == of(CORPUS)
        assert of(CORPUS) != of(CORPUS[1:])

    def test_closing_twice_is_closing_once(self) -> None:
        with self.make(CORPUS) as index:
            self.ask(index, ["apple"])
            index.close()
            index.close()
