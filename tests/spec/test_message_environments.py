"""Environments of messages: what the policy sampled stays as it was sampled, what it cannot be read as is dealt with,
and tools are run once a call, their answers beside it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith import rendering
from tinsmith.domain.assembly import assemble
from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import ConfigError, DeadlineError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.envs.base import Env
from tinsmith.envs.message import MessageStep, ParseErrors, RenderedEnv
from tinsmith.envs.tools import Graded, ToolBox, ToolEnv, ToolError, ToolFailure, ToolResult, tool
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.testing.strategies import texts
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, Rollouts, roll_out

TOKENIZER = FakeTokenizer()
STABLE, REWRITES = rendering.get("chatml", TOKENIZER), rendering.get("qwen3", TOKENIZER)
CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'


class Talk:
    """Says `lines` one after another; the last answer ends it. Each answer earns its length in letters."""

    tools = ()

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    async def reset(self) -> Sequence[Message]:
        return (Message.system("Talk."), Message.user(self.lines.pop(0)))

    async def step(self, message: Message) -> MessageStep:
        reward = float(len(message.text))
        if not self.lines:
            return MessageStep(reward=reward, stop_reason=StopReason.COMPLETED)
        return MessageStep(reward=reward, messages=(Message.user(self.lines.pop(0)),))

    async def close(self) -> None:
        """Nothing is held."""


class Group:
    problem, tags, coupled = "p", (), False

    def __init__(self, make) -> None:
        self.make_one = make

    def make(self, n: int) -> Sequence[Env]:
        return [self.make_one() for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


def played(
    make, answer, *, size: int = 1, max_tokens: int = 500, failures: FailurePolicy | None = None, **limits
) -> Rollouts:
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=max_tokens, **limits), group_size=size, failures=failures or FailurePolicy()
    )
    return roll_out(ScriptedSampler(TOKENIZER, answer), [Group(make)], plan)


@settings(deadline=None)
@given(st.lists(st.tuples(texts(), texts()), min_size=1, max_size=4), st.sampled_from([STABLE, REWRITES]))
def test_what_was_sampled_is_what_is_trained_turn_after_turn(exchanges, renderer):
    """Every later observation begins with all that was seen and sampled, so an episode is one datum; its trained tokens
    are the sampled ones, in order, whatever the texts hold."""
    answers = [a.strip() or "x" for _, a in exchanges]
    turn = iter(answers)

    def make() -> Env:
        return RenderedEnv(env=Talk([u for u, _ in exchanges]), renderer=renderer)

    (group,) = played(make, lambda prompt, j: next(turn).replace("<", "("), max_tokens=2000)
    (episode,) = group.episodes
    assert episode.stop_reason is StopReason.COMPLETED
    assert len(episode.transitions) == len(exchanges)
    if renderer.is_prefix_stable:
        for before, after in zip(episode.transitions, episode.transitions[1:], strict=False):
            begin = np.concatenate([before.observation, before.action])
            assert after.observation[: len(begin)].tobytes() == begin.tobytes()
    from tinsmith.domain.episodes import Group as Episodes

    batch = assemble([Episodes(problem="p", episodes=(episode,))], [np.ones(1)]).batch
    if renderer.is_prefix_stable:
        assert len(batch) == 1
    trained = batch.targets[batch.weights != 0]
    assert trained.tobytes() == np.concatenate([t.action for t in episode.transitions]).tobytes()


def test_a_message_that_cannot_be_read_is_asked_for_again_and_then_ends_the_episode():
    def episode(retries: int, bad: int, **policy) -> Episode:
        turn = iter([CALL % ("f", "{oops")] * bad + ["fine"])
        env = lambda: RenderedEnv(  # noqa: E731
            env=Talk(["hello"]), renderer=REWRITES, parse_errors=ParseErrors(retries=retries, **policy)
        )
        (group,) = played(env, lambda prompt, j: next(turn))
        return group.episodes[0]

    good = episode(2, 2, penalty=0.5, mask=True)
    assert good.stop_reason is StopReason.COMPLETED
    assert [t.reward for t in good.transitions] == [-0.5, -0.5, 4.0]
    assert [t.masked for t in good.transitions] == [True, True, False]
    assert [t.metrics["parse_error"] for t in good.transitions] == [1.0, 1.0, 0.0]
    assert "could not be read" in TOKENIZER.decode(good.transitions[1].observation)
    bad = episode(1, 2, reward=-3.0)
    assert bad.stop_reason is StopReason.PARSE_ERROR
    assert [t.reward for t in bad.transitions] == [0.0, -3.0]


@pytest.mark.parametrize("name", ["qwen3", "nemotron3_disable_thinking"])
def test_a_call_that_cannot_be_read_is_asked_for_again_in_every_format(name):
    """Also where the conversation is rendered anew and the format has no form for such a call: there it is text."""
    renderer = rendering.get(name, TOKENIZER)
    env = lambda: RenderedEnv(env=Talk(["hello"]), renderer=renderer, parse_errors=ParseErrors(retries=1))  # noqa: E731
    seen = []

    def answer(prompt, _):
        seen.append(prompt)
        return "<tool_call>\n{broken}\n</tool_call>"

    assert played(env, answer)[0].episodes[0].stop_reason is StopReason.PARSE_ERROR
    assert len(seen) == 2
    assert "{broken}" in seen[1]


def test_a_broken_frame_is_never_asked_for_again():
    env = lambda: RenderedEnv(env=Talk(["hello"]), renderer=REWRITES, parse_errors=ParseErrors(retries=5))  # noqa: E731
    (group,) = played(env, lambda prompt, j: "<think>no end")
    assert group.episodes[0].stop_reason is StopReason.PARSE_ERROR
    assert len(group.episodes[0].transitions) == 1


def test_a_message_that_was_cut_earns_what_is_said():
    env = lambda: RenderedEnv(env=Talk(["hello"]), renderer=STABLE, length_reward=-0.1)  # noqa: E731
    (group,) = played(env, lambda prompt, j: "a" * 50, max_tokens=10)
    assert (group.episodes[0].stop_reason, group.episodes[0].reward) == (StopReason.MAX_TOKENS, -0.1)


# Tools


@tool
def add(x: Annotated[int, "the first"], y: int = 1, sign: Literal["+", "-"] = "+") -> int:
    """Adds two numbers.

    And more that the model is not told.
    """
    if x == 13:
        raise ToolError("13 brings bad luck")
    if x == 14:
        raise RuntimeError("out of order")
    return x + y if sign == "+" else x - y


@tool(name="shout")
async def loud(words: list[str], how: dict[str, float] | None = None) -> ToolResult:
    await asyncio.sleep(0)
    return ToolResult(text=" ".join(words).upper(), stop="END" in words, metrics={"shouted": float(len(words))})


def test_a_functions_types_are_its_schema():
    assert add.tool.definition == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {"type": "integer", "description": "the first"},
                    "y": {"type": "integer"},
                    "sign": {"enum": ["+", "-"]},
                },
                "required": ["x"],
                "additionalProperties": False,
            },
        },
    }
    assert loud.parameters["properties"]["how"] == {
        "anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]
    }


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", '{"x": 2, "y": 3}', "5"),
        ("add", '{"x": 2.0}', "3"),
        ("add", '{"x": 5, "y": 3, "sign": "-"}', "2"),
        ("shout", '{"words": ["a", "b"]}', "A B"),
        ("shout", '{"words": ["a"], "how": {"x": 1}}', "A"),
        ("shout", '{"words": ["a"], "how": null}', "A"),
        ("add", '{"x": "2"}', 'error: x must be integer, not "2"'),
        ("add", '{"x": true}', "error: x must be integer, not true"),
        ("add", "{}", "error: add needs the argument 'x'"),
        ("add", '{"x": 1, "z": 1}', "error: add has no argument 'z'; it has x, y, sign"),
        ("add", '{"x": 1, "sign": "*"}', 'error: sign must be one of "+", "-", not "*"'),
        ("add", "[1]", "error: the arguments of add must be an object, not [1]"),
        ("add", "{", "error: the arguments of add are no JSON"),
        ("add", '{"x": 13}', "error: 13 brings bad luck"),
        ("sub", "{}", "error: there is no tool 'sub'; there are add, shout"),
        ("shout", '{"words": [1]}', "error: words[0] must be string, not 1"),
        ("shout", '{"words": ["a"], "how": {"x": "1"}}', 'error: how cannot be {"x": "1"}'),
    ],
)
def test_a_call_gives_the_tools_answer_or_tells_the_model_its_mistake(name, arguments, said):
    box = ToolBox((add, loud))
    message, result = asyncio.run(box.call(ToolCall(name, arguments, id="call-1")))
    assert message.text.startswith(said)
    assert (message.role, message.tool_call_id, message.name) == ("tool", "call-1", name)
    assert result.metrics.get("tool_error", 0.0) == float(said.startswith("error"))
    box.close()


def test_what_a_tool_fails_at_is_not_the_models_mistake():
    box = ToolBox((add,))
    with pytest.raises(ToolFailure, match="tool add failed: RuntimeError: out of order"):
        asyncio.run(box.call(ToolCall("add", '{"x": 14}')))
    box.close()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_tool_that_never_answers_costs_its_deadline(asynchronous):
    @tool
    async def waits(x: int) -> str:
        """Waits."""
        await asyncio.sleep(60)
        return "never"

    @tool(name="waits")
    def blocks(x: int) -> str:
        """Waits."""
        time.sleep(1.0)
        return "too late"

    box = ToolBox((waits if asynchronous else blocks,), timeout_s=0.1)
    with pytest.raises(DeadlineError, match=r"waits gave no result within 0\.1 s"):
        asyncio.run(box.call(ToolCall("waits", '{"x": 1}')))
    box.close()


def test_megabytes_are_cut_and_that_is_said():
    @tool
    def floods() -> str:
        """Floods."""
        return "x" * 3_000_000

    box = ToolBox((floods,), max_chars=100)
    message, _ = asyncio.run(box.call(ToolCall("floods", "")))
    assert message.text == "x" * 100 + "\n[2999900 characters more were cut]"
    box.close()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        eval("lambda *args: args"),
    ],
)
def test_a_function_that_has_no_schema_is_refused(function):
    with pytest.raises(ConfigError, match=r"has no type|have no names"):
        tool(function)


def test_types_that_json_has_no_form_for_are_refused():
    def f(x: set[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"argument 'x': .* has no form in JSON"):
        tool(f)
    with pytest.raises(ConfigError, match="two tools are called 'add'"):
        ToolBox((add, add))


def tool_env(graded: list | None = None, box: ToolBox | None = None):
    async def grade(messages: Sequence[Message]) -> Graded:
        if graded is not None:
            graded.append([m.role for m in messages])
        return Graded(reward=float("42" in messages[-1].text), metrics={"graded": 1.0})

    return lambda: RenderedEnv(
        env=ToolEnv((Message.user("What is 40 + 2?"),), box or ToolBox((add, loud)), grade), renderer=REWRITES
    )


def test_a_policy_that_calls_a_tool_reads_its_answer_and_is_graded_once():
    graded: list = []

    def answer(prompt: str, j: int) -> str:
        return "It is 42." if "42" in prompt else CALL % ("add", json.dumps({"x": 40, "y": 2}))

    (group,) = played(tool_env(graded), answer, size=2)
    for episode in group.episodes:
        assert episode.stop_reason is StopReason.COMPLETED
        assert episode.reward == 1.0
        assert [t.metrics["tool_calls"] for t in episode.transitions] == [1.0, 0.0]
    assert graded == [["user", "assistant", "tool", "assistant"]] * 2


def test_a_tool_may_end_the_episode_and_a_limit_grades_what_there_is():
    (group,) = played(tool_env(), lambda prompt, j: CALL % ("shout", '{"words": ["END"]}'))
    assert group.episodes[0].stop_reason is StopReason.TOOL_STOPPED
    assert group.episodes[0].transitions[0].metrics["shouted"] == 1.0
    graded: list = []
    call = CALL % ("add", '{"x": 40, "y": 2}')
    for limit in ({"max_turns": 2}, {"max_tool_calls": 2}):
        (group,) = played(tool_env(graded), lambda prompt, j: call, **limit)
        assert group.episodes[0].reward == 1.0, "the last message, the tool's, holds 42"
    assert graded == [["user", "assistant", "tool", "assistant", "tool"]] * 2


def test_a_tool_that_fails_is_tried_again_with_its_episode():
    failures = iter([True, True])

    @tool(name="add")
    def flaky(x: int, y: int) -> int:
        """Adds."""
        if next(failures, False):
            raise ConnectionError("no answer")
        return x + y

    def answer(prompt: str, j: int) -> str:
        return "It is 42." if "42" in prompt else CALL % ("add", '{"x": 40, "y": 2}')

    box = ToolBox((flaky,))
    got = played(tool_env(box=box), answer, failures=FailurePolicy(retries=2, backoff_s=0.0))
    assert got[0].episodes[0].reward == 1.0
    assert got.errors == {"ToolFailure": 2}
    box.close()
