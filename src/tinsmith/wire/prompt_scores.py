"""Logprobs of named tokens, and draws, at every position of a prompt: both read off the whole distribution there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.tokens import Floats, Ints

MAX_CELLS = 1 << 23
"""Positions times size of the vocabulary, over which distributions are held at once."""


@frozen(eq=False)
class Targets:
    """Token ids whose logprobs are wanted, one list of cells for all positions."""

    rows: npt.NDArray[np.int64]
    """[C]: cell c is scored at prompt position rows[c] + 1."""
    ids: npt.NDArray[np.int64]
    """[C]; -1 asks for nothing."""
    shape: tuple[int, int]
    sparse: tuple[bytes, bytes] | None
    """Row borders and columns, where the cells came as compressed sparse rows."""


def decode_targets(value: Mapping[str, Any], length: int, vocab_size: int) -> Targets:
    """The tensor [length - 1, K] of a request for a prompt of `length` tokens."""
    what = "target_prompt_logprobs"
    shape = _numbers(value.get("shape"), f"{what}.shape")
    if len(shape) != 2 or shape[0] != length - 1 or shape[1] < 1:
        raise ShapeError(f"{what}: shape {shape.tolist()}, not [{length - 1}, K]")
    ids = _numbers(value.get("data"), f"{what}.data")
    if len(ids) and not (int(ids.min()) >= -1 and int(ids.max()) < vocab_size):
        raise ShapeError(f"{what}: ids from -1 to {vocab_size - 1}")
    borders, columns = value.get("sparse_crow_indices"), value.get("sparse_col_indices")
    size = (int(shape[0]), int(shape[1]))
    if borders is None and columns is None:
        if len(ids) != size[0] * size[1]:
            raise ShapeError(f"{what}: {len(ids)} ids do not fill {list(size)}")
        return Targets(np.repeat(np.arange(size[0]), size[1]), ids, size, None)
    crow, col = _numbers(borders, f"{what}.sparse_crow_indices"), _numbers(columns, f"{what}.sparse_col_indices")
    if len(crow) != length or crow[0] != 0 or crow[-1] != len(ids) or np.any(np.diff(crow) < 0):
        raise ShapeError(f"{what}: sparse_crow_indices must rise from 0 to {len(ids)} in {length} numbers")
    if len(col) != len(ids) or (len(col) and not (int(col.min()) >= 0 and int(col.max()) < size[1])):
        raise ShapeError(f"{what}: sparse_col_indices must be {len(ids)} numbers below {size[1]}")
    rows = np.repeat(np.arange(size[0]), np.diff(crow))
    return Targets(rows, ids, size, (crow.astype("<i8").tobytes(), col.astype("<i8").tobytes()))


def _numbers(value: Any, what: str) -> npt.NDArray[np.int64]:
    if not isinstance(value, list) or any(type(v) is not int or not -(2**62) < v < 2**62 for v in value):
        raise ConfigError(f"{what}: a list of whole numbers")
    return np.array(value, np.int64)


def check_size(length: int, vocab_size: int) -> None:
    if length * vocab_size > MAX_CELLS:
        raise ConfigError(
            f"a prompt of {length} tokens; target_prompt_logprobs and prompt_alt_tokens_k take up to "
            f"{MAX_CELLS // vocab_size} with this vocabulary"
        )


def encode_targets(message: Any, targets: Targets, ids: Ints, logprobs: Floats) -> None:
    """Fill the Tensor `message`. `ids` and `logprobs` are [T, V]: every token at each position, in any order."""
    scores = np.zeros(len(targets.ids), np.float32)
    for row in np.unique(targets.rows[targets.ids >= 0]).tolist():
        here = np.flatnonzero((targets.rows == row) & (targets.ids >= 0))
        by_id = np.empty(ids.shape[1], np.float32)
        by_id[ids[row + 1]] = logprobs[row + 1]
        scores[here] = by_id[targets.ids[here]]
    message.dtype = 1
    message.shape.extend(targets.shape)
    if targets.sparse is None:
        message.dense = scores.astype("<f4").tobytes()
    else:
        message.sparse_csr.values = scores.astype("<f4").tobytes()
        message.sparse_csr.crow_indices, message.sparse_csr.col_indices = targets.sparse


def encode_draws(message: Any, k: int, temperature: float, seed: int, ids: Ints, logprobs: Floats) -> None:
    """Fill the PromptAltTokens `message`: k independent draws at every position after the first, likeliest first in
    `ids` and `logprobs` ([T, V])."""
    positions = len(ids) - 1
    lp = logprobs[1:].astype(np.float64)
    if temperature == 0:
        places = np.zeros((positions, k), np.int64)
    else:
        share = np.cumsum(np.exp((lp - lp.max(axis=1, keepdims=True)) / temperature), axis=1)
        draws = np.random.default_rng([seed, 0x616C74]).random((positions, k)) * share[:, -1:]
        places = np.stack([np.searchsorted(s, d, side="right") for s, d in zip(share, draws, strict=True)])
        places = np.minimum(places, lp.shape[1] - 1)
    rows = np.arange(positions)[:, None]
    for tensor, values, dtype in (
        (message.tokens, ids[1:][rows, places].astype("<i4"), 3),
        (message.logprobs, logprobs[1:][rows, places].astype("<f4"), 1),
    ):
        tensor.dense, tensor.dtype = values.tobytes(), dtype
        tensor.shape.extend((positions, k))
