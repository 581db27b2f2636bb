"""Environments checked without a model: a sound one passes, and each law catches what breaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tinsmith import rendering
from tinsmith.cli import main
from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import WorldError
from tinsmith.domain.messages import Message
from tinsmith.envs.base import Env
from tinsmith.envs.message import MessageStep, ParseErrors, RenderedEnv
from tinsmith.recipes import RECIPES, WITH_ENVIRONMENTS, load_recipe
from tinsmith.testing import FakeTokenizer
from tinsmith.workflows import env_check
from tinsmith.workflows.env_check import CheckSettings, EnvReport, check_env

RENDERER = rendering.get("qwen3", FakeTokenizer())


class Echo:
    """A user's own environment: say the word back, in the second turn of two."""

    tools = ()

    def __init__(self, word: str) -> None:
        self.word = word
        self.turns = 0
        self.closed = 0

    async def reset(self) -> Sequence[Message]:
        return (Message.user(f"Say {self.word} twice."),)

    async def step(self, message: Message) -> MessageStep:
        self.turns += 1
        said = float(message.text == self.word)
        if said and self.turns == 1:
            return MessageStep(reward=0.0, messages=(Message.user("Again."),))
        return MessageStep(reward=said, stop_reason=StopReason.COMPLETED, metrics={"said": said})

    async def close(self) -> None:
        self.closed += 1


class Echoes:
    """A user's own group builder."""

    env: type[Any] = Echo
    coupled, tags = False, ("echo",)
    reward_range: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, index: int = 0) -> None:
        self.word = f"word{index}"
        self.problem = f"echo/{index}"
        self.made: list[Any] = []

    def solution(self, text: str, turn: int) -> str:
        return self.word

    def make(self, n: int) -> Sequence[Env]:
        self.made += (envs := [self.env(self.word) for _ in range(n)])
        unread = ParseErrors(reward=0.0)
        return [RenderedEnv(env=env, renderer=RENDERER, parse_errors=unread) for env in envs]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


def checked(env: Any = None, envs: Any = None, **settings: Any) -> EnvReport:
    if env is not None:
        envs = type("Broken", (Echoes,), {"env": env})()
    return check_env(envs or Echoes(), RENDERER, CheckSettings(**{"max_tokens": 200, "deadline_s": 1.0, **settings}))


def broken_laws(report: EnvReport) -> list[str]:
    return [v.law for v in report.verdicts if v.failures]


def test_a_sound_environment_passes_every_law_and_each_was_tried() -> None:
    report = checked()
    assert report.failures == ()
    assert all(v.tried for v in report.verdicts)
    assert next(v.tried for v in report.verdicts if v.law == env_check.SOLVED) == 1


def test_a_source_is_tried_on_its_first_problems_and_what_was_made_is_closed_once() -> None:
    made: list[Any] = []

    class Source:
        name, fingerprint = "echoes", ""

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Echoes:
            made.append(builder := Echoes(index))
            return builder

    report = check_env(Source(), RENDERER, CheckSettings(problems=2, max_tokens=99))
    assert report.failures == ()
    assert {builder.problem for builder in made} == {"echo/0", "echo/1"}
    assert {env.closed for builder in made for env in builder.made} == {1}


class Costs(Echo):
    async def step(self, message: Message) -> MessageStep:
        step = await super().step(message)
        return MessageStep(reward=-1.0, messages=step.messages, stop_reason=step.stop_reason)


class PaysEveryone(Echo):
    async def step(self, message: Message) -> MessageStep:
        return MessageStep(reward=1.0, stop_reason=StopReason.COMPLETED)


class PaysTwice(Echo):
    async def step(self, message: Message) -> MessageStep:
        return MessageStep(reward=float(message.text == self.word), stop_reason=StopReason.COMPLETED)


class SaysNaN(Echo):
    async def step(self, message: Message) -> MessageStep:
        return MessageStep(reward=0.0, stop_reason=StopReason.COMPLETED, metrics={"length": float("nan")})


class Raises(Echo):
    async def step(self, message: Message) -> MessageStep:
        if not message.text:
            raise ValueError("an empty answer")
        return await super().step(message)


class WorldFails(Echo):
    async def reset(self) -> Sequence[Message]:
        raise WorldError("the server is gone")


class Hangs(Echo):
    async def step(self, message: Message) -> MessageStep:
        await asyncio.sleep(60)
        raise AssertionError


class GoesOn(Echo):
    async def step(self, message: Message) -> MessageStep:
        return MessageStep(reward=0.0, messages=(Message.user("?"),))


class HoldsUp(Echo):
    async def step(self, message: Message) -> MessageStep:
        time.sleep(0.8)  # noqa: ASYNC251 - that is the fault
        return await super().step(message)


class ClosesBadly(Echo):
    async def close(self) -> None:
        raise RuntimeError("no such process")


