"""Equality by math-verify (extra `math`): the right answer first, which its rules depend on. Its own timeouts, which
need signals, are off: the pool's parent ends what takes too long."""

from __future__ import annotations

import logging
from typing import Any

import math_verify

from tinsmith.adapters.graders.worker import Compare


def load() -> Compare:
    logging.disable(logging.CRITICAL)
    compare("1", "$\\frac{2}{2}$")  # its parsers are made at first use
    return compare


def compare(gold: str, pred: str) -> tuple[bool | None, str]:
    right = _parse(gold)
    if not right:
        return None, "gold_unparsed"
    given = _parse(pred)
    if not given:
        return None, "unparsed"
    if math_verify.verify(right, given, timeout_seconds=None, raise_on_error=True):
        return True, "verified"
    # What was no mathematics to it was compared as a text alone.
    if all(isinstance(value, str) for value in right):
        return None, "gold_unparsed"
    return (None, "unparsed") if all(isinstance(value, str) for value in given) else (False, "refuted")


def _parse(text: str) -> list[Any]:
    text = text.strip()
    if any(c == "\ufffd" or not (c.isprintable() or c.isspace()) for c in text):
        return []  # it would read past them
    marked = text if any(sign in text for sign in ("$", "\\(", "\\[", "\\boxed")) else f"${text}$"
    found: list[Any] = math_verify.parse(marked, parsing_timeout=None)
    return found or math_verify.parse(text, parsing_timeout=None)
