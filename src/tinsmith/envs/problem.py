"""Single-turn problems with an answer that can be checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve, field, frozen

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.mixtures import row_at
from tinsmith.envs.base import Action, Env, GroupBuilder, Observation, Speaker, Step
from tinsmith.envs.prompt import observe
from tinsmith.ports.grader import Grader
from tinsmith.ports.sampler import FinishReason
from tinsmith.rendering import Renderer


@frozen
class Problem:
    id: str
    question: str
    answer: str


@frozen(kw_only=True)
class ProblemTask:
    """What is asked of the policy for every problem of a set, and how it is paid.

    reward = correct + format_coef * (format - 1); `format` holds when the response ended with a stop (not at the token
    limit) and has an answer in the form asked for; without one, nothing can be correct. An answer that the grader
    leaves undecided earns nothing and is counted as `undecided`; where it blames the right answer, the attempt is not
    trained on and is counted as `gold_error` as well.
    """

    renderer: Renderer
    grader: Grader
    extract: Callable[[str], str | None]
    """Finds the answer in a response, in the form asked for."""
    write: Callable[[str], str] = str
    """Writes an answer in that form."""
    prefix: tuple[Message, ...] = ()
    """Worked examples before each question."""
    suffix: str = ""
    format_coef: float = 0.1

    def messages(self, problem: Problem) -> tuple[Message, ...]:
        return (*self.prefix, Message.user(problem.question + self.suffix))

    def prompt(self, problem: Problem) -> Observation:
        return observe(self.renderer, Conversation(self.messages(problem)))


@frozen(eq=False)
class ProblemEnv:
    """One attempt at one problem."""

    task: ProblemTask
    problem: Problem
    observation: Observation

    async def reset(self) -> Observation:
        return self.observation

    async def step(self, action: Action) -> Step:
        parsed = self.task.renderer.parse(action.tokens, prompt=self.observation.tokens)
        finished = action.finish is FinishReason.STOP
        answer = self.task.extract(parsed.message.text) if finished else None
        grade = None if answer is None else (await self.task.grader.grade([self.problem.answer], [answer]))[0]
        correct = float(grade is not None and grade.equal is True)
        well_formed = float(grade is not None)
        gold_error = grade is not None and grade.equal is None and grade.data_error
        return Step(
            reward=correct + self.task.format_coef * (well_formed - 1.0),
            stop_reason=StopReason.COMPLETED if finished else StopReason.MAX_TOKENS,
            masked=gold_error,
            metrics={
                "correct": correct,
                "format": well_formed,
                "undecided": float(grade is not None and grade.equal is None),
                "gold_error": float(gold_error),
            },
        )

    async def close(self) -> None:
        """Nothing is held."""


@frozen(eq=False)
class ProblemGroup:
    """G attempts at one problem."""

    task: ProblemTask
    source: Problem
    tags: tuple[str, ...]
    coupled: bool = False

    @property
    def problem(self) -> str:
        return self.source.id

    @property
    def solution(self) -> Speaker:
        return lambda text, turn: self.task.write(self.source.answer)

    @property
    def reward_range(self) -> tuple[float, float]:
        return -self.task.format_coef, 1.0

    def make(self, n: int) -> Sequence[Env]:
        observation = self.task.prompt(self.source)
        return [ProblemEnv(self.task, self.source, observation) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False)
class ProblemSet:
    """Problems by index, in an order shuffled anew for each pass by (seed, pass)."""

    name: str
    task: ProblemTask
    length: int
    load: Callable[[int], Problem] = field(repr=False)
    seed: int | None = None
    """None keeps the order."""
    tags: tuple[str, ...] = ()
    fingerprint: str = ""
    source: str = ""
    """File or set that the problems come from; errors name it."""

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GroupBuilder:
        if index < 0:
            raise IndexError(f"problem {index}")
        place = row_at(index, self.length, self.seed)
        return ProblemGroup(self.task, self.load(place), self.tags or (self.name,))

    def first(self, count: int) -> ProblemSet:
        """The first `count` problems, in their own order."""
        return evolve(self, length=min(count, self.length), seed=None)

    def within(self, tokens: int, *, skip: bool, context: str = "context") -> ProblemSet:
        """The problems whose prompts have at most `tokens` tokens, which `context` leaves; a longer one is left out, or
        is a DataError.

        Raises DataError when none is left.
        """
        kept = []
        for index in range(self.length):
            problem = self.load(index)
            # A token stands for a byte or more; what is short in bytes needs no tokenizing.
            sure = sum(len(m.text.encode()) + 32 for m in self.task.messages(problem)) <= tokens
            if not sure and (length := len(self.task.prompt(problem).tokens)) > tokens:
                if skip:
                    continue
                raise DataError(
                    f"{problem.id}: its prompt has {length} tokens; {context} less max_tokens leaves {tokens}. "
                    "Leave such problems out with too_long=skip, or take fewer max_tokens or a model of longer context",
                    source=self.source or self.name,
                    line=index + 1 if self.source else None,
                )
            kept.append(index)
        if not kept:
            raise DataError(f"every prompt has more than {tokens} tokens", source=self.source or self.name)
        return self if len(kept) == self.length else evolve(self, length=len(kept), load=lambda i: self.load(kept[i]))
