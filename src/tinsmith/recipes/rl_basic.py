"""rl-basic: reinforcement learning on problems with a checkable answer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any, Literal

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.advantages import AdvantageName
from tinsmith.domain.cost import Tokens
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.losses import check_loss
from tinsmith.envs import math
from tinsmith.envs.base import ProblemSource
from tinsmith.envs.problem import ProblemGroup, ProblemSet
from tinsmith.ports.grader import Grader
from tinsmith.ports.progress import Progress
from tinsmith.ports.trainer import LossSpec
from tinsmith.recipes import common
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rl import RLLoop, RLSettings
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out
from tinsmith.workflows.settings import FailureSettings

NAME = "rl-basic"
TRIED = 16
"""Problems that `check` samples answers to."""


@frozen(kw_only=True)
class LossSettings:
    """The policy loss."""

    name: Literal["importance_sampling", "ppo", "cispo", "dro", "gspo"] = option(
        "importance_sampling", help="surrogate whose gradient the policy follows"
    )
    options: dict[str, float | str] = option(
        factory=dict, help="options of the loss, e.g. loss.options.clip_high_threshold=1.28 with ppo"
    )


@frozen(kw_only=True)
class Config(common.RunConfig):
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
    group_size: int = option(4, help="attempts at each problem", min=1)
    groups_per_batch: int = option(128, help="problems a step", min=1)
    max_steps: int = option(80, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(8, help="tokens an attempt may sample", min=1)
    temperature: float = option(1.0, help="of sampling", min=0)
    learning_rate: float = option(2e-3, help="peak learning rate", exclusive_min=0)
    advantages: AdvantageName = option("mean", help="how rewards of a group become advantages")
    loss: LossSettings = option(factory=LossSettings, help="the policy loss")
    num_substeps: int = option(1, help="optimizer steps a batch; more than one wants loss.name=ppo", min=1)
    remove_constant_groups: bool = option(True, help="leave out groups whose attempts all earned the same")
    kl_penalty_coef: float = option(0.0, help="weight of the KL penalty against the start model", min=0)
    kl_discount_factor: float = option(0.0, help="discount with which a token's KL reaches earlier ones", min=0, max=1)
    compute_post_kl: bool = option(False, help="also measure the KL that the update made (one more forward)")
    eval_every: int = option(
        0, help="steps between evaluations (one attempt, temperature 1); 0 evaluates before and after alone", min=0
    )
    failures: FailureSettings = option(factory=FailureSettings, help="what becomes of episodes that the world failed")
    log_rollouts: bool = option(True, help="write every rollout to rollouts/")


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    with closing(bootstrap.open_grader(config.grader)) as grader:
        problems, test = load_problems(config, model, grader)
        path = config.log_path or common.default_path(NAME, config, config.env)
        with (
            common.open_run(NAME, config, path, progress) as directory,
            common.tracked(NAME, config, path, progress) as shown,
        ):
            trainer = common.make_trainer(model, config, directory)
            reference = model.sampler() if config.kl_penalty_coef else None
            try:
                loop = RLLoop(
                    trainer,
                    problems,
                    settings(config),
                    directory,
                    shown,
                    reference=reference,
                    test=test,
                    decode=model.tokenizer.decode,
                )
                loop.run()
                common.export(model, trainer, config, directory, progress)
            finally:
                trainer.close()
                if reference is not None:
                    reference.close()
            report(progress, directory)
    return 0


def report(progress: Progress, directory: RunDirectory) -> None:
    """Before and after, time and rate, and where the run is."""
    lines = directory.read_metrics()
    before, after = lines[0], lines[-1]
    tested = "test/env/all/correct" in before
    first, last = ("test/env/all", "final/test/env/all") if tested else ("env/all", "env/all")
    tokens = sum(line.get("env/all/total_ac_tokens", 0) + line.get("num_tokens", 0) for line in lines)
    spent = sum(line.get("time/step", 0.0) for line in lines)
    progress.table(
        "result",
        ["", "before", "after"] if tested else ["", "first batch", "last batch"],
        [
            ["share of right answers", before[f"{first}/correct"], after[f"{last}/correct"]],
            ["reward", before[f"{first}/reward/total"], after[f"{last}/reward/total"]],
            ["time, s", "", spent],
            ["tokens/s (sampled and trained)", "", tokens / spent if spent else 0],
        ],
    )
    progress.note(f"run directory: {directory.path}")


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
    common.validate(config)
    check_loss(config.loss.name, config.loss.options)
    if config.env != "arithmetic" and config.data is None:
        raise ConfigError(f"env={config.env} needs data=FILE, e.g. a {config.env} train.jsonl")
    if config.env == "arithmetic" and (config.data or config.test_data):
        raise ConfigError("env=arithmetic draws its own problems and takes no data=")
    if config.temperature == 0 and config.remove_constant_groups:
        raise ConfigError("temperature=0 gives each problem the same attempt again and again: nothing is trained")
    if config.group_size == 1 and config.remove_constant_groups:
        raise ConfigError("group_size=1 leaves every group constant, so that nothing is trained; take at least 2")


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


def settings(config: Config) -> RLSettings:
    return RLSettings(
        groups_per_batch=config.groups_per_batch,
        group_size=config.group_size,
        max_steps=config.max_steps,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=config.seed,
        advantages=config.advantages,
        loss=LossSpec(config.loss.name, config.loss.options),
        num_substeps=config.num_substeps,
        remove_constant_groups=config.remove_constant_groups,
        kl_penalty_coef=config.kl_penalty_coef,
        kl_discount_factor=config.kl_discount_factor,
        compute_post_kl=config.compute_post_kl,
        optimizer=common.optimizer(config),
        checkpoints=config.checkpoints,
        eval_every=config.eval_every,
        failures=config.failures.value(),
        log_rollouts=config.log_rollouts,
        timeout_s=config.timeout_s,
        spending=common.spending(config),
    )
