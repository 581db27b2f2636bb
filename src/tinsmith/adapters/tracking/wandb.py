"""Weights & Biases (extra `track`). Without network or key, set WANDB_MODE=offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.adapters.tracking.quiet import QuietRunLog
from tinsmith.domain.errors import MissingExtraError


class WandbRunLog(QuietRunLog):
    label = "wandb"

    def __init__(self, project: str) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError:
            raise MissingExtraError("wandb", "track") from None
        self._wandb = wandb
        self._project = project
        self._run: Any = None

    def _start(self, name: str, config: Mapping[str, Any]) -> None:
        # A service that does not answer must not hold the run up, and the run's own output is not wandb's to capture.
        settings = self._wandb.Settings(init_timeout=60, login_timeout=30, console="off")
        self._run = self._wandb.init(project=self._project, name=name, config=dict(config), settings=settings)

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def _close(self) -> None:
        self._run.finish()
