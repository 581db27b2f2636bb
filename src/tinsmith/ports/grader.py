"""Whether a response answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen


@frozen
class Grade:
    """`correct` is None when the grader cannot tell; that is never a reward by itself."""

    correct: bool | None
    has_answer: bool
    """An answer was found in the form that was asked for."""
    answer: str | None = None
    """What was found."""


class Grader(Protocol):
    """Compares the answers in responses with the right ones."""

    def grade_batch(self, golds: Sequence[str], responses: Sequence[str]) -> list[Grade]: ...
