"""The contract of a RunLog. Subclass it and supply `make`; `make_broken` and `read` where the adapter allows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.ports.runlog import RunLog
from tinsmith.testing.contracts._common import LAW

names = st.text("abcxyz/_", min_size=1, max_size=12)
steps = st.lists(st.dictionaries(names, st.floats(-1e6, 1e6), max_size=4), max_size=5)


class RunLogContract:
    """Laws of every RunLog."""

    def make(self) -> RunLog:
        """A new log with an empty sink."""
        raise NotImplementedError

    def make_broken(self) -> RunLog:
        """A log whose sink fails when it is written to."""
        raise NotImplementedError

    def read(self, log: RunLog) -> Sequence[tuple[int, dict[str, float]]] | None:
        """What the sink holds, by a side door; None where there is none."""
        raise NotImplementedError

    @LAW
    @given(lines=steps)
    def test_what_is_logged_is_kept_in_order(self, lines: list[dict[str, float]]) -> None:
        log = self.make()
        log.start("run", {"learning_rate": 1e-3, "nested": {"a": [1, 2]}})
        for step, metrics in enumerate(lines):
            log.log(step, metrics)
        log.close()
        kept = self.read(log)
        if kept is not None:
            assert [step for step, _ in kept] == list(range(len(lines)))
            for (_, got), put in zip(kept, lines, strict=True):
                assert got == pytest.approx(put)

    def test_numpy_numbers_and_what_is_not_finite_are_taken(self, caplog: pytest.LogCaptureFixture) -> None:
        """A value that is not finite may be dropped; the others of its line are kept."""
        log = self.make()
        log.start("run", {})
        metrics: dict[str, Any] = {"a": np.float32(0.5), "b": float("nan"), "c": np.int64(3), "d": float("inf")}
        log.log(0, metrics)
        log.close()
        kept = self.read(log)
        if kept is not None:
            assert {name: kept[0][1][name] for name in ("a", "c")} == {"a": 0.5, "c": 3}
        assert not caplog.records, "an ordinary line made the log complain"

    def test_closing_twice_or_unused_and_logging_after_it_are_no_errors(self) -> None:
        log = self.make()
        log.close()
        log = self.make()
        log.start("run", {})
        log.close()
        log.close()
        log.log(1, {"a": 1.0})

    def test_a_log_that_fails_says_so_once_and_goes_quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        log = self.make_broken()
        with caplog.at_level(logging.WARNING):
            log.start("run", {})
            for step in range(3):
                log.log(step, {"a": 1.0})
            log.close()
        assert len(caplog.records) == 1, [record.getMessage() for record in caplog.records]
        assert len(caplog.records[0].getMessage().splitlines()) == 1
