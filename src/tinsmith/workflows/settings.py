"""Option groups that recipes share."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from tinsmith.config.options import option
from tinsmith.domain.schedules import Schedule, multiplier
from tinsmith.ports.trainer import AdamW, Lora
from tinsmith.workflows.rollout_plan import FailurePolicy


@frozen(kw_only=True)
class LoraSettings:
    """Which weights are trained."""

    rank: int = option(32, help="rank of the adapters; 0 trains all weights", min=0, max=4096)
    alpha: float = option(32.0, help="scale of the adapters: W + alpha / rank * B A", exclusive_min=0)
    attention: bool = option(True, help="adapt the q, k, v and o projections")
    mlp: bool = option(True, help="adapt the gate, up and down projections")
    unembed: bool = option(False, help="adapt the output head")

    def value(self) -> Lora | None:
        """None when all weights are trained."""
        if self.rank == 0:
            return None
        return Lora(rank=self.rank, alpha=self.alpha, attention=self.attention, mlp=self.mlp, unembed=self.unembed)


@frozen(kw_only=True)
class AdamSettings:
    """AdamW beyond the learning rate."""

    beta1: float = option(0.9, help="decay of the first moment", min=0, exclusive_max=1)
    beta2: float = option(0.95, help="decay of the second moment", min=0, exclusive_max=1)
    eps: float = option(1e-8, help="added to the root of the second moment", exclusive_min=0)
    weight_decay: float = option(0.0, help="decoupled weight decay", min=0)
    grad_clip_norm: float = option(
        0.0, help="global gradient norm above which gradients are scaled down; 0 is off", min=0
    )


@frozen(kw_only=True)
class OptimizerSettings:
    """The learning rate over a run, and AdamW."""

    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    adam: AdamSettings

    def at(self, step: int, total: int) -> AdamW:
        """Settings of optimizer step `step` (from 0) of `total`."""
        return AdamW(
            learning_rate=self.learning_rate * multiplier(self.schedule, step, total, self.warmup_steps),
            beta1=self.adam.beta1,
            beta2=self.adam.beta2,
            eps=self.adam.eps,
            weight_decay=self.adam.weight_decay,
            grad_clip_norm=self.adam.grad_clip_norm,
        )


@frozen(kw_only=True)
class CheckpointSettings:
    """When a run saves itself. The end of a run is always saved."""

    every: int = option(20, help="steps between checkpoints that are kept; 0 is off", min=0)
    rolling_every: int = option(0, help="steps between checkpoints of which only the newest is kept; 0 is off", min=0)
    ttl_days: float | None = option(
        7.0, help="days that a server keeps checkpoints made on the way; none: for ever", min=1 / 24, max=3650
    )
    final_ttl_days: float | None = option(
        None, help="days that a server keeps what the run leaves at its end; none: for ever", min=1 / 24, max=3650
    )

    def kind_after(self, step: int) -> Literal["periodic", "rolling"] | None:
        """The kind of checkpoint that is due after `step` steps were taken."""
        if self.every and step % self.every == 0:
            return "periodic"
        if self.rolling_every and step % self.rolling_every == 0:
            return "rolling"
        return None

    def ttl_s(self, keep: Literal["periodic", "rolling", "final"]) -> int | None:
        """Seconds that a server is asked to keep such a checkpoint."""
        days = self.final_ttl_days if keep == "final" else self.ttl_days
        return None if days is None else int(days * 86400)


@frozen(kw_only=True)
class FailureSettings:
    """What becomes of an episode that the world failed (a timeout, a lost connection); it is never a reward."""

    retries: int = option(3, help="further tries that a group has for all its episodes together", min=0)
    backoff_s: float = option(0.5, help="seconds before the first retry, doubled for each further one in a row", min=0)
    min_share: float | None = option(
        None,
        help="share of its episodes with which a group goes on when retries are used up; none: the run stops",
        exclusive_min=0,
        max=1,
    )

    def value(self) -> FailurePolicy:
        return FailurePolicy(retries=self.retries, backoff_s=self.backoff_s, min_share=self.min_share)
