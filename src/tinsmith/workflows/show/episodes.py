"""Logged rollouts as columns that a page carries: an index of episodes, and their tokens in chunks.

A chunk holds whole groups of one step of one file:

    u32 length of the header, header (JSON), zeros up to a multiple of 4,
    ids of all tokens (u32), logprobs, advantages and weights of the sampled ones (three times f16, NaN: not logged)

little-endian, deflated with zlib's frame. The header has an entry an episode: `[final reward, metrics, turns]`, a turn
being `[observed, sampled, joined, reward, truncated, masked, policy version, metrics, texts]`: numbers of tokens;
whether its observation goes on from the turn before, of which it then holds only what is new. Metrics are pairs of name
and number. `texts` are the logged prompt and answer, only where no tokenizer spells the tokens, else 0.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from attrs import define, field, frozen

from tinsmith.ports.files import FileSystem, exists
from tinsmith.workflows.evals.directory import TRAJECTORIES
from tinsmith.workflows.evals.inline import EVALS
from tinsmith.workflows.journal.outputs import ROLLOUTS
from tinsmith.workflows.journal.records import to_json

CHUNK_TOKENS = 1 << 17
"""Tokens after which a chunk ends with its group: what the page inflates to show one group."""
LEVEL = 1
"""Of zlib: tokens and logprobs hardly shrink further at others."""
SAID = 20
"""Damaged lines named one by one."""
_GROUP = re.compile(rb'\{"version": ?\d+, ?"split": ?"\w+", ?"group": ?(\d{1,15}),')
_STEP = re.compile(rb'\{"step": ?(\d{1,15}),')

EPISODE_COLUMNS = (
    *("chunk", "file", "step", "group", "member", "problem", "tags", "reward", "stop"),
    "tokens",
)


@define(eq=False)
class Episodes:
    """What the rollout files of a run hold."""

    files: list[str] = field(factory=list)
    columns: dict[str, list[Any]] = field(factory=lambda: {name: [] for name in EPISODE_COLUMNS})
    """A value an episode. `group` counts the groups of the run; `problem`, `tags` and `stop` lead into the lists."""
    problems: dict[str, int] = field(factory=dict)
    tags: dict[tuple[str, ...], int] = field(factory=dict)
    stops: dict[str, int] = field(factory=dict)
    ids: set[int] = field(factory=set)
    """Token ids that occur."""
    chunks: list[Future[bytes]] = field(factory=list)
    """In order; deflated by threads beside the reading."""
    notes: list[str] = field(factory=list)
    sample: tuple[npt.NDArray[np.int64], str] | None = None
    """Tokens of an action and the text that was logged for them."""
    threads: Executor = field(factory=lambda: ThreadPoolExecutor(2, "deflate"))

    @property
    def count(self) -> int:
        return len(self.columns["step"])


@frozen
class Source:
    """A file of rollouts."""

    label: str
    path: Path
    step: int | None = None
    """Of all its rows; None: each row says its own."""


def sources_of(path: Path, files: FileSystem) -> list[Source]:
    """The rollouts of the run at `path`, and the attempts of its evaluations; of an evaluation its attempts."""
    if exists(files, path / TRAJECTORIES):
        return [Source("attempts", path / TRAJECTORIES, 0)]
    folder = path / ROLLOUTS
    names = [name for name in files.list(folder) if name.endswith(".jsonl")] if exists(files, folder) else []
    names.sort(key=lambda name: (name != "train.jsonl", name))
    found = [Source(name.removesuffix(".jsonl"), folder / name) for name in names]
    evals = path / EVALS
    for name in files.list(evals) if exists(files, evals) else ():
        for steps in files.list(evals / name):
            attempts = evals / name / steps / TRAJECTORIES
            if steps.isdecimal() and exists(files, attempts):
                found.append(Source(f"{EVALS}/{name}", attempts, int(steps)))
    return found


def read_episodes(path: Path, files: FileSystem, *, limit_bytes: int, texts: bool) -> Episodes:
    """The logged episodes of the run directory at `path`, or of an evaluation.

    limit_bytes: bytes of rollout files to read at most; steps are then left out evenly (of an evaluation problems), and
    that is noted. texts: carry the logged texts too.
    """
    out = Episodes()
    sources = sources_of(path, files)
    total = sum(files.size(source.path) for source in sources)
    every = -(-total // limit_bytes) if len(sources) == 1 and sources[0].step is not None else 1
    if every > 1:
        out.notes.append(
            f"the attempts take {total / 1e6:,.0f} MB: those of one problem in {every} are shown (limit_mb= sets how "
            "much is read)"
        )
    chosen = None if every > 1 else _choose(sources, files, limit_bytes, out.notes)
    for source in sources:
        if source.label not in out.files:
            out.files.append(source.label)
        if chosen is None or source.step is None or (source.path, source.step) in chosen:
            _read_file(out, source, files, chosen, texts, every)
    out.threads.shutdown()
    return out


def _choose(
    sources: list[Source], files: FileSystem, limit_bytes: int, notes: list[str]
) -> set[tuple[Path, int]] | None:
    """The (file, step) pairs to read; None for all."""
    total = sum(files.size(source.path) for source in sources)
    if total <= limit_bytes:
        return None
    sizes: dict[int, int] = {}
    of: dict[int, set[tuple[Path, int]]] = {}

    def count(source: Source, step: int, size: int) -> None:
        sizes[step] = sizes.get(step, 0) + size
        of.setdefault(step, set()).add((source.path, step))

    for source in sources:
        if source.step is not None:
            count(source, source.step, files.size(source.path))
            continue
        for _, line, _ in _lines(files, source.path):
            step = _step_of(line)
            if step is not None:
                count(source, step, len(line))
    steps = sorted(sizes)
    every = 1
    while every < len(steps) and sum(sizes[step] for step in steps[::every]) + sizes[steps[-1]] > limit_bytes:
        every += 1
    kept = {*steps[::every], steps[-1]} if steps else set()
    notes.append(
        f"the rollouts take {total / 1e6:,.0f} MB: those of {len(kept)} of {len(steps)} steps are shown, evenly spaced "
        "(limit_mb= sets how much is read)"
    )
    return {pair for step in kept for pair in of[step]}


def _lines(files: FileSystem, path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Lines with their number (from 1), and whether each ends with a newline."""
    rest, number = b"", 0
    for chunk in files.stream(path, 1 << 22):
        parts = (rest + chunk).split(b"\n")
        rest = parts.pop()
        for line in parts:
            number += 1
            yield number, line, True
    if rest:
        yield number + 1, rest, False


