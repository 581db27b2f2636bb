"""Rubrics: what is asked of an answer, item by item, and what a judge's words are worth.

A row of a file is `{"convo": [messages], "rubric_items": [{...}]}` (`messages` is read for `convo` too). An item has

* `rubric_str`: what is asked of the answer;
* `extraction_regex`: a regular expression whose one group is the score in the judge's words (`<score>(.*)</score>`), or
  `json_key`: the judge's words are a JSON object, and the score is there;
* `grader_output_format_instruction`: how the judge is to write it;
* `weight` (1), and `min` and `max` (0 and 1): the scores that may be given.

A score is read strictly: found exactly once, a plain finite number, between `min` and `max`. All else is no score, and
never a 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import frozen

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.messages import Conversation, Message

YES, NO = "1", "0"
"""The answers of a judge whose probability of the first is the score."""

LONGEST = 20_000
"""Characters of a judge's words in which a score is looked for: more is no score."""

FORM = "Write your score, a number from {min:g} to {max:g}, as <score>SCORE</score>."
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_KEYS = {"rubric_str", "extraction_regex", "json_key", "grader_output_format_instruction", "weight", "min", "max"}


@frozen(kw_only=True)
class RubricItem:
    """One thing that is asked of an answer."""

    text: str
    weight: float = 1.0
    pattern: str = "<score>(.*)</score>"
    json_key: str | None = None
    """The score's key, where the judge writes a JSON object."""
    form: str = FORM
    """How the judge is to write its score."""
    low: float = 0.0
    high: float = 1.0

    def __attrs_post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("an item of a rubric asks nothing")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"weight {self.weight} of an item: finite, above 0")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"scores from {self.low} to {self.high}: finite, the second the larger one")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ConfigError(f"extraction_regex {self.pattern!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ConfigError(f"extraction_regex {self.pattern!r} has {groups} groups: one holds the score")

    @property
    def instruction(self) -> str:
        return FORM.format(min=self.low, max=self.high) if self.form == FORM else self.form

    def score(self, said: str) -> float | None:
        """From 0 (`low`) to 1 (`high`), or None where the judge's words hold no score."""
        if len(said) > LONGEST:
            return None
        found = self._in_json(said) if self.json_key is not None else self._by_pattern(said)
        if found is None or not (math.isfinite(found) and self.low <= found <= self.high):
            return None
        return (found - self.low) / (self.high - self.low)

    def _by_pattern(self, said: str) -> float | None:
        matches = re.findall(self.pattern, said, re.DOTALL)
        if len(matches) != 1 or not _NUMBER.fullmatch(matches[0].strip()):
            return None
        return float(matches[0])

    def _in_json(self, said: str) -> float | None:
        try:
            whole = json.loads(said)
        except (ValueError, RecursionError):
            return None
        value = whole.get(self.json_key) if isinstance(whole, dict) else None
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@frozen(kw_only=True)
class RubricRow:
    prompt: Conversation
    items: tuple[RubricItem, ...]


def rubric_from_row(row: Mapping[str, Any], *, source: str, line: int) -> RubricRow:
    """Raises DataError, with file and line, for a row that is none."""

    def wrong(why: str) -> DataError:
        return DataError(why, source=source, line=line)

    if not isinstance(row.get("rubric_items"), Sequence) or isinstance(row["rubric_items"], str):
        raise wrong('a row needs "convo" (messages) and "rubric_items" (a list)')
    if row.get("convo") is None and row.get("messages") is None:
        raise wrong('a row needs "convo": the messages that are to be answered')
    messages = row["convo"] if row.get("convo") is not None else row["messages"]
    asked = conversation_from_row({"messages": messages, "tools": row.get("tools")}, source=source, line=line)
    if asked.messages[-1].role == "assistant":
        raise wrong("the conversation ends with an answer: there is nothing to answer")
    items = []
    for place, item in enumerate(row["rubric_items"]):
        if not isinstance(item, Mapping):
            raise wrong(f"item {place} of the rubric must be an object, not {type(item).__name__}")
        if unknown := sorted(set(item) - _KEYS):
            raise wrong(f"item {place} of the rubric has {', '.join(map(repr, unknown))}; known are {sorted(_KEYS)}")
        try:
            items.append(_item(item))
        except (ConfigError, TypeError, ValueError) as error:
            raise wrong(f"item {place} of the rubric: {error}") from None
    if not items:
        raise wrong("the rubric has no item")
    return RubricRow(prompt=asked, items=tuple(items))


def _item(item: Mapping[str, Any]) -> RubricItem:
    texts = {
        "text": item.get("rubric_str"),
        "pattern": item.get("extraction_regex"),
        "json_key": item.get("json_key"),
        "form": item.get("grader_output_format_instruction"),
    }
    numbers = {"weight": item.get("weight"), "low": item.get("min"), "high": item.get("max")}
    if texts["text"] is None:
        raise ValueError('"rubric_str" is missing')
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text, not {type(value).__name__}")
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
            raise TypeError(f"{name} must be a number, not {type(number).__name__}")
    return RubricItem(**{name: value for name, value in (texts | numbers).items() if value is not None})


def question(prompt: Conversation, answer: Message, item: RubricItem, how: Literal["text", "probability"]) -> Message:
    """What a judge is asked about one item, as one message of a user: a form that every chat format has. Lines that are
    quoted are marked, so that none of an answer can pass for a part of the question."""
    parts = [
        *(f"[{m.role}]\n{_quoted(m.text)}" for m in prompt.messages),
        f"[answer]\n{_quoted(answer.text)}",
        f"[rubric]\n{item.text}",
        item.instruction if how == "text" else f"Does the answer meet the rubric? {YES} is yes, {NO} is no.",
    ]
    return Message.user("\n\n".join(parts))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def total(items: Sequence[RubricItem], scores: Sequence[float], aggregate: Literal["mean", "sum"] = "mean") -> float:
    """The weighted mean, or the weighted sum, of the items' scores."""
    weighted = math.fsum(item.weight * score for item, score in zip(items, scores, strict=True))
    return weighted / math.fsum(item.weight for item in items) if aggregate == "mean" else weighted
