"""What tests of post-training code need, shipped with the library: fakes, faults, strategies, contract suites."""

from tinsmith.testing.backend import FakeSampler, FakeTrainer
from tinsmith.testing.fakes import (
    FakeClock,
    FakeGrader,
    FakeTokenizer,
    MemoryBlobStore,
    MemoryRunLog,
    MemorySearch,
    MemorySource,
)
from tinsmith.testing.sandbox import ScriptedSandbox
from tinsmith.testing.scripted import ScriptedSampler

__all__ = [
    "FakeClock",
    "FakeGrader",
    "FakeSampler",
    "FakeTokenizer",
    "FakeTrainer",
    "MemoryBlobStore",
    "MemoryRunLog",
    "MemorySearch",
    "MemorySource",
    "ScriptedSampler",
    "ScriptedSandbox",
]
