"""Evaluations on the way: a benchmark that a training run measures its weights on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith.domain.evaluation import standard_error
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.files import FileSystem, exists, read, write_atomic
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.workflows.evals.directory import EvaluationDirectory
from tinsmith.workflows.evals.results import Results
from tinsmith.workflows.evals.run import EvaluationSettings, evaluate

EVALS = "evals"
"""In a run directory: evaluations, `evals/NAME/STEPS`."""
WEIGHTS = "weights.json"
"""In an evaluation: which steps made the weights that it is of."""
_MAY_CHANGE = ("concurrency", "retries", "size", "data", "sandbox.kind", "sandbox.url", "sandbox.at_once")


@frozen(kw_only=True, eq=False)
class Evaluator:
    """Attempts at a benchmark's problems, kept below the run directory, so that an evaluation that was stopped goes on
    and one that is done is not sampled again."""

    name: str
    problems: ProblemSource
    settings: EvaluationSettings
    config: Mapping[str, Any]
    """What the numbers depend on, in JSON types."""
    files: FileSystem
    decode: Callable[[Ints], str]

    def measure(
        self, sampler: Sampler, steps: int, run: Path, progress: Progress, made_by: str = ""
    ) -> dict[str, float]:
        """`test/<name>/...` of the weights after `steps` optimizer steps of the run at `run`; see `numbers`. made_by:
        of which steps (`RunDirectory.made_by`). What is there of other weights does not count."""
        path = (run / EVALS / self.name / f"{steps:06d}").absolute()
        weights = json.dumps({"made_by": made_by}).encode() + b"\n"
        others = not exists(self.files, path / WEIGHTS) or read(self.files, path / WEIGHTS) != weights
        with EvaluationDirectory.open(
            path,
            config=self.config,
            fingerprint=self.problems.fingerprint,
            files=self.files,
            may_change=_MAY_CHANGE,
            if_exists="delete" if others else "resume",
        ) as directory:
            if others:  # before the first attempt is kept
                write_atomic(self.files, path / WEIGHTS, weights)
            for note in directory.notes:
                progress.note(f"{path}: {note}")
            shown = _Beside(progress, f"evaluating {self.name}")
            found = evaluate(sampler, self.problems, self.settings, directory, shown, self.decode)
        return {f"test/{self.name}/{key}": value for key, value in numbers(found).items()}


def numbers(found: Results) -> dict[str, float]:
    """`score` (share of right attempts) with `score/stderr`, `pass@k`, `reward`, `truncated` (share of
    attempts that a limit ended): over the problems that came off, and left out where none did. `problems`: those.
    `failed`: problems that the world failed, which are in no score; `errors`: how often it failed anything."""
    values: dict[str, float] = {}
    if found.score is not None and found.reward is not None:
        error = standard_error([outcome.share for outcome in found.outcomes.values()])
        values = {
            "score": found.score.value,
            **({"score/stderr": error} if error == error else {}),
            **{f"pass@{k}": estimate.value for k, estimate in found.pass_at_k.items() if k > 1},
            "reward": found.reward.value,
            "truncated": found.truncated / found.attempts,
        }
    values |= {
        "problems": len(found.outcomes),
        "failed": len(found.failed),
        "errors": sum(found.errors.values()),
    }
    return {key: float(value) for key, value in values.items()}


class _Beside:
    """The progress of an evaluation, beside the steps of its run."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._what = what
        self.note = progress.note
        self.doing = progress.doing
        self.table = progress.table
        self.run_directory = progress.run_directory

    def update(self, done: int, total: int | None, metrics: Mapping[str, float]) -> None:
        self._progress.doing(self._what, done, total)


def measured(
    evaluators: Sequence[Evaluator], sampler: Sampler, steps: int, run: Path, progress: Progress, made_by: str
) -> dict[str, float]:
    """All their metrics."""
    out: dict[str, float] = {}
    for evaluator in evaluators:
        out |= evaluator.measure(sampler, steps, run, progress, made_by)
    return out
