"""A stream costs time in proportion to its length."""

from __future__ import annotations

import numpy as np
import pytest

from tinsmith import rendering
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.rendering import DeltaKind, Parsed, Renderer
from tinsmith.rendering.streaming import Stream
from tinsmith.testing import FakeTokenizer

TOKENIZER = FakeTokenizer()
LONG = "word and word \n" * 2000
ASK = Message.user("q")


def completion(renderer: Renderer, answer: Message) -> Ints:
    [datum] = renderer.supervised([ASK, answer])
    return datum.targets[datum.weights != 0]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("qwen3", Message.assistant(LONG)),
        ("qwen3", Message("assistant", tool_calls=(ToolCall("f", f'{{"x": "{"long " * 5000}"}}'),))),
        ("qwen3", Message("assistant", tool_calls=[ToolCall("f", "{}")] * 700)),
        ("qwen3", Message.assistant("begin" + "\n" * 20_000 + "end")),
        ("role_colon", Message.assistant(LONG.replace("\n", "\nUser"))),
    ],
    ids=["text", "long call", "calls", "white space", "stop string"],
)
def test_a_stream_is_linear(name: str, answer: Message) -> None:
    renderer = rendering.get(name, TOKENIZER)
    ids = completion(renderer, answer)
    read = 0

    def parse(some: Ints) -> Parsed:
        nonlocal read
        read += len(some)
        return renderer.parse(some)

    stream, deltas = Stream(renderer, parse), []
    for id in ids.tolist():
        deltas += stream.feed(id)
    rest, parsed = stream.finish()
    assert parsed == renderer.parse(ids)
    assert "".join(d.text for d in [*deltas, *rest] if d.kind is DeltaKind.TEXT) == parsed.message.text
    assert sum(d.kind is DeltaKind.CALL for d in [*deltas, *rest]) == len(answer.tool_calls)
    assert len(ids) > 20_000
    assert read <= 40 * len(ids)
    if name == "qwen3" and answer.text == LONG:
        assert read <= 4 * len(ids)


def test_what_is_plain_is_given_at_once_however_long_the_stream() -> None:
    renderer = rendering.get("chatml", TOKENIZER)
    stream = renderer.stream()
    stream.feed(TOKENIZER.encode(LONG))
    for word in ("here", " is", " \u2764", " more"):
        assert "".join(d.text for d in stream.feed(TOKENIZER.encode(word))).strip() == word.strip()
    heart = TOKENIZER.encode("\u2764")
    assert stream.feed(heart[:1]) == []
    assert np.array_equal([d.text for d in stream.feed(heart[1:])], ["\u2764"])
