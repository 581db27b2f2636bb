"""Graders: whether an answer equals the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from tinsmith.ports.pending import Pending


@frozen
class Grade:
    """What a grader says of one pair of answers."""

    equal: bool | None
    """None: undecided, for the reason given. That is never a reward and never a "different"."""
    reason: str
    """A stable code. One that begins with `gold_` blames the right answer: the data are at fault, not the model."""
    tier: str
    """What decided: a stage of the native grader, or the name of another one."""
    seconds: float = 0.0
    """Time spent on this pair; 0 where the answer was known already."""

    @property
    def data_error(self) -> bool:
        return self.reason.startswith("gold_")


class Grader(Protocol):
    """Compares answers with the right ones, in batches, off the caller's thread.

    A pair that takes too long, too much memory, or kills the process that works on it is undecided for that reason and
    costs no other pair. `close` ends what runs; work still owed raises CancelledWorkError.
    """

    @property
    def name(self) -> str: ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Pairs graded so far by reason, and how often a worker was replaced, as `workers_replaced`."""
        ...

    def grade(
        self, golds: Sequence[str | None], preds: Sequence[str | None], *, deadline: float | None = None
    ) -> Pending[list[Grade]]:
        """Submit pairs; `result()` waits for their grades and `await` does without blocking, in the order given.

        None stands for a missing answer. deadline: seconds until the grades are due, whatever is still running or
        waiting then being undecided with the reason "deadline"; None leaves the grader's own limit for each pair alone.
        Raises ShapeError when golds and preds differ in number, CancelledWorkError when the grader was closed.
        """
        ...

    def close(self) -> None: ...
