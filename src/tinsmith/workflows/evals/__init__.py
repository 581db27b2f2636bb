"""Evaluations: attempts at the problems of a set, kept in a directory, graded again, compared with others."""

from tinsmith.workflows.evals.directory import EvaluationDirectory, read_results
from tinsmith.workflows.evals.inline import Evaluator, measured
from tinsmith.workflows.evals.results import Outcome, Results, compare
from tinsmith.workflows.evals.run import EvaluationSettings, evaluate, regrade

__all__ = [
    "EvaluationDirectory",
    "EvaluationSettings",
    "Evaluator",
    "Outcome",
    "Results",
    "compare",
    "evaluate",
    "measured",
    "read_results",
    "regrade",
]
