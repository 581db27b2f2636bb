"""Directories of evaluations as someone who looks at them sees them: nothing is locked, written or repaired."""

from __future__ import annotations

from pathlib import Path

from tinsmith.ports.files import FileSystem, exists
from tinsmith.workflows.evals.directory import PROBLEMS, RESULTS, TRAJECTORIES, read_config, read_results
from tinsmith.workflows.evals.inline import numbers
from tinsmith.workflows.evals.results import Results
from tinsmith.workflows.journal.reading import State, Summary
from tinsmith.workflows.journal.rundir import JOURNAL, LOCK


def is_evaluation(path: Path, files: FileSystem) -> bool:
    return exists(files, path / PROBLEMS) and not exists(files, path / JOURNAL)


def summarize_evaluation(path: Path, files: FileSystem) -> Summary:
    """An evaluation in a line: its problems are its steps. Raises DataNotFoundError, DataError."""
    config = read_config(path, files)
    found = read_results(path, files) if exists(files, path / RESULTS) else None
    holder = files.holder(path / LOCK)
    written = [path / name for name in (RESULTS, TRAJECTORIES, PROBLEMS) if exists(files, path / name)]
    state, reason = _state(found)
    done = 0 if found is None else len(found.outcomes) + len(found.failed)
    if holder is not None or found is None:
        done = max(done, _lines(path / TRAJECTORIES, files) // max(int(config.get("n", 1)), 1))
    return Summary(
        path=path,
        state=state if holder is None else "running",
        reason=reason if holder is None else f"process {holder}",
        recipe=f"eval {config.get('benchmark', '')}".strip(),
        config=config,
        steps=done,
        total=None if found is None else found.problems,
        metrics={} if found is None else {**numbers(found), **found.metrics},
        began=files.modified(path / PROBLEMS),
        changed=max(files.modified(file) for file in written),
        unit="problems",
    )


def _state(found: Results | None) -> tuple[State, str]:
    if found is None:
        return "killed", ""
    if len(found.outcomes) + len(found.failed) < found.problems:
        return "stopped", ""
    return "finished", f"{len(found.failed)} problems failed for the world's fault" if found.failed else ""


def _lines(path: Path, files: FileSystem) -> int:
    return sum(chunk.count(b"\n") for chunk in files.stream(path)) if exists(files, path) else 0
