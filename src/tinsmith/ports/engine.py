"""A model in memory, as a server needs it: trainers and samplers are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import Lora, Trainer


class Engine(Protocol):
    """One base model. What is made from it shares its weights."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        ...

    @property
    def vocab_size(self) -> int: ...
    @property
    def stop_ids(self) -> Sequence[int]:
        """Token ids that end a completion where a request says nothing of stopping."""
        ...

    @property
    def tokenizer_path(self) -> str:
        """Where the files of its tokenizer lie, for clients on this machine."""
        ...

    def trainer(self, *, lora: Lora | None, seed: int, state_dir: Path | None) -> Trainer: ...
    def sampler(self) -> Sampler:
        """A sampler of the weights as they were loaded."""
        ...
