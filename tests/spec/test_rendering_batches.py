"""Chapter 1b: many conversations at once.

A batch is rendered for speed alone: it gives what its conversations give one by one, errors included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tokenizer import small_bpe
from tinsmith import rendering
from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.rendering import Renderer, TrainOn
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.strategies import conversations

RENDERERS = [rendering.get(f, t) for f in ("qwen3", "role_colon") for t in (FakeTokenizer(), small_bpe())]
every_renderer = pytest.mark.parametrize("renderer", RENDERERS, ids=lambda r: f"{r.name}-{r.tokenizer.name}")


def chats(renderer: Renderer) -> st.SearchStrategy[list[Conversation]]:
    if renderer.name == "role_colon":
        held = conversations(avoid=("\n\nUser:",), weights=True)
    else:
        held = conversations(thinking=True, calls=True, avoid=("</think>",), weights=True)
    broken = Conversation((Message.user("Hi"), Message("tool", "no call came before this result")))
    return st.lists(held | st.just(broken), max_size=4)


@every_renderer
@given(data=st.data())
def test_a_batch_is_its_renderings(renderer: Renderer, data: st.DataObject) -> None:
    batch = data.draw(chats(renderer))
    alone: list[Any] = []
    for number, conversation in enumerate(batch):
        try:
            alone.append(renderer.render(conversation.messages, conversation.tools))
        except RenderError:
            with pytest.raises(RenderError, match=f"conversation {number}: "):
                renderer.render_batch(batch)
            return
    together = renderer.render_batch(batch)
    assert len(together) == len(alone)
    for a, b in zip(alone, together, strict=True):
        for column in ("ids", "message", "origin", "special"):
            x, y = getattr(a, column), getattr(b, column)
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)


@every_renderer
@given(
    data=st.data(),
    train_on=st.sampled_from(TrainOn),
    max_length=st.none() | st.integers(1, 120),
    overlong=st.sampled_from(["refuse", "truncate"]),
)
def test_a_batch_trains_what_its_conversations_train(
    renderer: Renderer, data: st.DataObject, train_on: TrainOn, max_length: int | None, overlong: str
) -> None:
    batch = data.draw(chats(renderer))
    options: dict[str, Any] = {"train_on": train_on, "max_length": max_length, "overlong": overlong}
    together = renderer.supervised_batch(batch, **options)
    assert len(together) == len(batch)
    for conversation, got in zip(batch, together, strict=True):
        if isinstance(got, RenderError):
            with pytest.raises(type(got)) as raised:
                renderer.supervised(conversation, **options)
            assert str(raised.value) == str(got)
            continue
        alone = renderer.supervised(conversation, **options)
        assert (got.truncated, got.skipped) == (alone.truncated, alone.skipped)
        assert len(got) == len(alone)
        assert all(a.same_as(b) for a, b in zip(got, alone, strict=True))
