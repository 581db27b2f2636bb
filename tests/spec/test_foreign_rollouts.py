"""Rollouts that another library runs: sampled tokens stay as they are, whatever becomes of the conversation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith import rendering
from tinsmith.bootstrap import load_tokenizer
from tinsmith.domain.assembly import assemble
from tinsmith.domain.messages import Message
from tinsmith.envs.foreign import ForeignGroup
from tinsmith.ports.foreign import Ask, Scored
from tinsmith.testing import ScriptedSampler
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

TOKENIZER, _ = load_tokenizer("tiny")
RENDERER = rendering.get("chatml", TOKENIZER)


class Spelling(ScriptedSampler):
    """Says every word letter by letter, as no encoding of the text would have it."""

    def tokens(self, text: str) -> list[int]:
        return [int(t) for letter in text for t in TOKENIZER.encode(letter)]


class Library:
    """Goes on with the conversation in a way of its own after each answer: adds to it, edits it, or begins another."""

    def __init__(self, ways: list[str], log: list[str]) -> None:
        self._ways, self._log = ways, log
        self._messages: list[Message] = [Message.user("Begin.")]
        self._answers = 0
        self._ended = False

    async def next(self) -> Ask | Scored:
        if self._answers > len(self._ways) or self._ended:
            return Scored(reward=float(self._answers))
        way = self._ways[self._answers - 1] if self._answers else "begins"
        seen = len(self._messages)
        if way != "begins":
            self._messages.append(Message.user("Go on."))
        if way == "edits":
            self._messages[0] = Message.user("Edited.")
        if way == "forgets":
            self._messages = self._messages[-1:]
        return Ask(messages=tuple(self._messages), seen=seen if way == "adds" else 0)

    async def answer(self, message: Message, *, truncated: bool) -> None:
        self._messages.append(message)
        self._answers += 1

    async def end(self) -> None:
        self._ended = True

    async def close(self) -> None:
        self._log.append("close")


ways = st.lists(st.sampled_from(["adds", "adds", "edits", "forgets"]), max_size=5)


@settings(deadline=None)
@given(ways, st.integers(1, 3), st.sampled_from([None, 1, 3]))
def test_turns_are_one_sequence_exactly_where_the_library_only_added(ways, size, max_turns):
    log: list[str] = []
    group = ForeignGroup(
        problem="p", tags=(), start=lambda n: [Library(ways, log) for _ in range(n)], renderer=RENDERER
    )
    plan = RolloutPlan(limits=RolloutLimits(max_tokens=20, max_turns=max_turns), group_size=size)
    (done,) = roll_out(Spelling(TOKENIZER, lambda prompt, j: "apple"), [group], plan)
    assert len(log) == size
    said = Spelling(TOKENIZER, lambda prompt, j: "").tokens("apple")
    for episode in done.episodes:
        turns = episode.transitions
        assert len(turns) == min(len(ways) + 1, max_turns or 99)
        assert episode.reward == float(len(turns))
        for turn, after, way in zip(turns, turns[1:], ways, strict=False):
            whole = np.append(turn.observation, turn.action)
            assert np.array_equal(after.observation[: len(whole)], whole) == (way == "adds")
        assert all(list(turn.action[:-1]) == said for turn in turns)
    parts = [1 + sum(way != "adds" for way in ways[: len(e.transitions) - 1]) for e in done.episodes]
    assert len(assemble([done], [np.ones(size)]).group) == sum(parts), "and so many datums"
