"""What a loop over examples minimises, and how that is measured on held-out data.

The objective of supervised learning is the negative log-likelihood; its mean a token and bits a byte are what is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.losses import bits_per_byte, mean_nll
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import LossSpec, Trainer, TrainResult
from tinsmith.workflows.supervised_data import normalised
from tinsmith.workflows.waiting import wait

Reduction = Literal["token_sum", "token_mean", "sequence_mean"]

EVAL_ROWS = 64
"""Datums in one forward call of an evaluation."""


class Objective(Protocol):
    """What a loop does with a batch, and with its test data. Evaluations are submitted, in order, between steps."""

    def submit(self, trainer: Trainer, batch: Batch, sources: Sequence[int] = ()) -> Pending[TrainResult]:
        """Add the gradient of the batch. sources: see `DrawnBatch`."""
        ...

    def metrics(self, batch: Batch, result: TrainResult) -> Mapping[str, float]:
        """What a step says of its batch, before the update."""
        ...

    def submit_evaluation(self, trainer: Trainer) -> Sequence[Pending[TrainResult]]:
        """Queue the evaluation of the weights as they are at this place in the queue; empty without test data."""
        ...

    def evaluation(self, submitted: Sequence[Pending[TrainResult]], timeout_s: float) -> Mapping[str, float]:
        """`test/...` of what `submit_evaluation` gave; empty without test data."""
        ...


def in_batches(test: Sequence[Datum], rows: int = EVAL_ROWS) -> list[Batch]:
    """Test data as batches of so many rows, so that no call holds all of it."""
    return [Batch.of(test[i : i + rows]) for i in range(0, len(test), rows)]


class NllObjective:
    """Weighted cross-entropy: `train_mean_nll`, `train_mean_bpb`, `test/nll`, `test/bpb`."""

    def __init__(
        self,
        reduction: Reduction = "token_mean",
        *,
        test: Sequence[Datum] = (),
        token_bytes: Sequence[int] | None = None,
    ) -> None:
        """token_bytes: [V], UTF-8 bytes that each token id stands for, 0 for control tokens; for bits per byte."""
        self._reduction = reduction
        self._test = in_batches(test)
        self._token_bytes = None if token_bytes is None else np.asarray(token_bytes, np.int64)

    def submit(self, trainer: Trainer, batch: Batch, sources: Sequence[int] = ()) -> Pending[TrainResult]:
        return trainer.forward_backward(normalised(batch, self._reduction), LossSpec("cross_entropy"))

    def metrics(self, batch: Batch, result: TrainResult) -> Mapping[str, float]:
        return self._measure([batch], [result], "train_mean_nll", "train_mean_bpb")

    def submit_evaluation(self, trainer: Trainer) -> Sequence[Pending[TrainResult]]:
        return [trainer.forward(batch) for batch in self._test]

    def evaluation(self, submitted: Sequence[Pending[TrainResult]], timeout_s: float) -> Mapping[str, float]:
        if not submitted:
            return {}
        results = [wait(pending, "the evaluation", timeout_s) for pending in submitted]
        return self._measure(self._test, results, "test/nll", "test/bpb")

    def _measure(
        self, batches: Sequence[Batch], results: Sequence[TrainResult], nll_name: str, bpb_name: str
    ) -> dict[str, float]:
        """nll = -sum w lp / sum w over all targets. bpb = -sum lp / (ln 2 * bytes) over the trained targets that stand
        for bytes; left out where no target does, or without a table of bytes."""
        logprobs = np.concatenate([r.logprobs.ravel() for r in results])
        weights = np.concatenate([b.weights.ravel() for b in batches])
        values = {nll_name: mean_nll(logprobs, weights)}
        if self._token_bytes is not None:
            targets = np.concatenate([b.targets.ravel() for b in batches])
            trained_bytes = np.where(weights > 0, self._token_bytes[targets], 0)
            if trained_bytes.any():
                values[bpb_name] = bits_per_byte(logprobs[trained_bytes > 0], int(trained_bytes.sum()))
        return values
