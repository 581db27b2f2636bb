"""Environments of other libraries, which run their own rollouts, as environments of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import field, frozen

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.mixtures import row_at
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Action, Env, EpisodeOver, GroupBuilder, Observation, Step
from tinsmith.envs.message import as_it_reads
from tinsmith.ports.foreign import Ask, ForeignEnvironment, ForeignRollout, Scored
from tinsmith.ports.sampler import FinishReason
from tinsmith.rendering import Renderer, Termination


@frozen(eq=False)
class ForeignEnv:
    """One rollout. What was sampled is what is trained: it stays byte for byte in later prompts as long as the library
    leaves the conversation as it was and the format allows it; else the prompt is rendered anew, and the turns become
    several datums."""

    rollout: ForeignRollout
    renderer: Renderer
    _prompt: list[Ints] = field(factory=list, init=False)
    """The last observation."""
    _asked: list[Ask] = field(factory=list, init=False)

    async def reset(self) -> Observation:
        first = await self.rollout.next()
        if isinstance(first, Scored):
            raise EpisodeOver(first.reward, metrics=first.metrics)
        return self._observed(first, self._rendered(first))

    async def step(self, action: Action) -> Step:
        ask = self._asked[-1]
        parsed = self.renderer.parse(action.tokens, prompt=self._prompt[-1], tools=ask.tools)
        cut = action.finish is FinishReason.LENGTH
        unread = bool(parsed.failures) or (parsed.termination is Termination.MALFORMED and not cut)
        metrics = {"parse_error": float(unread)}
        await self.rollout.answer(as_it_reads(parsed.message), truncated=cut)
        after = await self.rollout.next()
        calls = len(parsed.message.tool_calls)
        if isinstance(after, Scored):
            reason = StopReason.MAX_TOKENS if cut else StopReason.COMPLETED
            return Step(reward=after.reward, stop_reason=reason, tool_calls=calls, metrics={**metrics, **after.metrics})
        ids = None
        if after.seen and not cut:
            ids = self.renderer.bridge(self._prompt[-1], action.tokens, after.messages[after.seen :])
        observation = self._observed(after, self._rendered(after) if ids is None else ids)
        return Step(reward=0.0, observation=observation, tool_calls=calls, metrics=metrics)

    async def on_limit(self, reason: StopReason) -> float:
        while True:
            await self.rollout.end()
            after = await self.rollout.next()
            if isinstance(after, Scored):
                return after.reward

    async def close(self) -> None:
        await self.rollout.close()

    def _rendered(self, ask: Ask) -> Ints:
        return self.renderer.generation_prompt(ask.messages, tools=ask.tools).ids

    def _observed(self, ask: Ask, ids: Ints) -> Observation:
        self._prompt[:], self._asked[:] = [ids], [ask]
        stop = self.renderer.stop
        return Observation(ids, stop_ids=stop.ids, stop=(*stop.strings, *ask.stop))


@frozen(eq=False, kw_only=True)
class ForeignGroup:
    """A `GroupBuilder`: G rollouts of one problem."""

    problem: str
    tags: tuple[str, ...]
    start: Callable[[int], Sequence[ForeignRollout]]
    """Gives n rollouts."""
    renderer: Renderer
    coupled: bool = False

    def make(self, n: int) -> Sequence[Env]:
        return [ForeignEnv(rollout, self.renderer) for rollout in self.start(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False, kw_only=True)
class ForeignProblems:
    """A `ProblemSource`: problems of an environment by index, in an order shuffled anew for each pass."""

    environment: ForeignEnvironment
    rows: Sequence[Mapping[str, Any]]
    start: int
    end: int
    """Which of the rows: from start to before end."""
    renderer: Renderer
    seed: int | None = None
    """None keeps the order."""
    fingerprint: str = field(init=False)

    @fingerprint.default
    def _told(self) -> str:
        return f"{self.environment.fingerprint(self.rows)}[{self.start}:{self.end}]"

    @property
    def name(self) -> str:
        return self.environment.name

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, index: int) -> GroupBuilder:
        place = row_at(index, len(self), self.seed)
        place += self.start
        return ForeignGroup(
            problem=f"{self.name}/{place}",
            tags=(self.name,),
            start=partial(self.environment.rollouts, self.rows[place]),
            renderer=self.renderer,
            coupled=self.environment.compares,
        )
