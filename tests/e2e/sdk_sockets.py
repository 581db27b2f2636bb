"""The tinker SDK never closes the connection of its first request; a test that uses it must not mind."""

from __future__ import annotations

import pytest

LEFT_OPEN = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
