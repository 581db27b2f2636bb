"""The directory of an evaluation, which may be killed at any moment and goes on.

`trajectories.jsonl` holds the attempts at each problem that came off, a line an attempt, all attempts at a problem one
after the other and written at once: what it holds is done. `results.json` follows from it. `problems.json`, written
last when the directory is made, says that it is one, and of which problems.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tinsmith.domain.cost import Tokens
from tinsmith.domain.episodes import Group
from tinsmith.domain.errors import ConfigError, DataError, DataNotFoundError, JournalError, RunPathError
from tinsmith.ports.files import FileSystem, exists, make_directories, read, write_atomic
from tinsmith.workflows.evals.results import Outcome, Results
from tinsmith.workflows.journal.rundir import JOURNAL, LOCK
from tinsmith.workflows.journal.settings import changed_settings, json_object, pretty
from tinsmith.workflows.rollout_log import from_lines

PROBLEMS, CONFIG, RESULTS, TRAJECTORIES = "problems.json", "config.json", "results.json", "trajectories.jsonl"


class EvaluationDirectory:
    """An open, locked directory. `with` closes it."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        """Locks it; use `open`."""
        self.path = path
        self.notes: list[str] = []
        """What was found there and how it was handled, for the user to see."""
        self.earlier: Results | None = None
        """What results.json said when it was opened."""
        self.outcomes: dict[int, Outcome] = {}
        """Problems that came off, by index."""
        self.used: dict[int, Tokens] = {}
        """What was read and sampled for them."""
        self._files = files
        self._lock = files.lock(path / LOCK)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        config: Mapping[str, Any],
        fingerprint: str,
        files: FileSystem,
        may_change: Iterable[str] = (),
        if_exists: Literal["resume", "raise", "delete"] = "resume",
    ) -> EvaluationDirectory:
        """Open or make it.

        fingerprint: of the problems. may_change: options (dotted) that may differ from those it was begun with.
        Raises ConfigError for another config or other problems, RunPathError for a directory of something else,
        JournalError with if_exists=raise, RunLockedError, DataError for damaged files.
        """
        path = Path(path).absolute()
        make_directories(files, path)
        if exists(files, path / JOURNAL):
            raise RunPathError(f"{path} is the directory of a training run: use another log_path")
        opened = cls(path, files)
        try:
            opened._open(json_object(config), fingerprint, tuple(may_change), if_exists)
        except BaseException:
            opened.close()
            raise
        return opened

    def _open(self, config: dict[str, Any], fingerprint: str, may_change: tuple[str, ...], if_exists: str) -> None:
        there = exists(self._files, self.path / PROBLEMS)
        if there and if_exists == "raise":
            raise JournalError(
                f"{self.path} holds an evaluation; if_exists=resume goes on with it, if_exists=delete starts again"
            )
        if not there or if_exists == "delete":
            for name in (PROBLEMS, RESULTS, TRAJECTORIES):  # in this order: half of it gone, it is none
                self._files.remove(self.path / name)
            self._write(CONFIG, config)
            self._write(PROBLEMS, {"fingerprint": fingerprint})
            return
        self.notes += changed_settings(self.path, read_config(self.path, self._files), config, may_change)
        if _object(self._files, self.path / PROBLEMS).get("fingerprint") != fingerprint:
            raise ConfigError(
                f"{self.path} was begun with other problems: their text has changed since. Use another log_path, or "
                "start again with if_exists=delete"
            )
        self._write(CONFIG, config)
        if exists(self._files, self.path / RESULTS):
            self.earlier = read_results(self.path, self._files)
        self._load()

    def _load(self) -> None:
        file = self.path / TRAJECTORIES
        if not exists(self._files, file):
            return
        data = read(self._files, file)
        kept = 0
        for index, group, size, used in _groups(_sound(data), str(file)):
            if size is None:  # the last problem lacks attempts
                break
            self.outcomes[index] = Outcome.of(group)
            self.used[index] = used
            kept += size
        if kept < len(data):
            self._files.truncate(file, kept)
            self._files.sync(file)
            self.notes.append(f"cut {len(data) - kept} bytes that a crash left in {TRAJECTORIES}")

    def add(
        self,
        index: int,
        group: Group,
        rows: Iterable[Mapping[str, Any]],
        used: Tokens = Tokens(),  # noqa: B008 - frozen
    ) -> None:
        """A problem came off. rows: its attempts as JSON."""
        listed = [{**row, **({} if i else used.metrics())} for i, row in enumerate(rows)]
        lines = [
            json.dumps({**row, "group": index, "of": len(listed)}, ensure_ascii=False, separators=(",", ":")) + "\n"
            for row in listed
        ]
        try:
            self._files.append(self.path / TRAJECTORIES, "".join(lines).encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise JournalError(f"{self.path / TRAJECTORIES} cannot be written: {error}") from error
        self.outcomes[index] = Outcome.of(group)
        self.used[index] = used

    def clear(self) -> None:
        """Forget what is done."""
        for name in (RESULTS, TRAJECTORIES):
            self._files.remove(self.path / name)
        self.outcomes.clear()
        self.used.clear()
        self.earlier = None

    def write_results(self, results: Results) -> None:
        """Everything durable."""
        if exists(self._files, self.path / TRAJECTORIES):
            self._files.sync(self.path / TRAJECTORIES)
        self._write(RESULTS, results.to_json())

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_atomic(self._files, self.path / name, pretty(value).encode("utf-8", "surrogatepass"))

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_results(path: Path, files: FileSystem) -> Results:
    """results.json of an evaluation's directory. Raises DataNotFoundError, DataError."""
    return Results.of_json(_object(files, path / RESULTS), str(path / RESULTS))


