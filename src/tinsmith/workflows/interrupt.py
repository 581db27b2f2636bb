"""Ctrl-C that leaves a run which resumes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from attrs import define


@define
class Interrupt:
    """`requested` is set by the first Ctrl-C; a loop looks at it between steps."""

    requested: bool = False


@contextmanager
def graceful_interrupt(note: Callable[[str], object]) -> Iterator[Interrupt]:
    """The first SIGINT or SIGTERM sets the flag, a second one raises KeyboardInterrupt at once.

    Off the main thread no handler can be set, and signals do what they did.
    """
    state = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if state.requested:
            raise KeyboardInterrupt
        state.requested = True
        note("finishing this step, then saving; once more stops now, and leaves the last checkpoint")

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
