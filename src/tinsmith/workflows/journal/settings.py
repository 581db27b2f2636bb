"""Configs as the journal sees them: plain JSON, compared key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import ConfigError
from tinsmith.workflows.journal.records import to_json

ABSENT = "absent"


def json_object(value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it will be read back: tuples become lists, keys strings. ConfigError for what JSON cannot hold."""
    try:
        result: dict[str, Any] = json.loads(to_json(value))
    except TypeError as error:
        raise ConfigError(f"only JSON types can be recorded: {error}") from error
    return result


def pretty(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(value, sort_keys=True, ensure_ascii=False)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted keys whose values differ, with both as JSON text ("absent" for none)."""
    a, b = dict(_leaves(before)), dict(_leaves(now))
    pairs = ((key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in a | b)
    return [(key, there, here) for key, there, here in pairs if there != here]


def changed_settings(path: Path, before: dict[str, Any], now: dict[str, Any], may_change: tuple[str, ...]) -> list[str]:
    """A note for each setting that changed and may. ConfigError naming all that changed and may not."""
    notes, refused = [], []
    for key, there, here in differences(before, now):
        if any(key == name or key.startswith(f"{name}.") for name in may_change):
            notes.append(f"{key} changed from {there} to {here}")
        else:
            refused.append(f"  {key}: {there} there, {here} now")
    if refused:
        raise ConfigError(
            f"{path} was started with another config:\n" + "\n".join(refused) + "\n"
            "Give the old values, use another log_path, or start again with if_exists=delete"
        )
    return notes