class HangsOnClosing(Echo):
    async def close(self) -> None:
        await asyncio.sleep(60)


class Rolls(Echo):
    count = 0

    async def reset(self) -> Sequence[Message]:
        Rolls.count += 1
        return (Message.user(f"Say {self.word}, {Rolls.count}."),)


class TellsALot(Echo):
    async def reset(self) -> Sequence[Message]:
        return (Message.user("Say it. " * 40),)


FAULTS = {
    PaysEveryone: [env_check.GARBAGE],
    PaysTwice: [],  # twice the word would be one turn too many here, and earns the same
    SaysNaN: [env_check.RANGE, env_check.SOLVED],
    Costs: [env_check.RANGE, env_check.SOLVED],
    Raises: [env_check.RAISES],
    WorldFails: [env_check.RAISES],
    Hangs: [env_check.ENDS],
    ClosesBadly: [env_check.CLOSES],
    HangsOnClosing: [env_check.CLOSES],
    Rolls: [env_check.SAME],
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_caught_by_its_law(fault: type[Echo]) -> None:
    began = time.monotonic()
    assert broken_laws(checked(fault, deadline_s=0.3)) == FAULTS[fault]
    assert time.monotonic() - began < 10


def test_a_prompt_that_leaves_no_room_is_found() -> None:
    (failure, *_) = checked(TellsALot, context=500).failures
    assert failure.startswith(env_check.FITS)
    assert "max_tokens=200 are more than 500" in failure
    assert env_check.FITS in broken_laws(checked(TellsALot, context=100))


def test_an_episode_without_an_end_is_found_and_a_limit_on_turns_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_check, "MAX_TURNS", 20)
    assert broken_laws(checked(GoesOn, context=1 << 20, deadline_s=30.0)) == [env_check.ENDS]
    report = checked(GoesOn, max_turns=5)
    assert broken_laws(report) == [env_check.SOLVED]
    assert "max_turns" in report.failures[0], "what ended it is said"


def test_an_environment_that_holds_up_its_event_loop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_check, "GRACE_S", 0.1)
    report = checked(HoldsUp, deadline_s=0.1)
    assert broken_laws(report) == [env_check.ENDS]
    assert "holds up its event loop" in report.failures[0]
    time.sleep(1.8)  # the thread ends


def test_what_the_builder_does_not_say_may_be_given() -> None:
    class Silent:
        def __init__(self) -> None:
            self.of = Echoes(7)
            self.problem, self.tags, self.coupled = self.of.problem, self.of.tags, False
            self.make, self.grade = self.of.make, self.of.grade

    report = checked(envs=Silent())
    assert report.failures == ()
    assert [v.law for v in report.verdicts if not v.tried] == [env_check.SOLVED, env_check.GARBAGE]
    known = {"solution": lambda builder: builder.of.solution, "reward_range": (0.0, 1.0)}
    assert all(v.tried and not v.failures for v in checked(envs=Silent(), **known).verdicts)
    assert broken_laws(checked(envs=Silent(), **known | {"reward_range": (0.0, 2.0)})) == [env_check.SOLVED]


def test_it_may_be_called_where_an_event_loop_runs() -> None:
    async def notebook() -> EnvReport:
        return checked()

    assert asyncio.run(notebook()).failures == ()


GAMES = ["game=twenty_questions", "game=tic_tac_toe", "game=tic_tac_toe opponent=self"]


@pytest.mark.parametrize("words", [*WITH_ENVIRONMENTS, *(f"multiplayer {game}" for game in GAMES)])
def test_the_environments_of_every_recipe_hold(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if words == "verifiers-rl":
        pytest.importorskip("verifiers", reason="needs the extra: verifiers")
    assert main(["env", "check", *words.split(), "problems=4"]) == 0
    out = capsys.readouterr().out
    assert "failed" not in out
    assert out.count("holds") >= 6


def test_a_recipe_says_whether_it_has_environments() -> None:
    for name, entry in RECIPES.items():
        assert (name in WITH_ENVIRONMENTS) == hasattr(load_recipe(entry), "environments"), name


def test_options_that_leave_the_right_answer_no_room_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "rl-basic", "max_tokens=2", "--problems=5"]) == 1
    out = capsys.readouterr().out
    assert "10 failed" in out, "problems of training and of evaluation"
    assert "a limit ended it, max_tokens" in out
    assert "and 7 more" in out


def test_mistakes_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "rl-basic", "problems=none"]) == 2
    assert main(["env", "check", "rl-basic", "max_tokenz=3"]) == 2
    assert "max_tokens" in capsys.readouterr().err
    assert main(["env", "check", "sl-basic"]) == 2
    assert main(["env", "check", "rl-basic", "max_tokens=1024"]) == 2
    assert "no room" in capsys.readouterr().err
