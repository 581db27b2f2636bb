"""Arrays of tokens: dtypes at the boundary, and ragged arrays as (values, offsets)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinsmith.domain.errors import ShapeError

Ints: TypeAlias = npt.NDArray[np.int32]
"""Token ids, message indices, policy versions: int32."""
Floats: TypeAlias = npt.NDArray[np.float32]
"""Per-token quantities: float32."""
Offsets: TypeAlias = npt.NDArray[np.int64]
"""Row boundaries of a ragged array: int64, length B + 1, starting at 0, never falling."""


def ints(values: npt.ArrayLike) -> Ints:
    """`values` as a contiguous int32 array; refuses fractions and ids outside int32."""
    if isinstance(values, np.ndarray) and values.dtype == np.int32 and values.flags.c_contiguous:
        return values
    raw = np.asarray(values)
    if raw.size == 0:
        return np.zeros(raw.shape, np.int32)
    if raw.dtype.kind not in "iu":
        raise ShapeError(f"token arrays hold integers, not {raw.dtype}")
    if raw.min() < -(2**31) or raw.max() >= 2**31:
        raise ShapeError(f"values {raw.min()} to {raw.max()} do not fit int32")
    return np.ascontiguousarray(raw, dtype=np.int32)


def floats(values: npt.ArrayLike) -> Floats:
    """`values` as a contiguous float32 array."""
    return np.ascontiguousarray(values, dtype=np.float32)


def offsets_of(lengths: Sequence[int] | npt.NDArray[Any]) -> Offsets:
    """Offsets of rows with these lengths: int64, length B + 1."""
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths, np.int64), out=out[1:])
    return out
