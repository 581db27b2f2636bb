"""Evaluations: what the world fails is no answer, what is done is not done again, what is saved can be graded again."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import pytest
from attrs import frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinsmith import bootstrap, rendering
from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import ConfigError, DataError, JournalError, RunLockedError
from tinsmith.domain.tokens import ints
from tinsmith.envs import math
from tinsmith.envs.base import Action, Observation, ProblemSource, Step
from tinsmith.envs.problem import Problem, ProblemSet
from tinsmith.ports.files import FileSystem, read
from tinsmith.ports.progress import Silent
from tinsmith.ports.sampler import Sampler
from tinsmith.testing import FakeTokenizer, FakeTrainer, ScriptedSampler
from tinsmith.testing.files import MemoryDisk, ProcessDied
from tinsmith.workflows.evals import (
    EvaluationDirectory,
    EvaluationSettings,
    Outcome,
    Results,
    compare,
    evaluate,
    read_results,
    regrade,
)
from tinsmith.workflows.evals.directory import read_trajectories
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits

TOKENIZER = FakeTokenizer()
RENDERER = rendering.get("chatml", TOKENIZER)
GRADER = bootstrap.open_grader("native")
WHERE = Path("/runs/e")
NAMES = "abcdefgh"


def problem_set(count: int = 6, suffix: str = "", fingerprint: str = "f") -> ProblemSet:
    """Problem `a` has the answer 0, `b` 1 and so on."""
    task = math.arithmetic(RENDERER, GRADER, seed=0).task
    made = [Problem(f"p/{NAMES[i]}", f"?{NAMES[i]}{suffix}", str(i)) for i in range(count)]
    return ProblemSet("p", task, count, made.__getitem__, fingerprint=fingerprint)


def asked(prompt: str) -> int:
    return NAMES.index(prompt[prompt.rindex("?") + 1])


class Policy:
    """Attempt j at problem i is right where `right(i, j)`; `fails(i, try)` says whether the world fails it."""

    def __init__(
        self,
        right: Callable[[int, int], bool] = lambda i, j: (i + j) % 2 == 0,
        fails: Callable[[int, int], bool] = lambda i, t: False,
        error: Callable[[], Exception] = lambda: ConnectionError("gone"),
    ) -> None:
        self.tries: Counter[int] = Counter()
        self.right, self.fails, self.error = right, fails, error
        self.sampler = ScriptedSampler(TOKENIZER, self.answer)

    def answer(self, prompt: str, j: int) -> str:
        i = asked(prompt)
        if j == 0:
            self.tries[i] += 1
            if self.fails(i, self.tries[i]):
                raise self.error()
        return f"it is {i if self.right(i, j) else i + 1}"


def plan(samples: int = 2, retries: int = 0, concurrency: int = 3, **limits: object) -> EvaluationSettings:
    return EvaluationSettings(
        limits=RolloutLimits(**{"max_tokens": 16, **limits}),
        samples=samples,
        concurrency=concurrency,
        failures=FailurePolicy(retries=retries, backoff_s=0.0),
    )


def opened(files: FileSystem, config: dict[str, object] | None = None, **options: object) -> EvaluationDirectory:
    arguments = {"fingerprint": "f", "may_change": ("concurrency",), **options}
    return EvaluationDirectory.open(WHERE, config=config or {"n": 2}, files=files, **arguments)


def run(
    files: FileSystem,
    sampler: Sampler,
    settings: EvaluationSettings | None = None,
    problems: ProblemSource | None = None,
) -> Results:
    with opened(files) as directory:
        return evaluate(sampler, problems or problem_set(), settings or plan(), directory, Silent(), TOKENIZER.decode)


def told(results: Results) -> dict[str, object]:
    """All but how long it took, what failed on the way, and what it used."""
    return {k: v for k, v in results.to_json().items() if k not in ("seconds", "errors", "used", "lost")}


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 8))
def test_the_score_is_the_share_of_right_attempts(right: list[list[bool]], concurrency: int) -> None:
    files = MemoryDisk().mount()
    policy = Policy(right=lambda i, j: right[i][j])
    found = run(files, policy.sampler, plan(3, concurrency=concurrency), problem_set(len(right)))
    assert found.score is not None
    assert found.score.value == pytest.approx(sum(map(sum, right)) / (3 * len(right)))
    assert {i: list(o.right) for i, o in found.outcomes.items()} == dict(enumerate(right))
    assert found.pass_at_k[3].value == pytest.approx(sum(map(any, right)) / len(right))
    assert found.pass_at_k[1].value == pytest.approx(found.score.value)
    assert told(read_results(WHERE, files)) == told(found)


@given(st.sets(st.integers(0, 5)), st.sampled_from([ConnectionError, TimeoutError]))
def test_what_the_world_fails_is_no_wrong_answer_and_is_tried_again(broken: set[int], error: type[Exception]) -> None:
    files = MemoryDisk().mount()
    policy = Policy(fails=lambda i, t: i in broken and t <= 2, error=lambda: error("gone"))
    first = run(files, policy.sampler, plan(retries=1))
    assert set(first.failed) == broken
    assert set(first.outcomes) == set(range(6)) - broken
    assert first.errors == ({error.__name__: 2 * len(broken)} if broken else {})
    assert all(e == {error.__name__: 2} for e in first.failed.values())
    if first.score is not None:
        assert first.score.value == 0.5
        assert first.score_of_all == pytest.approx(0.5 * (6 - len(broken)) / 6)
    tries = dict(policy.tries)
    second = run(files, policy.sampler, plan(retries=1))
    assert {i: policy.tries[i] - tries[i] for i in range(6)} == {i: int(i in broken) for i in range(6)}
    assert not second.failed
    assert told(second) == told(run(MemoryDisk().mount(), Policy().sampler))


def test_a_mistake_in_the_code_stops_the_evaluation_and_loses_nothing_that_is_done() -> None:
    files = MemoryDisk().mount()
    policy = Policy(fails=lambda i, t: i == 3 and t == 1, error=lambda: ZeroDivisionError("mine"))
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(files, policy.sampler, plan(concurrency=1))
    assert set(read_results(WHERE, files).outcomes) == {0, 1, 2}
    run(files, policy.sampler)
    assert policy.tries == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


@given(st.integers(1, 60), st.none() | st.integers(0, 99))
@settings(max_examples=60)
@example(12, 0)
def test_killed_anywhere_it_ends_as_if_it_had_not_been(at: int, power: int | None) -> None:
    """Whatever survives of the files, and with draws of a sampler that depend on their seeds."""
    trainer = FakeTrainer(TOKENIZER, context=64)
    sampler = trainer.sampler().result()
    whole = run(MemoryDisk().mount(), sampler, plan(concurrency=1))
    disk = MemoryDisk()
    with contextlib.suppress(ProcessDied, JournalError):
        run(disk.mount(crash_at=at), sampler, plan(concurrency=2))
    if power is None:
        disk.kill()
    else:
        disk.power_cut(partial(Random(power).randint, 0))
    files = disk.mount()
    found = run(files, sampler)
    assert told(found) == told(whole)
    assert dict(read_trajectories(WHERE, files)).keys() == set(range(6))
    sampler.close()
    trainer.close()


def test_what_is_done_is_not_read_from_a_torn_problem() -> None:
    disk = MemoryDisk()
    files = disk.mount()
    whole = run(files, Policy().sampler, plan(concurrency=1))
    file = WHERE / "trajectories.jsonl"
    lines = read(files, file).split(b"\n")
    files.truncate(file, sum(len(line) + 1 for line in lines[:3]) + 5)  # one problem, half of the second and a bit
    policy = Policy()
    with opened(files) as directory:
        assert set(directory.outcomes) == {0}
        assert "cut" in directory.notes[0]
    assert told(run(files, policy.sampler)) == told(whole)
    assert policy.tries == dict.fromkeys(range(1, 6), 1)


def test_limits_are_told_apart() -> None:
    found = run(MemoryDisk().mount(), Policy(lambda i, j: True).sampler, plan(max_tokens=6))
    assert found.truncated == 12
    assert found.stops == {StopReason.MAX_TOKENS.value: 12}
    assert found.score is not None
    assert found.score.value == 0


def graded_again(files: FileSystem, problems: ProblemSource, settings: EvaluationSettings) -> Results:
    groups = dict(read_trajectories(WHERE, files))
    with EvaluationDirectory.open(Path("/runs/again"), config={}, fingerprint="f", files=files) as directory:
        return regrade(groups, problems, settings, directory, Silent(), TOKENIZER.decode)


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=6, max_size=6))
def test_graded_again_by_the_same_rule_it_is_the_same(right: list[list[bool]]) -> None:
    files = MemoryDisk().mount()
    first = run(files, Policy(lambda i, j: right[i][j]).sampler)
    assert told(graded_again(files, problem_set(), plan())) == told(first)


class Walk:
    """`turns` turns; each shows all tokens so far and one more. An odd first token in the last earns 1."""

    def __init__(self, turns: int) -> None:
        self.turns, self.tokens = turns, ints([5, 6])

    async def reset(self) -> Observation:
        return Observation(self.tokens)

    async def step(self, action: Action) -> Step:
        self.turns -= 1
        self.tokens = ints([*self.tokens, *action.tokens, 7])
        if not self.turns:
            return Step(reward=float(action.tokens[0] % 2), stop_reason=StopReason.COMPLETED)
        return Step(reward=0.125, observation=Observation(self.tokens, stop_ids=(8, 9)))

    async def close(self) -> None:
        """Nothing is held."""


@frozen
class Walks:
    problem: str
    tags: tuple[str, ...] = ()
    coupled: bool = False

    def make(self, n: int) -> list[Walk]:
        return [Walk(1 + int(self.problem)) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> list[float]:
        return [0.0 for _ in episodes]


class WalkSet:
    name, fingerprint = "walks", "f"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Walks:
        return Walks(str(index))


@given(
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(3, 16),
    st.sampled_from([12, 64]),
)
@settings(max_examples=30)
def test_episodes_of_many_turns_are_a_task_and_are_graded_again_to_the_same(
    turns: int | None, sampled: int | None, trajectory: int | None, context: int
) -> None:
    files = MemoryDisk().mount()
    settings = plan(3, max_tokens=3, max_turns=turns, max_sampled_tokens=sampled, max_trajectory_tokens=trajectory)
    trainer = FakeTrainer(TOKENIZER, context=context)
    with trainer.sampler().result() as sampler:
        first = run(files, sampler, settings, WalkSet())
    trainer.close()
    assert first.attempts == 12
    assert sum(first.stops.values()) == 12
    assert told(graded_again(files, WalkSet(), settings)) == told(first)


def test_graded_again_with_other_answers_the_score_is_another_and_nothing_is_sampled() -> None:
    files = MemoryDisk().mount()
    policy = Policy(lambda i, j: False)  # says one more than the answer
    assert run(files, policy.sampler).score.value == 0  # type: ignore[union-attr]
    before = dict(policy.tries)
    made = [Problem(f"p/{NAMES[i]}", f"?{NAMES[i]}", str(i + 1)) for i in range(6)]
    old = problem_set()
    again = graded_again(files, ProblemSet("p", old.task, 6, made.__getitem__, fingerprint="f"), plan())
    assert again.score is not None
    assert again.score.value == 1
    assert policy.tries == before


def test_saved_attempts_do_not_answer_another_prompt() -> None:
    files = MemoryDisk().mount()
    run(files, Policy().sampler)
    with pytest.raises(DataError, match=r"p/[a-f]: the saved attempts answer another prompt"):
        graded_again(files, problem_set(suffix=" please"), plan())


def test_a_directory_holds_one_evaluation_of_one_set_by_one_process() -> None:
    files = MemoryDisk().mount()
    run(files, Policy().sampler)
    with opened(files, {"n": 2, "concurrency": 9}), pytest.raises(RunLockedError):
        opened(files)
    with pytest.raises(ConfigError, match="n: 2 there, 3 now"):
        opened(files, {"n": 3, "concurrency": 9})
    with pytest.raises(ConfigError, match="other problems"):
        opened(files, {"n": 2}, fingerprint="g")
    with pytest.raises(JournalError, match="holds an evaluation"):
        opened(files, {"n": 2}, if_exists="raise")
    with opened(files, {"n": 3}, if_exists="delete") as directory:
        assert not directory.outcomes
        assert directory.earlier is None
    files.append(WHERE / "journal.jsonl", b"")
    with pytest.raises(JournalError, match="training run"):
        opened(files)


def test_a_damaged_line_is_named() -> None:
    files = MemoryDisk().mount()
    run(files, Policy().sampler)
    file = WHERE / "trajectories.jsonl"
    lines = read(files, file).split(b"\n")
    lines[2] = b"{}"
    files.truncate(file, 0)
    files.append(file, b"\n".join(lines))
    with pytest.raises(DataError, match=r"trajectories.jsonl, line 3: not an attempt"):
        opened(files)


def outcome(problem: str, *right: bool) -> Outcome:
    stops = (StopReason.COMPLETED,) * len(right)
    return Outcome(problem=problem, right=right, rewards=tuple(map(float, right)), stops=stops, sampled_tokens=1)


def results(outcomes: dict[int, Outcome], **other: object) -> Results:
    settings = {"benchmark": "b", "fingerprint": "f", "samples": 1, "problems": 4, **other}
    return Results(outcomes=outcomes, **settings)


def test_two_evaluations_are_compared_where_both_came_off() -> None:
    one = results({0: outcome("p0", True), 1: outcome("p1", False), 2: outcome("p2", False)})
    two = results({1: outcome("p1", True), 2: outcome("p2", True), 3: outcome("p3", True)})
    found = compare(one, two)
    assert (found.problems, found.better, found.worse, found.p_value) == (2, 2, 0, 0.5)


def test_evaluations_of_other_problems_are_not_compared() -> None:
    one = results({0: outcome("p0", True)})
    for other, said in (
        (results({0: outcome("p0", True)}, benchmark="c"), "benchmark 'b' in one evaluation and 'c'"),
        (results({0: outcome("p0", True)}, fingerprint="g"), "fingerprint"),
        (results({0: outcome("p9", True)}), "number 0 is p0 in one evaluation and p9 in the other"),
        (results({1: outcome("p1", True)}), "no problem in common"),
    ):
        with pytest.raises(DataError, match=said):
            compare(one, other)


def test_results_read_back_and_nothing_else_does() -> None:
    one = results({0: outcome("p0", True)}, failed={1: {"DeadlineError": 2}}, errors={"DeadlineError": 2}, seconds=1.5)
    text = json.dumps(one.to_json(), allow_nan=False)
    assert Results.of_json(json.loads(text), "r") == one
    with pytest.raises(DataError, match="version 9"):
        Results.of_json({**one.to_json(), "version": 9}, "r")
    with pytest.raises(DataError, match="r: not the results of an evaluation"):
        Results.of_json({"version": 1}, "r")


def test_an_evaluation_in_which_nothing_came_off_has_no_score() -> None:
    found = run(MemoryDisk().mount(), Policy(fails=lambda i, t: True).sampler)
    assert found.score is None
    assert found.score_of_all == 0
    assert found.pass_at_k == {}
    assert len(found.failed) == 6
