"""Ctrl-C that leaves a run which resumes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from attrs import define

AGAIN_S = 0.2
"""Seconds within which a second signal is the first one again: `timeout` and job managers send theirs to a process and
once more to its group."""


@define
class Interrupt:
    """`requested` is set by the first Ctrl-C; a loop looks at it between steps."""

    requested: bool = False


@contextmanager
def graceful_interrupt(note: Callable[[str], object]) -> Iterator[Interrupt]:
    """The first SIGINT or SIGTERM sets the flag, a second one, AGAIN_S later or more, raises KeyboardInterrupt at once.

    Off the main thread no handler can be set, and signals do what they did.
    """
    state, first = Interrupt(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if state.requested and time.monotonic() - first < AGAIN_S:
            return
        if state.requested:
            raise KeyboardInterrupt
        state.requested, first = True, time.monotonic()
        note("finishing this step, then saving; once more stops now, and leaves the last checkpoint")

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
