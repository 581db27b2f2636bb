"""The journal's records: one line of JSON each, checked, in order, never changed.

A line is `{"crc":"<8 hex>","seq":N,"durable":D,"time":...,"kind":...,...}` and a newline. `crc` is the CRC-32 of the
bytes after its own comma up to the newline. `seq` counts from 0 without a gap. `durable` is how many records were known
to be synced when this one was written: it tells a torn tail from damage. A crash can spoil only what was not yet
synced, so a broken line that no later record vouches for is the tail of a crash and is cut; a broken line that was
once durable is damage, and whatever follows it is not trusted.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from attrs import asdict, field, fields_dict, frozen

from tinsmith.domain.errors import JournalError

FORMAT = 1

Cause = Literal["budget", "interrupt", "error"]
"""Why a run stopped before its end: a limit of its own, Ctrl-C, or an error."""


@frozen(kw_only=True)
class Started:
    """The first record."""

    kind: ClassVar[str] = "started"
    recipe: str
    config: dict[str, Any]
    format: int = FORMAT


@frozen(kw_only=True)
class Resumed:
    """The run went back to record `after`: a checkpoint of `step` steps, or the first record. Later ones no longer
    count, nor do evaluations of these weights, which are made again."""

    kind: ClassVar[str] = "resumed"
    step: int
    after: int
    checkpoint: str | None
    config: dict[str, Any]
    notes: list[str] = field(factory=list)
    """What was wrong and how it was handled: a torn tail, a checkpoint that did not verify, changed settings."""


@frozen(kw_only=True)
class Step:
    """Step `step` (from 0) was trained, and its results were awaited."""

    kind: ClassVar[str] = "step"
    step: int
    metrics: dict[str, Any]
    datums: str
    """Digest of the datums that were trained."""


@frozen(kw_only=True)
class Evaluation:
    """The weights after `step` steps were evaluated."""

    kind: ClassVar[str] = "evaluation"
    step: int
    metrics: dict[str, Any]


@frozen(kw_only=True)
class Checkpoint:
    """The state after `step` steps is durable."""

    kind: ClassVar[str] = "checkpoint"
    name: str
    keep: str
    """"periodic", "rolling" or "final"."""
    step: int
    handle: str
    """What `Trainer.load_state` takes; a path inside the run directory is relative to it here."""
    inside: bool = False
    """Whether `handle` is such a path."""
    cursor: dict[str, Any]
    sha256: str | None = None
    """Of the state, when the trainer keeps it as `checkpoints/<name>` or `checkpoints/<name>.<suffix>`; else None."""
    size: int | None = None
    rollouts: dict[str, int] = field(factory=dict)
    """Bytes of each rollout file that belong to steps before `step`."""


@frozen(kw_only=True)
class Deleted:
    """Checkpoint `name` is not to be used again; its state is deleted after this record is durable."""

    kind: ClassVar[str] = "deleted"
    name: str


@frozen(kw_only=True)
class Stopped:
    """The process left the run after `step` steps, before it was complete, and said why."""

    kind: ClassVar[str] = "stopped"
    step: int
    reason: str
    cause: Cause = "budget"


@frozen(kw_only=True)
class Finished:
    """The run was complete after `step` steps."""

    kind: ClassVar[str] = "finished"
    step: int
    reason: str


Event: TypeAlias = Started | Resumed | Step | Evaluation | Checkpoint | Deleted | Stopped | Finished
KINDS: dict[str, type[Event]] = {
    cls.kind: cls for cls in (Started, Resumed, Step, Evaluation, Checkpoint, Deleted, Stopped, Finished)
}


@frozen
class Record:
    seq: int
    event: Event
    durable: int = 0
    time: float = 0.0
    """Seconds since the epoch."""


@frozen
class Scan:
    """What a journal file says: its records, and how many of its bytes they take (the rest is a torn tail)."""

    records: list[Record]
    length: int


def _plain(value: Any) -> Any:
    """The value in JSON types. NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity", which
    `float` reads: JSON has no numbers for them."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """One line of valid JSON; numpy scalars and arrays as numbers and lists. TypeError for what JSON cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def encode(record: Record) -> bytes:
    """The line of a record, newline included."""
    head = {"seq": record.seq, "durable": record.durable, "time": round(record.time, 3), "kind": record.event.kind}
    # Lone surrogates can come out of broken files; they must not stop a run.
    payload = to_json(head | asdict(record.event, recurse=False)).encode("utf-8", "surrogatepass")[1:]
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(payload), payload)


def decode(line: bytes) -> Record | None:
    """The record of a line without its newline; None when the line is damaged.

    JournalError for a sound line that this version does not know.
    """
    if len(line) < 18 or line[:8] != b'{"crc":"' or line[16:18] != b'",':
        return None
    payload = line[18:]
    if b"%08x" % zlib.crc32(payload) != line[8:16]:
        return None
    entries = json.loads((b"{" + payload).decode("utf-8", "surrogatepass"))
    seq, durable, time, kind = (entries.pop(key) for key in ("seq", "durable", "time", "kind"))
    cls = KINDS.get(kind)
    if cls is None or not entries.keys() <= fields_dict(cls).keys() or entries.get("format", FORMAT) != FORMAT:
        raise JournalError(f"record {seq} ({kind}) was written by another version of tinsmith")
    return Record(seq, cls(**entries), durable, time)


def scan(data: bytes, source: str) -> Scan:
    """Read a journal's bytes, up to a torn tail if there is one.

    Raises JournalError, naming `source` and the line (from 1), when a record that was once durable is damaged.
    """
    records: list[Record] = []
    length = 0
    broken: int | None = None
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = decode(line)
        except JournalError as error:
            raise JournalError(f"{source}, line {number}: {error}") from None
        if broken is None and record is not None and record.seq == len(records):
            records.append(record)
            length += len(line) + 1
            continue
        broken = number if broken is None else broken
        if record is not None and record.durable > len(records):
            raise JournalError(
                f"{source}, line {broken}: the record is damaged, and records that follow it show that it was once "
                f"durable. What follows is not trusted. To go on from the last checkpoint before it, keep a copy of "
                f"the file and cut it there (head -n {broken - 1}), then run the same command again"
            )
    return Scan(records, length)


def before(records: Iterable[Record], resumed: Resumed) -> list[Record]:
    """The records that still count after a resume."""
    return [
        r
        for r in records
        if r.seq <= resumed.after and not (isinstance(r.event, Evaluation) and r.event.step >= resumed.step)
    ]


def live(records: Iterable[Record]) -> list[Record]:
    """The records that count: those that a later resume went back before are left out."""
    kept: list[Record] = []
    for record in records:
        if isinstance(record.event, Resumed):
            kept = before(kept, record.event)
        kept.append(record)
    return kept


def metric_lines(records: Iterable[Record]) -> dict[int, dict[str, Any]]:
    """Metrics of each step among live records: those of its training, and of evaluations of the weights before it."""
    lines: dict[int, dict[str, Any]] = {}
    for record in records:
        if isinstance(record.event, Step | Evaluation):
            lines.setdefault(record.event.step, {"step": record.event.step}).update(record.event.metrics)
    return lines
