"""The benchmarks that `evals=` has a training run measure on its way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import to_dict
from tinsmith.domain.cost import Tokens
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.progress import Progress, Silent
from tinsmith.recipes import benchmarks
from tinsmith.recipes.benchmarks import MAX_TOKENS, Judges
from tinsmith.recipes.common import RunConfig
from tinsmith.workflows.evals import EvaluationSettings, Evaluator
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rollouts import FailurePolicy


@contextmanager
def evaluators(config: RunConfig, model: Model, progress: Progress) -> Iterator[list[Evaluator]]:
    """What `evals=` names, with its problems, before anything is trained. Raises what `benchmarks.load` raises."""
    if not config.evals:
        yield []
        return
    progress.doing(f"loading the problems of {', '.join(config.evals)}")
    with benchmarks.judges(config.evals, config.evaluation.sandbox) as judges:
        yield [_evaluator(name, config, model, judges) for name in config.evals]


def _evaluator(name: str, config: RunConfig, model: Model, judges: Judges) -> Evaluator:
    options, data = config.evaluation, config.evaluation.data
    most = options.max_tokens or min(MAX_TOKENS[name], model.context // 2)
    if most >= model.context:
        raise ConfigError(f"evaluation.max_tokens={most} leaves no room for a prompt in a context of {model.context}")
    return Evaluator(
        name=name,
        problems=benchmarks.load(
            name,
            model.renderer,
            judges,
            data=(data[name],) if name in data else (),
            size=options.size,
            seed=config.seed,
        ),
        settings=EvaluationSettings(
            limits=benchmarks.limits(name, most, config.timeout_s),
            samples=options.n,
            temperature=options.temperature,
            seed=config.seed,
            concurrency=options.concurrency,
            failures=FailurePolicy(retries=options.retries),
        ),
        config={**to_dict(options), "benchmark": name, "max_tokens": most, "seed": config.seed},
        files=bootstrap.local_files(),
        decode=model.tokenizer.decode,
    )


TRIED = 16
"""Problems of a benchmark whose prompts `check` measures."""


def forecast(config: RunConfig, model: Model, times: int) -> Generator[str, None, Tokens]:
    """What `check` says of `evals=`; gives the tokens of so many evaluations, if every attempt is as long as it may."""
    used = Tokens()
    with evaluators(config, model, Silent()) as made:
        for evaluator in made:
            number, samples = len(evaluator.problems), evaluator.settings.samples
            most = evaluator.settings.limits.max_tokens
            yield (
                f"{evaluator.name}: {number} problems, {samples} attempt{'s' * (samples != 1)} each of at most {most} "
                f"tokens, measured {times} time{'s' * (times != 1)}"
            )
            prompts = asyncio.run(_prompts(evaluator.problems, min(number, TRIED)))
            read = number * sum(prompts) / len(prompts)
            used = used + Tokens(prefill=times * read, sample=times * number * samples * most)
    return used


async def _prompts(problems: ProblemSource, number: int) -> list[int]:
    """Tokens of the first prompts."""
    lengths = []
    for i in range(number):
        (env,) = problems[i].make(1)
        try:
            lengths.append(len((await env.reset()).tokens))
        finally:
            await env.close()
    return lengths


def report(directory: RunDirectory, progress: Progress) -> None:
    """The scores of a run's evaluations, of its first and its last weights, where there are some."""
    lines = directory.read_metrics()
    rows: list[list[Any]] = []
    for name in lines[-1] if lines else ():
        found = re.fullmatch(r"final/test/([^/]+)/score", name)
        if found is None:
            continue
        where = f"test/{found[1]}"
        last = lines[-1]
        failed = last.get(f"final/{where}/failed", 0.0)
        rows.append(
            [
                found[1],
                next((line[f"{where}/score"] for line in lines if f"{where}/score" in line), ""),
                last[name],
                last.get(f"{name}/stderr", ""),
                f"{failed:.0f} failed" if failed else "",
            ]
        )
    if rows:
        progress.table("evaluations", ["", "first", "final", "standard error", ""], rows)
