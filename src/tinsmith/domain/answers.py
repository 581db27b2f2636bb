"""Exact comparison of numeric answers: integers and decimals.

A number is an optional sign, digits with optional thousands commas, and an optional decimal part. Two answers are equal
when they are the same number, exactly (`72`, `72.0` and `+72` are; `1,000` and `1000` are; 0.3 and 0.33 are not). What
is no such number is never equal to one. No text is evaluated.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"(?:(?<![\d.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")
_MAX_CHARS = 400
"""A number longer than this is refused: nobody's answer, and big integers cost quadratic time."""


def parse_number(text: str) -> Fraction | None:
    """The number that `text` is, apart from spaces, a leading `$` and a final full stop or `%`; else None."""
    text = text.strip().removesuffix(".").removesuffix("%").strip()
    text = "-" + text[2:] if text.startswith("-$") else text.removeprefix("$")
    if len(text) > _MAX_CHARS or not _NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def last_number(text: str) -> str | None:
    """The last number in `text`, as written."""
    matches = _NUMBER.findall(text)
    return matches[-1] if matches else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance; None when the last box is not closed."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    begin = start + len(r"\boxed{")
    depth = 1
    for i in range(begin, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return text[begin:i]
    return None


def after_hashes(text: str) -> str | None:
    """What follows the last `####` on its line, as GSM8K writes its answers."""
    _, marker, rest = text.rpartition("####")
    return rest.split("\n", 1)[0].strip() if marker else None


def same_number(gold: str, given: str) -> bool:
    """Whether both are numbers, and the same one."""
    a, b = parse_number(gold), parse_number(given)
    return a is not None and a == b
