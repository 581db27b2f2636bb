"""Hypothesis profiles, and the folder of real inputs beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SHARED = Path(os.environ.get("TINSMITH_SHARED", Path(__file__).resolve().parents[2] / "shared"))
_NO_INPUTS = "no real inputs at"


@pytest.fixture
def shared() -> Path:
    """The folder of real inputs (`../shared`); a test that needs it is skipped where it is missing, and counted."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{_NO_INPUTS} {SHARED}")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if _NO_INPUTS in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests on real inputs did not run: there is no folder {SHARED}")
