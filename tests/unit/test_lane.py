"""The thread behind the embedded trainer: bounded, and closed whatever waits."""

from __future__ import annotations

import threading
import time

import pytest

from tinsmith.adapters.embedded.lane import Lane
from tinsmith.domain.errors import CancelledWorkError, DeadlineError


def busy(lane: Lane) -> threading.Event:
    """Something that runs until the event is set."""
    begun, go_on = threading.Event(), threading.Event()
    lane.submit(lambda: (begun.set(), go_on.wait(20)))
    assert begun.wait(5)
    return go_on


def test_work_is_done_in_order_and_a_failure_is_its_own() -> None:
    lane = Lane("test", bound=4)
    done: list[int] = []
    waiting = [lane.submit(lambda i=i: done.append(i)) for i in range(3)]
    failed = lane.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(5)
    waiting += [lane.submit(lambda i=i: done.append(i)) for i in range(3, 9)]
    for pending in waiting:
        pending.result(5)
    assert done == list(range(9))
    lane.close()


def test_a_full_lane_makes_a_submission_wait_no_longer_than_its_deadline() -> None:
    lane = Lane("test", bound=2, timeout=0.1)
    go_on = busy(lane)
    for _ in range(2):
        lane.submit(lambda: None)
    with pytest.raises(DeadlineError, match="2 pieces of work wait"):
        lane.submit(lambda: None)
    go_on.set()
    lane.close()


def test_closing_a_full_lane_waits_for_no_room_and_lets_nobody_wait() -> None:
    """Neither whoever closes, nor whoever waits for room, nor whoever awaits work that was not begun."""
    lane = Lane("test", bound=2)
    go_on = busy(lane)
    waiting = [lane.submit(lambda: None) for _ in range(2)]
    refused: list[Exception] = []

    def submit() -> None:
        try:
            lane.submit(lambda: None)
        except CancelledWorkError as error:
            refused.append(error)

    submitters = [threading.Thread(target=submit, daemon=True) for _ in range(3)]
    for submitter in submitters:
        submitter.start()
    began = time.monotonic()
    lane.close(timeout=0.1)
    for submitter in submitters:
        submitter.join(5)
    assert time.monotonic() - began < 5
    assert len(refused) == 3
    for pending in waiting:
        with pytest.raises(CancelledWorkError):
            pending.result(5)
    go_on.set()
    with pytest.raises(CancelledWorkError, match="closed"):
        lane.submit(lambda: None)


def test_a_lane_can_be_closed_by_the_work_that_it_does() -> None:
    lane = Lane("test", bound=1)
    lane.submit(lane.close).result(5)
    assert lane.closed
