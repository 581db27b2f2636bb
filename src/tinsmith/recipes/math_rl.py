"""math-rl: reinforcement learning on mathematical problems with an answer that can be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Literal

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, DataError, MissingExtraError
from tinsmith.envs import math
from tinsmith.envs.problem import Problem, ProblemGroup, ProblemSet
from tinsmith.ports.grader import Grader
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement
from tinsmith.recipes.benchmarks import SETS
from tinsmith.recipes.reinforcement import Environments, RLConfig

NAME = "math-rl"

_MATH_PARTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra"),
    "precalculus",
)
HUB: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gsm8k": (("hf://openai/gsm8k/main:train",), SETS["gsm8k"][1]),
    "math": (
        tuple(f"hf://EleutherAI/hendrycks_math/{p}:{split}" for p in _MATH_PARTS for split in ("train", "test")),
        SETS["math500"][1],
    ),
    "polaris": (("hf://POLARIS-Project/Polaris-Dataset-53K:train",), ()),
    "deepmath": (("hf://zwhe99/DeepMath-103K:train",), ()),
}
"""Of each set its problems to train and to test on. Of MATH all is trained but what MATH-500 tests: 12,000 problems."""


@frozen(kw_only=True)
class Config(RLConfig):
    env: Literal["arithmetic", "gsm8k", "math", "polaris", "deepmath"] = option(
        "arithmetic", help="problems to learn from"
    )
    data: tuple[str, ...] = option(
        (), help="where they are: files, object store URLs, hf://NAME; none: the set's own place on the hub"
    )
    test_data: tuple[str, ...] = option(
        (), help="problems to evaluate on; none: with data= none, else the set's own (arithmetic draws them)"
    )
    test_size: int = option(512, help="test problems at most", min=0)
    fewshot: bool | None = option(None, help="show a worked example before each problem; none: not for arithmetic")
    grader: bootstrap.GraderName = option(
        "native", help="compares answers; sympy and math_verify are asked where native cannot decide"
    )
    too_long: Literal["raise", "skip"] = option(
        "raise", help="what becomes of a problem whose prompt leaves no room for max_tokens"
    )
    format_coef: float = option(0.1, help="what a response without the asked form loses", min=0)


def run(config: Config, progress: Progress, name: str = NAME) -> int:
    train(config, progress, name)
    return 0


def train(config: Config, progress: Progress, name: str = NAME) -> str:
    """The run; gives the handle of its last state."""
    with environments(config, progress.note) as envs:
        path = config.log_path or common.default_path(name, config, config.env)
        lines = (("share of right answers", "correct"), ("reward", "reward/total"))
        return reinforcement.train(name, config, progress, envs.model, envs.train, envs.test, path, lines)


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    validate(config)
    model = common.open_model(config)
    with closing(bootstrap.open_grader(config.grader)) as grader:
        yield Environments(model, *load_problems(config, model, grader, note))


def check(config: Config) -> Iterable[Any]:
    """One rendered problem, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    with closing(bootstrap.open_grader(config.grader)) as grader:
        problems, test = load_problems(config, model, grader, notes.append)
        group = problems[0]
        assert isinstance(group, ProblemGroup)
        prompt = group.task.prompt(group.source).tokens
        yield from notes
        yield (
            f"one prompt, {len(prompt)} tokens; the policy's own answers to it are trained, and the right one "
            f"({group.source.answer}) only pays them:"
        )
        yield model.tokenizer.decode(prompt)
        num_tests = 0 if test is None else len(test)
        yield f"{len(problems)} problems ({problems.name}), {num_tests} test problems"
        yield from reinforcement.forecast(config, model, problems, len(prompt), num_tests)


def validate(config: Config) -> None:
    reinforcement.validate(config)
    if config.env == "arithmetic" and (config.data or config.test_data):
        raise ConfigError("env=arithmetic draws its own problems and takes no data=")


def load_problems(
    config: Config, model: Model, grader: Grader, note: Callable[[str], object]
) -> tuple[ProblemSet, ProblemSet | None]:
    """What to train and to test on. A problem that is tested is never trained."""
    reinforcement.check_room(config, model)
    if config.env == "arithmetic":
        draw = partial(
            math.arithmetic,
            model.renderer,
            grader,
            seed=config.seed,
            fewshot=bool(config.fewshot),
            format_coef=config.format_coef,
        )
        return draw(), draw(test=True, length=config.test_size) if config.test_size else None
    data, test_data = HUB[config.env]
    if config.data or config.test_data:
        data, test_data = config.data or data, config.test_data
    try:
        held_out = _read(config.env, test_data) if config.test_size else []
        every = _read(config.env, data)
    except MissingExtraError as error:
        raise ConfigError(f"env={config.env} is read from the hub, and {error}; or give files, data=FILE") from error
    tested = {problem.question.strip() for problem in held_out}
    problems = [problem for problem in every if problem.question.strip() not in tested]
    if len(problems) < len(every):
        note(f"{config.env}: {len(every) - len(problems)} of {len(every)} problems are tested, and not trained on")
    if not problems:
        raise DataError("every problem is tested: nothing is left to train on", source=", ".join(data))

    def made(some: list[Problem], whole: bool, where: tuple[str, ...]) -> ProblemSet:
        made = math.boxed_problems(
            config.env,
            some,
            model.renderer,
            grader,
            seed=config.seed,
            fewshot=config.fewshot is not False,
            format_coef=config.format_coef,
            source=where[0] if whole and len(where) == 1 else "",
        )
        return made.within(model.context - config.max_tokens, skip=config.too_long == "skip")

    train = made(problems, len(problems) == len(every), data)
    return train, made(held_out, True, test_data).first(config.test_size) if held_out else None


def _read(env: str, where: tuple[str, ...]) -> list[Problem]:
    problems: list[Problem] = []
    for source in where:
        problems += math.read_problems(env, bootstrap.open_source(source), first=len(problems))
    return problems
