"""Rows in any order, and examples rendered as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.adapters.local.spool import SpooledRows
from tinsmith.domain.errors import DataError
from tinsmith.domain.mixtures import Mixture
from tinsmith.rendering import TrainOn, get
from tinsmith.testing import FakeTokenizer, MemorySource
from tinsmith.workflows.chat_examples import NOTHING, ChatExamples, Drawn, Place
from tinsmith.workflows.supervised_data import StreamedData, steps_between

RENDERER = get("chatml", FakeTokenizer())
CHATS = ChatExamples(renderer=RENDERER, max_length=1000)


def rows(n: int, name: str) -> SpooledRows:
    made = [
        {"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": str(i)}]} for i in range(n)
    ]
    return SpooledRows(MemorySource(made, name))


def streamed(sizes: Sequence[int] = (20, 7), ahead: int = 8, calls: list[int] | None = None) -> StreamedData:
    sources = [rows(n, chr(97 + i)) for i, n in enumerate(sizes)]

    def render(source: int, places: Sequence[Place]) -> list[Drawn]:
        if calls is not None:
            calls.append(len(places))
        assert all(p.source == sources[source].name for p in places)
        return CHATS(places)

    return StreamedData(sources, Mixture(sizes, None, 3), render, ahead=ahead)


def test_rows_come_back_in_any_order() -> None:
    given_rows = [{"text": "ä\n", "n": i, "none": None, "on": date(2026, 1, 2)} for i in range(5)]
    spooled = SpooledRows(MemorySource(given_rows))
    assert len(spooled) == 5
    for i in (3, 0, 4, 3):
        assert spooled[i] == (i + 1, {"text": "ä\n", "n": i, "none": None, "on": "2026-01-02"})
    with pytest.raises(IndexError):
        spooled[5]


def test_what_is_left_out_is_counted_and_lines_stay_those_of_the_source() -> None:
    spooled = SpooledRows(
        MemorySource([{"n": i} for i in range(10)]), keep=lambda row, line: "are odd" if row["n"] % 2 else None
    )
    assert [spooled[i][0] for i in range(len(spooled))] == [1, 3, 5, 7, 9]
    assert spooled.left_out == {"are odd": 5}
    assert len(SpooledRows(MemorySource([{"n": i} for i in range(10)]), limit=4)) == 4


def test_bytes_are_no_text() -> None:
    with pytest.raises(DataError, match="memory, line 1: the row holds bytes"):
        SpooledRows(MemorySource([{"image": b"\x00"}]))


def test_the_fingerprint_is_of_the_content() -> None:
    one, same, other = (
        SpooledRows(MemorySource(r, n)) for r, n in (([{"a": 1}], "x"), ([{"a": 1}], "y"), ([{"a": 2}], "x"))
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 20))
def test_a_batch_depends_on_its_position_alone(position: int, size: int, ahead: int) -> None:
    fresh = streamed(ahead=ahead).batch(position, size)
    other = streamed(ahead=50)
    at = 0
    while at < position:
        at = other.batch(at, min(4, position - at)).end
    assert other.batch(position, size).batch.same_as(fresh.batch)


def test_a_pass_has_every_row_once_and_a_batch_never_spans_two() -> None:
    data = streamed()
    position, seen, ends = 0, [], []
    for _ in range(steps_between(data, 0, 54, 5)):
        drawn = data.batch(position, 5)
        position = drawn.end
        seen += [tuple(d.tokens.tolist()) for d in drawn.batch]
        ends.append(position)
    assert position == 54
    assert 27 in ends
    assert len(set(seen[:27])) == 27
    assert sorted(seen[:27]) == sorted(seen[27:])


def test_no_more_is_rendered_than_is_said() -> None:
    calls: list[int] = []
    data = streamed(sizes=(1000,), ahead=10, calls=calls)
    data.batch(0, 3)
    assert calls == [10], "the first batch does not wait for the others"
    position = 3
    for _ in range(100):
        position = data.batch(position, 3).end
        assert len(data._rendered) <= 10
    assert sum(calls) <= position + 10, "nothing is rendered twice"


def test_what_a_batch_leaves_out_or_cuts_is_counted() -> None:
    long = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * 500}]}
    silent = {"messages": [{"role": "user", "content": "q"}]}
    short = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    source = SpooledRows(MemorySource([long, silent, short, short]))
    cut = ChatExamples(renderer=RENDERER, max_length=100)
    drawn = StreamedData([source], Mixture([4]), lambda _, places: cut(places)).batch(0, 4)
    assert drawn.metrics == {"num_left_out": 1.0, "num_cut": 1.0}
    assert len(drawn.batch) == 3
    skip = ChatExamples(renderer=RENDERER, max_length=100, too_long="skip")
    drawn = StreamedData([source], Mixture([4]), lambda _, places: skip(places)).batch(0, 4)
    assert drawn.metrics == {"num_left_out": 2.0, "num_cut": 0.0}
    refuse = ChatExamples(renderer=RENDERER, max_length=100, too_long="raise")
    with pytest.raises(DataError, match=r"memory, line 1: .*too_long"):
        StreamedData([source], Mixture([4]), lambda _, places: refuse(places)).batch(0, 4)


def test_a_batch_with_nothing_to_train_on_says_where_and_why() -> None:
    source = SpooledRows(MemorySource([{"messages": [{"role": "user", "content": "q"}]}] * 2))
    data = StreamedData([source], Mixture([2]), lambda _, places: CHATS(places))
    with pytest.raises(DataError, match=r"a batch of 2 rows, from memory, line .* they have nothing to train on"):
        data.batch(0, 2)


def test_rows_that_are_set_aside_take_no_part() -> None:
    source = rows(10, "a")
    data = StreamedData([source], Mixture([3]), lambda _, p: CHATS(p), rows=[np.array([1, 4, 9])])
    whole = StreamedData([source], Mixture([10]), lambda _, p: CHATS(p))
    assert data.fingerprint != whole.fingerprint
    assert len(data.batch(0, 10).batch) == 3
    assert NOTHING.why
    assert CHATS.train_on is TrainOn.ALL_ASSISTANT_MESSAGES
