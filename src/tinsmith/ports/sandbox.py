"""Sandboxes: where code that nobody vouches for is run.

Whose fault an end is: a program that crashes, takes too long, prints, forks or writes too much has a `Ran` that says
so; a sandbox that cannot be had, or is lost on the way, is the world's failure (`SandboxError`), which is tried again
and never taken for a wrong program.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol, Self

from attrs import field, frozen

from tinsmith.domain.errors import ConfigError, WorldError
from tinsmith.ports.pending import Pending


class SandboxError(WorldError):
    """A sandbox could not be had, or was lost before its program ended."""


@frozen(kw_only=True)
class Program:
    """A Python program and all that it is given."""

    source: str
    files: Mapping[str, bytes] = field(factory=dict)
    """Beside it in its working directory, by plain name."""
    stdin: str = ""
    timeout_s: float = 10.0
    """Seconds of wall clock, from when it starts."""

    def __attrs_post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s={self.timeout_s:g}: above 0")
        for name in self.files:
            if not name or name.startswith(".") or not set(name).isdisjoint("/\\\0") or name == MAIN:
                raise ConfigError(f"a file of a program cannot be called {name!r}: a plain name, and not {MAIN}")


MAIN = "main.py"
"""The program's own file, in its working directory."""


@frozen(kw_only=True)
class Limits:
    """What one run may take. Not every sandbox enforces each of them itself: see `Isolation`."""

    memory_bytes: int = 1 << 30
    """Of a process, and of all processes together."""
    output_bytes: int = 1 << 20
    """Of stdout and stderr together; with more the run ends there."""
    disk_bytes: int = 64 << 20
    processes: int = 64

    def __attrs_post_init__(self) -> None:
        for name in ("memory_bytes", "output_bytes", "disk_bytes", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1")


class End(Enum):
    """How a run ended."""

    EXITED = "exited"
    """By itself, or by a signal that it sent itself."""
    TIMEOUT = "timeout"
    OUTPUT = "output"
    """It wrote more than it may; the beginning of that is there, where the sandbox gives it."""
    MEMORY = "memory"
    """Its processes together took more memory than they may."""
    DISK = "disk"
    """It made more files than it may. (A full disk is an error that the program sees.)"""


@frozen(kw_only=True)
class Ran:
    """What became of a program that was run."""

    end: End
    exit_code: int | None
    """None unless EXITED; minus the signal's number where a signal ended it."""
    stdout: bytes
    stderr: bytes
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.end is End.EXITED and self.exit_code == 0


@frozen(kw_only=True)
class Isolation:
    """What keeps a program of this sandbox from harm. Declared by the adapter, checked by the contract."""

    network: bool
    """It reaches no network, this machine's own included."""
    files: bool
    """It sees none of the caller's files and environment, but the Python that runs it and its packages."""
    memory: bool
    """`Limits.memory_bytes` is enforced, for all processes together."""
    disk: bool
    """`Limits.disk_bytes` is enforced."""
    processes: bool
    """`Limits.processes` is enforced."""
    cancel: bool = True
    """A run that is cancelled is killed at once; else it ends at its own time at the latest."""


@frozen(kw_only=True)
class Leases:
    """Sandboxes so far: created = released + live, at any moment."""

    created: int
    released: int
    live: int


class Sandbox(Protocol):
    """Runs programs, each in a sandbox of its own that is released when the run ends, however it ends: no file, no
    process and no memory of it stays. Any number may be submitted; a bounded number runs at once, and the time that a
    program waits for its turn is not the program's."""

    @property
    def name(self) -> str: ...

    @property
    def isolation(self) -> Isolation: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def leases(self) -> Leases: ...

    def run(self, program: Program) -> Pending[Ran]:
        """Submit a program. Awaiting raises SandboxError for the world's failures. A cancelled run is killed.

        Raises CancelledWorkError when closed.
        """
        ...

    def close(self) -> None:
        """Kill what runs and release everything; programs that wait for their turn are cancelled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
