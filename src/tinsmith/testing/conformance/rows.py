"""What laws are tried on: small datums, printed as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen
from hypothesis import strategies as st

from tinsmith.domain.datums import Batch, Datum

TOKENS = range(3, 200)
"""Ids that every vocabulary has."""


@frozen(repr=False)
class Row:
    """One datum. `targets` and `weights` hold T numbers, or T tuples of K."""

    tokens: tuple[int, ...]
    targets: tuple[int | tuple[int, ...], ...]
    weights: tuple[float | tuple[float, ...], ...]
    advantages: tuple[float, ...] | None = None
    shifts: tuple[float, ...] | None = None
    """Learner's logprob minus the sampler's, where a loss compares them."""

    def __repr__(self) -> str:
        text = f"{_plain(self.tokens)} -> {_plain(self.targets)}, weights {_plain(self.weights)}"
        if self.advantages is not None:
            text += f", advantages {_plain(self.advantages)}"
        if self.shifts is not None:
            text += f", logprobs lower by {_plain(self.shifts)}"
        return f"[{text}]"

    def scaled(self, factor: float) -> Row:
        return evolve(self, weights=tuple(_times(w, factor) for w in self.weights))

    def ones(self) -> Row:
        """The row with all weights 1, and nothing of a sampler."""
        weights = tuple(_times(w, 0.0, 1.0) for w in self.weights)
        return evolve(self, weights=weights, advantages=None, shifts=None)

    def columns(self) -> list[Row]:
        """A row for each of the K targets."""
        first = self.targets[0]
        return [self.column(k) for k in range(len(first))] if isinstance(first, tuple) else [self]

    def column(self, k: int) -> Row:
        """The row with the k-th target of each position alone."""
        pick = [t[k] if isinstance(t, tuple) else t for t in self.targets]
        weights = [w[k] if isinstance(w, tuple) else w for w in self.weights]
        return Row(self.tokens, tuple(pick), tuple(weights))

    def datum(self, logprobs: Sequence[float] | None = None) -> Datum:
        return Datum(
            tokens=self.tokens,
            targets=np.array(self.targets, np.int64),
            weights=np.array(self.weights, np.float32),
            logprobs=logprobs,
            advantages=self.advantages,
        )


def _times(weight: float | tuple[float, ...], factor: float, plus: float = 0.0) -> float | tuple[float, ...]:
    if isinstance(weight, tuple):
        return tuple(w * factor + plus for w in weight)
    return weight * factor + plus


def _plain(values: Sequence[object]) -> str:
    return " ".join(f"({_plain(v)})" if isinstance(v, tuple) else f"{v:g}" for v in values)


def batch(rows: Sequence[Row], logprobs: Sequence[Sequence[float]] | None = None) -> Batch:
    """`logprobs`: of the sampler, a sequence for each row."""
    return Batch.of([row.datum(None if logprobs is None else logprobs[i]) for i, row in enumerate(rows)])


ids = st.sampled_from(TOKENS)
WEIGHTS = (1.0, 0.5, 2.0, -1.0)


@st.composite
def _row(draw: st.DrawFn, k: int, max_length: int) -> Row:
    length = draw(st.integers(1, max_length))
    tokens = tuple(draw(ids) for _ in range(length))
    if k == 1:
        return Row(tokens, tuple(draw(ids) for _ in tokens), tuple(draw(st.sampled_from(WEIGHTS)) for _ in tokens))
    each = st.lists(ids, min_size=k, max_size=k, unique=True).map(tuple)
    weights = st.tuples(*[st.sampled_from(WEIGHTS)] * k)
    return Row(tokens, tuple(draw(each) for _ in tokens), tuple(draw(weights) for _ in tokens))


def rows(*, min_size: int = 1, max_size: int = 3, k: int = 1, max_length: int = 5) -> st.SearchStrategy[list[Row]]:
    """Rows of up to `max_length` tokens with `k` targets a position; weights of either sign, none 0."""
    return st.lists(_row(k, max_length), min_size=min_size, max_size=max_size)


SHIFTS = (0.0, 0.1, -0.1, 0.4, -0.4, 1.0, -1.0, 2.0)
ADVANTAGES = (1.0, -1.0, 0.5, -2.0)


@st.composite
def _scored(draw: st.DrawFn) -> Row:
    row = draw(_row(1, 5)).ones()
    advantages = tuple(draw(st.sampled_from(ADVANTAGES)) for _ in row.tokens)
    return evolve(row, advantages=advantages, shifts=tuple(draw(st.sampled_from(SHIFTS)) for _ in row.tokens))


def scored_rows() -> st.SearchStrategy[list[Row]]:
    """Rows with advantages and logprobs of a sampler that is near the learner or, for some tokens, beyond any clip."""
    return st.lists(_scored(), min_size=1, max_size=3)


prompts = st.lists(ids, min_size=1, max_size=6).map(tuple)
seeds = st.integers(1, 2**31 - 1)
