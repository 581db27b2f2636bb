"""verifiers-rl: reinforcement learning in an environment of the package `verifiers`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import GroupBuilder
from tinsmith.envs.foreign import ForeignProblems
from tinsmith.ports.foreign import ForeignEnvironment
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement
from tinsmith.recipes.reinforcement import Environments

NAME = "verifiers-rl"


@frozen(kw_only=True)
class Config(reinforcement.MultiTurnConfig):
    env: str = option("sums", help="the environment, by the name that verifiers loads it by; sums is made here")
    env_args: str = option("{}", help="arguments of its load_environment, a JSON object")
    test_size: int = option(
        128, help="problems of an evaluation at most: its own for evaluation, else set aside; 0 is off", min=0
    )
    group_size: int = option(8, help="attempts at each problem", min=1)
    groups_per_batch: int = option(32, help="problems a step", min=1)
    max_steps: int = option(12, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(8, help="tokens that one message may have", min=1)
    max_turns: int | None = option(
        None, help="messages of the policy in an episode at most; none: as the environment says", min=1
    )


def run(config: Config, progress: Progress) -> int:
    with environments(config, progress.note) as envs:
        path = config.log_path or common.default_path(NAME, config, config.env.rpartition("/")[2])
        shown = [("reward", "reward/total")]
        if config.env == "sums":
            shown += [("share of right answers", "correct"), ("answers a problem", "num_turns")]
        reinforcement.train(NAME, config, progress, envs.model, envs.train, envs.test, path, shown)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    args = validate(config)
    model = common.open_model(config)
    with closing(bootstrap.open_verifiers(config.env, args)) as environment:
        yield Environments(model, *problems(config, model, environment))


def check(config: Config) -> Iterable[Any]:
    """The first prompt of a problem, and the most that the run can take; trains nothing."""
    with environments(config, lambda note: None) as envs:
        prompt = asyncio.run(_first_prompt(envs.train[0], config.timeout_s))
        yield f"the first prompt of a problem, {len(prompt)} tokens:"
        yield envs.model.tokenizer.decode(prompt)
        num_tests = 0 if envs.test is None else len(envs.test)
        yield f"{len(envs.train)} problems, {num_tests} test problems"
        yield from reinforcement.forecast(config, envs.model, envs.train, len(prompt), num_tests)


async def _first_prompt(builder: GroupBuilder, timeout_s: float) -> Ints:
    (env,) = builder.make(1)
    try:
        async with asyncio.timeout(timeout_s):
            return (await env.reset()).tokens
    finally:
        await env.close()


def validate(config: Config) -> dict[str, Any]:
    """The arguments of the environment."""
    reinforcement.validate(config)
    try:
        args = json.loads(config.env_args)
    except ValueError as error:
        raise ConfigError(f"env_args={config.env_args!r}: no JSON ({error})") from None
    if not isinstance(args, dict):
        raise ConfigError(f"env_args={config.env_args!r}: a JSON object, {{...}}, is wanted")
    return args


def problems(
    config: Config, model: Model, environment: ForeignEnvironment
) -> tuple[ForeignProblems, ForeignProblems | None]:
    """What to train on and what to evaluate on."""
    reinforcement.check_room(config, model)
    rows, tests = environment.rows("train"), environment.rows("test")
    assert rows is not None
    aside = config.test_size if tests is None else 0
    if len(rows) <= aside:
        raise ConfigError(f"env={config.env}: test_size={aside} leaves nothing to train on of {len(rows)} problems")
    train = ForeignProblems(
        environment=environment, rows=rows, start=aside, end=len(rows), renderer=model.renderer, seed=config.seed
    )
    if not config.test_size:
        return train, None
    if tests is None:
        return train, evolve(train, start=0, end=aside, seed=None)
    end = min(config.test_size, len(tests))
    return train, evolve(train, rows=tests, start=0, end=end, seed=None)
