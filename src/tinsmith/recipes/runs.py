"""`tinsmith runs [DIR]`: the runs and evaluations below a directory, the latest first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.domain.errors import DataNotFoundError, TinsmithError
from tinsmith.domain.metrics import key_metrics, number
from tinsmith.ports.progress import Progress
from tinsmith.rendering.show import visible
from tinsmith.workflows.evals.directory import PROBLEMS
from tinsmith.workflows.evals.reading import is_evaluation, summarize_evaluation
from tinsmith.workflows.journal.reading import Summary, find_runs, summarize
from tinsmith.workflows.journal.rundir import JOURNAL


@frozen(kw_only=True)
class Config:
    directory: Path = option(Path("runs"), help="where to look, at every depth")
    json: bool = option(False, help="one JSON list of runs, with all their last numbers, for a program")


def run(config: Config, ui: Progress) -> int:
    """1 where a run could not be read."""
    files = bootstrap.local_files()
    now = bootstrap.system_clock().now()
    found: list[Summary] = []
    damaged: list[tuple[Path, str]] = []
    for path in find_runs(config.directory, files, marks=(JOURNAL, PROBLEMS)):
        try:
            found.append(summarize_evaluation(path, files) if is_evaluation(path, files) else summarize(path, files))
        except DataNotFoundError:
            continue  # removed while this looked
        except (TinsmithError, OSError) as error:
            damaged.append((path, str(error)))
    found.sort(key=lambda run: run.changed, reverse=True)
    if config.json:
        rows = [_row(run) for run in found]
        rows += [{"path": str(path), "state": "damaged", "reason": reason} for path, reason in damaged]
        print(json.dumps(rows))
        return 1 if damaged else 0
    if not found and not damaged:
        ui.note(f"no run lies below {config.directory}")
        return 0
    ui.table(
        "",
        ["run", "state", "recipe", "model", "steps", "last numbers", "age"],
        [
            *([visible(cell) for cell in _cells(run, config.directory, now)] for run in found),
            *([visible(_name(path, config.directory)), "damaged", "", "", "", "", ""] for path, _ in damaged),
        ],
    )
    said = [(run.path, f"{run.state}: {run.reason}") for run in found if run.reason and run.state in _WHY]
    for path, why in [*said, *damaged]:
        ui.note(visible(f"{_name(path, config.directory)}: {' '.join(why.split())}"))
    return 1 if damaged else 0


_WHY = ("failed", "budget")
"""States whose reason is told below the table."""


_OF_EVALUATIONS = ("score", "truncated", "failed")


def check(config: Config) -> Iterable[Any]:
    return ()


def _name(path: Path, directory: Path) -> str:
    return str(path) if path == directory else path.relative_to(directory).as_posix()


def _cells(run: Summary, directory: Path, now: float) -> list[str]:
    shown = _OF_EVALUATIONS if run.unit == "problems" else key_metrics(run.metrics)
    numbers = "  ".join(f"{name} {number(run.metrics[name])}" for name in shown if name in run.metrics)
    steps = str(run.steps) if run.total is None else f"{run.steps}/{run.total}"
    age = _age(now - run.changed)
    return [_name(run.path, directory), run.state, run.recipe, run.model, steps, numbers, age]


def _row(run: Summary) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "state": run.state,
        "reason": run.reason,
        "recipe": run.recipe,
        "model": run.model,
        "steps": run.steps,
        "total": run.total,
        "began": run.began,
        "changed": run.changed,
        "metrics": run.metrics,
        "notes": run.notes,
    }


def _age(seconds: float) -> str:
    """E.g. "12 s", "5 min", "3 h", "2 days"."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
