"""Waiting for submitted work, never for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from tinsmith.domain.errors import DeadlineError
from tinsmith.ports.pending import Pending

T = TypeVar("T")


def wait(pending: Pending[T], what: str, timeout_s: float) -> T:
    """The result, waited for at most `timeout_s` seconds, the work's turn in the queue included.

    Raises DeadlineError, which says what did not come and how to wait longer; else what the work raised.
    """
    try:
        return pending.result(timeout_s)
    except DeadlineError as error:
        if pending.done():  # the work's own deadline, inside the backend
            raise
        raise DeadlineError(
            f"{what} gave no result within {timeout_s:g} s; if it is slow and not stuck, set a larger timeout_s"
        ) from error


@contextmanager
def naming_step(step: int) -> Iterator[None]:
    """A deadline that passes inside names the step."""
    try:
        yield
    except DeadlineError as error:
        raise DeadlineError(f"step {step}: {error}") from error
