"""What the suites share: settings of their properties, deadlines, random batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import TinsmithError
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import ModelInfo

T = TypeVar("T")
Vector = npt.NDArray[np.float64]

LAW = settings(
    deadline=None,
    max_examples=max(5, settings().max_examples // 10),  # each example drives a backend; the profile still scales it
    # A law is inherited by one class per adapter: that is the point.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)

WAIT = 60.0
"""Seconds after which a backend that does not answer has failed."""

seeds = st.integers(0, 2**16)
row_lengths = st.lists(st.integers(1, 7), min_size=1, max_size=4)
"""Tokens of each row of a batch."""


def wait(pending: Pending[T]) -> T:
    return pending.result(WAIT)


def random_batch(info: ModelInfo, lengths: Sequence[int], seed: int, *, targets_per_token: int = 1) -> Batch:
    """A batch of uniform tokens and targets; weights between 0.5 and 1.5."""
    rng = np.random.default_rng(seed)
    datums = []
    for length in lengths:
        shape = (length,) if targets_per_token == 1 else (length, targets_per_token)
        datums.append(
            Datum(
                tokens=rng.integers(0, info.vocab_size, length),
                targets=rng.integers(0, info.vocab_size, shape),
                weights=rng.uniform(0.5, 1.5, shape),
            )
        )
    return Batch.of(datums)


def replaced(batch: Batch, **columns: Any) -> Batch:
    """The batch with these columns instead."""
    names = ("tokens", "targets", "weights", "logprobs", "advantages")
    kept: dict[str, Any] = {name: columns.get(name, getattr(batch, name)) for name in names}
    return Batch(offsets=batch.offsets, **kept)


def assert_close(a: npt.ArrayLike, b: npt.ArrayLike, tolerance: float, law: str) -> None:
    """|a - b| <= tolerance * max(|a|, |b|, tiny) in the Euclidean norm."""
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    assert x.shape == y.shape, f"{law}: shapes {x.shape} and {y.shape}"
    scale = max(float(np.linalg.norm(x)), float(np.linalg.norm(y)), 1e-12)
    distance = float(np.linalg.norm(x - y))
    assert distance <= tolerance * scale, f"{law}: they differ by {distance:.3g}, {distance / scale:.2g} of their norm"


def assert_refused(submissions: Mapping[str, Callable[[], Any]]) -> None:
    """Each call raises a TinsmithError with a message, at once."""
    for what, submit in submissions.items():
        try:
            submit()
        except TinsmithError as error:
            if not str(error):
                pytest.fail(f"{what}: refused without a word")
        else:
            pytest.fail(f"{what} was not refused when it was submitted")
