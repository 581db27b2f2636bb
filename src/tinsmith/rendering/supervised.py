"""Conversation -> datums: which messages are trained, in which rendering, and the shift by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from attrs import frozen

from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import MediaPart, Message
from tinsmith.domain.tokens import Floats
from tinsmith.rendering.records import Examples, NothingToTrain, Overlong, Rendered, TooLong, TrainOn


def message_weights(messages: Sequence[Message], train_on: TrainOn) -> Floats:
    """[len(messages)] float32: the weight of each message's tokens."""
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    last = answers[-1] if answers else -1
    if train_on is TrainOn.LAST_ASSISTANT_MESSAGE:
        trained: Collection[int] = answers[-1:]
    elif train_on is TrainOn.LAST_ASSISTANT_TURN:
        turn = max((i for i in range(last) if messages[i].role == "user"), default=-1)
        trained = [i for i in answers if i > turn]
    elif train_on is TrainOn.ALL_ASSISTANT_MESSAGES:
        trained = answers
    elif train_on is TrainOn.ALL_USER_AND_SYSTEM_MESSAGES:
        trained = [i for i, m in enumerate(messages) if m.role in ("system", "developer", "user")]
    else:
        trained = range(len(messages))
        if train_on is TrainOn.CUSTOMISED:
            for i, message in enumerate(messages):
                if message.weight is None:
                    raise RenderError(f"train_on=customised needs a weight for every message; message {i} has none")
    weights = np.zeros(len(messages), np.float32)
    for i in trained:
        given = messages[i].weight
        weights[i] = 1.0 if given is None else given
    return weights


@frozen(eq=False)
class Plan:
    """What of a conversation is trained, and which renderings that takes."""

    weights: Floats
    """[messages] float32."""
    ends: tuple[int, ...]
    """How many messages each rendering holds."""


def plan_of(messages: Sequence[Message], *, stable: bool, train_on: TrainOn) -> Plan:
    """One rendering per trained answer, as it was when that answer was the last; where nothing is rewritten, the last
    one holds them all. Raises NothingToTrain."""
    weights = message_weights(messages, train_on)
    trained: list[int] = np.flatnonzero(weights).tolist()
    if not trained:
        raise NothingToTrain(f"no message has a weight under train_on={train_on}")
    ends = {_end(messages, trained[-1])}
    if not stable:
        ends |= {i + 1 for i in trained if messages[i].role == "assistant"}
    return Plan(weights, tuple(sorted(ends)))


def _end(messages: Sequence[Message], last: int) -> int:
    """Where to end a rendering that holds message `last`: after an answer, else before the next one. Formats write
    results that follow one another as one, and some want a question."""
    end = last + 1
    while messages[last].role != "assistant" and end < len(messages) and messages[end].role != "assistant":
        end += 1
    return end


def examples_of(
    plan: Plan,
    render: Callable[[int], Rendered],
    *,
    train_on: TrainOn,
    max_length: int | None,
    overlong: Overlong,
) -> Examples:
    """Datums of a conversation; `render(n)` renders its first n messages. See `Renderer.supervised`."""
    if max_length is not None and max_length < 1:
        raise ConfigError(f"max_length={max_length}: at least 1")
    # Renderings that grow out of one another merge.
    renderings: list[tuple[Rendered, int]] = []  # with the first message that this rendering trains
    first = 0
    for end in plan.ends:
        rendered = render(end)
        if renderings and rendered.starts_with(renderings[-1][0]):
            first = renderings.pop()[1]
        renderings.append((rendered, first))
        first = end
    datums: list[Datum] = []
    media: list[tuple[tuple[int, MediaPart], ...]] = []
    truncated = skipped = 0
    for number, (rendered, first) in enumerate(renderings):
        owned = np.zeros(len(plan.weights) + 1, np.float32)
        owned[first:-1] = plan.weights[first:]
        owned[-1] = train_on is TrainOn.ALL_TOKENS and number == 0
        per_token = owned[rendered.message]  # -1, no message, is the last entry
        if train_on is not TrainOn.ALL_TOKENS:
            per_token[~rendered.is_output] = 0.0
        datum, cut = _datum(rendered, per_token, max_length, overlong)
        truncated += cut
        skipped += datum is None
        if datum is not None:
            datums.append(datum)
            media.append(tuple((at, part) for at, part in rendered.media if at < datum.num_tokens))
    if not datums:
        raise NothingToTrain(
            f"the cut at {max_length} tokens left none that is trained"
            if truncated
            else "no trained token has a prefix"
        )
    return Examples(tuple(datums), truncated=truncated, skipped=skipped, media=tuple(media) if any(media) else ())


def _datum(
    rendered: Rendered, weights: Floats, max_length: int | None, overlong: Overlong
) -> tuple[Datum | None, bool]:
    """The datum, None if nothing in it is trained; and whether it was cut. What follows the last trained token goes: in
    a causal model it changes nothing."""
    ends = np.flatnonzero(weights[1:])
    length = int(ends[-1]) + 1 if len(ends) else 0
    cut = max_length is not None and length > max_length
    if cut and max_length is not None:
        if overlong is Overlong.REFUSE:
            raise TooLong(length, max_length)
        ends = ends[ends < max_length]
        length = int(ends[-1]) + 1 if len(ends) else 0
    if not length:
        return None, cut
    return (
        Datum(
            tokens=rendered.ids[:length],
            targets=rendered.ids[1 : length + 1],
            weights=weights[1 : length + 1],
            message=rendered.message[1 : length + 1],
        ),
        cut,
    )
