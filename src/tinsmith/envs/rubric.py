"""Answers that a judge scores by a rubric."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from attrs import field, frozen

from tinsmith.domain.episodes import Episode
from tinsmith.domain.errors import JudgeError, RenderError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.rubrics import NO, YES, RubricItem, RubricRow, question, total
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Env
from tinsmith.envs.prompt import PromptEnv, observe
from tinsmith.ports.sampler import FinishReason, Sampler, SamplingParams
from tinsmith.rendering import Renderer

SEEN = 10
"""Likeliest tokens among which a label is looked for."""


@frozen
class Verdict:
    """What a judge says of an answer."""

    scores: tuple[float, ...]
    """Of each item, from 0 to 1."""
    unreadable: int = 0
    """How often the judge wrote something that holds no score, and was asked again."""


class RubricJudge(Protocol):
    """Scores an answer item by item. What holds no score after all tries is a JudgeError, never a score."""

    async def judge(self, prompt: Conversation, answer: Message, items: Sequence[RubricItem]) -> Verdict: ...


@frozen(eq=False)
class Bound:
    """How many questions a judge is asked at once, whatever event loop asks."""

    most: int
    _gates: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(factory=dict, init=False, repr=False)

    @property
    def gate(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop not in self._gates:
            self._gates.clear()  # a step has a loop of its own, which ends with it
            self._gates[loop] = asyncio.Semaphore(self.most)
        return self._gates[loop]


@frozen(eq=False, kw_only=True)
class ProbabilityJudge:
    """A model's probability of "yes", as a share of that of "yes" and "no" together: it never answers nonsense, and its
    doubt is in the score."""

    sampler: Sampler
    renderer: Renderer
    bound: Bound

    def __attrs_post_init__(self) -> None:
        labels = [self._ids(self._prompt(Message.user("?")), label) for label in (YES, NO)]
        if len(labels[0]) != len(labels[1]) or labels[0][-1] == labels[1][-1]:
            raise RenderError(f"{self.renderer.name}: {YES} and {NO} are no single tokens that differ")

    async def judge(self, prompt: Conversation, answer: Message, items: Sequence[RubricItem]) -> Verdict:
        asked = [self._prompt(question(prompt, answer, item, "probability")) for item in items]
        return Verdict(tuple(await asyncio.gather(*(self._score(ids) for ids in asked))))

    async def _score(self, prompt: Ints) -> float:
        yes, no = (self._ids(prompt, label) for label in (YES, NO))
        async with self.bound.gate:
            found = await self._likeliest(yes)
            # Both labels are among the likeliest tokens of a judge that knows its work: then one reading is enough.
            lps = [found.get(int(ids[-1])) for ids in (yes, no)]
            known = [
                float((await self.sampler.score(ids))[-1]) if lp is None else lp
                for ids, lp in zip((yes, no), lps, strict=True)
            ]
        return float(1 / (1 + np.exp(-np.clip(known[0] - known[1], -50, 50))))

    async def _likeliest(self, asked: Ints) -> dict[int, float]:
        """Logprobs of the likeliest tokens in the place of the label."""
        params = SamplingParams(max_tokens=1, temperature=0.0, top_logprobs=SEEN)
        (completion,) = (await self.sampler.sample(asked[:-1], params)).completions
        if completion.top_ids is None or completion.top_logprobs is None:
            return {}
        return dict(zip(completion.top_ids[0].tolist(), completion.top_logprobs[0].tolist(), strict=True))

    def _prompt(self, asked: Message) -> Ints:
        return _fits(self.renderer.generation_prompt((asked,)).ids, self.sampler)

    def _ids(self, prompt: Ints, label: str) -> Ints:
        return np.append(prompt, self.renderer.tokenizer.encode(label)).astype(np.int32)


def _fits(ids: Ints, sampler: Sampler) -> Ints:
    """A question that leaves room for an answer. How long it is depends on the answer that is judged: one that does not
    fit is no mistake of the caller's."""
    if len(ids) < sampler.context:
        return ids
    raise JudgeError(f"the judge is asked {len(ids)} tokens and has a context of {sampler.context}: it gives no score")


@frozen(eq=False, kw_only=True)
class TextJudge:
    """A model that writes its score, in the form that each item asks for."""

    sampler: Sampler
    renderer: Renderer
    bound: Bound
    max_tokens: int = 256
    temperature: float = 1.0
    tries: int = 3
    """How often it is asked about an item before nothing is known."""
    seed: int = 0

    async def judge(self, prompt: Conversation, answer: Message, items: Sequence[RubricItem]) -> Verdict:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._item(prompt, answer, item)) for item in items]
        scores = [task.result() for task in asked]
        return Verdict(tuple(score for score, _ in scores), sum(unreadable for _, unreadable in scores))

    async def _item(self, prompt: Conversation, answer: Message, item: RubricItem) -> tuple[float, int]:
        """(score, tries that gave none)."""
        ids = _fits(self.renderer.generation_prompt((question(prompt, answer, item, "text"),)).ids, self.sampler)
        said = ""
        for unreadable in range(self.tries):
            params = SamplingParams(
                max_tokens=min(self.max_tokens, self.sampler.context - len(ids)),
                temperature=self.temperature,
                stop_ids=self.renderer.stop.ids,
                stop=self.renderer.stop.strings,
                seed=self.seed + unreadable,
            )
            async with self.bound.gate:
                (completion,) = (await self.sampler.sample(ids, params)).completions
            parsed = self.renderer.parse(completion.tokens, prompt=ids)
            said = parsed.message.text
            if completion.finish is FinishReason.STOP and (score := item.score(said)) is not None:
                return score, unreadable
        raise JudgeError(
            f"the judge gave no score for {item.text[:80]!r}, asked {self.tries} times; last: {said[:200]!r}"
        )


@frozen(kw_only=True)
class RubricTask:
    """What is asked of the policy for every prompt, and who scores the answers.

    reward = aggregate of the scores + format_coef * (format - 1); `format` holds when the answer ended with a stop and
    could be read. One that did not is judged by what there is of it.
    """

    renderer: Renderer
    judge: RubricJudge
    aggregate: Literal["mean", "sum"] = "mean"
    format_coef: float = 1.0


@frozen(eq=False, kw_only=True)
class RubricGroup:
    """G answers to one prompt."""

    task: RubricTask
    problem: str
    row: RubricRow
    tags: tuple[str, ...]
    coupled: bool = False

    def make(self, n: int) -> Sequence[Env]:
        observation = observe(self.task.renderer, self.row.prompt)
        renderer, coef = self.task.renderer, self.task.format_coef
        return [PromptEnv(renderer, observation, coef, judge=self._judged) for _ in range(n)]

    async def _judged(self, answer: Message) -> dict[str, float]:
        try:
            verdict = await self.task.judge.judge(self.row.prompt, answer, self.row.items)
        except ExceptionGroup as failed:  # of items asked together; the first is the one to tell of
            raise failed.exceptions[0] from failed
        score = total(self.row.items, verdict.scores, self.task.aggregate)
        return {"score": score, "judge_unreadable": float(verdict.unreadable)}

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)
