"""The tracker that needs no service: lines for a person."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import IO, Any

from tinsmith.adapters.tracking.quiet import QuietRunLog

FIRST = (
    "env/all/correct",
    "env/all/reward/total",
    "test/env/all/correct",
    "train_mean_nll",
    "dpo_loss",
    "accuracy",
    "test/nll",
    "optim/kl_sample_train_v1",
    "optim/entropy",
    "optim/grad_norm",
    "learning_rate",
    "optim/lr",
)
"""What a person looks at first; of a step that has none of them, the first few metrics are shown."""


class ConsoleRunLog(QuietRunLog):
    """A short plain line a step; good in log files, where a live display is not."""

    label = "console"

    def __init__(self, stream: IO[str] | None = None) -> None:
        super().__init__()
        self._stream = stream

    def _start(self, name: str, config: Mapping[str, Any]) -> None:
        self._print(name)

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = [name for name in FIRST if name in metrics] or list(metrics)[:6]
        self._print("  ".join([f"step {step}", *(f"{name} {metrics[name]:.4g}" for name in shown)]))

    def _print(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)

    def _close(self) -> None: ...
