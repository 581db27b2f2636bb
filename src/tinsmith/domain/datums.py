"""Datums: what a trainer learns from, one record per token.

A `Datum` is one training sequence. All its columns have the same length T: position t holds an input token, the
target that the model should give after it (the next token), and what is known of that *target*: its weight, the
logprob it was sampled with, its advantage, and where it came from. Tokens that were sampled are the tokens that are
trained; nothing is decoded and encoded again in between.

A `Batch` is B datums with each column concatenated: `values[offsets[i]:offsets[i + 1]]` is row i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, Ints, Offsets, floats, ints, offsets_of

COLUMNS = (
    "tokens",
    "targets",
    "weights",
    "logprobs",
    "advantages",
    "reference_logprobs",
    "message",
    "sampled",
    "policy_version",
)


def _optional_floats(values: Any) -> Floats | None:
    return None if values is None else floats(values)


def _flags(values: Any) -> npt.NDArray[np.bool_]:
    return np.ascontiguousarray(values, dtype=np.bool_)


@frozen(eq=False, kw_only=True)
class _Columns:
    """The columns that datums and batches share; T is the number of tokens (of all rows, in a batch)."""

    tokens: Ints = field(converter=ints)
    """[T] int32: inputs."""
    targets: Ints = field(converter=ints)
    """[T] or [T, K] int32: what each position should give next; K > 1 for soft targets."""
    weights: Floats = field(converter=floats)
    """Same shape as `targets`, float32: the loss weight of each target; 0 takes no part in any loss."""
    logprobs: Floats | None = field(default=None, converter=_optional_floats)
    """[T] float32: logprob each target was sampled with (natural log), 0 where it was not sampled."""
    advantages: Floats | None = field(default=None, converter=_optional_floats)
    """[T] float32."""
    reference_logprobs: Floats | None = field(default=None, converter=_optional_floats)
    """[T] float32: logprob of each target under the reference policy."""
    message: Ints = field(converter=ints)
    """[T] int32: index of the message or turn that the target belongs to; -1 for none."""
    sampled: npt.NDArray[np.bool_] = field(converter=_flags)
    """[T]: the target was sampled from a policy (False: it was rendered)."""
    policy_version: Ints = field(converter=ints)
    """[T] int32: optimizer steps taken by the policy that sampled the target; -1 where rendered."""

    @message.default
    def _no_message(self) -> Ints:
        return np.full(len(self.tokens), -1, np.int32)

    @sampled.default
    def _not_sampled(self) -> npt.NDArray[np.bool_]:
        return np.zeros(len(self.tokens), np.bool_)

    @policy_version.default
    def _no_policy(self) -> Ints:
        return np.full(len(self.tokens), -1, np.int32)

    def __attrs_post_init__(self) -> None:
        n = len(self.tokens)
        if self.tokens.ndim != 1:
            raise ShapeError(f"tokens must be one-dimensional, not {self.tokens.shape}")
        if self.targets.ndim not in (1, 2):
            raise ShapeError(f"targets must be [T] or [T, K], not {self.targets.shape}")
        if self.weights.shape != self.targets.shape:
            raise ShapeError(f"weights {self.weights.shape} and targets {self.targets.shape} differ in shape")
        for name in COLUMNS[1:]:
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ShapeError(f"column {name!r} has {len(column)} entries for {n} tokens")

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_loss_tokens(self) -> int:
        """Positions with at least one target of non-zero weight."""
        trained = self.weights != 0
        return int(np.count_nonzero(trained if trained.ndim == 1 else trained.any(axis=1)))

    def same_as(self, other: _Columns) -> bool:
        """Whether every column is equal, bit for bit."""
        for name in COLUMNS:
            a, b = getattr(self, name), getattr(other, name)
            if (a is None) != (b is None):
                return False
            if a is not None and (a.shape != b.shape or a.tobytes() != b.tobytes()):
                return False
        return True


@frozen(eq=False, kw_only=True)
class Datum(_Columns):
    """One training sequence of T tokens."""


@frozen(eq=False, kw_only=True)
class Batch(_Columns):
    """B datums, each column concatenated; row i is `[offsets[i]:offsets[i + 1]]`."""

    offsets: Offsets

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        o = self.offsets
        if o.dtype != np.int64 or o.ndim != 1 or len(o) < 1 or o[0] != 0 or o[-1] != len(self.tokens):
            raise ShapeError(f"offsets must be int64 from 0 to {len(self.tokens)}, not {o!r}")
        if np.any(np.diff(o) < 0):
            raise ShapeError("offsets must not fall")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Datum:
        """Row `row` as a view."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a batch of {len(self)}")
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            column = getattr(self, name)
            columns[name] = None if column is None else column[part]
        return Datum(**columns)

    def __iter__(self) -> Iterator[Datum]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> Offsets:
        """[B] int64: tokens of each row."""
        return np.diff(self.offsets)

    def rows(self, first: int, end: int) -> Batch:
        """Rows `first` to `end`, the latter not included, as a batch of views."""
        offsets = self.offsets[first : end + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            column = getattr(self, name)
            columns[name] = None if column is None else column[part]
        return Batch(offsets=offsets - offsets[0], **columns)

    def take(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, in this order."""
        return Batch.of([self[int(i)] for i in rows])

    @staticmethod
    def of(datums: Sequence[Datum]) -> Batch:
        """Concatenate datums. Columns that only some of them have are refused by index."""
        if not datums:
            raise ShapeError("a batch needs at least one datum")
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            parts = [getattr(d, name) for d in datums]
            missing = [i for i, p in enumerate(parts) if p is None]
            if missing and len(missing) < len(parts):
                raise ShapeError(f"datum {missing[0]} has no column {name!r}, others of its batch have")
            if len({p.shape[1:] for p in parts if p is not None}) > 1:
                raise ShapeError(f"column {name!r} has rows of different width in one batch")
            columns[name] = None if missing else np.concatenate(parts)
        return Batch(offsets=offsets_of([d.num_tokens for d in datums]), **columns)
