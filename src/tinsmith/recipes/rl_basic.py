"""rl-basic: reinforcement learning on problems with a checkable answer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any, Literal

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.cost import Tokens
from tinsmith.domain.errors import ConfigError
from tinsmith.envs import math
from tinsmith.envs.base import ProblemSource
from tinsmith.envs.problem import ProblemGroup, ProblemSet
from tinsmith.ports.grader import Grader
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

NAME = "rl-basic"
TRIED = 16
"""Problems that `check` samples answers to."""


@frozen(kw_only=True)
class Config(reinforcement.RLConfig):
    env: Literal["arithmetic", "gsm8k", "math"] = option("arithmetic", help="problems to learn from")
    data: str | None = option(None, help="problems of gsm8k or math: a file, an object store URL, or hf://NAME")
    test_data: str | None = option(None, help="problems to evaluate on; none takes none (arithmetic draws its own)")
    test_size: int = option(512, help="test problems at most", min=0)
    fewshot: bool | None = option(None, help="show a worked example before each problem; none: not for arithmetic")
    grader: bootstrap.GraderName = option(
        "native", help="compares answers; sympy and math_verify are asked where native cannot decide"
    )
    too_long: Literal["raise", "skip"] = option(
        "raise", help="what becomes of a problem whose prompt leaves no room for max_tokens"
    )
    format_coef: float = option(0.1, help="what a response without the asked form loses", min=0)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    with closing(bootstrap.open_grader(config.grader)) as grader:
        problems, test = load_problems(config, model, grader)
        path = config.log_path or common.default_path(NAME, config, config.env)
        shown = [("share of right answers", "correct"), ("reward", "reward/total")]
        reinforcement.train(NAME, config, progress, model, problems, test, path, shown)
    return 0


def check(config: Config) -> Iterable[Any]:
    """One rendered problem, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    with closing(bootstrap.open_grader(config.grader)) as grader:
        problems, test = load_problems(config, model, grader)
        served = config.backend == "tinker"  # where trying costs money, the most that a run can take is said
        answer, mixed = (float(config.max_tokens), TRIED) if served else _tried(config, model, problems)
    group = problems[0]
    assert isinstance(group, ProblemGroup)
    prompt = group.task.prompt(group.source).tokens
    yield (
        f"one prompt, {len(prompt)} tokens; the policy's own answers to it are trained, and the right one "
        f"({group.source.answer}) only pays them:"
    )
    yield model.tokenizer.decode(prompt)
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    trained = episodes * (mixed / TRIED if config.remove_constant_groups else 1.0)
    yield f"{len(problems)} problems ({problems.name}), {0 if test is None else len(test)} test problems"
    if served:
        yield "nothing was sampled at the server: the figures are for answers of max_tokens that all train"
    else:
        yield (
            f"of {TRIED} problems tried, {mixed} had answers that differ in reward; an answer had {answer:.1f} tokens "
            "on average; the estimate takes it that both stay so"
        )
    yield common.estimate(model, config, config.max_steps, trained * (len(prompt) + answer), episodes * answer)
    evaluations = 2 + ((config.max_steps - 1) // config.eval_every if config.eval_every else 0)
    tests = 0 if test is None else len(test) * evaluations
    used = Tokens(
        prefill=(config.max_steps * config.groups_per_batch + tests) * len(prompt),
        sample=(episodes + tests) * answer,
        train=trained * (len(prompt) + answer) * (1 if config.loss.name != "gspo" else 2),
    )
    yield from common.forecast(config, used)


def _tried(config: Config, model: Model, problems: ProblemSet) -> tuple[float, int]:
    """Mean tokens of an answer of the start model, and how many of TRIED groups would be trained."""
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=config.max_tokens, turn_timeout=config.timeout_s),
        group_size=config.group_size,
        temperature=config.temperature,
        seed=config.seed,
        split="check",
        step=0,
    )
    sampler = model.sampler()
    try:
        groups = roll_out(sampler, [problems[i] for i in range(TRIED)], plan)
    finally:
        sampler.close()
    lengths = [len(t.action) for group in groups for episode in group.episodes for t in episode.transitions]
    return sum(lengths) / len(lengths), sum(not group.is_constant for group in groups)


def validate(config: Config) -> None:
    """What options say together, before anything is loaded."""
    reinforcement.validate(config)
    if config.env != "arithmetic" and config.data is None:
        raise ConfigError(f"env={config.env} needs data=FILE, e.g. a {config.env} train.jsonl")
    if config.env == "arithmetic" and (config.data or config.test_data):
        raise ConfigError("env=arithmetic draws its own problems and takes no data=")


def load_problems(config: Config, model: Model, grader: Grader) -> tuple[ProblemSet, ProblemSource | None]:
    renderer = model.renderer
    if config.max_tokens >= model.context:
        raise ConfigError(
            f"max_tokens={config.max_tokens} leaves no room for a prompt: {config.model} has a context of "
            f"{model.context} tokens"
        )
    if config.env == "arithmetic":
        fewshot = bool(config.fewshot)
        make = math.arithmetic
        train = make(renderer, grader, seed=config.seed, fewshot=fewshot, format_coef=config.format_coef)
        test = make(
            renderer,
            grader,
            seed=config.seed,
            test=True,
            fewshot=fewshot,
            format_coef=config.format_coef,
            length=config.test_size,
        )
        return train, test if config.test_size else None
    load = math.gsm8k if config.env == "gsm8k" else math.math
    fewshot = config.fewshot is not False
    assert config.data is not None
    train = load(
        bootstrap.open_source(config.data),
        renderer,
        grader,
        seed=config.seed,
        fewshot=fewshot,
        format_coef=config.format_coef,
    )
    longest, skip = model.context - config.max_tokens, config.too_long == "skip"
    train = train.within(longest, skip=skip)
    if config.test_data is None or config.test_size == 0:
        return train, None
    held_out = load(
        bootstrap.open_source(config.test_data),
        renderer,
        grader,
        seed=config.seed,
        fewshot=fewshot,
        format_coef=config.format_coef,
    )
    return train, held_out.within(longest, skip=skip).first(config.test_size)
