"""Full collections of Python's cyclic garbage, put off while many episodes run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 1000
"""Collections of the younger objects for each one of all, as a least: some millions of new objects that stay."""

_lock = threading.Lock()
_inside = 0
_before = (0, 0, 0)


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Inside, the collector goes through all objects seldom. Going through those of 2,000 episodes stops the event loop
    for a tenth of a second; what episodes leave is freed without it, by reference counts, but for cycles, and of these
    the young ones are still collected. The setting is the interpreter's: the last to leave puts it back."""
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = gc.get_threshold()
            gc.set_threshold(*_before[:2], max(_before[2], SELDOM))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                gc.set_threshold(*_before)
