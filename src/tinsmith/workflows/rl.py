"""Reinforcement learning: problems -> rollouts -> groups -> advantages -> datums -> optimizer steps -> new sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from tinsmith.domain.advantages import AdvantageName, group_advantages
from tinsmith.domain.assembly import assemble
from tinsmith.domain.datums import Batch
from tinsmith.domain.episodes import Group
from tinsmith.domain.errors import NonFiniteError, TrainingError
from tinsmith.domain.metrics import episode_metrics
from tinsmith.domain.packing import minibatches
from tinsmith.domain.returns import kl_penalty
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.envs.base import GroupBuilder, ProblemSource
from tinsmith.ports.pending import Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import LossSpec, Trainer, TrainResult
from tinsmith.workflows.interrupt import graceful_interrupt
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.loss_step import forward_backward
from tinsmith.workflows.rollout_log import to_rows
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out
from tinsmith.workflows.saving import batch_digest, restore, same_data, save_now
from tinsmith.workflows.settings import CheckpointSettings, OptimizerSettings

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
    kl_penalty_coef: float = 0.0
    kl_discount_factor: float = 0.0
    compute_post_kl: bool = False
    optimizer: OptimizerSettings
    checkpoints: CheckpointSettings
    eval_every: int = 0
    """Steps between evaluations on the test problems; 0 evaluates before the first and after the last alone."""
    eval_group_size: int = 1
    eval_temperature: float = 1.0
    log_rollouts: bool = True


class RLLoop:
    """One on-policy run. `run()` trains from where the run directory stands to `max_steps`.

    A line of metrics a step: those of `episode_metrics` (`env/all/correct`, `env/all/reward/total`, ...), the loss's
    own, `optim/kl_sample_train_v1`, `_v2` and `optim/entropy`, `optim/lr`, `progress/batch`,
    `progress/done_frac`, `time/...`; `test/env/...` are of the weights before that step; the last line also has those
    of the final weights, `final/test/env/...`.
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
        test: ProblemSource | None = None,
        decode: Callable[[Ints], str],
    ) -> None:
        """reference: the policy that the KL penalty is against; needed exactly when there is a penalty."""
        if (reference is None) != (settings.kl_penalty_coef == 0):
            raise TrainingError("a reference policy is given exactly when kl_penalty_coef is not 0")
        self._trainer = trainer
        self._problems = problems
        self._settings = settings
        self._directory = directory
        self._progress = progress
        self._reference = reference
        self._test = test
        self._decode = decode

    def run(self) -> Mapping[str, float]:
        """The metrics of the last step and of the final evaluation. Raises as `SupervisedLoop.run` does."""
        settings = self._settings
        step, cursor = restore(self._directory, self._trainer)
        same_data(cursor, self._problems.fingerprint, str(self._directory.path))
        position = int(cursor.get("problems", 0))
        if step >= settings.max_steps:
            self._progress.note(f"this run is complete: {step} steps were taken and none is left")
        metrics: Mapping[str, float] = {}
        policy = self._trainer.sampler()
        with graceful_interrupt() as interrupt:
            while step < settings.max_steps and not interrupt.requested:
                sampler = policy.result()
                if step == 0 or (settings.eval_every and step % settings.eval_every == 0):
                    self._directory.record_evaluation(step, self._evaluate(sampler, step))
                try:
                    metrics, policy = self._step(sampler, step, position)
                except NonFiniteError as error:
                    if settings.num_substeps == 1:  # else the weights may stand between two steps
                        save_now(self._directory, self._trainer, "rolling", step, self._cursor(position))
                    raise NonFiniteError(f"step {step}: {error}") from error
                finally:
                    sampler.close()
                step, position = step + 1, position + settings.groups_per_batch
                keep = settings.checkpoints.kind_after(step) if step < settings.max_steps else None
                if keep is not None:
                    save_now(self._directory, self._trainer, keep, step, self._cursor(position))
                self._progress.update(step, settings.max_steps, metrics)
            done = step >= settings.max_steps
            save_now(self._directory, self._trainer, "final" if done else "rolling", step, self._cursor(position))
            if not done:
                raise KeyboardInterrupt
            self._directory.finish("max_steps")
        return metrics

    def _cursor(self, problems: int) -> Mapping[str, Any]:
        return {"problems": problems, "data": self._problems.fingerprint}

    def _step(self, sampler: Sampler, step: int, position: int) -> tuple[Mapping[str, float], Pending[Sampler]]:
        settings, began = self._settings, time.monotonic()
        builders = [self._problems[position + i] for i in range(settings.groups_per_batch)]
        groups = roll_out(sampler, builders, self._plan("train", step, settings.group_size, settings.temperature))
        rolled = time.monotonic()
        metrics: dict[str, Any] = {
            "progress/batch": step,
            "progress/done_frac": (step + 1) / settings.max_steps,
            **episode_metrics(groups),
        }
        batch = self._assemble(groups)
        if batch is None:  # every group was constant: there is nothing to learn from, and that is said
            metrics["num_tokens"] = metrics["num_loss_tokens"] = 0
            policy = self._trainer.sampler()
        else:
            if self._reference is not None:
                batch, kl = self._penalised(batch, self._reference)
                metrics["kl_policy_base"] = kl
            parts = minibatches(batch, settings.num_substeps)
            adam = settings.optimizer.at(step, settings.max_steps)
            submitted = [
                (part, forward_backward(self._trainer, part, settings.loss), self._trainer.optim_step(adam))
                for part in parts
            ]
            after = self._trainer.forward(batch) if settings.compute_post_kl else None
            policy = self._trainer.sampler()
            trained = [(part, train.result(), optim.result()) for part, train, optim in submitted]
            metrics["optim/lr"] = adam.learning_rate
            metrics["num_tokens"] = batch.num_tokens
            metrics["num_loss_tokens"] = batch.num_loss_tokens
            metrics.update(_policy_metrics([(part, result) for part, result, _ in trained], "optim"))
            metrics.update(_mean_metrics([{**result.metrics, **optim.metrics} for _, result, optim in trained]))
            if after is not None:
                drift = _policy_metrics([(batch, after.result())], "optim")
                metrics["kl_pre_post_v1"] = drift["optim/kl_sample_train_v1"]
                metrics["kl_pre_post_v2"] = drift["optim/kl_sample_train_v2"]
        metrics["time/rollout"] = rolled - began
        metrics["time/train"] = time.monotonic() - rolled
        metrics["time/step"] = time.monotonic() - began
        if settings.log_rollouts:
            self._directory.write_rollouts(step, to_rows(groups, split="train", decode=self._decode))
        if step + 1 == settings.max_steps:
            final = policy.result()
            metrics.update({f"final/{name}": value for name, value in self._evaluate(final, step).items()})
            final.close()
        self._directory.record_step(step, metrics, datums="" if batch is None else batch_digest(batch))
        return metrics, policy

    def _assemble(self, groups: Sequence[Group]) -> Batch | None:
        kept = [g for g in groups if not (self._settings.remove_constant_groups and g.is_constant)]
        if not kept:
            return None
        advantages = group_advantages(
            [g.rewards for g in kept], self._settings.advantages, **self._settings.advantage_options
        )
        batch = assemble(kept, advantages).batch
        return batch if batch.num_loss_tokens else None

    def _penalised(self, batch: Batch, reference: Sampler) -> tuple[Batch, float]:
        """Move the KL penalty into the advantages; gives the mean of log(policy / reference) a token too."""
        scores = [reference.score(np.append(d.tokens, d.targets[-1])) for d in batch]
        base: Floats = np.concatenate([score.result()[1:] for score in scores]).astype(np.float32)
        assert batch.logprobs is not None
        assert batch.advantages is not None
        penalty, mean = kl_penalty(
            batch, base, coef=self._settings.kl_penalty_coef, discount=self._settings.kl_discount_factor
        )
        return evolve(batch, advantages=batch.advantages + penalty, reference_logprobs=base), mean

    def _plan(self, split: str, step: int, group_size: int, temperature: float) -> RolloutPlan:
        return RolloutPlan(
            limits=RolloutLimits(max_tokens=self._settings.max_tokens),
            group_size=group_size,
            temperature=temperature,
            seed=self._settings.seed,
            split=split,
            step=step,
        )

    def _evaluate(self, sampler: Sampler, step: int) -> Mapping[str, float]:
        if self._test is None:
            return {}
        settings, test = self._settings, self._test
        groups: list[Group] = []
        for start in range(0, len(test), EVAL_GROUPS):
            builders: list[GroupBuilder] = [test[i] for i in range(start, min(start + EVAL_GROUPS, len(test)))]
            # The same draws at every evaluation: two evaluations differ by their weights alone.
            plan = self._plan(f"test/{start}", 0, settings.eval_group_size, settings.eval_temperature)
            groups += roll_out(sampler, builders, plan)
        metrics = {f"test/{name}": value for name, value in episode_metrics(groups).items()}
        if settings.log_rollouts:
            self._directory.write_rollouts(step, to_rows(groups, split="test", decode=self._decode), name="test")
        return metrics


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


def _mean_metrics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the substeps of one step: sums (`...:sum`) add up, extremes stay extremes, the rest is averaged."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [p[name] for p in parts if name in p]
        kind = name.rpartition(":")[2]
        if kind in ("max", "min"):
            out[name] = max(values) if kind == "max" else min(values)
        else:
            out[name] = sum(values) / (1 if kind == "sum" else len(values))
    return out
