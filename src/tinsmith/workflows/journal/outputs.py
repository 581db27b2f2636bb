"""What a run leaves for people: config.json, metrics.jsonl and rollouts/*.jsonl.

config.json and metrics.jsonl follow from the journal and are made again from it. Rollouts are only in their files; a
checkpoint vouches for the part that belongs to the steps before it, and a resume cuts off the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import JournalError
from tinsmith.ports.files import FileSystem, exists, make_directories, read, write_atomic
from tinsmith.workflows.journal.log import Journal
from tinsmith.workflows.journal.records import Finished, Record, Step, metric_lines, to_json
from tinsmith.workflows.journal.settings import pretty

CONFIG, METRICS, ROLLOUTS = "config.json", "metrics.jsonl", "rollouts"


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    # A lone surrogate, as a broken input may hold, must not stop a run.
    return "".join(to_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _text(config: Mapping[str, Any]) -> bytes:
    return pretty(config).encode("utf-8", "surrogatepass")


class Outputs:
    def __init__(self, path: Path, files: FileSystem, journal: Journal) -> None:
        self._path = path
        self._files = files
        self._journal = journal
        self._evaluations: dict[int, dict[str, Any]] = {}  # of steps whose line in metrics.jsonl is to come
        self._sizes: dict[str, int] = {}  # bytes of each rollout file
        self._last: dict[str, tuple[int, int]] = {}  # of each: the last step in it, and the bytes before that

    # Metrics

    def rewrite(self, config: Mapping[str, Any], records: list[Record]) -> None:
        """Make config.json and metrics.jsonl say what the records, which count, say."""
        lines = metric_lines(records)
        done = {r.event.step for r in records if isinstance(r.event, Step)}
        self._evaluations = {}
        if not isinstance(records[-1].event, Finished):
            self._evaluations = {step: lines.pop(step) for step in lines.keys() - done}
        for name, data in ((CONFIG, _text(config)), (METRICS, _lines(lines.values()))):
            path = self._path / name
            with self._journal.guard(path, len(data)):
                if not exists(self._files, path) or read(self._files, path) != data:
                    write_atomic(self._files, path, data)

    def write_config(self, config: Mapping[str, Any]) -> None:
        data = _text(config)
        path = self._path / CONFIG
        with self._journal.guard(path, len(data)):
            write_atomic(self._files, path, data)

    def add_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write the line of a step, with the evaluations that waited for it."""
        self._append_metrics({"step": step} | self._evaluations.pop(step, {}) | dict(metrics))

    def add_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep an evaluation for the line of its step, which is to come."""
        self._evaluations.setdefault(step, {"step": step}).update(metrics)

    def add_waiting(self) -> None:
        """Write the lines of evaluations of which no step is to come."""
        for step in sorted(self._evaluations):
            self._append_metrics(self._evaluations.pop(step))

    def read_metrics(self) -> list[dict[str, Any]]:
        path = self._path / METRICS
        return [json.loads(line) for line in read(self._files, path).splitlines()] if exists(self._files, path) else []

    def _append_metrics(self, line: Mapping[str, Any]) -> None:
        self._journal.append_data(self._path / METRICS, _lines([line]), synced=False)

    # Rollouts

    def add_rollouts(self, name: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        file = f"{name}.jsonl"
        size, (last, _) = self._sizes.get(file, 0), self._last.get(file, (-1, 0))
        if step < last:
            raise JournalError(f"{ROLLOUTS}/{file}: rows of step {step} after those of step {last}")
        if step > last:
            self._last[file] = (step, size)
        data = _lines({"step": step, **row} for row in rows)
        if data:
            self._journal.append_data(self._path / ROLLOUTS / file, data)
            self._sizes[file] = size + len(data)

    def rollouts_before(self, step: int) -> dict[str, int]:
        """Bytes of each rollout file that belong to earlier steps; `step` is not before the last one written."""
        return {
            file: self._last[file][1] if self._last.get(file, (-1, 0))[0] >= step else size
            for file, size in self._sizes.items()
        }

    def cut_rollouts(self, sizes: Mapping[str, int]) -> list[str]:
        """Cut rollouts to these sizes, durably, since the next checkpoint vouches for what is there then. Gives notes
        on what is missing."""
        folder = self._path / ROLLOUTS
        notes = []
        with self._journal.guard(folder):
            make_directories(self._files, folder)
            for name in self._files.list(folder):
                found, size = self._files.size(folder / name), sizes.get(name, 0)
                if size == 0:
                    self._files.remove(folder / name)
                    continue
                if found < size:
                    notes.append(f"{ROLLOUTS}/{name} has {found} bytes instead of {size}: earlier rollouts are lost")
                elif found > size:
                    self._files.truncate(folder / name, size)
                    self._files.sync(folder / name)
                self._sizes[name] = min(found, size)
            self._files.sync(folder)
        return notes