def read_config(path: Path, files: FileSystem) -> dict[str, Any]:
    """The config of an evaluation's directory. Raises DataNotFoundError, DataError."""
    return _object(files, path / CONFIG)


def read_trajectories(path: Path, files: FileSystem) -> Iterator[tuple[int, Group]]:
    """(index, attempts) of each problem that came off, in the order in which they did."""
    file = path / TRAJECTORIES
    if not exists(files, file):
        raise DataNotFoundError(
            f"{path} holds no {TRAJECTORIES}: it is no evaluation, or none of its problems came off"
        )
    data = read(files, file)
    for index, group, size, _ in _groups(_sound(data), str(file)):
        if size is not None:
            yield index, group


def _sound(data: bytes) -> bytes:
    """The whole lines before what a crash left: a torn line, or blocks of zeros, which JSON never holds."""
    before, _, _ = data.partition(b"\0")
    return before[: before.rfind(b"\n") + 1]


def _groups(data: bytes, source: str) -> Iterator[tuple[int, Group, int | None, Tokens]]:
    """(index, group, bytes, what was used) for each problem; bytes is None for one that lacks attempts, with which it
    ends."""
    lines = data.split(b"\n")[:-1]
    heads, used = [], list[Tokens]()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            heads.append((int(row["group"]), int(row["of"])))
            used.append(Tokens.of_metrics(row))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not an attempt ({error!r})", source=source, line=number) from error
    for (index, of), places in groupby(range(len(lines)), key=lambda i: heads[i]):
        members = list(places)
        texts = [lines[i] for i in members]
        (group,) = from_lines([t.decode("utf-8", "surrogatepass") for t in texts], source=source)
        yield index, group, sum(len(t) + 1 for t in texts) if len(texts) == of else None, used[members[0]]


def _object(files: FileSystem, file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read(files, file))
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{file}: no such file; name the directory of an evaluation") from None
    except ValueError as error:
        raise DataError(f"not JSON ({error})", source=str(file)) from error
    if not isinstance(value, dict):
        raise DataError("not an object", source=str(file))
    return value
