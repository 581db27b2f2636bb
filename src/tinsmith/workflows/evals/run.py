"""Running an evaluation: every problem a group of attempts, a bounded number of problems at once.

Each problem is rolled out for itself with draws fixed by (seed, index): what comes out does not depend on which others
were done before, so that an evaluation that was stopped ends with the attempts of one that was not.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import numpy as np
from attrs import evolve, field, frozen

from tinsmith.domain.cost import Spending, Spent, Tokens
from tinsmith.domain.episodes import Group, StopReason, Transition
from tinsmith.domain.errors import BudgetError, CapabilityError, ConfigError, DataError
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.pending import Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SampleResult, SamplingParams
from tinsmith.workflows.evals.directory import EvaluationDirectory
from tinsmith.workflows.evals.results import Results
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.rollout_log import to_rows
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out_async

SPLIT = "eval"


@frozen(kw_only=True)
class EvaluationSettings:
    limits: RolloutLimits
    samples: int = 1
    """Attempts a problem."""
    temperature: float = 1.0
    seed: int = 0
    concurrency: int = 64
    """Problems that are worked on at once."""
    failures: FailurePolicy = field(factory=lambda: FailurePolicy(retries=3))
    """A problem comes off when all its attempts do; `min_share` is not asked."""
    spending: Spending = field(factory=Spending)
    """Prices, and a budget for the evaluation in all, stopped and gone on with or not."""

    def __attrs_post_init__(self) -> None:
        for name in ("samples", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1")


def evaluate(
    sampler: Sampler,
    problems: ProblemSource,
    settings: EvaluationSettings,
    directory: EvaluationDirectory,
    progress: Progress,
    decode: Callable[[Ints], str],
) -> Results:
    """Attempts at every problem of one pass that is not done. What the world fails is tried again, then counted.

    Raises BudgetError where one more problem would go beyond the budget, if it costs what those before it did; with a
    budget the first is worked on alone, for nothing else tells what one costs. What came off is kept.
    """
    todo = [i for i in range(len(problems)) if i not in directory.outcomes]
    return _run(lambda _: sampler, todo, problems, settings, directory, progress, decode)


def regrade(
    saved: Mapping[int, Group],
    problems: ProblemSource,
    settings: EvaluationSettings,
    directory: EvaluationDirectory,
    progress: Progress,
    decode: Callable[[Ints], str],
    failed: Mapping[int, Mapping[str, int]] | None = None,
) -> Results:
    """The environments judge saved attempts anew, all of them; nothing is sampled.

    saved: by index of the problem. failed: the problems of which nothing was saved. directory: not the one that they
    were saved in. Raises DataError where a problem asks for something else than it did, and for an attempt that ended
    at `rollout_timeout`: no limit cuts it at the same place again.
    """
    directory.clear()
    todo = [i for i in saved if i < len(problems)]
    return _run(lambda i: _Replay(saved[i]), todo, problems, settings, directory, progress, decode, failed)


def _run(
    sampler_of: Callable[[int], Sampler],
    todo: Iterable[int],
    problems: ProblemSource,
    settings: EvaluationSettings,
    directory: EvaluationDirectory,
    progress: Progress,
    decode: Callable[[Ints], str],
    already_failed: Mapping[int, Mapping[str, int]] | None = None,
) -> Results:
    began = time.monotonic()
    indices = list(todo)
    earlier = directory.earlier
    failed: dict[int, Mapping[str, int]] = dict(already_failed or {})
    errors = Counter(earlier.errors if earlier is not None else {})
    before = earlier.seconds if earlier is not None else 0.0
    lost = earlier.lost if earlier is not None else Tokens()
    budget = _Budget(settings, directory, lost)
    done = {"right": sum(o.share for o in directory.outcomes.values())}
    plan = RolloutPlan(
        limits=settings.limits,
        group_size=settings.samples,
        failures=evolve(settings.failures, min_share=1.0),
        temperature=settings.temperature,
        seed=settings.seed,
        split=SPLIT,
    )

    def results() -> Results:
        return Results(
            benchmark=problems.name,
            fingerprint=problems.fingerprint,
            samples=settings.samples,
            problems=len(problems),
            outcomes={i: o for i, o in sorted(directory.outcomes.items()) if i < len(problems)},
            failed=failed,
            errors=errors,
            seconds=before + (time.monotonic() - began if indices else 0.0),
            used=budget.used,
            lost=lost,
            cost=budget.spent,
        )

    async def one(index: int) -> None:
        nonlocal lost
        meter, sampler = Meter(Spending(), Spent()), sampler_of(index)
        metered = sampler if isinstance(sampler, _Replay) else meter.sampler(sampler)
        came_off = False
        try:
            rolled = await roll_out_async(metered, [problems[index]], evolve(plan, step=index))
            came_off = bool(rolled.groups)
        finally:
            used = Tokens.of_metrics(meter.take())
            budget.used = budget.used + used
            if not came_off:
                lost = lost + used
        errors.update(rolled.errors)
        if rolled.groups:
            directory.add(index, rolled.groups[0], to_rows(rolled.groups, split=SPLIT, decode=decode), used)
        else:
            failed[index] = dict(rolled.errors)
        done["right"] += directory.outcomes[index].share if index in directory.outcomes else 0.0
        seen = {"score": done["right"] / max(len(directory.outcomes), 1), "failed": len(failed)}
        if budget.spent is not None:
            seen["cost"] = budget.spent
        progress.update(len(directory.outcomes) + len(failed), len(problems), seen)

    async def work(waiting: deque[int], ended: asyncio.Condition) -> None:
        while waiting:
            async with ended:
                await ended.wait_for(lambda: not waiting or budget.running == 0 or budget.allows_one_more())
                if not waiting:
                    return
                if not budget.allows_one_more():
                    budget.exceeded = True
                    waiting.clear()
                    return
                budget.running += 1
                index = waiting.popleft()
            try:
                await one(index)
            finally:
                budget.running -= 1
                async with ended:
                    ended.notify_all()

    async def everything() -> None:
        waiting, ended = deque(indices), asyncio.Condition()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(settings.concurrency, len(indices))):
                    tasks.create_task(work(waiting, ended))
        except BaseExceptionGroup as failures:  # the first failure stopped the others; it is the one to tell of
            raise failures.exceptions[0] from failures

    progress.doing("evaluating", len(directory.outcomes), len(problems))
    try:
        if indices:
            asyncio.run(everything())
    finally:
        found = results()
        directory.write_results(found)
    if budget.exceeded:
        raise BudgetError(
            f"stopped by its budget: {budget.spent:.6g} of {settings.spending.budget:g} are spent on "
            f"{len(found.outcomes)} of {found.problems} problems, and one costs about {budget.each:.4g}. The same "
            "command with a larger budget= goes on"
        )
    return found


class _Budget:
    """What an evaluation used, and whether it may use more."""

    def __init__(self, settings: EvaluationSettings, directory: EvaluationDirectory, lost: Tokens) -> None:
        self.used = sum(directory.used.values(), lost)
        """By problems that are done, and by what failed."""
        self.running = 0
        """Problems that are worked on."""
        self.exceeded = False
        self._spending = settings.spending
        self._directory = directory
        self._most = Tokens(sample=settings.samples * settings.limits.max_tokens)

    @property
    def spent(self) -> float | None:
        prices = self._spending.prices
        return None if prices is None else prices.cost(self.used)

    @property
    def each(self) -> float:
        """What a problem costs."""
        prices, done = self._spending.prices, self._directory.used
        if prices is None:
            return 0.0
        return prices.cost(sum(done.values(), Tokens())) / len(done) if done else prices.cost(self._most)

    def allows_one_more(self) -> bool:
        budget = self._spending.budget
        if budget is None:
            return True
        spent = self.spent or 0.0
        if not self._directory.used:
            return self.running == 0 and spent < budget
        return spent + (self.running + 1) * self.each <= budget


class _Replay:
    """A sampler that says again what was said: the actions of saved attempts, by the observation that they answered."""

    policy_version = -1

    def __init__(self, group: Group) -> None:
        self.context = 1 << 40
        self._problem = group.problem
        self._actions: dict[bytes, deque[Transition]] = defaultdict(deque)
        for episode in group.episodes:
            for turn in episode.transitions:
                self._actions[turn.observation.tobytes()].append(turn)
                self.policy_version = turn.policy_version
        if any(episode.stop_reason is StopReason.CONTEXT_OVERFLOW for episode in group.episodes):
            turns = [turn for episode in group.episodes for turn in episode.transitions]
            self.context = max((len(turn.observation) + len(turn.action) for turn in turns), default=0)

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        actions = self._actions[np.asarray(prompt, np.int32).tobytes()]
        if len(actions) < n:
            raise DataError(
                f"{self._problem}: the saved attempts answer another prompt than the problem now gives. Its text, the "
                "examples before it or the chat format have changed: it has to be sampled again"
            )
        return Pending.of(SampleResult(completions=tuple(_completion(actions.popleft()) for _ in range(n))))

    def score(self, tokens: Ints) -> Pending[Floats]:
        raise CapabilityError("saved attempts have no logprobs but their own")

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


def _completion(turn: Transition) -> Completion:
    finish = FinishReason.LENGTH if turn.truncated else FinishReason.STOP
    return Completion(tokens=turn.action, logprobs=turn.logprobs, finish=finish)
