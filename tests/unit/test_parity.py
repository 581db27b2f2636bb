"""The engine against transformers, peft and torch in float64: answers that `tests/parity/make_fixtures.py` wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "parity"))

import compare  # noqa: E402

CASES = sorted(p.name for p in (ROOT / "data" / "parity").iterdir())

BOUNDS = {"logprob": 2e-5, "loss": 1e-5, "gradient": 2e-5, "norm": 1e-4, "logprob_after": 5e-4, "value": 5e-3}
"""Float32 against float64. AdamW divides by the size of the gradient, so where that is tiny its rounding shows."""


@pytest.mark.parametrize("case", CASES)
def test_logprobs_gradients_and_ten_steps_are_those_of_transformers(case: str) -> None:
    directory = ROOT / "data" / "parity" / case
    with np.load(directory / "answers.npz") as file:
        answers = dict(file)
    found = compare.worst(directory, answers, json.loads(str(answers["meta"])))
    assert found.keys() == BOUNDS.keys()
    assert {name: value for name, value in found.items() if not value <= BOUNDS[name]} == {}
