"""Rows of data files -> preference pairs.

Layouts that are read, told apart by their keys:

* `chosen`, `rejected`: answers (text, a message, messages) to `prompt`, `messages` or `conversations`; or whole
  conversations that differ in their last message, as messages or as text of Anthropic's hh-rlhf
  (`\\n\\nHuman: ...\\n\\nAssistant: ...`);
* `context`, `response1`, `response2`, `overall_preference` (nvidia/HelpSteer3): below 0 prefers the first;
* `instruction`, `chosen_response`, `rejected_response` (argilla/ultrafeedback-binarized-preferences).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tinsmith.domain.chat_rows import conversation_from_row, preference_from_row
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Conversation, Message, Preference

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class NoPreference(DataError):
    """A row that is well formed and prefers nothing; `why` in words that are the same for all such rows."""

    def __init__(self, why: str, *, source: str | None = None, line: int | None = None) -> None:
        self.why = why
        super().__init__(f"two answers that {why}", source=source, line=line)


def pair_from_row(row: Mapping[str, Any], *, source: str | None = None, line: int | None = None) -> Preference:
    """The pair of a row: both sides end with an answer of the assistant, and differ. Raises DataError, of a row that is
    well formed but no pair to learn from NoPreference."""
    pair = _pair(row, source, line)
    for side in (pair.chosen, pair.rejected):
        if not side or side[-1].role != "assistant":
            raise NoPreference("do not end with the assistant", source=source, line=line)
        last = side[-1]
        if not (last.text.strip() or last.thinking or last.tool_calls or last.media):
            raise NoPreference("are not both there: one is empty", source=source, line=line)
    if pair.chosen == pair.rejected:
        raise NoPreference("are equal", source=source, line=line)
    return pair


def _pair(row: Mapping[str, Any], source: str | None, line: int | None) -> Preference:
    def conversation(messages: Any) -> tuple[Message, ...]:
        return conversation_from_row({"messages": messages}, source=source, line=line).messages

    def text(key: str) -> str:
        value = row.get(key)
        if not isinstance(value, str):
            raise DataError(f"{key!r} must be text, not {type(value).__name__}", source=source, line=line)
        return value

    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, not {type(row).__name__}", source=source, line=line)
    if "overall_preference" in row:
        preference = row["overall_preference"]
        if isinstance(preference, bool) or not isinstance(preference, int | float):
            raise DataError(f"'overall_preference' must be a number, not {preference!r:.40}", source=source, line=line)
        first, second = Message.assistant(text("response1")), Message.assistant(text("response2"))
        if preference == 0:
            raise NoPreference("are preferred equally", source=source, line=line)
        better, worse = (first, second) if preference < 0 else (second, first)
        return Preference(Conversation(conversation(row.get("context"))), (better,), (worse,))
    if "chosen_response" in row:
        asked = Conversation((Message.user(text("instruction")),))
        answers = (Message.assistant(text(key)) for key in ("chosen_response", "rejected_response"))
        return Preference(asked, *((answer,) for answer in answers))
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str) and _TURN.match(chosen):
        return _split(_dialogue(chosen, source, line), _dialogue(rejected, source, line), source, line)
    if _is_whole(chosen) and _is_whole(rejected):
        return _split(conversation(chosen), conversation(rejected), source, line)
    return preference_from_row(row, source=source, line=line)


def _is_whole(side: Any) -> bool:
    """Messages that begin with what was asked."""
    return (
        isinstance(side, list)
        and len(side) > 1
        and isinstance(side[0], Mapping)
        and side[0].get("role", side[0].get("from")) in ("user", "human", "system")
    )


def _dialogue(text: str, source: str | None, line: int | None) -> tuple[Message, ...]:
    head, *parts = _TURN.split(text)
    if head or not parts:
        raise DataError(r"a dialogue must begin with '\n\nHuman:'", source=source, line=line)
    return tuple(Message(_ROLES[role], said.strip()) for role, said in zip(parts[0::2], parts[1::2], strict=True))


def _split(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], source: str | None, line: int | None
) -> Preference:
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise NoPreference("belong to different conversations", source=source, line=line)
    return Preference(Conversation(chosen[:-1]), chosen[-1:], rejected[-1:])