def _step_of(line: bytes) -> int | None:
    """The step of a row from its first bytes, which every row of a run begins with; None for other lines, which are
    read and judged."""
    found = _STEP.match(line)
    return int(found[1]) if found else None


def _read_file(
    out: Episodes,
    source: Source,
    files: FileSystem,
    chosen: set[tuple[Path, int]] | None,
    texts: bool,
    every: int,
) -> None:
    path, file = source.path, out.files.index(source.label)
    chunk, damaged = _Chunk(texts), 0
    last: tuple[Any, Any, Any] | None = None
    group = out.columns["group"][-1] if out.count else -1
    for number, line, ended in _lines(files, path):
        if chosen is not None and (step := _step_of(line)) is not None and (path, step) not in chosen:
            continue
        if every > 1 and (found := _GROUP.match(line)) and int(found[1]) % every:
            continue
        try:
            row = _parsed(line)
            entry = _Row(row if source.step is None else {**row, "step": source.step}, texts)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if not ended:
                out.notes.append(f"{path}, line {number}: it has no end: it is being written, or was torn")
                continue
            damaged += 1
            if damaged <= SAID:
                out.notes.append(f"{path}, line {number}: not a rollout ({type(error).__name__}: {error}); left out")
            continue
        # A step may be evaluated twice, so that the same group comes again from its first episode.
        here = (entry.step, entry.group, entry.episode)
        if last is None or here[:2] != last[:2] or entry.episode <= last[2]:
            group += 1
            if chunk.tokens >= CHUNK_TOKENS or (last is not None and here[0] != last[0]):
                chunk.close(out)
        last = here
        chunk.add(entry)
        if out.sample is None and entry.sample is not None:
            out.sample = entry.sample
        values = {
            "chunk": len(out.chunks),
            "file": file,
            "step": entry.step,
            "group": group,
            "member": entry.episode,
            "problem": out.problems.setdefault(entry.problem, len(out.problems)),
            "tags": out.tags.setdefault(entry.tags, len(out.tags)),
            "reward": entry.reward,
            "stop": out.stops.setdefault(entry.stop, len(out.stops)),
            "tokens": entry.tokens,
        }
        for name, value in values.items():
            out.columns[name].append(value)
    chunk.close(out)
    if damaged > SAID:
        out.notes.append(f"{path}: {damaged - SAID} more lines are no rollouts")


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # or half of a surrogate pair, which models write, and JSON does not forbid
        return json.loads(line.decode("utf-8", "surrogatepass"))


