"""A sandbox that runs nothing: a function says what becomes of each program."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Self

from tinsmith.domain.errors import CancelledWorkError
from tinsmith.ports.pending import Pending
from tinsmith.ports.sandbox import End, Isolation, Leases, Limits, Program, Ran


def says(stdout: str = "", *, end: End = End.EXITED, code: int = 0) -> Ran:
    """A program that said this."""
    exit_code = code if end is End.EXITED else None
    return Ran(end=end, exit_code=exit_code, stdout=stdout.encode(), stderr=b"")


class ScriptedSandbox:
    """`answer(program)` gives the end of each program, or raises."""

    name = "scripted"
    isolation = Isolation(network=True, files=True, memory=True, disk=True, processes=True)

    def __init__(self, answer: Callable[[Program], Ran], *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.programs: list[Program] = []
        """Those that were run, in order."""
        self._answer = answer
        self._closed = False
        self._lock = threading.Lock()

    @property
    def leases(self) -> Leases:
        return Leases(created=len(self.programs), released=len(self.programs), live=0)

    def run(self, program: Program) -> Pending[Ran]:
        with self._lock:
            if self._closed:
                raise CancelledWorkError("the sandbox was closed")
            self.programs.append(program)
        future: concurrent.futures.Future[Ran] = concurrent.futures.Future()
        try:
            future.set_result(self._answer(program))
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits
            future.set_exception(error)
        return Pending(future)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
