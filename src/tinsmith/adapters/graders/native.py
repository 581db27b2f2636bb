"""The grader of the Rust core, and behind it, for what it cannot decide, another one."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from tinsmith import _native
from tinsmith.domain.answers import REASONS, TIERS, Policy
from tinsmith.domain.errors import CancelledWorkError, ShapeError
from tinsmith.ports.grader import Grade, Grader
from tinsmith.ports.pending import Pending

CHUNK = 1024
"""Pairs between two looks at the clock."""
FINAL = frozenset({"empty", "gold_empty", "too_long", "too_deep", "too_many_digits", "too_many_items", "deadline"})
"""Undecided, and no other grader shall be troubled with it: refused by a limit, or nothing to compare."""
STOPPED = frozenset({"timeout", "memory", "crashed", "deadline"})
"""Reasons of another grader that say how it ended and not what it found."""


class NativeGrader:
    """A Grader that compares natively, on threads of its own with the GIL released.

    fallback: gets the pairs that stay undecided, but for FINAL ones; it is closed with this grader.
    """

    def __init__(self, *, policy: Policy = "relaxed", fallback: Grader | None = None) -> None:
        self.name = "native" if fallback is None else f"native+{fallback.name}"
        self._strict = policy == "strict"
        self._fallback = fallback
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="grader-native")
        self._closed = False

    @property
    def counts(self) -> Mapping[str, int]:
        with self._lock:
            counts = Counter(self._counts)
        counts["workers_replaced"] = 0 if self._fallback is None else self._fallback.counts["workers_replaced"]
        return dict(counts)

    def grade(
        self, golds: Sequence[str | None], preds: Sequence[str | None], *, deadline: float | None = None
    ) -> Pending[list[Grade]]:
        if len(golds) != len(preds):
            raise ShapeError(f"{len(golds)} right answers, but {len(preds)} answers")
        right, given = list(golds), list(preds)
        due = None if deadline is None else time.monotonic() + deadline
        try:
            first = Pending(self._threads.submit(self._compare, right, given, due))
        except RuntimeError:
            raise CancelledWorkError("the grader was closed") from None
        return first.and_then(lambda grades: self._fall_back(right, given, due, grades)).then(self._count)

    def _compare(self, golds: list[str | None], preds: list[str | None], due: float | None) -> list[Grade]:
        grades: list[Grade] = []
        for i in range(0, len(golds), CHUNK):
            if self._closed:
                raise CancelledWorkError("the grader was closed")
            if due is not None and time.monotonic() >= due:
                return grades + [Grade(None, "deadline", "none")] * (len(golds) - i)
            codes = _native.grade_answers([*golds[i : i + CHUNK]], [*preds[i : i + CHUNK]], False, self._strict)
            grades += [
                Grade(None if equal < 0 else equal == 1, REASONS[reason], TIERS[tier], seconds)
                for equal, reason, tier, seconds in zip(*(c.tolist() for c in codes), strict=True)
            ]
        return grades

    def _fall_back(
        self, golds: list[str | None], preds: list[str | None], due: float | None, grades: list[Grade]
    ) -> Pending[list[Grade]]:
        open_ = [i for i, g in enumerate(grades) if g.equal is None and g.reason not in FINAL]
        if self._fallback is None or not open_:
            return Pending.of(grades)
        left = None if due is None else max(0.0, due - time.monotonic())
        asked = self._fallback.grade([golds[i] for i in open_], [preds[i] for i in open_], deadline=left)

        def merged(seconds: list[Grade]) -> list[Grade]:
            for i, grade in zip(open_, seconds, strict=True):
                spent = grades[i].seconds + grade.seconds
                # What neither decides keeps the first reason, unless the second says that it was stopped.
                kept = grade if grade.equal is not None or grade.reason in STOPPED else grades[i]
                grades[i] = Grade(kept.equal, kept.reason, kept.tier, spent)
            return grades

        return asked.then(merged)

    def _count(self, grades: list[Grade]) -> list[Grade]:
        with self._lock:
            self._counts.update(g.reason for g in grades)
        return grades

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._fallback is not None:
            self._fallback.close()
