"""Answers that are paid by comparison: with the others of their group, or with an answer that is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith.domain.comparisons import FIRST, SECOND, Comparison, matchup_rewards, matchups
from tinsmith.domain.episodes import Episode
from tinsmith.domain.errors import DataError, JudgeError, RenderError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.envs.base import Env
from tinsmith.envs.prompt import PromptEnv, RowSet, observe, split_answer
from tinsmith.ports.data import IndexedRows, Row
from tinsmith.ports.sampler import Sampler
from tinsmith.rendering import Renderer


class Judge(Protocol):
    """Compares answers. What it cannot do because the world failed is an error, never a verdict."""

    async def compare(self, comparisons: Sequence[Comparison]) -> Sequence[float]:
        """Of each the probability that the first answer is the better one; 1/2 is a tie."""
        ...


class ShorterIsBetter:
    """Prefers the answer of fewer characters. An empty answer is no answer, and loses."""

    async def compare(self, comparisons: Sequence[Comparison]) -> Sequence[float]:
        return [self._one(_text(c.first), _text(c.second)) for c in comparisons]

    @staticmethod
    def _one(first: str, second: str) -> float:
        a, b = (len(text) or np.inf for text in (first, second))
        return 0.5 if a == b else float(a < b)


@frozen(eq=False)
class ModelJudge:
    """A preference model: how probable the answers `1` and `2` to the comparison are, as a share of both together. So
    it never answers nonsense, and its doubt is in the number."""

    sampler: Sampler
    renderer: Renderer

    def __attrs_post_init__(self) -> None:
        labels = [self._ids((Message.user("?"),), label) for label in (FIRST, SECOND)]
        if len(labels[0]) != len(labels[1]) or labels[0][-1] == labels[1][-1]:
            raise RenderError(f"{self.renderer.name}: {FIRST} and {SECOND} are no single tokens that differ")

    async def compare(self, comparisons: Sequence[Comparison]) -> Sequence[float]:
        asked = [c.question() for c in comparisons]
        scored = await asyncio.gather(
            *(self.sampler.score(self._ids(q, label)) for q in asked for label in (FIRST, SECOND))
        )
        gaps = np.array([float(s[-1]) for s in scored]).reshape(-1, 2) @ [1.0, -1.0]
        return [float(1 / (1 + np.exp(-gap))) for gap in np.clip(gaps, -50, 50)]

    def _ids(self, question: Sequence[Message], label: str) -> npt.NDArray[np.int32]:
        prompt = self.renderer.generation_prompt(question).ids
        if len(prompt) >= self.sampler.context:  # how long it is, is the policy's choice: no mistake of the caller's
            raise JudgeError(f"the judge is asked {len(prompt)} tokens and has a context of {self.sampler.context}")
        return np.append(prompt, self.renderer.tokenizer.encode(label)).astype(np.int32)


@frozen(kw_only=True)
class ComparedTask:
    """What is asked of the policy for every prompt of a set, and who compares the answers.

    An answer that does not end, or cannot be read, is compared by what there is of it, and loses `format_coef` besides.
    """

    renderer: Renderer
    judge: Judge
    matchup_size: int = 4
    both_ways: bool = True
    """Each pair is compared in both orders, so that a judge's liking for a place cancels."""
    format_coef: float = 1.0

    def answer(self, episode: Episode) -> Message:
        if not episode.transitions:
            return Message("assistant")
        last = episode.transitions[-1]
        return self.renderer.parse(last.action, prompt=last.observation).message


@frozen(eq=False, kw_only=True)
class ComparedGroup:
    """G answers to one prompt. Each earns (wins - losses) / matchups against others of its group; with a `reference`
    answer the probability that it beats that one instead, the mean over both orders."""

    task: ComparedTask
    problem: str
    prompt: Conversation
    reference: tuple[Message, ...] | None = None
    tags: tuple[str, ...] = ("compared",)
    coupled: bool = False

    @property
    def solution(self) -> None:
        """What is best is for the judge to say."""

    @property
    def reward_range(self) -> tuple[float, float]:
        return (-1.0 if self.reference is None else 0.0) - self.task.format_coef, 1.0

    def make(self, n: int) -> Sequence[Env]:
        observation = observe(self.task.renderer, self.prompt)
        return [PromptEnv(self.task.renderer, observation, self.task.format_coef) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        answers = [(self.task.answer(episode),) for episode in episodes]
        if self.reference is not None:
            met = [Comparison(self.prompt, answer, self.reference) for answer in answers]
            verdicts = await self.task.judge.compare([way for c in met for way in (c, c.swapped())])
            return [(one + 1.0 - other) / 2 for one, other in zip(verdicts[0::2], verdicts[1::2], strict=True)]
        pairs = matchups(len(answers), self.task.matchup_size, both_ways=self.task.both_ways)
        if not pairs:
            return [0.0] * len(answers)
        verdicts = await self.task.judge.compare([Comparison(self.prompt, answers[i], answers[j]) for i, j in pairs])
        return [float(r) for r in matchup_rewards(len(answers), pairs, verdicts)]


def compared_rows(
    name: str, task: ComparedTask, rows: IndexedRows, *, seed: int | None = None, against_reference: bool = False
) -> RowSet:
    """A group for each row of conversations. The answer that ends one is not shown; `against_reference` compares with
    it, and a row without one is then a DataError."""

    def group(problem: str, row: Row, line: int) -> ComparedGroup:
        prompt, answer = split_answer(row, rows.name, line)
        if against_reference and not answer:
            raise DataError("ends with no answer to compare with", source=rows.name, line=line)
        reference = answer if against_reference else None
        return ComparedGroup(task=task, problem=problem, prompt=prompt, reference=reference, tags=(name,))

    return RowSet(name=name, rows=rows, group=group, seed=seed)


def _text(messages: Sequence[Message]) -> str:
    return "".join(m.text for m in messages)
