"""Where metrics go besides the run directory."""

from __future__ import annotations

from tinsmith.domain.errors import ConfigError
from tinsmith.ports.runlog import RunLog


def make_tracker(name: str, project: str) -> RunLog:
    """A tracker by name: console, wandb, trackio. Raises MissingExtraError where its package is not installed."""
    if name == "console":
        from tinsmith.adapters.tracking.console import ConsoleRunLog

        return ConsoleRunLog()
    if name == "wandb":
        from tinsmith.adapters.tracking.wandb import WandbRunLog

        return WandbRunLog(project)
    if name == "trackio":
        from tinsmith.adapters.tracking.trackio import TrackioRunLog

        return TrackioRunLog(project)
    raise ConfigError(f"tracker {name!r}: one of console, trackio, wandb")
