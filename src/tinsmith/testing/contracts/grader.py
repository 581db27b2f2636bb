"""The contract of a Grader. Subclass it and supply `make`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.errors import CancelledWorkError, ShapeError
from tinsmith.ports.grader import Grade, Grader
from tinsmith.testing.contracts._common import LAW, WAIT

PATIENCE = 5.0
"""Seconds beyond a deadline that a busy machine may take."""
GAP = 0.5
"""Seconds that no call may hold an event loop, on a busy machine."""

numbers = st.tuples(st.integers(-99, 99), st.integers(1, 12))
"""(numerator, denominator)."""
hostile = (
    "9^{9^{9^{9}}}",
    "9**9**9**9",
    "10^{10^{10}}",
    "(10^9)!",
    "((9!)!)!",
    "\\binom{10^9}{10^8}",
    "(" * 4000,
    "{" * 10_000_000,
    "\\frac12" * 15_000,
    "\\sqrt{" * 1000 + "2" + "}" * 1000,
    "1" * 100_000,
    "1e999999999",
    "4^{123456789/987654321}",
    "(x+y+z+w)^{60} - (x+y+z-w)^{60}",
    "\\sin" * 900 + " x",
    "\x00",
    "\ud800",
    "5\ud800",
    "\N{RIGHT-TO-LEFT OVERRIDE}5",
)


def payloads(marker: Path) -> list[str]:
    """Answers that create `marker` where any part of them is executed."""
    command = f"open({str(marker)!r},'w')"
    octal = "".join(f"\\{ord(c):03o}" for c in command)
    system = f"__import__('os').system('touch {marker}')"
    return [
        command,
        system,
        f"eval('{octal}')",
        f"S('{octal}')",
        f"{{{{{{{{ S('{octal}') }}}}}}}}",
        f"(lambda: {command})()",
        f"[{command} for x in [1]]",
        f"().__class__.__bases__[0].__subclasses__()[0].__init__.__globals__['__builtins__']['open']('{marker}','w')",
        f"{{0.__class__.__init__.__globals__}} {system}",
        f"'{{0}}'.format({command})",
        f"%s % {command}",
        f"f'{{{command}}}'",
        f"`{command}`",
        f"1;{system}",
        f"x={command}",
        f"\\pi.__class__({command})",
        f"\\frac{{{system}}}{{2}}",
        f"\\text{{{system}}}",
        f"\\boxed{{{system}}}",
        f"sin({system})",
        f"Symbol('x').func({command})",
        f"{{1, {command}}}",
        f"\\write18{{touch {marker}}}",
        f"\\input{{|touch {marker}}}",
        f"$(touch {marker})",
        f"exec('import os;os.system(\"touch {marker}\")')",
        f"1 if {command} else 2",
        f"1,{system}",
    ]


class GraderContract:
    """Laws of every Grader."""

    def make(self) -> AbstractContextManager[Grader]:
        """A grader, closed when the context ends. It leaves no pair running for more than 3 seconds."""
        raise NotImplementedError

    def one(self, grader: Grader, gold: str | None, pred: str | None) -> Grade:
        return grader.grade([gold], [pred]).result(WAIT)[0]

    @LAW
    @given(first=numbers, others=st.lists(numbers, max_size=6))
    def test_numbers_are_compared_and_grades_come_in_order(
        self, first: tuple[int, int], others: list[tuple[int, int]]
    ) -> None:
        golds = [f"{a}/{b}" for a, b in [first] * len(others)]
        preds = [f"{a}/{b}" for a, b in others]
        with self.make() as grader:
            grades = grader.grade(golds, preds).result(WAIT)
            for (c, d), grade in zip(others, grades, strict=True):
                assert grade.equal is (first[0] * d == c * first[1]), (first, (c, d), grade)
            assert [self.one(grader, *pair).equal for pair in zip(golds, preds, strict=True)] == [
                g.equal for g in grades
            ], "a pair is graded alone as it is in a batch"

    def test_awaiting_gives_what_waiting_gives(self) -> None:
        golds, preds = ["5", "5", "1/2"], ["6", "5", "2/4"]
        with self.make() as grader:

            async def both() -> list[list[Grade]]:
                return await asyncio.gather(*(grader.grade(golds, preds) for _ in range(2)))

            for grades in asyncio.run(both()):
                assert [g.equal for g in grades] == [False, True, True]
            assert [g.equal for g in grader.grade(golds, preds).result(WAIT)] == [False, True, True]
            assert grader.grade([], []).result(WAIT) == []

    def test_a_missing_answer_is_never_equal_and_a_missing_gold_is_an_error_of_the_data(self) -> None:
        with self.make() as grader:
            for missing in (None, "", "  "):
                assert self.one(grader, "5", missing).equal is False
                for pred in ("5", None, ""):
                    grade = self.one(grader, missing, pred)
                    assert grade.equal is None, "never a silent zero for the model"
                    assert grade.data_error
            grade = self.one(grader, "{{", "5")
            assert grade.equal is None
            assert grade.data_error, grade

    def test_each_grade_is_counted_under_its_reason(self) -> None:
        with self.make() as grader:
            grades = grader.grade(["5", "5", ""], ["5", "6", "5"]).result(WAIT)
            counts = grader.counts
            assert sum(counts.values()) - counts["workers_replaced"] == 3
            assert all(counts[grade.reason] for grade in grades)

    def test_uneven_batches_are_refused_at_once(self) -> None:
        with self.make() as grader, pytest.raises(ShapeError):
            grader.grade(["5"], [])

    def test_hostile_answers_end_in_time_and_hold_up_nobody(self) -> None:
        with self.make() as grader:
            began = time.monotonic()
            bad = [grader.grade(["5"], [text], deadline=4.0) for text in hostile]
            good = grader.grade(["5"] * 40, [str(i) for i in range(40)]).result(WAIT)
            assert [g.equal for g in good] == [i == 5 for i in range(40)]
            assert time.monotonic() - began < 4.0 + PATIENCE
            for text, pending in zip(hostile, bad, strict=True):
                assert pending.result(WAIT)[0].equal is not True, text[:40]
            assert time.monotonic() - began < 4.0 + PATIENCE
            assert self.one(grader, "5", "5").equal is True

    def test_an_event_loop_is_never_held_up(self) -> None:
        async def work(grader: Grader) -> float:
            gap, done = 0.0, asyncio.Event()

            async def watch() -> None:
                nonlocal gap
                last = time.perf_counter()
                while not done.is_set():
                    await asyncio.sleep(0.002)
                    now = time.perf_counter()
                    gap, last = max(gap, now - last), now

            watching = asyncio.create_task(watch())
            await asyncio.sleep(0.01)  # it watches from here on
            await asyncio.gather(*(grader.grade(["5"] * 20, [text] * 20, deadline=2.0) for text in hostile))
            done.set()
            await watching
            return gap

        with self.make() as grader:
            assert asyncio.run(work(grader)) < GAP

    def test_no_answer_is_ever_executed(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        texts = payloads(marker)
        with self.make() as grader:
            grades = grader.grade(["1/2"] * len(texts) + texts, texts + ["1/2"] * len(texts), deadline=30.0)
            assert all(grade.equal is not True for grade in grades.result(WAIT))
        assert not marker.exists()

    def test_a_closed_grader_refuses_and_what_was_owed_ends(self) -> None:
        with self.make() as grader:
            owed = [grader.grade(["5"], [text]) for text in hostile[:4]]
            grader.close()
            for pending in owed:
                with contextlib.suppress(CancelledWorkError):
                    pending.result(WAIT)
            with pytest.raises(CancelledWorkError):
                grader.grade(["5"], ["5"])
            grader.close()
