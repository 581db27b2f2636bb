"""What recipes of reinforcement learning share: options, the run itself, its report, and what `check` says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.advantages import AdvantageName
from tinsmith.domain.cost import Tokens
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.losses import check_loss
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import LossSpec
from tinsmith.recipes import common, costs, inline_evals
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.rl import RLLoop, RLSettings
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out
from tinsmith.workflows.settings import FailureSettings
from tinsmith.workflows.waiting import wait

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
class RLConfig(common.RunConfig):
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
        0, help="steps between evaluations (test problems, evals=); 0 evaluates before and after alone", min=0
    )
    failures: FailureSettings = option(factory=FailureSettings, help="what becomes of episodes that the world failed")
    log_rollouts: bool = option(True, help="write every rollout to rollouts/")


@frozen(kw_only=True)
class MultiTurnConfig(RLConfig):
    """Options of recipes whose episodes have several turns."""

    max_tokens: int = option(64, help="tokens that one message may have", min=1)
    max_turns: int | None = option(5, help="messages of the policy in an episode; none: as many as it likes", min=1)
    max_trajectory_tokens: int | None = option(
        None, help="tokens of a whole conversation; none is the model's context", min=2
    )


@frozen(eq=False)
class Environments:
    """What a recipe trains in."""

    model: Model
    train: ProblemSource
    test: ProblemSource | None


def validate(config: RLConfig) -> None:
    """What options say together, before anything is loaded."""
    common.validate(config)
    check_loss(config.loss.name, config.loss.options)
    if config.temperature == 0 and config.remove_constant_groups:
        raise ConfigError("temperature=0 gives each problem the same attempt again and again: nothing is trained")
    if config.group_size == 1 and config.remove_constant_groups:
        raise ConfigError("group_size=1 leaves every group constant, so that nothing is trained; take at least 2")


def check_room(config: RLConfig, model: Model) -> None:
    if config.max_tokens >= model.context:
        raise ConfigError(
            f"max_tokens={config.max_tokens} leaves no room for a prompt: {config.model} has a context of "
            f"{model.context} tokens"
        )


def train(
    name: str,
    config: RLConfig,
    progress: Progress,
    model: Model,
    problems: ProblemSource,
    test: ProblemSource | None,
    path: Path,
    shown: Sequence[tuple[str, str]],
    *,
    start: str | None = None,
    teachers: Mapping[str, Sampler] | None = None,
    reward_coef: float = 1.0,
    skip_first_tokens: int = 0,
    meter: Meter | None = None,
) -> str:
    """The run, from where its directory stands to its end; gives the handle of its last state. `shown`: (words, metric)
    of the table at the end. start: the handle of a saved state whose weights the policy begins with, in place of the
    model's own. teachers, reward_coef, skip_first_tokens: see `RLLoop`, `RLSettings`; kl_penalty_coef is then the
    teachers' weight. meter: counts what problems sample or score with other models; it becomes the run's."""
    with (
        inline_evals.evaluators(config, model, progress) as evaluators,
        common.open_run(name, config, path, progress) as directory,
        common.tracked(name, config, path, progress) as wrapped,
        ExitStack() as open_,
    ):
        trainer = common.make_trainer(model, config, directory)
        open_.callback(trainer.close)
        if start is not None:
            wait(trainer.load_state(start, optimizer=False), f"loading {start}", config.timeout_s)
        reference = None
        if config.kl_penalty_coef and teachers is None:
            made = model.sampler() if start is None else wait(trainer.sampler(), "the reference", config.timeout_s)
            reference = open_.enter_context(made)
        if meter is not None:
            meter.began(directory.spent)
        loop = RLLoop(
            trainer,
            problems,
            evolve(settings(config), reward_coef=reward_coef, skip_first_tokens=skip_first_tokens),
            directory,
            wrapped,
            reference=reference,
            teachers=teachers,
            test=test,
            evaluators=evaluators,
            meter=meter,
            decode=model.tokenizer.decode,
        )
        loop.run()
        common.export(model, trainer, config, directory, progress)
        report(progress, directory, shown)
        inline_evals.report(directory, progress)
        last = directory.last_checkpoint
        assert last is not None
        return last.handle


def report(progress: Progress, directory: RunDirectory, shown: Sequence[tuple[str, str]]) -> None:
    """Before and after, time and rate, and where the run is."""
    lines = directory.read_metrics()
    before, after = lines[0], lines[-1]
    tested = "test/env/all/reward/total" in before
    first, last = ("test/env/all", "final/test/env/all") if tested else ("env/all", "env/all")
    tokens = sum(line.get("env/all/total_ac_tokens", 0) + line.get("num_tokens", 0) for line in lines)
    spent = sum(line.get("time/step", 0.0) for line in lines)
    progress.table(
        "result",
        ["", "before", "after"] if tested else ["", "first batch", "last batch"],
        [
            *([words, _value(before, first, m), _value(after, last, m)] for words, m in shown),
            ["time, s", "", spent],
            ["tokens/s (sampled and trained)", "", tokens / spent if spent else 0],
        ],
    )
    progress.note(f"run directory: {directory.path}")


def _value(line: Mapping[str, float], where: str, name: str) -> float:
    """Of all episodes, or of the batch itself."""
    return line.get(f"{where}/{name}", line.get(where.removesuffix("env/all") + name, 0.0))


def forecast(
    config: RLConfig,
    model: Model,
    problems: ProblemSource,
    length: int,
    num_tests: int,
) -> Iterator[str]:
    """What a run would take, by answers that the start model gives to some problems. length: tokens of a prompt."""
    if config.backend == "tinker":  # where trying costs money, the most that a run can take is said
        answer, mixed = float(config.max_tokens), TRIED
        yield "nothing was sampled at the server: the figures are for answers of max_tokens that all train"
    else:
        answer, mixed = _tried(config, model, problems)
        yield (
            f"of {TRIED} problems tried, {mixed} had answers that differ in reward; an answer had {answer:.1f} tokens "
            "on average; the estimate takes it that both stay so"
        )
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    trained = episodes * (mixed / TRIED if config.remove_constant_groups else 1.0)
    yield costs.estimate(model, config.lora, config.max_steps, trained * (length + answer), episodes * answer)
    evaluations = 2 + ((config.max_steps - 1) // config.eval_every if config.eval_every else 0)
    tests = num_tests * evaluations
    used = Tokens(
        prefill=(config.max_steps * config.groups_per_batch + tests) * length,
        sample=(episodes + tests) * answer,
        train=trained * (length + answer) * (1 if config.loss.name != "gspo" else 2),
    )
    measured = yield from inline_evals.forecast(config, model, evaluations)
    yield from costs.forecast(config, used + measured)


def _tried(config: RLConfig, model: Model, problems: ProblemSource) -> tuple[float, int]:
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


def settings(config: RLConfig) -> RLSettings:
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
        max_turns=config.max_turns if isinstance(config, MultiTurnConfig) else None,
        max_trajectory_tokens=config.max_trajectory_tokens if isinstance(config, MultiTurnConfig) else None,
        timeout_s=config.timeout_s,
        spending=costs.spending(config),
    )


def first_prompt(source: ProblemSource) -> Ints:
    """The tokens of a source's first prompt."""
    (env,) = source[0].make(1)
    return asyncio.run(env.reset()).tokens
