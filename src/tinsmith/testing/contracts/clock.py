"""The contract of a Clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.ports.clock import Clock
from tinsmith.testing.contracts._common import LAW


class ClockContract:
    """Laws of every Clock."""

    def make(self) -> Clock:
        raise NotImplementedError

    @LAW
    @given(naps=st.lists(st.floats(0, 0.002), max_size=4))
    def test_time_never_goes_back_and_sleeping_takes_as_long_as_it_says(self, naps: list[float]) -> None:
        clock = self.make()
        for nap in naps:
            before, started = clock.monotonic(), clock.now()
            clock.sleep(nap)
            assert clock.monotonic() - before >= nap - 1e-9
            assert clock.now() >= started + nap - 0.1, "the wall clock stood still"

    def test_now_is_seconds_since_1970(self) -> None:
        assert 1.5e9 < self.make().now() < 1e11

    def test_sleeping_no_time_or_less_returns(self) -> None:
        clock = self.make()
        before = clock.monotonic()
        clock.sleep(0.0)
        clock.sleep(-1.0)
        assert before <= clock.monotonic() < before + 0.5
