"""Option files: TOML, JSON or YAML, by suffix."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import ConfigError

CONFIG_NAME = "config.json"


def read_file(path: str | Path) -> dict[str, Any]:
    """The table that a file holds. A directory is a run directory and stands for the config.json in it.

    Raises ConfigError naming file and line.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: a configuration file ends in {', '.join(_READERS)}")
    data = reader(path, text_of(path))
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected a table of options at the top, not {type(data).__name__}")
    return data


def text_of(path: str | Path, option: str = "") -> str:
    """The text of a small file that an option names; a mark of UTF-8 at its begin, as Windows writes it, is none of it.

    Raises ConfigError naming the file, and the option where it is given.
    """
    path = Path(path).expanduser()
    named = f"{option}={path}" if option else path
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{named}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{named}: {error.strerror or error}") from None


def _toml(path: Path, text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None  # ends in "(at line 3, column 5)"


def _json(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(f"{path}: {key} is given twice")
            seen[key] = value
        return seen

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def _yaml(path: Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML itself keeps the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys and key.value != "<<":
                        line = key.start_mark.line + 1
                        raise ConfigError(f"{path}, line {line}: {key.value} is given twice")
                    keys.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(text, Loader)
        return {} if data is None else data  # nothing but comments
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


_READERS: dict[str, Callable[[Path, str], Any]] = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}
