"""The benchmarks that a model is measured on, after training (`tinsmith eval`) or on the way (`evals=`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.config import option, to_dict
from tinsmith.domain.errors import ConfigError, MissingExtraError
from tinsmith.domain.tokens import Ints
from tinsmith.envs import choice, math
from tinsmith.envs.instructions import InstructionSet, InstructionTask, needs_linguist, read_prompts
from tinsmith.envs.problem import Problem, ProblemSet
from tinsmith.ports.files import FileSystem
from tinsmith.ports.grader import Grader
from tinsmith.rendering import Renderer
from tinsmith.workflows.evals import EvaluationSettings, Evaluator
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits

Benchmark = Literal["arithmetic", "gsm8k", "math500", "aime2025", "aime2026", "mmlu_pro", "gpqa", "ifeval"]
Problems: TypeAlias = ProblemSet | InstructionSet

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
}


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


def evaluators(
    names: Sequence[str],
    options: EvaluationOptions,
    renderer: Renderer,
    grader: Grader,
    files: FileSystem,
    decode: Callable[[Ints], str],
    *,
    context: int,
    seed: int,
    timeout_s: float,
) -> list[Evaluator]:
    """Their problems are read here, before anything is trained. Raises what `load` raises."""
    made = []
    for name in names:
        most = options.max_tokens or min(MAX_TOKENS[name], context // 2)
        if most >= context:
            raise ConfigError(f"evaluation.max_tokens={most} leaves no room for a prompt in a context of {context}")
        data = (options.data[name],) if name in options.data else ()
        made.append(
            Evaluator(
                name=name,
                problems=load(name, renderer, grader, data=data, size=options.size, seed=seed),
                settings=EvaluationSettings(
                    limits=RolloutLimits(max_tokens=most, turn_timeout=timeout_s),
                    samples=options.n,
                    temperature=options.temperature,
                    seed=seed,
                    concurrency=options.concurrency,
                    failures=FailurePolicy(retries=options.retries),
                ),
                config={**to_dict(options), "benchmark": name, "max_tokens": most, "seed": seed},
                files=files,
                decode=decode,
            )
        )
    return made


def load(
    benchmark: str,
    renderer: Renderer,
    grader: Grader,
    *,
    data: Sequence[str] = (),
    size: int | None = None,
    seed: int = 0,
    fewshot: bool | None = None,
) -> Problems:
    """Problems in their own order. data: where they are; none: the set's own place on the hub. Raises ConfigError,
    DataError and what opening a source raises."""
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