class _Row:
    """A line of a rollout file, checked."""

    def __init__(self, row: Mapping[str, Any], texts: bool) -> None:
        self.step, self.group, self.episode = (_whole(row[name]) for name in ("step", "group", "episode"))
        self.problem, self.stop = str(row["problem"]), str(row["stop_reason"])
        self.tags = tuple(str(tag) for tag in row["tags"])
        self.reward = float(row["reward"])
        self.head = [float(row.get("final_reward", 0.0)), _pairs(row.get("metrics", {}))]
        self.turns: list[list[Any]] = []
        self.ids: list[npt.NDArray[np.int64]] = []
        self.columns: list[list[npt.NDArray[np.float32]]] = [[], [], []]
        self.tokens = 0
        self.sample: tuple[npt.NDArray[np.int64], str] | None = None
        before: list[int] = []
        for turn in row["turns"]:
            observation, action = turn["observation"], turn["action"]
            joined = bool(before) and observation[: len(before)] == before
            new = observation[len(before) :] if joined else observation
            before = observation + action
            ids = np.array(new + action, np.int64)
            if ids.ndim != 1 or (len(ids) and (ids.min() < 0 or ids.max() > 0xFFFFFFFF)):
                raise ValueError("tokens are no ids")
            logprobs = np.array(turn["logprobs"], np.float32)
            if logprobs.shape != (len(action),):
                raise ValueError(f"{len(action)} tokens were sampled, but {logprobs.size} logprobs are there")
            self.ids.append(ids)
            self.columns[0].append(logprobs)
            self.columns[1].append(_column(turn.get("advantages"), len(action)))
            weights = turn.get("weights")
            # Rows of earlier versions tell of weights only what was masked.
            self.columns[2].append(_column(0.0 if weights is None and turn.get("masked") else weights, len(action)))
            text = str(turn.get("text", ""))
            self.turns.append(
                [
                    len(new),
                    len(action),
                    int(joined),
                    float(turn.get("reward", 0.0)),
                    int(bool(turn.get("truncated"))),
                    int(bool(turn.get("masked"))),
                    turn.get("policy_version", -1),
                    _pairs(turn.get("metrics", {})),
                    [str(turn.get("prompt", "")), text] if texts else 0,
                ]
            )
            self.tokens += len(ids)
            if self.sample is None and len(action) and "text" in turn:
                self.sample = (ids[len(new) :], text)
        self.head.append(self.turns)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or abs(value) > 1 << 53:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _column(value: Any, count: int) -> npt.NDArray[np.float32]:
    """A number a token; one that stands for all; or none."""
    if value is None or not isinstance(value, list):
        return np.full(count, np.nan if value is None else float(value), np.float32)
    column = np.array(value, np.float32)
    if column.shape != (count,):
        raise ValueError(f"{count} tokens were sampled, but {column.size} advantages or weights are there")
    return column


def _pairs(metrics: Mapping[str, Any]) -> list[list[Any]]:
    """Names stay values: as keys of an object they could mean something to a program."""
    return [[str(name), float(value)] for name, value in metrics.items()]


class _Chunk:
    def __init__(self, texts: bool) -> None:
        self._heads: list[Any] = []
        self._ids: list[npt.NDArray[np.int64]] = []
        self._columns: list[list[npt.NDArray[np.float32]]] = [[], [], []]
        self.tokens = 0

    def add(self, row: _Row) -> None:
        self._heads.append(row.head)
        self._ids += row.ids
        for mine, new in zip(self._columns, row.columns, strict=True):
            mine += new
        self.tokens += row.tokens

    def close(self, out: Episodes) -> None:
        """Give the chunk to `out`, and begin anew."""
        if not self._heads:
            return
        ids = np.concatenate([np.zeros(0, np.int64), *self._ids]).astype("<u4")
        out.ids.update(np.unique(ids).tolist())
        header = to_json(self._heads).encode("utf-8", "surrogatepass")
        parts = [struct.pack("<I", len(header)), header, bytes(-len(header) % 4), ids.tobytes()]
        for column in self._columns:
            values = np.concatenate([np.zeros(0, np.float32), *column])
            with np.errstate(over="ignore"):
                parts.append(values.astype("<f2").tobytes())
        out.chunks.append(out.threads.submit(zlib.compress, b"".join(parts), LEVEL))
        self._heads, self._ids, self._columns, self.tokens = [], [], [[], [], []], 0
