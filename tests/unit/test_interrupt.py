"""What signals do to a run."""

from __future__ import annotations

import os
import signal

import pytest

from tinsmith.workflows import interrupt
from tinsmith.workflows.interrupt import AGAIN_S, graceful_interrupt


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_is_one_and_a_later_one_stops_now(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` sends it to the process and again to its group; the step that runs is still finished and saved."""
    now, said = [5.0], []
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    before = signal.getsignal(number)
    with graceful_interrupt(said.append) as state:
        assert not state.requested
        send(number)
        now[0] += AGAIN_S / 2
        send(number)
        assert state.requested
        assert len(said) == 1
        now[0] += AGAIN_S
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) is before
