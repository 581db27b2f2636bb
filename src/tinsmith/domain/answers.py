"""Answers to mathematics questions: found in a response, and compared with the right one.

The comparison is native and three-valued: equal, different, or undecided with a reason. `docs/answers.md` says what
counts as equal and why. No text is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith import _native
from tinsmith.domain.errors import ConfigError

Text = str | bytes | None
"""An answer as data have it: None is none, bytes are UTF-8 (what is not becomes U+FFFD, as lone surrogates do)."""
Mode = Literal["answer", "response"]
Policy = Literal["relaxed", "strict"]
"""`relaxed`: a unit may be missing, `10%` is 10 and 0.1, a correctly rounded decimal stands for the exact value, a bare
list in order is the tuple. `strict`: none of these."""

REASONS: tuple[str, ...] = tuple(_native.ANSWER_REASONS)
"""Why a verdict is what it is, by code."""
TIERS: tuple[str, ...] = tuple(_native.ANSWER_TIERS)
"""What decided, by code."""


@frozen
class Extracted:
    """An answer in a response: `text` is `response[start:end]`."""

    text: str
    start: int
    end: int
    mark: str
    """How it was marked: "boxed", "hashes" (after ####), "phrase" (after "answer is"), "formula" or "number" (the
    last one of a text without any mark)."""


@frozen
class Verdict:
    """Whether two answers are equal; `equal` is None where that is undecided."""

    equal: bool | None
    reason: str
    """One of REASONS."""
    tier: str
    """One of TIERS."""


@frozen(eq=False)
class Verdicts:
    """N verdicts as arrays."""

    equal: npt.NDArray[np.int8]
    """[N]: 1 equal, 0 different, -1 undecided."""
    reason: npt.NDArray[np.uint8]
    """[N]: indices of REASONS."""
    tier: npt.NDArray[np.uint8]
    """[N]: indices of TIERS."""
    seconds: npt.NDArray[np.float32]
    """[N]: what each took."""

    def __len__(self) -> int:
        return len(self.equal)

    def __iter__(self) -> Iterator[Verdict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Verdict:
        code = int(self.equal[index])
        return Verdict(None if code < 0 else code == 1, REASONS[int(self.reason[index])], TIERS[int(self.tier[index])])


def extract(text: str | bytes) -> Extracted | None:
    r"""The answer in a response, by the first of these that it has: its last `\boxed{...}` or `\fbox{...}` whose braces
    match (several joined by commas, "and" or "or" are taken together, as written), what follows its last `####`, what
    follows its last "answer is" or "Answer:", its last formula, its last number."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    [(start, end, mark)] = _native.extract_answers([text])
    return None if start < 0 else Extracted(text[start:end], start, end, _native.ANSWER_MARKS[mark])


def equal(gold: Text, pred: Text, *, policy: Policy = "relaxed") -> Verdict:
    """Whether an answer equals the right one. A gold answer that is empty or cannot be read gives an undecided verdict
    with a reason that begins with `gold_`: the data are at fault. Never raises for what a text holds."""
    return grade_batch([gold], [pred], policy=policy)[0]


def grade_batch(
    golds: Sequence[Text], preds: Sequence[Text], *, mode: Mode = "answer", policy: Policy = "relaxed"
) -> Verdicts:
    """Compare N answers with N right ones, on all processors, without the GIL.

    mode: "answer" takes each pred as the answer, "response" finds the answer in it first (`extract`); where there is
    none the verdict is different, "not_found". Raises ShapeError where golds and preds differ in number, DataError for
    an item that is no text.
    """
    if mode not in ("answer", "response"):
        raise ConfigError(f"mode={mode!r}: answer or response")
    if policy not in ("relaxed", "strict"):
        raise ConfigError(f"policy={policy!r}: relaxed or strict")
    return Verdicts(*_native.grade_answers(list(golds), list(preds), mode == "response", policy == "strict"))


def parse(text: Text) -> str | None:
    """The answer as JSON, for other graders (the form is in `_native.answer_ast`); None if it cannot be read."""
    return _native.answer_ast(text)[0]


_NUMBER = re.compile(r"(?:(?<![\d.])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> str | None:
    """The last number in `text`, as written."""
    matches = _NUMBER.findall(text)
    return matches[-1] if matches else None


def after_hashes(text: str) -> str | None:
    """What follows the last `####` on its line, as GSM8K writes its answers."""
    _, marker, rest = text.rpartition("####")
    return rest.split("\n", 1)[0].strip() if marker else None
