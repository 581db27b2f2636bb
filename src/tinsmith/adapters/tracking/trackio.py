"""Trackio (extra `track`): metrics in a local database, shown by `trackio show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.adapters.tracking.quiet import QuietRunLog
from tinsmith.domain.errors import MissingExtraError


class TrackioRunLog(QuietRunLog):
    label = "trackio"

    def __init__(self, project: str) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError:
            raise MissingExtraError("trackio", "track") from None
        self._trackio = trackio
        self._project = project

    def _start(self, name: str, config: Mapping[str, Any]) -> None:
        self._trackio.init(project=self._project, name=name, config=dict(config))

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._trackio.log(dict(metrics), step=step)

    def _close(self) -> None:
        self._trackio.finish()
