"""Run directories as someone who looks at them sees them: nothing is locked, written or repaired."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from tinsmith.domain.errors import DataError, DataNotFoundError, JournalError
from tinsmith.ports.files import FileSystem, exists, read
from tinsmith.workflows.journal.outputs import CONFIG
from tinsmith.workflows.journal.records import (
    Deleted,
    Event,
    Finished,
    Record,
    Started,
    Step,
    Stopped,
    decode,
    live,
    scan,
)
from tinsmith.workflows.journal.rundir import JOURNAL, LOCK

State = Literal["running", "finished", "stopped", "budget", "failed", "killed"]
"""`running`: a process holds its lock. `stopped`: by Ctrl-C. `budget`: by a limit of its own. `failed`: by an error.
`killed`: its process ended without a word."""

TAIL_BYTES = 1 << 16
DEPTH = 8
"""Levels of directories below the first that are searched for runs."""

_CAUSES: Mapping[str, State] = {"budget": "budget", "interrupt": "stopped", "error": "failed"}


@frozen(kw_only=True)
class Summary:
    """A run in a line."""

    path: Path
    state: State
    reason: str
    """Why it stopped, or who works on it; empty where nothing is known."""
    recipe: str
    config: dict[str, Any]
    steps: int
    """Steps done that count."""
    total: int | None
    """Steps when it will be complete; None where nothing tells."""
    metrics: dict[str, Any]
    """Of the last step that counts; empty before the first."""
    began: float
    """Seconds since the epoch."""
    changed: float
    """When the last record was written; seconds since the epoch."""
    notes: list[str] = field(factory=list)
    """What is wrong with the directory."""
    unit: str = "steps"
    """What is counted as steps."""

    @property
    def model(self) -> str:
        return str(self.config.get("model", ""))


def find_runs(root: Path, files: FileSystem, depth: int = DEPTH, marks: tuple[str, ...] = (JOURNAL,)) -> Iterator[Path]:
    """The run directories at and below a directory, by name: those that hold a file of `marks`. DataNotFoundError when
    there is no such directory."""
    try:
        names = files.list(root)
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{root}: there is no such directory") from None
    yield from _runs(root, names, files, depth, marks)


def _runs(directory: Path, names: list[str], files: FileSystem, depth: int, marks: tuple[str, ...]) -> Iterator[Path]:
    if any(mark in names for mark in marks):
        yield directory
        return
    for name in names if depth > 0 else ():
        if name.startswith("."):
            continue
        try:
            below = files.list(directory / name)
        except OSError:  # a file, one that is just being removed, or one that is not ours to read
            continue
        yield from _runs(directory / name, below, files, depth - 1, marks)


def check_run(path: Path, files: FileSystem) -> None:
    """DataNotFoundError or DataError for a path that is no run directory, saying what it is."""
    if exists(files, path / JOURNAL):
        return
    if not exists(files, path):
        raise DataNotFoundError(f"{path}: there is no such run directory; `tinsmith runs` lists the runs below runs/")
    try:
        found = [str(run) for _, run in zip(range(5), find_runs(path, files), strict=False)]
    except DataNotFoundError:
        raise DataError("a file, not a run directory", source=str(path)) from None
    hint = f"; below it are {', '.join(found)}" if found else "; `tinsmith runs` lists the runs below runs/"
    raise DataError(f"a directory that holds no run (no {JOURNAL}){hint}", source=str(path))


def summarize(path: Path, files: FileSystem) -> Summary:
    """A run in a line, from the first record of its journal and its last ones alone. Raises what `check_run` raises,
    and JournalError for a file that is no journal."""
    check_run(path, files)
    journal, notes = path / JOURNAL, list[str]()
    holder = files.holder(path / LOCK)
    head = b""
    for chunk in files.stream(journal, TAIL_BYTES):
        head += chunk
        if b"\n" in chunk:
            break
    first = _decoded(head.partition(b"\n")[0], journal)
    if first is None or not isinstance(first.event, Started):
        raise JournalError(f"{journal} is no journal of a run, or is damaged in its first record")
    steps, metrics, last = 0, dict[str, Any](), first
    ended: Event | None = None
    seen = False
    for record in _backwards(journal, files, notes):
        event = record.event
        if not seen and not isinstance(event, Deleted):
            seen, last = True, record
            steps = 0 if isinstance(event, Started) else event.step + isinstance(event, Step)
            ended = event if isinstance(event, Stopped | Finished) else None
        # What a resume went back before is of its step or later ones.
        if isinstance(event, Step) and event.step < steps:
            metrics = event.metrics
            break
    config = _config(path, files, notes) or first.event.config
    return Summary(
        path=path,
        state=state_of(holder, ended),
        reason=f"process {holder}" if holder else getattr(ended, "reason", ""),
        recipe=first.event.recipe,
        config=config,
        steps=steps,
        total=total_steps(steps, metrics, config),
        metrics=metrics,
        began=first.time,
        changed=last.time,
        notes=notes,
    )


def state_of(holder: str | None, last: Event | None) -> State:
    """The state of a run whose lock `holder` has, if anybody, and whose journal ends with `last`."""
    if holder is not None:
        return "running"
    if isinstance(last, Finished):
        return "finished"
    return _CAUSES.get(last.cause, "failed") if isinstance(last, Stopped) else "killed"


def total_steps(steps: int, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Steps when the run will be complete: the loops write the share that is done, and some configs say it."""
    for name in ("progress/done_frac", "progress"):
        share = metrics.get(name)
        if isinstance(share, int | float) and 0 < share <= 1 and steps > 0:
            return round(steps / share)
    most = config.get("max_steps")
    return most if isinstance(most, int) else None


