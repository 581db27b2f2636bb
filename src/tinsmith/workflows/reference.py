"""What a policy that is not trained says of tokens."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable

import numpy as np

from tinsmith.domain.datums import Datum
from tinsmith.domain.tokens import Floats
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler
from tinsmith.workflows.waiting import wait

SCORES_IN_FLIGHT = 512
"""Sequences that the reference is asked to score at once."""


class Reference:
    """Scores datums, many at once."""

    def __init__(self, sampler: Sampler, timeout_s: float, *, keep: bool = False) -> None:
        """keep: remember every score (4 bytes a token), for data that come again."""
        self._sampler = sampler
        self._timeout_s = timeout_s
        self._keep = keep
        self._kept: dict[bytes, Floats] = {}

    @property
    def context(self) -> int:
        """Longest sequence that it scores."""
        return self._sampler.context

    def score(self, datums: Iterable[Datum]) -> Floats:
        """[T], rows concatenated: the logprob of every target."""
        waiting: deque[tuple[bytes, Pending[Floats] | Floats]] = deque()
        scores: list[Floats] = []

        def take() -> None:
            key, pending = waiting.popleft()
            if isinstance(pending, Pending):
                pending = wait(pending, "scoring by the reference", self._timeout_s)[1:]
                if self._keep:
                    self._kept[key] = pending
            scores.append(pending)

        for datum in datums:
            if len(waiting) == SCORES_IN_FLIGHT:
                take()
            sequence = np.append(datum.tokens, datum.targets[-1])
            key = hashlib.blake2b(sequence.tobytes(), digest_size=16).digest() if self._keep else b""
            known = self._kept.get(key)
            waiting.append((key, self._sampler.score(sequence) if known is None else known))
        while waiting:
            take()
        return np.concatenate(scores).astype(np.float32)
