"""Held-out loss: mean negative log-likelihood a token, and bits a byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.losses import bits_per_byte, mean_nll
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import Trainer, TrainResult
from tinsmith.workflows.waiting import wait

EVAL_ROWS = 64
"""Datums in one forward call, so that no call holds all of a test set."""


class NllEvaluator:
    """Evaluates test datums through `forward` calls that are submitted, in order, between training steps."""

    def __init__(self, trainer: Trainer, test: Sequence[Datum], token_bytes: Sequence[int] | None) -> None:
        self._trainer = trainer
        self._batches = [Batch.of(test[i : i + EVAL_ROWS]) for i in range(0, len(test), EVAL_ROWS)]
        self._token_bytes = None if token_bytes is None else np.asarray(token_bytes, np.int64)

    def submit(self) -> tuple[Pending[TrainResult], ...]:
        """Queue the evaluation of the weights as they are at this place in the queue; empty without test data."""
        return tuple(self._trainer.forward(batch) for batch in self._batches)

    def result(self, submitted: Sequence[Pending[TrainResult]], timeout_s: float) -> dict[str, float]:
        """`test/nll` and `test/bpb` of what `submit` gave; empty without test data."""
        if not submitted:
            return {}
        results = [wait(pending, "the evaluation", timeout_s) for pending in submitted]
        return self.measure(self._batches, results, "test/nll", "test/bpb")

    def measure(
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
