"""`tinsmith eval NAME`: a model's score on a benchmark, with its interval; beside another evaluation if wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from tinsmith import bootstrap, rendering
from tinsmith.bootstrap import Backend
from tinsmith.config import from_dict, option, to_dict
from tinsmith.domain.errors import BudgetError, ConfigError
from tinsmith.domain.evaluation import Estimate
from tinsmith.domain.metrics import number
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.progress import Progress
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.recipes import benchmarks, costs, sandboxes
from tinsmith.recipes.benchmarks import MAX_TOKENS, SUMS, Benchmark, Judges, Problems
from tinsmith.recipes.sandboxes import SandboxSettings
from tinsmith.rendering import Renderer
from tinsmith.workflows import evals
from tinsmith.workflows.evals import EvaluationDirectory, EvaluationSettings, Results
from tinsmith.workflows.evals.directory import read_config, read_trajectories
from tinsmith.workflows.rollouts import FailurePolicy

ENDS = {
    "wrong": "programs with a wrong answer",
    "crashed": "programs that crashed",
    "timed_out": "programs out of time",
    "over_limit": "programs over a limit",
}
"""Shares of attempts, by metric."""
MAY_CHANGE = (
    *("size", "concurrency", "retries", "timeout_s", "threads", "base_url", "log_path", "if_exists", "compare"),
    *("prices", "budget"),
    *sandboxes.MAY_CHANGE,
)
"""Options that an evaluation may be resumed with another value of."""


@frozen(kw_only=True)
class Config:
    benchmark: Benchmark = option("arithmetic", help="problems: sums drawn from the seed, or a test set")
    model: str = option("tiny", help="model: tiny, smollm2-135m, a run's final/, a Hugging Face directory, .gguf file")
    backend: Backend = option(
        "embedded", help="where it is sampled: embedded on this machine; tinker at a server of that protocol"
    )
    base_url: str | None = option(
        None, help="address of the tinker server; none takes TINKER_BASE_URL, else the hosted service"
    )
    tokenizer: str | None = option(
        None, help="with backend=tinker: a path or hub name, where the model's name does not lead to its tokenizer"
    )
    renderer: str | None = option(None, help="chat format; none takes the one that belongs to the model")
    threads: int | None = option(None, help="processors to use; none takes all", min=1)
    data: tuple[str, ...] = option(
        (), help="where the problems are: files, object store URLs, hf://NAME; none: the set's own place on the hub"
    )
    size: int | None = option(None, help=f"problems at most; none: all ({SUMS} sums)", min=1)
    n: int = option(1, help="attempts at each problem", min=1)
    max_tokens: int | None = option(
        None, help="tokens an attempt may sample; none: 8 for sums to 16384 for aime, at most half the context", min=1
    )
    temperature: float = option(1.0, help="of sampling; 0 takes the likeliest token", min=0)
    seed: int = option(0, help="fixes the sums that are drawn and every sampled token", min=0, max=2**31 - 1)
    fewshot: bool | None = option(None, help="show a worked example before each problem; none: not for arithmetic")
    grader: bootstrap.GraderName = option(
        "native", help="compares answers; sympy and math_verify are asked where native cannot decide"
    )
    sandbox: SandboxSettings = option(factory=SandboxSettings, help="where programs are run (humaneval, mbpp)")
    concurrency: int = option(64, help="problems that are worked on at once", min=1)
    retries: int = option(3, help="further tries at a problem that the world failed (a timeout, a lost server)", min=0)
    timeout_s: float = option(600.0, help="seconds that one call of model or grader may take", exclusive_min=0)
    log_path: Path | None = option(None, help="directory of the evaluation; none makes one below runs/")
    if_exists: Literal["resume", "raise", "delete"] = option(
        "resume", help="when the directory holds an evaluation: go on with it, refuse, or delete it and start again"
    )
    prices: str | None = option(
        None, help="money a million tokens: PREFILL,SAMPLE,TRAIN, or a file with these (by model name, for many models)"
    )
    budget: float | None = option(
        None, help="money that the evaluation may spend, by these prices; a larger one goes on", exclusive_min=0
    )
    compare: Path | None = option(None, help="directory of another evaluation of the same problems, to compare with")
    regrade: Path | None = option(
        None, help="directory of an evaluation whose attempts are graded again, with grader=; nothing is sampled"
    )


def run(config: Config, progress: Progress) -> int:
    """1 where the world failed problems for good."""
    costs.spending(config)
    progress.doing(f"loading {config.benchmark}")
    files = bootstrap.local_files()
    other = None if config.compare is None else evals.read_results(config.compare, files)
    found, path = _graded_again(config, progress) if config.regrade is not None else _sampled(config, progress)
    _show(found, progress)
    if other is not None:
        _show_comparison(str(config.compare), other, found, progress)
    progress.note(f"evaluation: {path}")
    if found.failed:
        progress.note(f"{_failed(found)}. The same command tries them again")
    return 1 if found.failed else 0


def check(config: Config) -> Iterable[Any]:
    return ()


def _sampled(config: Config, progress: Progress) -> tuple[Results, Path]:
    model = bootstrap.open_model(
        config.model,
        backend=config.backend,
        base_url=config.base_url,
        tokenizer=config.tokenizer,
        renderer=config.renderer,
        threads=config.threads,
        timeout_s=config.timeout_s,
    )
    max_tokens = config.max_tokens or min(MAX_TOKENS[config.benchmark], model.context // 2)
    if max_tokens >= model.context:
        raise ConfigError(
            f"max_tokens={max_tokens} leaves no room for a prompt: {config.model} has a context of {model.context}"
        )
    with (
        benchmarks.judges([config.benchmark], config.sandbox, config.grader) as judges,
        _directory(config, problems := load_problems(config, model.renderer, judges), progress) as directory,
        model.sampler() as sampler,
    ):
        decode = model.tokenizer.decode
        settings = _settings(config, max_tokens)
        try:
            return evals.evaluate(sampler, problems, settings, directory, progress, decode), directory.path
        except BudgetError:
            _show(evals.read_results(directory.path, bootstrap.local_files()), progress)
            progress.note(f"evaluation: {directory.path}")
            raise


def _graded_again(config: Config, progress: Progress) -> tuple[Results, Path]:
    """What was asked, and of which model, is taken from the evaluation that is graded again."""
    assert config.regrade is not None
    files = bootstrap.local_files()
    saved = from_dict(Config, read_config(config.regrade, files), source=f"{config.regrade}/config.json")
    if saved.benchmark != config.benchmark:
        raise ConfigError(
            f"{config.regrade} is an evaluation of {saved.benchmark}: "
            f"tinsmith eval {saved.benchmark} regrade={config.regrade}"
        )
    again = evolve(
        saved,
        prices=None,  # nothing is sampled
        budget=None,
        **{
            name: getattr(config, name) for name in ("grader", "sandbox", "log_path", "if_exists", "compare", "regrade")
        },
    )
    if config.log_path is not None and config.log_path.absolute() == config.regrade.absolute():
        raise ConfigError("log_path is the evaluation that is graded again: give it another directory")
    before = evals.read_results(config.regrade, files)
    groups = dict(read_trajectories(config.regrade, files))
    tokenizer, renderer = _format(saved)
    with benchmarks.judges([again.benchmark], again.sandbox, again.grader) as judges:
        problems = load_problems(again, renderer, judges)
        if problems.fingerprint != before.fingerprint:
            raise ConfigError(f"the problems have changed since {config.regrade}: their attempts cannot be graded")
        with _directory(again, problems, progress) as directory:
            settings = _settings(again, again.max_tokens or MAX_TOKENS[again.benchmark])
            found = evals.regrade(groups, problems, settings, directory, progress, tokenizer.decode, before.failed)
            return found, directory.path


def _format(config: Config) -> tuple[Tokenizer, Renderer]:
    """Of the model, without its weights."""
    name = bootstrap.hub_name(config.model) if config.backend == "tinker" else config.model
    tokenizer, stored = bootstrap.load_tokenizer(config.tokenizer or name)
    chosen = config.renderer or stored or rendering.recommended(name, tokenizer)
    return tokenizer, rendering.get(chosen, tokenizer)


def load_problems(config: Config, renderer: Renderer, judges: Judges) -> Problems:
    return benchmarks.load(
        config.benchmark,
        renderer,
        judges,
        data=config.data,
        size=config.size,
        seed=config.seed,
        fewshot=config.fewshot,
    )


def _settings(config: Config, max_tokens: int) -> EvaluationSettings:
    return EvaluationSettings(
        limits=benchmarks.limits(config.benchmark, max_tokens, config.timeout_s),
        samples=config.n,
        temperature=config.temperature,
        seed=config.seed,
        concurrency=config.concurrency,
        failures=FailurePolicy(retries=config.retries),
        spending=costs.spending(config),
    )


def _directory(config: Config, problems: ProblemSource, progress: Progress) -> EvaluationDirectory:
    if config.compare is not None:
        other = evals.read_results(config.compare, bootstrap.local_files())
        if (other.benchmark, other.fingerprint) != (problems.name, problems.fingerprint):
            raise ConfigError(f"compare={config.compare} is an evaluation of other problems ({other.benchmark})")
    if config.log_path is not None:
        path = config.log_path
    elif config.regrade is not None:
        path = config.regrade.with_name(f"{config.regrade.name}-{config.grader}")
    else:
        words = ["eval", config.benchmark, config.model, f"n{config.n}", f"seed{config.seed}"]
        path = Path("runs") / re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words))
    directory = EvaluationDirectory.open(
        path,
        config=to_dict(config),
        fingerprint=problems.fingerprint,
        files=bootstrap.local_files(),
        may_change=MAY_CHANGE,
        if_exists=config.if_exists,
    )
    progress.run_directory(directory.path)
    for note in directory.notes:
        progress.note(note)
    if directory.outcomes:
        progress.note(f"{len(directory.outcomes)} problems are done already")
    return directory


def _show(found: Results, progress: Progress) -> None:
    rows: list[list[Any]] = [["score", *_cells(found.score)]]
    rows += [[f"pass@{k}", *_cells(value)] for k, value in found.pass_at_k.items() if k > 1]
    rows += [[words, share, ""] for words, share in instruction_shares(found.metrics).items()]
    rows += [
        ["reward", *_cells(found.reward)],
        ["problems", f"{len(found.outcomes)} of {found.problems}", ""],
        ["attempts", found.attempts, ""],
        ["truncated", found.truncated, ""],
        *([name, value, ""] for name, value in found.metrics.items() if name == "undecided" and value),
        *([words, found.metrics[name], ""] for name, words in ENDS.items() if name in found.metrics),
        ["failed problems", len(found.failed), ""],
        ["errors", ", ".join(f"{count} {name}" for name, count in sorted(found.errors.items())) or 0, ""],
        ["tokens sampled", found.sampled_tokens, ""],
        *([["cost", found.cost, ""]] if found.cost is not None else []),
        ["time, s", found.seconds, ""],
    ]
    if found.failed and found.score_of_all is not None:
        rows.insert(1, ["score, failed problems as wrong", found.score_of_all, ""])
    progress.table(f"{found.benchmark}, attempts a problem: {found.samples}", ["", "value", "95% interval"], rows)


def instruction_shares(metrics: Mapping[str, float]) -> dict[str, float]:
    """The other three numbers of IFEval, beside its score; of other benchmarks none."""
    if not (told := metrics.get("instructions")):
        return {}
    return {
        "score, loose": metrics["correct_loose"],
        "instructions followed": metrics["followed"] / told,
        "instructions followed, loose": metrics["followed_loose"] / told,
    }


def _show_comparison(name: str, other: Results, found: Results, progress: Progress) -> None:
    compared = evals.compare(other, found)
    progress.table(
        f"against {name}",
        ["", "value", "95% interval"],
        [
            ["score there", *_cells(other.score)],
            ["difference", *_cells(compared.difference)],
            ["p-value", compared.p_value, ""],
            ["problems in both", compared.problems, ""],
            ["better here", compared.better, ""],
            ["worse here", compared.worse, ""],
        ],
    )


def _cells(estimate: Estimate | None) -> list[Any]:
    if estimate is None:
        return ["none came off", ""]
    return [estimate.value, f"{number(estimate.low)} to {number(estimate.high)}"]


def _failed(found: Results) -> str:
    kinds = sorted({name for errors in found.failed.values() for name in errors})
    return f"{len(found.failed)} of {found.problems} problems failed for the world's fault ({', '.join(kinds)})"
