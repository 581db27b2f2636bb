"""The contract of graders, kept by the fake and by each adapter; each law goes red for a fault that it is about."""

import contextlib
from collections import Counter

import pytest
from faults import laws_of

from tinsmith.adapters.graders.native import NativeGrader
from tinsmith.bootstrap import open_grader
from tinsmith.domain.errors import WorldError
from tinsmith.ports.grader import Grade
from tinsmith.ports.pending import Pending
from tinsmith.testing import FakeGrader
from tinsmith.testing.contracts import GraderContract
from tinsmith.testing.faulty import Fail, faulty


class TestFakeGrader(GraderContract):
    def make(self):
        return contextlib.closing(FakeGrader())


class TestNativeGrader(GraderContract):
    def make(self):
        return contextlib.closing(NativeGrader())


class TestNativeGraderBeforeAnother(GraderContract):
    def make(self):
        return contextlib.closing(NativeGrader(fallback=FakeGrader()))


class _OfProcesses(GraderContract):
    """Processes are dear: laws that leave the grader as it was share one."""

    package, name = "", ""
    shared = None

    @classmethod
    def teardown_class(cls):
        if cls.shared is not None:
            cls.shared.close()
            cls.shared = None

    def open(self):
        pytest.importorskip(self.package, reason="needs the extra: math")
        return open_grader(self.name, alone=True, workers=2, timeout=1.0)

    def make(self):
        cls = type(self)
        if cls.shared is None:
            cls.shared = self.open()
        return contextlib.nullcontext(cls.shared)

    def test_each_grade_is_counted_under_its_reason(self):
        self.make_new(super().test_each_grade_is_counted_under_its_reason)

    def test_a_closed_grader_refuses_and_what_was_owed_ends(self):
        self.make_new(super().test_a_closed_grader_refuses_and_what_was_owed_ends)

    def make_new(self, law):
        self.teardown_class()
        law()
        self.teardown_class()


class TestSympyGrader(_OfProcesses):
    package = name = "sympy"


class TestMathVerifyGrader(_OfProcesses):
    package = name = "math_verify"


del _OfProcesses


# Faults


class _Wrong(FakeGrader):
    def graded(self, golds, preds):
        return [self._one(gold or "", pred or "") for gold, pred in zip(golds, preds, strict=True)]

    def grade(self, golds, preds, *, deadline=None):
        super().grade(golds, preds)
        return Pending.of(self.graded(golds, preds))


class TurnsBatchesRound(_Wrong):
    def graded(self, golds, preds):
        return super().graded(golds, preds)[::-1]


class ComparesTexts(_Wrong):
    def _value(self, text):
        return text.strip()


class CallsMissingGoldDifferent(_Wrong):
    def _one(self, gold, pred):
        return super()._one(gold or "none", pred)


class EqualWhenEmpty(_Wrong):
    def _one(self, gold, pred):
        return Grade(True, "x", "x") if not pred.strip() and gold else super()._one(gold, pred)


class ForgetsCounts(_Wrong):
    counts = property(lambda self: Counter(workers_replaced=0))


class CutsBatches(FakeGrader):
    def grade(self, golds, preds, *, deadline=None):
        n = min(len(golds), len(preds))
        return super().grade(golds[:n], preds[:n])


class GradesAfterClosing(FakeGrader):
    def close(self):
        pass


class GivesUp(_Wrong):
    def _one(self, gold, pred):
        return Grade(None, "undecided", "x")


class BelievesBraces(_Wrong):
    def _one(self, gold, pred):
        return Grade(True, "x", "x") if "{" * 100 in pred else super()._one(gold, pred)


class Executes(_Wrong):
    def _value(self, text):
        return eval(text) if text.startswith("__import__") else text


class Sleeps(_Wrong):
    def _one(self, gold, pred):
        import time

        time.sleep(0.7 if pred == hostile[0] else 0)
        return super()._one(gold, pred)


class NeverEnds(FakeGrader):
    def grade(self, golds, preds, *, deadline=None):
        if preds and preds[0] == hostile[0] and deadline:
            from concurrent.futures import Future

            return Pending(Future())
        return super().grade(golds, preds)


from tinsmith.testing.contracts import grader as suite  # noqa: E402

hostile = suite.hostile

CASES = {
    "test_numbers_are_compared_and_grades_come_in_order": (TurnsBatchesRound, ComparesTexts, GivesUp),
    "test_awaiting_gives_what_waiting_gives": (TurnsBatchesRound, GivesUp),
    "test_a_missing_answer_is_never_equal_and_a_missing_gold_is_an_error_of_the_data": (
        CallsMissingGoldDifferent,
        EqualWhenEmpty,
    ),
    "test_each_grade_is_counted_under_its_reason": (ForgetsCounts,),
    "test_uneven_batches_are_refused_at_once": (CutsBatches,),
    "test_hostile_answers_end_in_time_and_hold_up_nobody": (BelievesBraces, NeverEnds),
    "test_an_event_loop_is_never_held_up": (Sleeps,),
    "test_no_answer_is_ever_executed": (Executes,),
    "test_a_closed_grader_refuses_and_what_was_owed_ends": (GradesAfterClosing,),
}


@pytest.mark.parametrize(("law", "fault"), [(law, fault) for law, faults in CASES.items() for fault in faults])
def test_a_law_goes_red(law, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "WAIT", 3.0)

    class Faulty(GraderContract):
        def make(self):
            return contextlib.closing(fault())

    method = getattr(Faulty(), law)
    if hasattr(method, "hypothesis"):
        with pytest.raises(AssertionError):
            method.hypothesis.inner_test(Faulty(), first=(1, 2), others=[(1, 2), (2, 4), (3, 1)])
        return
    with pytest.raises((Exception, pytest.fail.Exception)):  # any way of being red
        method(tmp_path) if "executed" in law else method()


def test_every_law_has_a_fault():
    assert set(laws_of(GraderContract)) == set(CASES)


def test_a_grader_can_be_made_to_fail_on_schedule():
    grader = faulty(FakeGrader(), {("grade", 2): Fail(WorldError("gone"))})
    assert grader.grade(["5"], ["5"]).result()[0].equal
    with pytest.raises(WorldError, match="gone"):
        grader.grade(["5"], ["5"]).result()
