"""Any loss on any backend."""

from __future__ import annotations

import contextlib
import math

from attrs import evolve

from tinsmith.domain import losses
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import CapabilityError, NonFiniteError
from tinsmith.ports.pending import DEADLINE_S, Pending
from tinsmith.ports.trainer import LossSpec, Trainer, TrainResult
from tinsmith.workflows.waiting import wait


def forward_backward(
    trainer: Trainer, batch: Batch, loss: LossSpec, timeout_s: float = DEADLINE_S
) -> Pending[TrainResult]:
    """Add the gradient of `loss`: by name where the backend knows it, else as a forward pass, the loss here, and a
    backward pass with its gradient. The second way waits for the forward pass, at most `timeout_s` seconds; both give
    the same result. A server may know the name and not all options: then it goes the second way too."""
    if loss.name in trainer.capabilities.losses:
        with contextlib.suppress(CapabilityError):
            return trainer.forward_backward(batch, loss)
    forward = wait(trainer.forward(batch), "the forward pass", timeout_s)
    result = losses.evaluate(batch, forward.logprobs, loss.name, loss.options)
    if not math.isfinite(result.value):
        raise NonFiniteError(f"loss {loss.name} is {result.value}")
    backward = trainer.backward(batch, result.gradient)
    return backward.then(lambda done: evolve(done, loss=result.value, metrics={**done.metrics, **result.metrics}))
