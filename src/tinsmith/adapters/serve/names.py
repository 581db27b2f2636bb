"""Names on the wire: of checkpoints, sessions and samplers."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tinsmith.domain.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MAX_TTL_S = 10 * 366 * 86400


def checkpoint_name(path: str | None, seq: int) -> str:
    """The last part of a checkpoint's path; without one, the number of the request."""
    if path is None:
        return f"{seq:06d}"
    if not _NAME.fullmatch(path) or path.startswith("."):
        raise ConfigError(f"checkpoint name {path[:140]!r}: up to 128 letters, digits, _, - and ., not . first")
    return path


def expiry(ttl_seconds: int | None) -> float | None:
    """When a checkpoint ends, in seconds since 1970."""
    if ttl_seconds is None:
        return None
    if not 1 <= ttl_seconds <= MAX_TTL_S:
        raise ConfigError(f"ttl_seconds={ttl_seconds}: from 1 to {MAX_TTL_S}")
    return time.time() + ttl_seconds


def sampling_session(session: str, seq: int) -> str:
    return f"{session}:sample:{seq}"


def training_model(session: str, seq: int) -> str:
    return f"{session}:train:{seq}"


def file_size(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.is_file() else 0
