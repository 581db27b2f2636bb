"""The thread behind the embedded sampler survives an engine that fails."""

from __future__ import annotations

import numpy as np
import pytest

from tinsmith.bootstrap import load_model
from tinsmith.ports.sampler import SamplingParams


class FailsOnce:
    """The engine's sampler, whose next `run` raises."""

    def __init__(self, real):
        self._real, self._failed = real, False

    def __getattr__(self, name):
        return getattr(self._real, name)

    def run(self, steps):
        if not self._failed:
            self._failed = True
            raise RuntimeError("the engine broke")
        return self._real.run(steps)


def test_a_failing_engine_fails_its_requests_and_serves_the_next() -> None:
    sampler = load_model("tiny", threads=1).sampler()
    sampler._native = FailsOnce(sampler._native)
    prompt = np.array([1, 5, 6], np.int32)
    with pytest.raises(RuntimeError, match="the engine broke"):
        sampler.sample(prompt, SamplingParams(max_tokens=4)).result(20)
    for _ in range(3):
        assert len(sampler.sample(prompt, SamplingParams(max_tokens=4)).result(20).completions[0].tokens) <= 4
    sampler.close()
