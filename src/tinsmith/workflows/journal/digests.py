"""Fingerprints of what was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tinsmith.domain.datums import COLUMNS, Batch, Datum


def datum_digest(batches: Iterable[Batch | Datum]) -> str:
    """SHA-256, in hex, of every column of every batch, in order: equal exactly when the same datums were trained in the
    same batches, bit for bit."""
    state = hashlib.sha256()
    for batch in batches:
        columns = [(name, getattr(batch, name)) for name in (*COLUMNS, "offsets") if hasattr(batch, name)]
        for name, column in columns:
            if column is not None:
                state.update(f"{name} {column.dtype.str} {column.shape}\n".encode())
                state.update(column.data)
    return state.hexdigest()
