"""Weights to look at: the text of a datum in spans of equal weight."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tinsmith.domain.datums import Datum
from tinsmith.ports.tokenizer import Tokenizer


def spans(datum: Datum, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """[(text, weight)] in order, all tokens of the datum: its first input (weight 0), then its targets. Neighbours of
    equal weight are one span, so that a character never falls apart into its bytes unless its weights differ."""
    ids = np.concatenate([datum.tokens[:1], datum.targets if datum.targets.ndim == 1 else datum.targets[:, 0]])
    weights = datum.weights if datum.weights.ndim == 1 else datum.weights.sum(axis=1)
    weights = np.concatenate([np.zeros(len(ids) - len(weights), np.float32), weights])
    return [(tokenizer.decode(ids[a:b]), float(weights[a])) for a, b in _equal_stretches(weights)]


def _equal_stretches(values: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return ((a, b) for a, b in pairwise(edges) if a < b)
