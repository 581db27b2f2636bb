"""A run as one page of HTML: curves, config, checkpoints, and every logged episode token by token."""

from tinsmith.workflows.show.page import Shown, show_run

__all__ = ["Shown", "show_run"]
