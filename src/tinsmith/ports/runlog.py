"""Where metrics of a run are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class RunLog(Protocol):
    """Takes metrics step by step. Logging never stops a run: an adapter that fails says so once and goes quiet."""

    def start(self, name: str, config: Mapping[str, Any]) -> None: ...
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...
