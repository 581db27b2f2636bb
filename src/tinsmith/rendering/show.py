"""Weights to look at: text in spans of equal weight, on a terminal and as a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from tinsmith.domain.datums import Datum
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.tokenizer import Tokenizer


def spans(datum: Datum, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """[(text, weight)] in order, all tokens of the datum: its first input (weight 0), then its targets. Neighbours of
    equal weight are one span, so that a character never falls apart into its bytes unless its weights differ."""
    ids = np.concatenate([datum.tokens[:1], datum.targets if datum.targets.ndim == 1 else datum.targets[:, 0]])
    weights = datum.weights if datum.weights.ndim == 1 else datum.weights.sum(axis=1)
    weights = np.concatenate([np.zeros(len(ids) - len(weights), np.float32), weights])
    return stretches(ids, weights, tokenizer)


def stretches(ids: Ints, weights: Floats, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """[(text, weight)] of tokens and the weight of each."""
    return [(tokenizer.decode(ids[a:b]), float(weights[a])) for a, b in _equal_stretches(weights)]


def visible(text: str) -> str:
    """Text for a terminal or a page: characters that steer one (escape, bell, turned writing) are spelled out."""
    return _STEERING.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

PAGE_BEGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>tinsmith render</title>
<style>
body { font: 14px/1.5 ui-monospace, monospace; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid #ddd; padding-left: 1rem; }
.read { color: #777; } .trained { background: #d6f5d6; } .against { background: #f9d6d5; }
h2, p { font-size: 1rem; }
</style></head><body>
<p><span class="trained">trained</span> <span class="read">only read</span>; hover for the weight.</p>
"""
PAGE_END = "</body></html>\n"


def section(title: str, parts: Sequence[tuple[str, float]], notes: Sequence[str] = ()) -> str:
    """One conversation of a page. Whatever its text says, it stays text."""
    spans_html = "".join(
        f'<span class="{"trained" if weight > 0 else "against" if weight < 0 else "read"}" title="{weight:g}">'
        f"{html.escape(visible(text))}</span>"
        for text, weight in parts
    )
    lines = "".join(f"<p>{html.escape(visible(note))}</p>\n" for note in notes)
    return f"<h2>{html.escape(visible(title))}</h2>\n<pre>{spans_html}</pre>\n{lines}"


def _equal_stretches(values: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return ((a, b) for a, b in pairwise(edges) if a < b)
