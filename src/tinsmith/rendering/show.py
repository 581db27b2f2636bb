"""Weights to look at: text in spans of equal weight, on a terminal and as a page. A control token stands apart from the
text around it, whatever that spells."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from attrs import frozen

from tinsmith.domain.datums import Datum
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.tokenizer import Tokenizer


@frozen
class Span:
    text: str
    weight: float
    special: bool = False
    """It is one control token; else text, even where it spells one."""


def spans(datum: Datum, tokenizer: Tokenizer) -> list[Span]:
    """All tokens of the datum in order: its first input (weight 0), then its targets."""
    ids = np.concatenate([datum.tokens[:1], datum.targets if datum.targets.ndim == 1 else datum.targets[:, 0]])
    weights = datum.weights if datum.weights.ndim == 1 else datum.weights.sum(axis=1)
    weights = np.concatenate([np.zeros(len(ids) - len(weights), np.float32), weights])
    return stretches(ids, weights, tokenizer)


def stretches(ids: Ints, weights: Floats, tokenizer: Tokenizer) -> list[Span]:
    """Tokens and the weight of each as spans. A control token is a span of its own; neighbours of equal weight between
    them are one, so that a character never falls apart into its bytes unless its weights differ."""
    special = np.isin(ids, list(tokenizer.special_tokens.values()))
    edge = np.ones(len(ids) + 1, np.bool_)
    edge[1:-1] = (np.diff(weights) != 0) | special[1:] | special[:-1]
    return [
        Span(tokenizer.decode(ids[a:b]), float(weights[a]), bool(special[a]))
        for a, b in pairwise(np.flatnonzero(edge).tolist())
    ]


def marked(span: Span) -> str:
    """A span for a place without styles: a control token in brackets that stand in no text (see `visible`)."""
    return f"\u27e6{visible(span.text)}\u27e7" if span.special else visible(span.text)


def style(span: Span) -> str:
    """On a terminal: trained in green, trained against in red, only read dim; control tokens underlined."""
    colour = "bold green" if span.weight > 0 else "red" if span.weight < 0 else "dim"
    return f"{colour} underline" if span.special else colour


def visible(text: str) -> str:
    """Text for a terminal or a page: characters that steer one (escape, bell, turned writing) are spelled out, and so
    are the brackets of control tokens."""
    return _STEERING.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\u27e6\u27e7\ufeff]")

PAGE_BEGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>tinsmith render</title>
<style>
body { font: 14px/1.5 ui-monospace, monospace; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid #ddd; padding-left: 1rem; }
.read { color: #777; } .trained { background: #d6f5d6; } .against { background: #f9d6d5; }
.control { border: 1px solid #88a; border-radius: 3px; font-weight: bold; }
h2, p { font-size: 1rem; }
</style></head><body>
<p><span class="trained">trained</span> <span class="read">only read</span>
<span class="control">control token</span>; hover for the weight.</p>
"""
PAGE_END = "</body></html>\n"


def section(title: str, parts: Sequence[Span], notes: Sequence[str] = ()) -> str:
    """One conversation of a page. Whatever its text says, it stays text."""
    spans_html = "".join(
        f'<span class="{"trained" if span.weight > 0 else "against" if span.weight < 0 else "read"}'
        f'{" control" if span.special else ""}" title="{span.weight:g}{", control token" if span.special else ""}">'
        f"{html.escape(visible(span.text))}</span>"
        for span in parts
    )
    lines = "".join(f"<p>{html.escape(visible(note))}</p>\n" for note in notes)
    return f"<h2>{html.escape(visible(title))}</h2>\n<pre>{spans_html}</pre>\n{lines}"
