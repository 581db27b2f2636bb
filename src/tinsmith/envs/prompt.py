"""Prompts alone: what an answer is worth is said by somebody else, a teacher or a judge; and sets joined into one."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import field, frozen

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.mixtures import Mixture, row_at
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Action, Env, GroupBuilder, Observation, ProblemSource, Step
from tinsmith.ports.data import IndexedRows, Row
from tinsmith.ports.sampler import FinishReason
from tinsmith.rendering import Renderer


def observe(renderer: Renderer, prompt: Conversation) -> Observation:
    ids = renderer.generation_prompt(prompt.messages, tools=prompt.tools).ids
    return Observation(ids, stop_ids=renderer.stop.ids, stop=renderer.stop.strings)


def split_answer(row: Row, source: str, line: int) -> tuple[Conversation, tuple[Message, ...]]:
    """What a row's conversation asks, and the answer that it ends with, if it does. Raises DataError."""
    whole = conversation_from_row(row, source=source, line=line)
    asked = whole.messages[:-1] if whole.messages[-1].role == "assistant" else whole.messages
    if not asked:
        raise DataError("is an answer that nothing asked for", source=source, line=line)
    return Conversation(asked, whole.tools), whole.messages[len(asked) :]


ASKED = ("prompt", "question", "problem", "instruction")
"""Keys of a row that may stand alone, without an answer."""


def prompt_of(row: Row, source: str, line: int) -> Conversation:
    """What a row asks: of a conversation all before the answer that ends it, else the text of one of `ASKED`. Raises
    DataError."""
    alone = [key for key in ASKED if isinstance(row.get(key), str)]
    if alone and not any(row.get(key) is not None for key in ("messages", "conversations")):
        text = str(row[alone[0]])
        if not text.strip():
            raise DataError(f"{alone[0]!r} is empty", source=source, line=line)
        if row.get("input"):
            text = f"{text}\n\n{row['input']}"
        return Conversation((Message.user(text),))
    return split_answer(row, source, line)[0]


@frozen(eq=False)
class PromptEnv:
    """One answer, which earns what `judge` says, and loses `format_coef` where it does not end or cannot be read. Where
    an answer is `given`, the metric `as_given` says whether it is that one, word for word."""

    renderer: Renderer
    observation: Observation
    format_coef: float = 0.0
    given: str | None = None
    judge: Callable[[Message], Awaitable[Mapping[str, float]]] | None = None
    """Gives metrics of an answer, among them its `score`, which is earned; None: nothing is earned here."""

    async def reset(self) -> Observation:
        return self.observation

    async def step(self, action: Action) -> Step:
        parsed = self.renderer.parse(action.tokens, prompt=self.observation.tokens)
        finished = action.finish is FinishReason.STOP
        valid = float(finished and parsed.is_clean)
        judged = {} if self.judge is None else await self.judge(parsed.message)
        metrics = {**judged, "format": valid, "answer_chars": float(len(parsed.message.text))}
        if self.given is not None:
            metrics["as_given"] = float(valid and parsed.message.text.strip() == self.given.strip())
        return Step(
            reward=judged.get("score", 0.0) + self.format_coef * (valid - 1.0),
            stop_reason=StopReason.COMPLETED if finished else StopReason.MAX_TOKENS,
            metrics=metrics,
        )

    async def close(self) -> None:
        """Nothing is held."""


@frozen(eq=False, kw_only=True)
class PromptGroup:
    """G answers to one prompt."""

    renderer: Renderer
    problem: str
    prompt: Conversation
    tags: tuple[str, ...]
    coupled: bool = False
    given: str | None = None
    """An answer that is known."""
    shown: Conversation | None = None
    """What a teacher reads in place of the prompt."""

    @property
    def teacher_prompt(self) -> Ints | None:
        return None if self.shown is None else observe(self.renderer, self.shown).tokens

    def make(self, n: int) -> Sequence[Env]:
        observation = observe(self.renderer, self.prompt)
        return [PromptEnv(self.renderer, observation, given=self.given) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False, kw_only=True)
class RowSet:
    """Groups made of rows by index, in an order shuffled anew for each pass by (seed, pass)."""

    name: str
    rows: IndexedRows
    group: Callable[[str, Row, int], GroupBuilder] = field(repr=False)
    """Of the problem's name, a row and its line."""
    seed: int | None = None
    """None keeps the order."""

    @property
    def fingerprint(self) -> str:
        return self.rows.fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> GroupBuilder:
        place = row_at(index, len(self), self.seed)
        line, row = self.rows[place]
        return self.group(f"{self.name}/{place}", row, line)


@frozen(eq=False)
class MixedProblems:
    """Sets in one order, mixed by weights. A problem keeps the tags of its own set."""

    sources: tuple[ProblemSource, ...]
    weights: tuple[float, ...] | None = None
    """None: each as often as it has problems."""
    seed: int = 0
    _mixture: Mixture = field(init=False)

    @_mixture.default
    def _make_mixture(self) -> Mixture:
        return Mixture(tuple(map(len, self.sources)), self.weights, self.seed)

    @property
    def name(self) -> str:
        return "+".join(source.name for source in self.sources)

    @property
    def fingerprint(self) -> str:
        parts = repr([(s.name, len(s), s.fingerprint) for s in self.sources] + [self.weights])
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._mixture)

    def __getitem__(self, index: int) -> GroupBuilder:
        source, place = self._mixture.at(index)
        return self.sources[source][place]


@frozen(eq=False)
class JoinedProblems:
    """Sets one after the other, each once: for evaluation."""

    sources: tuple[ProblemSource, ...]

    @property
    def name(self) -> str:
        return "+".join(source.name for source in self.sources)

    @property
    def fingerprint(self) -> str:
        return "+".join(source.fingerprint for source in self.sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> GroupBuilder:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(f"problem {index} beyond the end")
