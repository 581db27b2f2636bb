"""What a person is shown while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Shows; never decides. Nothing that a run computes depends on it."""

    def update(self, done: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """`done` of `total` steps are finished (total None: nobody knows); `metrics` are those of the last one."""
        ...

    def doing(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Work beside the steps that a person waits for, e.g. "evaluating gsm8k": `done` of `total` parts (None: nobody
        knows). It is over with the next call of any method but `note`."""
        ...

    def note(self, text: str) -> None:
        """One line for the person, e.g. that a run was found and goes on."""
        ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A short table; numbers are rounded to what a person reads."""
        ...

    def run_directory(self, path: Path) -> None:
        """Where the run is kept, so that it can be said how to go on after Ctrl-C."""
        ...


class Silent:
    """Shows nothing: for use as a library."""

    def update(self, done: int, total: int | None, metrics: Mapping[str, float]) -> None: ...
    def doing(self, what: str, done: int = 0, total: int | None = None) -> None: ...
    def note(self, text: str) -> None: ...
    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...
    def run_directory(self, path: Path) -> None: ...


class Notes(Silent):
    """Keeps what is noted, and shows nothing."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)
