"""The options of where programs are run."""

from __future__ import annotations

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.envs import code
from tinsmith.ports.sandbox import Sandbox


@frozen(kw_only=True)
class SandboxSettings:
    """Where programs are run."""

    kind: bootstrap.SandboxName = option("local", help="namespaces of this machine, bubblewrap, a server, or Modal")
    url: str | None = option(None, help="of kind=sandboxfusion: its address; none takes SANDBOX_URL")
    at_once: int | None = option(None, help="programs at once; none: as many as fit the kind", min=1)
    test_timeout_s: float = option(6.0, help="seconds of processor time that a test may take", exclusive_min=0)

    def open(self) -> Sandbox:
        return bootstrap.open_sandbox(self.kind, url=self.url, limits=code.LIMITS, max_concurrent=self.at_once)


MAY_CHANGE = ("sandbox.kind", "sandbox.url", "sandbox.at_once")
"""Options that change no reward."""
