"""The contract of a DatasetSource. Subclass it and supply `make`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.ports.data import DatasetSource, Row
from tinsmith.testing.contracts._common import LAW

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
"""Also with line separators, quotes, null characters: everything that a string in JSON can hold."""


def rows() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows that all have the same columns, as tables need them, of types that JSON and tables share."""
    columns = {
        "text": text,
        "number": st.integers(-(2**53), 2**53),
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.booleans(),
        "turns": st.lists(st.fixed_dictionaries({"role": text, "content": text}), min_size=1, max_size=3),
    }
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=6)


class DatasetSourceContract:
    """Laws of every DatasetSource."""

    def make(self, rows: Sequence[Row]) -> AbstractContextManager[DatasetSource]:
        """A source that holds these rows, while the context lasts."""
        raise NotImplementedError

    @LAW
    @given(given_rows=rows())
    def test_rows_come_in_order_and_each_time_again(self, given_rows: list[dict[str, Any]]) -> None:
        with self.make(given_rows) as source:
            assert [dict(row) for row in source] == given_rows
            assert [dict(row) for row in source] == given_rows

    @LAW
    @given(given_rows=rows())
    def test_iterations_do_not_disturb_each_other(self, given_rows: list[dict[str, Any]]) -> None:
        with self.make(given_rows) as source:
            first, second = iter(source), iter(source)
            with contextlib.suppress(StopIteration):
                while True:
                    assert next(first) == next(second)
            assert next(second, None) is None

    @LAW
    @given(given_rows=rows())
    def test_the_count_is_that_of_the_rows_when_it_is_known(self, given_rows: list[dict[str, Any]]) -> None:
        with self.make(given_rows) as source:
            assert source.count() in (None, len(given_rows))
            assert source.name
