"""Reinforcement learning: problems -> rollouts -> groups -> advantages -> datums -> optimizer steps -> new sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from tinsmith.domain.advantages import AdvantageName, group_advantages
from tinsmith.domain.assembly import assemble
from tinsmith.domain.cost import Spending
from tinsmith.domain.datums import Batch
from tinsmith.domain.episodes import Group
from tinsmith.domain.errors import NonFiniteError, TrainingError
from tinsmith.domain.metrics import episode_metrics
from tinsmith.domain.packing import minibatches
from tinsmith.domain.returns import kl_penalty
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import GroupBuilder, ProblemSource, Shown
from tinsmith.ports.pending import DEADLINE_S, Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import LossSpec, Trainer, TrainResult
from tinsmith.workflows.distillation import Teachers
from tinsmith.workflows.evals import Evaluator, measured
from tinsmith.workflows.interrupt import graceful_interrupt
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.loss_step import forward_backward
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.rollout_log import to_rows
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out
from tinsmith.workflows.saving import Keep, batch_digest, leave, named, restore, same_data, save_now, stop_for_budget
from tinsmith.workflows.settings import CheckpointSettings, OptimizerSettings
from tinsmith.workflows.waiting import naming_step, wait

EVAL_GROUPS = 512
"""Test groups rolled out at once."""


@frozen(kw_only=True)
class RLSettings:
    groups_per_batch: int
    group_size: int
    max_steps: int
    max_tokens: int
    temperature: float = 1.0
    seed: int = 0
    advantages: AdvantageName = "mean"
    advantage_options: Mapping[str, float] = field(factory=dict)
    loss: LossSpec = field(factory=lambda: LossSpec("importance_sampling"))
    num_substeps: int = 1
    """Optimizer steps a batch of rollouts."""
    remove_constant_groups: bool = True
    reward_coef: float = 1.0
    """Weight of what the rewards say, beside what teachers say; 0: they are measured and teach nothing."""
    kl_penalty_coef: float = 0.0
    kl_discount_factor: float = 0.0
    skip_first_tokens: int = 0
    """Of what an episode samples first, tokens that teachers do not teach."""
    compute_post_kl: bool = False
    optimizer: OptimizerSettings
    checkpoints: CheckpointSettings
    eval_every: int = 0
    """Steps between evaluations on the test problems (one attempt each, at temperature 1); 0 evaluates before the
    first and after the last alone."""
    failures: FailurePolicy = field(factory=FailurePolicy)
    """What becomes of episodes that the world failed."""
    log_rollouts: bool = True
    max_turns: int | None = None
    """Of an episode, and so on: see `RolloutLimits`."""
    max_trajectory_tokens: int | None = None
    timeout_s: float = DEADLINE_S
    """Seconds that one piece of submitted work, or one call of an environment, may take: DeadlineError beyond it."""
    spending: Spending = field(factory=Spending)


class RLLoop:
    """One on-policy run. `run()` trains from where the run directory stands to `max_steps`.

    A line of metrics a step: those of `episode_metrics` (`env/all/correct`, `env/all/reward/total`, ...), the loss's
    own, `optim/kl_sample_train_v1`, `_v2` and `optim/entropy`, `optim/lr`, `progress/batch`,
    `progress/done_frac`, `tokens/...`, `cost/...`, `time/...`; `test/env/...` (with `reward/stderr`, the standard error
    of the mean reward) are of the weights before that step; the last line also has those of the final weights,
    `final/test/env/...`. Those of evaluators are `test/<benchmark>/...`. With teachers also `teacher_kl` and
    `teacher_kl/SOURCE`, `test/teacher_kl`, and `teacher_left_out`, sequences that are too long for their teacher.
    """

    def __init__(
        self,
        trainer: Trainer,
        problems: ProblemSource,
        settings: RLSettings,
        directory: RunDirectory,
        progress: Progress,
        *,
        reference: Sampler | None = None,
        teachers: Mapping[str, Sampler] | None = None,
        test: ProblemSource | None = None,
        evaluators: Sequence[Evaluator] = (),
        meter: Meter | None = None,
        decode: Callable[[Ints], str],
    ) -> None:
        """reference: the policy that the KL penalty is against. teachers: by the first tag of a group, the policy whose
        opinion of each token is its advantage (`reverse_kl`). One of both is given exactly when kl_penalty_coef is not
        0, which is its weight. meter: counts what the run uses; given where the problems use something beside the
        trainer."""
        if (reference is not None) + (teachers is not None) != (settings.kl_penalty_coef != 0):
            raise TrainingError("a reference policy or teachers are given exactly when kl_penalty_coef is not 0")
        self._meter = meter or Meter(settings.spending, directory.spent)
        self._trainer = self._meter.trainer(trainer)
        self._problems = problems
        self._settings = settings
        self._directory = directory
        self._progress = progress
        self._reference = None if reference is None else Reference(self._meter.sampler(reference), settings.timeout_s)
        self._teachers = None if teachers is None else self._made(teachers)
        self._test = test
        self._evaluators = evaluators
        self._decode = decode
        self._policy: Pending[Sampler] | None = None
        """The sampler of the next step, where it was submitted already."""
        self._keep_weights = False
        """Whether the weights are those that the step began with, and known to be sound."""

    def run(self) -> Mapping[str, float]:
        """The metrics of the last step and of the final evaluation. Raises as `SupervisedLoop.run` does."""
        settings = self._settings
        step, cursor = restore(self._directory, self._trainer, settings.timeout_s, self._progress.note)
        same_data(cursor, self._problems.fingerprint, str(self._directory.path))
        position = int(cursor.get("problems", 0))
        if step >= settings.max_steps:
            self._progress.note(self._directory.nothing_left(step))
        metrics: Mapping[str, float] = {}
        try:
            with graceful_interrupt(self._progress.note) as interrupt:
                stopped = None
                while (
                    step < settings.max_steps
                    and not interrupt.requested
                    and (stopped := self._meter.exceeded()) is None
                ):
                    metrics = self._named_step(step, position)
                    step, position = step + 1, position + settings.groups_per_batch
                    keep = settings.checkpoints.kind_after(step) if step < settings.max_steps else None
                    if keep is not None:
                        self._save(keep, step, position)
                    self._progress.update(step, settings.max_steps, metrics)
                done = step >= settings.max_steps
                self._save("final" if done else "rolling", step, position)
                if stopped is not None:
                    raise stop_for_budget(self._directory, stopped)
                if not done:
                    raise KeyboardInterrupt
                self._directory.finish("max_steps")
        finally:
            if self._policy is not None:
                _close_when_made(self._policy)
        return metrics

    def _save(self, keep: Keep, step: int, position: int) -> None:
        timeout = self._settings.timeout_s
        ttl_s = self._settings.checkpoints.ttl_s(keep)
        save_now(self._directory, self._trainer, keep, step, self._cursor(position), timeout, ttl_s)

    def _cursor(self, problems: int) -> Mapping[str, Any]:
        return {"problems": problems, "data": self._problems.fingerprint}

    @contextmanager
    def _sampler(self) -> Iterator[Sampler]:
        """The policy as it is now, to be closed afterwards."""
        policy, self._policy = self._policy or self._trainer.sampler(), None
        try:
            yield wait(policy, "the sampler", self._settings.timeout_s)
        finally:
            _close_when_made(policy)

    def _named_step(self, step: int, position: int) -> Mapping[str, float]:
        try:
            with naming_step(step):
                return self._step(step, position)
        except NonFiniteError as error:
            if not self._keep_weights:
                raise named(self._directory, step, error) from error
            cursor, timeout = self._cursor(position), self._settings.timeout_s
            ttl_s = self._settings.checkpoints.ttl_s("rolling")
            raise leave(self._directory, self._trainer, step, cursor, error, timeout, ttl_s) from error

    def _step(self, step: int, position: int) -> Mapping[str, float]:
        settings = self._settings
        self._keep_weights = False
        with self._sampler() as sampler:
            if step == 0 or (settings.eval_every and step % settings.eval_every == 0):
                self._directory.record_evaluation(step, self._evaluate(sampler, step, step, self._directory.made_by()))
            began = time.monotonic()
            builders = [self._problems[position + i] for i in range(settings.groups_per_batch)]
            plan = self._plan("train", step, settings.group_size, settings.temperature)
            groups = roll_out(sampler, builders, plan, finished=partial(self._show, "rollouts", 0, len(builders)))
            self._progress.doing("training")
        if not groups:
            raise TrainingError(f"step {step}: the world failed every group: {dict(groups.errors)}")
        rolled = time.monotonic()
        metrics: dict[str, Any] = {
            "progress/batch": step,
            "progress/done_frac": (step + 1) / settings.max_steps,
            **episode_metrics(groups),
            **groups.metrics,
        }
        kept = [g for g in groups if not (settings.remove_constant_groups and g.is_constant)]
        batch, groups_of_rows = self._assemble(kept)
        if batch is not None and self._reference is not None:
            batch, metrics["kl_policy_base"] = self._penalised(batch, self._reference)
        if batch is not None and self._teachers is not None:
            batch, told = _taught(self._teachers, batch, groups_of_rows, builders)
            metrics.update(told)
        if batch is None or not batch.num_loss_tokens:
            # Every group was constant, or longer than its teacher reads: nothing is to be learned, and that is said.
            batch, metrics["num_tokens"], metrics["num_loss_tokens"] = None, 0, 0
        else:
            metrics.update(self._train(batch, step))
        metrics["time/rollout"] = rolled - began
        metrics["time/train"] = time.monotonic() - rolled
        metrics["time/step"] = time.monotonic() - began
        if settings.log_rollouts:
            rows = to_rows(groups, split="train", decode=self._decode, trained=(kept, batch))
            self._directory.write_rollouts(step, rows)
        datums = "" if batch is None else batch_digest(batch)
        if step + 1 == settings.max_steps and (self._test is not None or self._evaluators):
            with self._sampler() as final:
                made_by = self._directory.made_by(metrics, datums=datums)
                found = self._evaluate(final, step, step + 1, made_by)
                metrics.update({f"final/{name}": value for name, value in found.items()})
        metrics.update(self._meter.take())
        self._directory.record_step(step, metrics, datums=datums)
        return metrics

    def _train(self, batch: Batch, step: int) -> dict[str, float]:
        """The optimizer steps of one batch; the next policy is queued behind them. Gives their metrics."""
        settings, timeout = self._settings, self._settings.timeout_s
        self._keep_weights = settings.num_substeps == 1  # else they may stand between two steps when one fails
        adam = settings.optimizer.at(step, settings.max_steps)
        submitted = [
            (part, forward_backward(self._trainer, part, settings.loss, timeout), self._trainer.optim_step(adam))
            for part in minibatches(batch, settings.num_substeps)
        ]
        after = self._trainer.forward(batch) if settings.compute_post_kl else None
        self._policy = self._trainer.sampler()
        results = [
            (part, wait(work, "the forward and backward pass", timeout), wait(stepped, "the optimizer step", timeout))
            for part, work, stepped in submitted
        ]
        self._keep_weights = False
        metrics: dict[str, float] = {
            "optim/lr": adam.learning_rate,
            "num_tokens": batch.num_tokens,
            "num_loss_tokens": batch.num_loss_tokens,
            **_policy_metrics([(part, result) for part, result, _ in results], "optim"),
            **_merged([(part.num_loss_tokens, result.metrics) for part, result, _ in results]),
            **_merged([(1, stepped.metrics) for _, _, stepped in results]),
        }
        if after is not None:
            drift = _policy_metrics([(batch, wait(after, "the forward pass after the update", timeout))], "optim")
            metrics["kl_pre_post_v1"] = drift["optim/kl_sample_train_v1"]
            metrics["kl_pre_post_v2"] = drift["optim/kl_sample_train_v2"]
        return metrics

    def _assemble(self, kept: Sequence[Group]) -> tuple[Batch | None, list[Group]]:
        """The batch, None where it would teach nothing, and of each of its rows its group."""
        settings = self._settings
        if not kept:
            return None, []
        if settings.reward_coef:
            own = group_advantages([g.rewards for g in kept], settings.advantages, **settings.advantage_options)
            advantages = [settings.reward_coef * a for a in own]
        else:
            advantages = [np.zeros(len(g.episodes)) for g in kept]
        made = assemble(kept, advantages)
        return (made.batch if made.batch.num_loss_tokens else None), [kept[g] for g in made.group.tolist()]

    def _made(self, teachers: Mapping[str, Sampler]) -> Teachers:
        counted = {id(t): Reference(self._meter.sampler(t), self._settings.timeout_s) for t in teachers.values()}
        return Teachers(
            of={source: counted[id(teacher)] for source, teacher in teachers.items()},
            coef=self._settings.kl_penalty_coef,
            discount=self._settings.kl_discount_factor,
            skip=self._settings.skip_first_tokens,
        )

    def _penalised(self, batch: Batch, reference: Reference) -> tuple[Batch, float]:
        """Move the KL penalty into the advantages; gives the mean of log(policy / reference) a token too."""
        base = reference.score(batch)
        assert batch.logprobs is not None
        assert batch.advantages is not None
        penalty, mean = kl_penalty(
            batch, base, coef=self._settings.kl_penalty_coef, discount=self._settings.kl_discount_factor
        )
        return evolve(batch, advantages=batch.advantages + penalty, reference_logprobs=base), mean

    def _plan(self, split: str, step: int, group_size: int, temperature: float) -> RolloutPlan:
        return RolloutPlan(
            limits=RolloutLimits(
                max_tokens=self._settings.max_tokens,
                max_turns=self._settings.max_turns,
                max_trajectory_tokens=self._settings.max_trajectory_tokens,
                turn_timeout=self._settings.timeout_s,
            ),
            group_size=group_size,
            failures=self._settings.failures,
            temperature=temperature,
            seed=self._settings.seed,
            split=split,
            step=step,
        )

    def _evaluate(self, sampler: Sampler, step: int, steps_done: int, made_by: str) -> Mapping[str, float]:
        """At step `step`, of weights that `steps_done` steps made."""
        found = self._tested(sampler, step)
        return found | measured(self._evaluators, sampler, steps_done, self._directory.path, self._progress, made_by)

    def _show(self, what: str, before: int, total: int, done: int) -> None:
        self._progress.doing(what, before + done, total)

    def _tested(self, sampler: Sampler, step: int) -> dict[str, float]:
        if self._test is None:
            return {}
        settings, test = self._settings, self._test
        groups: list[Group] = []
        tested: list[GroupBuilder] = []
        for start in range(0, len(test), EVAL_GROUPS):
            builders: list[GroupBuilder] = [test[i] for i in range(start, min(start + EVAL_GROUPS, len(test)))]
            tested += builders
            # The same draws at every evaluation: two evaluations differ by their weights alone.
            plan = self._plan(f"test/{start}", 0, group_size=1, temperature=1.0)
            show = partial(self._show, "evaluating", start, len(test))
            groups += roll_out(sampler, builders, plan, finished=show)
        if not groups:
            raise TrainingError(f"step {step}: the world failed every group of the evaluation")
        metrics = {f"test/{name}": value for name, value in episode_metrics(groups).items()}
        rewards = np.concatenate([group.rewards for group in groups])
        if len(rewards) > 1:
            metrics["test/env/all/reward/stderr"] = float(rewards.std(ddof=1) / np.sqrt(len(rewards)))
        if self._teachers is not None:
            batch, groups_of_rows = self._assemble(groups)
            if batch is not None:
                told = _taught(self._teachers, batch, groups_of_rows, tested)[1]
                metrics.update({f"test/{name}": value for name, value in told.items()})
        if settings.log_rollouts:
            self._directory.write_rollouts(step, to_rows(groups, split="test", decode=self._decode), name="test")
        return metrics


def _taught(
    teachers: Teachers, batch: Batch, groups: Sequence[Group], builders: Sequence[GroupBuilder]
) -> tuple[Batch, dict[str, float]]:
    """The batch, whose rows are of these groups, as their teachers see it."""
    prompts = {b.problem: b.teacher_prompt for b in builders if isinstance(b, Shown)}
    return teachers.teach(batch, ["".join(g.tags[:1]) for g in groups], [prompts.get(g.problem) for g in groups])


def _policy_metrics(parts: Sequence[tuple[Batch, TrainResult]], prefix: str) -> dict[str, float]:
    """Over all trained tokens, q the logprob when sampled and lp the trainer's: KL estimates (q - lp) and
    (q - lp)^2 / 2 (Schulman, "Approximating KL divergence"), and the entropy estimate -q."""
    q = np.concatenate([part.logprobs[part.weights != 0] for part, _ in parts if part.logprobs is not None])
    lp = np.concatenate([result.logprobs[part.weights != 0] for part, result in parts])
    if len(q) == 0:
        return {}
    gap = q.astype(np.float64) - lp
    return {
        f"{prefix}/kl_sample_train_v1": float(gap.mean()),
        f"{prefix}/kl_sample_train_v2": float(0.5 * (gap**2).mean()),
        f"{prefix}/entropy": float(-q.astype(np.float64).mean()),
    }


def _merged(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Metrics of the substeps of one step, each with its count (loss tokens, or optimizer steps): sums (`...:sum`) add
    up, extremes stay extremes, and the rest are means, weighted by the counts of the parts that report them."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for _, metrics in parts for name in metrics):
        reported = [(count, metrics[name]) for count, metrics in parts if name in metrics]
        values = [value for _, value in reported]
        match name.rpartition(":")[2]:
            case "sum":
                out[name] = sum(values)
            case "max":
                out[name] = max(values)
            case "min":
                out[name] = min(values)
            case _:
                total = sum(count for count, _ in reported)
                out[name] = sum(count * value for count, value in reported) / max(total, 1)
    return out


def _close_when_made(policy: Pending[Sampler]) -> None:
    policy.then(lambda sampler: sampler.close())
