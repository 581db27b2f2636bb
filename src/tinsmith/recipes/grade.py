"""`tinsmith grade FILE`: compare answers with the right ones, line by line."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.domain import answers
from tinsmith.domain.errors import ConfigError, DataNotFoundError
from tinsmith.ports.grader import Grade, Grader
from tinsmith.ports.pending import Pending
from tinsmith.ports.progress import Progress

BATCH_LINES, BATCH_BYTES = 1024, 1 << 22
IN_FLIGHT = 4
"""Batches that are graded while the next one is read."""
MAX_LINE_BYTES = 1 << 28
SHOWN_ERRORS = 20


@frozen(kw_only=True)
class Config:
    file: str = option(help='lines {"id"?, "gold", "pred"}; - reads standard input')
    mode: answers.Mode = option("answer", help="pred is the answer, or a response in which it is found first")
    grader: bootstrap.GraderName = option(
        "native", help="sympy and math_verify (extra math) are asked where native cannot decide"
    )
    policy: answers.Policy = option("relaxed", help="what counts as equal: docs/answers.md")
    timeout: float = option(2.0, help="seconds that sympy or math_verify may take for a pair", exclusive_min=0)
    out: Path | None = option(None, help="file for the verdicts, complete or not there at all; none: standard output")


@frozen
class _Line:
    """A line of input: a pair, or why it is none."""

    number: int
    id: Any = None
    gold: str | None = None
    pred: str | None = None
    error: str | None = None


def run(config: Config, ui: Progress) -> int:
    """1 where some lines could not be read."""
    began, seen = time.perf_counter(), _Summary()
    with (
        _input(config.file) as file,
        _output(config) as out,
        closing(bootstrap.open_grader(config.grader, policy=config.policy, timeout=config.timeout)) as grader,
    ):
        for line, grade in _graded(_lines(file), grader, config.mode):
            seen.add(line, grade)
            verdict = {"id": line.id, "verdict": grade.equal, "reason": grade.reason, "tier": grade.tier}
            out.write(json.dumps({**verdict, "seconds": round(grade.seconds, 9)}) + "\n")
        out.flush()
    seen.say(time.perf_counter() - began)
    return 1 if seen.unreadable else 0


def check(config: Config) -> Iterable[Any]:
    return ()


def _lines(file: IO[bytes]) -> Iterator[_Line]:
    number = 0
    while data := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
            while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                pass
            yield _Line(number, error=f"longer than {MAX_LINE_BYTES} bytes")
        else:
            yield _line(number, data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data)


def _line(number: int, data: bytes) -> _Line:
    try:
        row = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _Line(number, error=f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return _Line(number, error=f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return _Line(number, error=f"not JSON that can be read: {error}")
    if not isinstance(row, dict):
        return _Line(number, error="not an object")
    texts = []
    for name in ("gold", "pred"):
        value = row.get(name, ...)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = json.dumps(value)
        if value is not None and not isinstance(value, str):
            said = "is missing" if value is ... else f"is no text: {json.dumps(value)[:40]}"
            return _Line(number, row.get("id"), error=f'"{name}" {said}')
        texts.append(value)
    return _Line(number, row.get("id"), *texts)


def _graded(lines: Iterator[_Line], grader: Grader, mode: answers.Mode) -> Iterator[tuple[_Line, Grade]]:
    """In order; some batches are graded while the next is read."""
    waiting: deque[tuple[list[_Line], Pending[list[Grade]]]] = deque()
    batch: list[_Line] = []
    size = 0
    for line in lines:
        if mode == "response" and line.pred is not None:
            found = answers.extract(line.pred)
            line = _Line(line.number, line.id, line.gold, None if found is None else found.text, line.error)
        batch.append(line)
        size += len(line.gold or "") + len(line.pred or "")
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            waiting.append((batch, _submit(batch, grader)))
            batch, size = [], 0
        while len(waiting) > IN_FLIGHT:
            yield from _settled(*waiting.popleft(), mode)
    waiting.append((batch, _submit(batch, grader)))
    for item in waiting:
        yield from _settled(*item, mode)


def _submit(batch: list[_Line], grader: Grader) -> Pending[list[Grade]]:
    pairs = [line for line in batch if line.error is None]
    return grader.grade([line.gold for line in pairs], [line.pred for line in pairs])


def _settled(batch: list[_Line], pending: Pending[list[Grade]], mode: answers.Mode) -> Iterator[tuple[_Line, Grade]]:
    grades = iter(pending.result(None))  # each pair has a limit of its own
    for line in batch:
        if line.error is not None:
            yield line, Grade(None, "unreadable_line", "none")
            continue
        grade = next(grades)
        lost = mode == "response" and line.pred is None and grade.equal is False
        yield line, Grade(False, "not_found", "none", grade.seconds) if lost else grade


class _Summary:
    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.unreadable = 0

    def add(self, line: _Line, grade: Grade) -> None:
        if line.error is not None:
            self.unreadable += 1
            if self.unreadable <= SHOWN_ERRORS:
                self._print(f"line {line.number}: {line.error}")
            return
        self.verdicts["undecided" if grade.equal is None else "equal" if grade.equal else "different"] += 1
        self.tiers[grade.tier] += 1
        if grade.equal is None:
            self.open[grade.reason] += 1

    def say(self, seconds: float) -> None:
        if self.unreadable > SHOWN_ERRORS:
            self._print(f"... and {self.unreadable - SHOWN_ERRORS} more lines that could not be read")
        total = sum(self.verdicts.values())
        counts = ", ".join(f"{self.verdicts[name]} {name}" for name in ("equal", "different", "undecided"))
        self._print(f"{total} graded: {counts}; {self.unreadable} lines unreadable")
        for title, counter in (("decided by", self.tiers), ("undecided because", self.open)):
            if counter:
                self._print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in counter.most_common()))
        self._print(f"{seconds:.2f} s, {total / max(seconds, 1e-9):,.0f} pairs/s")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr)


@contextmanager
def _input(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(name, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise DataNotFoundError(f"{name}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from None
    with file:
        yield file


@contextmanager
def _output(config: Config) -> Iterator[IO[str]]:
    """Standard output, or a file that has its name only once it is complete and on the disk."""
    if config.out is None:
        try:
            yield sys.stdout
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        return
    path = config.out.expanduser()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = open(temporary, "w", encoding="ascii")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"out={path}: {error.strerror}") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
