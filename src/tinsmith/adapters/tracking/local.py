"""Trackers that need no service: a JSON lines file, and lines for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tinsmith.adapters.tracking.quiet import QuietRunLog


class JsonlRunLog(QuietRunLog):
    """A line a step, `{"step": 3, "train_mean_nll": 1.2, ...}`, each on disk as soon as it is logged.

    A run that starts again goes on in the same file: lines of steps that come again, and a half-written last line, make
    way for the new ones.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = Path(path)
        self.label = str(path)
        self._file: IO[str] | None = None

    def _start(self, name: str, config: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._file is None:
            self._cut(step)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def _cut(self, step: int) -> None:
        """Drop the lines from `step` on, and a torn one."""
        if not self._path.exists():
            return
        whole = 0
        data = self._path.read_bytes()
        for line in data.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] >= step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


FIRST = (
    "env/all/correct",
    "env/all/reward/total",
    "test/env/all/correct",
    "train_mean_nll",
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
