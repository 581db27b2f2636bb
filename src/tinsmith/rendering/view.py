"""A conversation as a renderer sees it: its tokens with weights, and where it parts from a chat template."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import NothingToTrain, TrainOn


@frozen(eq=False)
class View:
    """T tokens, the finished conversation's or those that one datum trains."""

    ids: Ints
    weights: Floats
    """[T] float32: the weight of each token as a target."""
    message: Ints
    """[T] int32: index of the message that owns the token; -1 for none."""

    def to_json(self) -> dict[str, Any]:
        return {"ids": self.ids.tolist(), "weights": self.weights.tolist(), "message": self.message.tolist()}


@frozen(eq=False)
class Viewed:
    views: tuple[View, ...]
    """One for each datum; of the last datum, all tokens of the conversation. One without weights where there is
    nothing to train."""
    untrained: str = ""
    """Why nothing is trained."""


def view(renderer: Renderer, conversation: Conversation, train_on: TrainOn) -> Viewed:
    """Raises RenderError."""
    try:
        examples = renderer.supervised(conversation, train_on=train_on)
    except NothingToTrain as error:
        plain = renderer.render(conversation.messages, conversation.tools)
        return Viewed((View(plain.ids, np.zeros(len(plain), np.float32), plain.message),), error.reason)
    views = []
    for datum in examples:
        ids = np.append(datum.tokens, datum.targets[-1])
        first = min(0, int(datum.message[0]))
        views.append(View(ids, np.append(np.float32(0), datum.weights), np.append(np.int32(first), datum.message)))
    try:
        whole = renderer.written(conversation.messages, conversation.tools, sampled=True).render()
    except RenderError:  # an answer that is not trained and could not be
        return Viewed(tuple(views))
    last = views[-1]
    if np.array_equal(whole.ids[: len(last.ids)], last.ids):
        weights = np.zeros(len(whole), np.float32)
        weights[: len(last.ids)] = last.weights
        views[-1] = View(whole.ids, weights, whole.message)
    return Viewed(tuple(views))


@frozen
class Difference:
    """Where a rendering and a template's first part: the token's index, and the text from there on."""

    token: int
    ours: str
    theirs: str


_SHOWN = 20
"""Tokens of a difference that are shown."""


def difference(
    renderer: Renderer, template: Renderer, conversation: Conversation, *, shown: int = 60
) -> Difference | None:
    """The first difference of the finished conversation; None where all tokens are the same."""
    ours = renderer.render(conversation.messages, conversation.tools).ids
    theirs = template.render(conversation.messages, conversation.tools).ids
    n = min(len(ours), len(theirs))
    apart = np.flatnonzero(ours[:n] != theirs[:n])
    if not len(apart) and len(ours) == len(theirs):
        return None
    at = int(apart[0]) if len(apart) else n
    decode = renderer.tokenizer.decode
    return Difference(at, decode(ours[at : at + _SHOWN]), decode(theirs[at : at + _SHOWN]))