@frozen(kw_only=True)
class Reading:
    """A whole journal, as far as it can be trusted."""

    records: list[Record]
    """Those that count."""
    all_records: list[Record]
    """Those too that a resume went back before."""
    notes: list[str]
    """What is wrong with it."""


def read_journal(path: Path, files: FileSystem) -> Reading:
    """The journal of a run directory. What follows a damaged record is left out, and that is noted."""
    journal = path / JOURNAL
    data = read(files, journal)
    try:
        found = scan(data, str(journal))
        records, notes = found.records, list[str]()
        if data.find(b"\n", found.length) >= 0:  # less than a line more is being written, or was torn
            notes.append(
                f"{journal}, line {len(records) + 1}: the record is damaged, by a crash or otherwise. Shown is what "
                "comes before"
            )
    except JournalError as error:
        records, notes = _leading(data), [f"{error}. Shown is what comes before"]
    return Reading(records=live(records), all_records=records, notes=notes)


def _leading(data: bytes) -> list[Record]:
    """The sound records up to the first that is not."""
    records: list[Record] = []
    for line in data.split(b"\n")[:-1]:
        try:
            record = decode(line)
        except JournalError:
            break
        if record is None or record.seq != len(records):
            break
        records.append(record)
    return records


def _backwards(journal: Path, files: FileSystem, notes: list[str]) -> Iterator[Record]:
    """Sound records from the last to the first. What follows the last newline is being written, or torn."""
    end = files.size(journal)
    rest, size, torn = b"", TAIL_BYTES, True
    while end > 0:
        start = max(0, end - size)
        data = b"".join(_exactly(files.stream(journal, TAIL_BYTES, start), end - start)) + rest
        lines = data.split(b"\n")
        rest = lines.pop(0) if start else b""
        if torn and lines:
            lines.pop()
            torn = False
        for line in reversed(lines):
            record = _decoded(line, journal)
            if record is not None:
                yield record
            else:
                notes.append(f"{journal}: a damaged record was passed over")
        end, size = start, size * 4


def _exactly(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes: the file may have grown."""
    for chunk in chunks:
        yield chunk[:size]
        size -= len(chunk)
        if size <= 0:
            return


def _decoded(line: bytes, journal: Path) -> Record | None:
    try:
        return decode(line)
    except JournalError as error:
        raise JournalError(f"{journal}: {error}") from None


def _config(path: Path, files: FileSystem, notes: list[str]) -> dict[str, Any] | None:
    """The config in force, which a resume may have changed."""
    try:
        config = json.loads(read(files, path / CONFIG).decode("utf-8", "surrogatepass"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        notes.append(f"{path / CONFIG} is damaged ({error}); the config is that of the journal")
        return None
    return config if isinstance(config, dict) else None
