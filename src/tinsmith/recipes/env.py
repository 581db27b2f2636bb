"""`tinsmith env check RECIPE` and `tinsmith env play RECIPE`: a recipe's environments without a policy."""

from __future__ import annotations

import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from attrs import frozen

from tinsmith.config import option
from tinsmith.domain.episodes import Group
from tinsmith.envs.base import GroupBuilder
from tinsmith.ports.progress import Progress
from tinsmith.recipes.reinforcement import Environments, MultiTurnConfig
from tinsmith.rendering import Renderer
from tinsmith.workflows.env_check import CheckSettings, check_env
from tinsmith.workflows.env_play import Left, PlayLimits, play

TOLD = 3
"""Failures of a law that are shown; the others are counted."""
WAIT_S = 0.2

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@frozen(kw_only=True)
class CheckConfig:
    """Options of `tinsmith env check` beside those of the recipe."""

    problems: int = option(16, help="problems that are tried", min=1)
    deadline_s: float = option(60.0, help="seconds that a call of an environment, and an episode, may take", min=1)


@frozen(kw_only=True)
class PlayConfig:
    """Options of `tinsmith env play` beside those of the recipe."""

    problem: int = option(0, help="which problem, in the order of training", min=0)


class HasEnvironments(Protocol):
    """What the module of a recipe has whose entry says so."""

    def environments(self, config: Any, note: Callable[[str], object]) -> AbstractContextManager[Environments]: ...


def check(job: HasEnvironments, config: Any, own: CheckConfig, ui: Progress) -> int:
    """1 where a law does not hold."""
    with job.environments(config, ui.note) as envs:
        max_turns, max_trajectory_tokens = _several(config)
        settings = CheckSettings(
            max_tokens=config.max_tokens,
            context=envs.model.context,
            max_turns=max_turns,
            max_trajectory_tokens=max_trajectory_tokens,
            problems=own.problems,
            deadline_s=own.deadline_s,
        )
        report = check_env(envs.train, envs.model.renderer, settings)
        if envs.test is not None:
            report = report.with_(check_env(envs.test, envs.model.renderer, settings), "of the test: ")
    rows = []
    for verdict in report.verdicts:
        failed = len(verdict.failures)
        said = f"{failed} failed" if failed else "holds" if verdict.tried else "not tried"
        rows.append([said, str(verdict.tried), verdict.law])
    ui.table("", ["", "tried", "law"], rows)
    for verdict in report.verdicts:
        if verdict.failures:
            ui.note(f"\n{verdict.law}:")
        for failure in verdict.failures[:TOLD]:
            ui.note(f"  {plain(failure)}")
        if len(verdict.failures) > TOLD:
            ui.note(f"  and {len(verdict.failures) - TOLD} more")
    return 1 if report.failures else 0


def _several(config: Any) -> tuple[int | None, int | None]:
    """Limits of an episode of several turns."""
    return (config.max_turns, config.max_trajectory_tokens) if isinstance(config, MultiTurnConfig) else (None, None)


def play_one(job: HasEnvironments, config: Any, own: PlayConfig, ui: Progress) -> int:
    """0 also for a person who leaves."""
    with job.environments(config, ui.note) as envs:
        max_turns, max_trajectory_tokens = _several(config)
        limits = PlayLimits(
            max_tokens=config.max_tokens,
            context=envs.model.context,
            max_turns=max_turns,
            max_trajectory_tokens=max_trajectory_tokens,
        )
        try:
            play(envs.train[own.problem], envs.model.renderer, limits, _Person(ui.note))
        except Left:
            ui.note("\nleft before the end")
    return 0


def play_env(builder: GroupBuilder, renderer: Renderer, limits: PlayLimits | None = None) -> Group | None:
    """Play an environment of one's own at the terminal, in the place of the policy. Gives the group of episodes, None
    where the person leaves before the end."""
    try:
        return play(builder, renderer, limits or PlayLimits(), _Person(print))
    except Left:
        return None


class _Person:
    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show

    def show(self, text: str) -> None:
        self._show(plain(text))

    def ask(self, prompt: str) -> str:
        with _interruptible():
            if not sys.stdin.isatty():
                return input(prompt)
            print(prompt, end="", flush=True)
            while not select.select([sys.stdin], [], [], WAIT_S)[0]:
                pass
            return input()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a wait for a line: the event loop would note it and let the wait go on. One that comes just before a
    read begins does not end that read; so the wait is many short ones."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def plain(text: str) -> str:
    """Without characters that a terminal acts on: whoever wrote them, they are only shown."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
