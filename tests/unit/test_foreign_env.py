"""Rollouts that another library runs: what was sampled is what is trained, and every one comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from tinsmith import bootstrap, rendering
from tinsmith.domain.episodes import Episode, Group, StopReason
from tinsmith.domain.errors import WorldError
from tinsmith.domain.messages import Message, Tool
from tinsmith.envs.foreign import ForeignGroup
from tinsmith.ports.foreign import Ask, Scored
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()


class Dialogue:
    """A library that asks `asks` one after the other; the reward is how many were answered. `seen` as it says."""

    def __init__(self, asks: Sequence[Ask | Exception], log: list[str]) -> None:
        self._asks, self._log, self._answers = list(asks), log, 0

    async def next(self) -> Ask | Scored:
        self._log.append("next")
        if not self._asks:
            return Scored(reward=float(self._answers), metrics={"answers": float(self._answers)})
        ask = self._asks.pop(0)
        if isinstance(ask, Exception):
            raise ask
        return ask

    async def answer(self, message: Message, *, truncated: bool) -> None:
        self._log.append(f"{message.text}{'...' if truncated else ''}")
        self._answers += 1

    async def end(self) -> None:
        self._log.append("end")

    async def close(self) -> None:
        self._log.append("close")


def conversation(*texts: str) -> tuple[Message, ...]:
    return tuple((Message.user, Message.assistant)[i % 2](text) for i, text in enumerate(texts))


def played(
    asks: Sequence[Ask | Exception],
    answer: Callable[[str, int], str] = lambda prompt, j: "ok",
    renderer: str = "chatml",
    size: int = 1,
    failures: FailurePolicy | None = None,
    **limits,
) -> tuple[Group, list[str]]:
    log: list[str] = []
    group = ForeignGroup(
        problem="p",
        tags=("t",),
        start=lambda n: [Dialogue(asks, log) for _ in range(n)],
        renderer=rendering.get(renderer, TOKENIZER),
    )
    plan = RolloutPlan(
        limits=RolloutLimits(**{"max_tokens": 20, "turn_timeout": 5.0, **limits}),
        group_size=size,
        failures=failures or FailurePolicy(),
    )
    (done,) = roll_out(ScriptedSampler(TOKENIZER, answer), [group], plan)
    return done, log


def goes_on(episode: Episode) -> list[bool]:
    """Of each turn but the first: whether its prompt begins with the one before and what was sampled after it."""
    turns = episode.transitions
    return [
        np.array_equal(after.observation[: len(t.observation) + len(t.action)], np.append(t.observation, t.action))
        for t, after in pairwise(turns)
    ]


TWO = (Ask(messages=conversation("a")), Ask(messages=conversation("a", "ok", "b"), seen=2))


def test_what_was_sampled_is_what_is_trained_over_all_turns():
    group, log = played(TWO)
    (episode,) = group.episodes
    assert goes_on(episode) == [True]
    assert (episode.reward, episode.stop_reason) == (2.0, StopReason.COMPLETED)
    assert episode.transitions[-1].metrics == {"parse_error": 0.0, "answers": 2.0}
    assert log == ["next", "ok", "next", "ok", "next", "close"]


def test_sampled_tokens_stay_where_the_same_text_has_others():
    model = bootstrap.load_model("tiny")

    class Spelling(ScriptedSampler):
        def tokens(self, text: str) -> list[int]:
            return [int(t) for letter in text for t in model.tokenizer.encode(letter)]

    asks = (Ask(messages=conversation("a")), Ask(messages=conversation("a", "apple", "b"), seen=2))
    group = ForeignGroup(problem="p", tags=(), start=lambda n: [Dialogue(asks, [])], renderer=model.renderer)
    plan = RolloutPlan(limits=RolloutLimits(max_tokens=20), group_size=1)
    (done,) = roll_out(Spelling(model.tokenizer, lambda prompt, j: "apple"), [group], plan)
    assert len(done.episodes[0].transitions[0].action) == 6 > len(model.tokenizer.encode("apple")) + 1
    assert goes_on(done.episodes[0]) == [True]


def test_a_conversation_that_the_library_changed_is_rendered_anew():
    group, _ = played((TWO[0], Ask(messages=conversation("a", "changed", "b"))))
    (episode,) = group.episodes
    assert goes_on(episode) == [False]
    assert "changed" in TOKENIZER.decode(episode.transitions[1].observation)


def test_a_message_that_its_limit_cut_is_told_to_the_library_which_goes_on():
    group, log = played(TWO, lambda prompt, j: "long" * 9 if "b" not in prompt else "ok")
    (episode,) = group.episodes
    assert goes_on(episode) == [False], "it did not end, so nothing follows it"
    assert log[1].endswith("...")
    assert (episode.transitions[0].truncated, episode.stop_reason) == (True, StopReason.COMPLETED)


@pytest.mark.parametrize("limit", [{"max_turns": 1}, {"max_trajectory_tokens": 45}])
def test_what_was_earned_until_a_limit_is_paid(limit):
    group, log = played((*TWO, Ask(messages=conversation("a", "ok", "b", "ok", "c"), seen=4)), **limit)
    (episode,) = group.episodes
    assert episode.stop_reason.is_limit
    assert episode.reward == float(len(episode.transitions))
    assert "end" in log
    assert log.count("close") == 1


def test_a_rollout_that_is_over_before_it_asks():
    group, log = played(())
    (episode,) = group.episodes
    assert (episode.reward, episode.transitions, log) == (0.0, (), ["next", "close"])


def test_a_failure_of_the_library_is_the_worlds_and_tried_again():
    with pytest.raises(WorldError, match="down"):
        played((TWO[0], WorldError("down")))
    fails = [WorldError("down")]
    log: list[str] = []

    def start(n: int) -> list[Dialogue]:
        return [Dialogue((*TWO[:1], *(fails.pop() for _ in fails[:1])), log) for _ in range(n)]

    group = ForeignGroup(problem="p", tags=(), start=start, renderer=rendering.get("chatml", TOKENIZER))
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=20), group_size=1, failures=FailurePolicy(retries=1, backoff_s=0.0)
    )
    done = roll_out(ScriptedSampler(TOKENIZER, lambda prompt, j: "ok"), [group], plan)
    assert done.errors == {"WorldError": 1}
    assert done[0].episodes[0].reward == 1.0
    assert log.count("close") == 2


def test_tools_are_shown_calls_are_read_and_what_is_no_call_is_passed_on_as_text():
    tool = Tool({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}})
    heard: list[Message] = []

    class Listening(Dialogue):
        async def answer(self, message: Message, *, truncated: bool) -> None:
            heard.append(message)

    said = iter(['<tool_call>{"name": "add", "arguments": {}}</tool_call>', "<tool_call>{nothing}</tool_call>"])
    asks = (Ask(messages=conversation("a"), tools=(tool,)), Ask(messages=conversation("b"), tools=(tool,)))
    group = ForeignGroup(
        problem="p", tags=(), start=lambda n: [Listening(asks, [])], renderer=rendering.get("qwen3", TOKENIZER)
    )
    plan = RolloutPlan(limits=RolloutLimits(max_tokens=90), group_size=1)
    (done,) = roll_out(ScriptedSampler(TOKENIZER, lambda prompt, j: next(said)), [group], plan)
    assert [c.name for c in heard[0].tool_calls] == ["add"]
    assert (heard[1].tool_calls, heard[1].unparsed_tool_calls) == ((), ())
    assert "nothing" in heard[1].text
    assert [t.metrics["parse_error"] for t in done.episodes[0].transitions] == [0.0, 1.0]
    assert "add" in TOKENIZER.decode(done.episodes[0].transitions[0].observation)


def test_a_library_that_hangs_costs_its_deadline():
    class Hanging(Dialogue):
        async def next(self) -> Ask | Scored:
            await asyncio.sleep(60)
            raise AssertionError

    log: list[str] = []
    group = ForeignGroup(
        problem="p", tags=(), start=lambda n: [Hanging((), log)], renderer=rendering.get("chatml", TOKENIZER)
    )
    plan = RolloutPlan(limits=RolloutLimits(max_tokens=20, turn_timeout=0.05), group_size=1)
    with pytest.raises(WorldError, match="took longer"):
        roll_out(ScriptedSampler(TOKENIZER, lambda prompt, j: "ok"), [group], plan)
    assert log == ["close"]
