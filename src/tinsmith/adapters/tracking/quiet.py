"""What all trackers share: a failure is said once, and the run goes on without the tracker."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

_LOGGER = logging.getLogger("tinsmith.tracking")


class QuietRunLog(ABC):
    """A RunLog whose subclass does the work in `_start`, `_log` and `_close`, which may fail.

    Values that are not finite are left out of a line: most sinks (and JSON) have no word for them.
    """

    label = "tracker"

    def __init__(self) -> None:
        self._alive = True
        self._started = False

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        self._started = True
        self._attempt(lambda: self._start(name, config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._attempt(
            lambda: self._log(step, {k: float(v) for k, v in metrics.items() if math.isfinite(v)}),
        )

    def close(self) -> None:
        if self._started:
            self._attempt(self._close)
        self._alive = self._started = False

    def _attempt(self, work: Callable[[], None]) -> None:
        if not self._alive:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever a tracker does, the run goes on
            self._alive = False
            first = (str(error).splitlines() or [""])[0]
            _LOGGER.warning(
                "%s stops getting metrics: %s: %s; the run goes on, and metrics.jsonl in its directory has them all",
                self.label,
                type(error).__name__,
                first,
            )

    @abstractmethod
    def _start(self, name: str, config: Mapping[str, Any]) -> None: ...
    @abstractmethod
    def _log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    @abstractmethod
    def _close(self) -> None: ...
