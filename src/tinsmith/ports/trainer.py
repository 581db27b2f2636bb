"""The trainer half of a backend."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from attrs import field, frozen

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ConfigError, NonFiniteError, ShapeError
from tinsmith.domain.losses import check_loss
from tinsmith.domain.tokens import Floats
from tinsmith.ports.pending import Pending

if TYPE_CHECKING:
    from tinsmith.ports.sampler import Sampler


@frozen
class ModelInfo:
    """What a loop needs to know of the model that a backend trains."""

    name: str
    vocab_size: int
    context: int
    """Longest sequence, in tokens."""
    num_parameters: int
    """0 where a server does not say it."""
    num_trained: int
    """Parameters that the optimizer moves; 0 where a server does not say it."""


@frozen
class TrainerCapabilities:
    """What a trainer can do beyond `forward` and weighted cross-entropy; a loop asks before it relies on it."""

    losses: frozenset[str] = frozenset({"cross_entropy"})
    """Losses the backend evaluates by name; any other goes as a forward and a weighted cross-entropy."""
    deterministic: bool = False
    """The same calls give the same bits."""
    soft_targets: bool = False
    """`targets` may be [T, K] with K > 1."""


@frozen(kw_only=True)
class Lora:
    """Which low-rank adapters are trained (Hu et al., arXiv:2106.09685): W + alpha / rank * B A."""

    rank: int = 32
    alpha: float = 32.0
    attention: bool = True
    """The q, k, v and o projections."""
    mlp: bool = True
    """The gate, up and down projections."""
    unembed: bool = False
    """The output head."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ConfigError(f"rank={self.rank!r}: a whole number, at least 1 (lora=None trains all weights)")
        if not math.isfinite(self.alpha):
            raise ConfigError(f"alpha={self.alpha}: finite")


@frozen
class LossSpec:
    """A loss by name with its options, e.g. `LossSpec("ppo", {"clip_high_threshold": 1.28})`."""

    name: str
    options: Mapping[str, float | str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        check_loss(self.name)


@frozen
class AdamW:
    """Settings of one AdamW step (Loshchilov and Hutter, arXiv:1711.05101; decoupled weight decay)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    """Global norm above which gradients are scaled down; 0 is off."""

    def __attrs_post_init__(self) -> None:
        for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value}: finite, 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: 0 or more, below 1")


@frozen(eq=False)
class TrainResult:
    """What a forward (and backward) gives: `logprobs` as the targets' shape ([T] or [T, K]), rows concatenated."""

    logprobs: Floats
    loss: float = 0.0
    """The loss summed over tokens and datums, as Tinker defines it."""
    metrics: Mapping[str, float] = field(factory=dict)


@frozen
class OptimResult:
    step: int
    """Optimizer steps taken, this one included."""
    metrics: Mapping[str, float] = field(factory=dict)
    """E.g. `optim/grad_norm`, before clipping."""


def check_batch(info: ModelInfo, batch: Batch) -> None:
    """What no trainer takes: ShapeError for no token, an id outside the vocabulary or a row past the context,
    NonFiniteError for a column with a value that is not finite."""
    if len(batch) == 0 or batch.num_tokens == 0:
        raise ShapeError("the batch holds no token")
    for name, ids in (("tokens", batch.tokens), ("targets", batch.targets)):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= info.vocab_size:
            flat = ids.reshape(len(batch.tokens), -1)
            position = int(np.argmax(((flat < 0) | (flat >= info.vocab_size)).any(axis=1)))
            row = int(np.searchsorted(batch.offsets, position, side="right")) - 1
            raise ShapeError(
                f"row {row}, position {position - int(batch.offsets[row])}: {name} holds an id outside the "
                f"vocabulary of {info.vocab_size}"
            )
    longest = int(np.argmax(batch.lengths))
    if batch.lengths[longest] > info.context:
        raise ShapeError(f"row {longest} has {batch.lengths[longest]} tokens, the model's context is {info.context}")
    for name in ("weights", "logprobs", "advantages", "reference_logprobs"):
        column = getattr(batch, name)
        if column is not None and not np.isfinite(column).all():
            raise NonFiniteError(f"column {name!r} holds a value that is not finite")


class Trainer(Protocol):
    """Trains one set of weights. Calls are carried out in the order in which they were submitted.

    Gradients accumulate over `forward_backward` and `backward` until `optim_step` uses and clears them. Bad input
    raises at once, in the submitting call; what goes wrong later is raised by the Pending. After a forward_backward,
    backward or optim_step that failed, optimizer steps are refused (with the first failure as their cause) until
    `load_state`: a step that was queued behind a failure must not move the weights.
    """

    @property
    def info(self) -> ModelInfo: ...
    @property
    def capabilities(self) -> TrainerCapabilities: ...

    def forward(self, batch: Batch) -> Pending[TrainResult]:
        """Logprobs of the targets; no gradient."""
        ...

    def forward_backward(self, batch: Batch, loss: LossSpec) -> Pending[TrainResult]:
        """Add the gradient of the loss, which must be in `capabilities.losses`. CapabilityError, at once, also for
        options or weights that the backend's own form of it lacks: `workflows.loss_step` then goes the other way."""
        ...

    def backward(self, batch: Batch, gradients: Floats) -> Pending[TrainResult]:
        """Add the gradient of a loss whose derivative by each target's logprob is `gradients` (shape of targets)."""
        ...

    def optim_step(self, settings: AdamW) -> Pending[OptimResult]:
        """Step, then clear the gradients. A non-finite gradient raises NonFiniteError: no weight, moment or step count
        changes. Without any gradient since the last step it is refused with a TrainingError, after which work goes on
        as if it had not been called: a step of zeros would still move weights by its moments and decay."""
        ...

    def save_state(self, name: str, *, ttl_s: int | None = None) -> Pending[str]:
        """Write weights, optimizer moments and step count; gives a handle that `load_state` takes. Gradients that wait
        for an `optim_step` are not part of it. A server may delete it after `ttl_s` seconds; on this machine it
        stays."""
        ...

    def load_state(self, handle: str, *, optimizer: bool = True) -> Pending[None]:
        """Go back to a saved state, exactly; clears the gradients. Without `optimizer` take its weights alone: moments
        and step count are those of a new trainer."""
        ...

    def delete_state(self, handle: str) -> Pending[None]: ...

    def sampler(self) -> Pending[Sampler]:
        """A sampler of the weights as they are now; later steps do not change it."""
        ...

    def export(self, directory: str | os.PathLike[str], kind: str = "merged") -> Pending[Sequence[Path]]:
        """Write Hugging Face files: `kind` "adapter" (PEFT layout) or "merged" (whole model)."""
        ...

    def close(self) -> None:
        """Release memory and threads; pending work is cancelled."""
        ...
