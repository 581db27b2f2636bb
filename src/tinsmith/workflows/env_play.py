"""A person plays an environment: reads what the policy would read, and writes what it would say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from attrs import frozen

from tinsmith.domain.episodes import Episode, Group
from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import Message, Tool, ToolCall
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Env, GroupBuilder
from tinsmith.rendering import Renderer
from tinsmith.workflows.by_hand import ByHand, said
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

BLOCK = '"""'
"""A line that is this opens a text of several lines, and ends it."""


class Terminal(Protocol):
    """Where the person sits."""

    def show(self, text: str) -> None: ...
    def ask(self, prompt: str) -> str:
        """One line, without its end. Raises EOFError or KeyboardInterrupt when the person leaves."""
        ...


class Left(Exception):
    """The person left before the end."""


@frozen(kw_only=True)
class PlayLimits:
    """As of the policy; none: none."""

    max_tokens: int = 1024
    context: int = 32768
    max_turns: int | None = None
    max_trajectory_tokens: int | None = None


def play(builder: GroupBuilder, renderer: Renderer, limits: PlayLimits, terminal: Terminal) -> Group:
    """One group of episodes: one, or as few as the players of a game that all are the policy, whose moves the person
    makes in turn. Gives it, and shows what was earned. Raises Left, with everything closed."""
    person = _Person(builder, renderer, terminal)
    terminal.show(_HOW)
    sampler = ByHand(person.answer, limits.context)
    plan = RolloutPlan(
        limits=RolloutLimits(
            max_tokens=limits.max_tokens,
            max_turns=limits.max_turns,
            max_trajectory_tokens=limits.max_trajectory_tokens,
            turn_timeout=1e7,  # nobody is hurried
        ),
        group_size=_seats(builder),
    )
    (group,) = roll_out(sampler, [person], plan, sampler.hooks)
    for number, episode in enumerate(group.episodes, 1):
        terminal.show(_result(episode, "" if len(group.episodes) == 1 else f"player {number}: "))
    return group


_HOW = (
    "Write what the policy would say. /TOOL calls a tool, with JSON arguments or with the text of its one argument; "
    f"a line that is {BLOCK} begins and ends a text of several lines; Ctrl-D leaves."
)


class _Person:
    """The builder, its tools known, and who answers."""

    def __init__(self, builder: GroupBuilder, renderer: Renderer, terminal: Terminal) -> None:
        self.problem, self.tags, self.coupled, self.grade = (
            builder.problem,
            builder.tags,
            builder.coupled,
            builder.grade,
        )
        self._builder = builder
        self._renderer = renderer
        self._terminal = terminal
        self._tools: Sequence[Tool] = ()
        self._seen: dict[int, Ints] = {}
        self._players = 1

    def make(self, n: int) -> Sequence[Env]:
        envs = self._builder.make(n)
        self._tools = getattr(getattr(envs[0], "env", None), "tools", ())
        self._players = len(envs)
        return envs

    def answer(self, prompt: Ints, turn: int, member: int, most: int) -> Ints:
        decode = self._renderer.tokenizer.decode
        seen = self._seen.get(member, prompt[:0])
        both = min(len(seen), len(prompt))
        new = prompt[int((prompt[:both] != seen[:both]).argmax()) if (prompt[:both] != seen[:both]).any() else both :]
        whose = "" if self._players == 1 else f"player {member + 1}, "
        self._terminal.show(f"\n{decode(new)}")
        while True:
            try:
                message = read(self._text(f"[{whose}turn {turn + 1}, at most {most} tokens] "), self._tools)
                tokens = said(self._renderer, message)
            except (ConfigError, RenderError) as error:
                self._terminal.show(f"this cannot be said: {error}")
                continue
            if len(tokens) > most:
                self._terminal.show(f"these are {len(tokens)} tokens: what is beyond {most} is cut")
            self._seen[member] = np.concatenate([prompt, tokens])
            return tokens

    def _text(self, prompt: str) -> str:
        try:
            line = self._terminal.ask(prompt)
            if line.strip() != BLOCK:
                return line
            lines: list[str] = []
            while (line := self._terminal.ask("")).strip() != BLOCK:
                lines.append(line)
            return "\n".join(lines)
        except (EOFError, KeyboardInterrupt) as error:
            raise Left(type(error).__name__) from None


def read(text: str, tools: Sequence[Tool]) -> Message:
    """What a person wrote: `/NAME ARGUMENTS` of a known tool as its call, all else as text. Raises ConfigError for
    arguments that are none."""
    match = re.match(r"\s*/(\S+)\s*(.*)", text, re.DOTALL)
    known = {tool.name: tool for tool in tools}
    if match is None or match[1] not in known:
        return Message.assistant(text)
    name, given = match[1], match[2].strip()
    if not given.startswith("{"):
        function = known[name].definition.get("function", known[name].definition)
        wanted = function.get("parameters", {}).get("properties", {})
        if len(wanted) != 1 and given:
            raise ConfigError(f"{name} takes a JSON object of {', '.join(wanted) or 'nothing'}")
        given = json.dumps({key: _value(given, kind) for key, kind in wanted.items()}, ensure_ascii=False)
    return Message("assistant", tool_calls=(ToolCall(name, given),))


def _value(text: str, schema: Any) -> Any:
    """A text as the value of an argument: of a list its one item, of a number that number."""
    if schema.get("type") == "array":
        return [text]
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _seats(builder: GroupBuilder) -> int:
    """Members of the smallest group there can be."""
    if not builder.coupled:
        return 1
    for n in range(1, 9):
        try:
            envs = builder.make(n)
        except ConfigError:
            continue

        async def close(made: Sequence[Env]) -> None:
            await asyncio.gather(*(env.close() for env in made), return_exceptions=True)

        asyncio.run(close(envs))
        return n
    raise ConfigError(f"{builder.problem}: no group of up to 8 players can be made")


def _result(episode: Episode, whose: str) -> str:
    lines = [
        f"\n{whose}reward {episode.reward:g}, ended by {episode.stop_reason} after {len(episode.transitions)} turns"
    ]
    earned = [t.reward for t in episode.transitions]
    if len(earned) > 1 and any(earned):
        lines.append(f"by turn: {', '.join(f'{r:g}' for r in earned)}; at the end {episode.final_reward:g}")
    metrics: dict[str, float] = {}
    for told in (*(t.metrics for t in episode.transitions), episode.metrics):
        for name, value in told.items():
            metrics[name] = metrics.get(name, 0.0) + value
    lines.append("  ".join(f"{name} {value:g}" for name, value in metrics.items()))
    return "\n".join(lines)
