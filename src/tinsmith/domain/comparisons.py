"""Comparing answers to one conversation: the question to a judge, who meets whom in a group, and what that pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.messages import Conversation, Message, Preference

FIRST, SECOND = "1", "2"
"""A judge's answers."""


def _messages(values: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(values)


@frozen
class Comparison:
    """Two answers to one conversation."""

    prompt: Conversation
    first: tuple[Message, ...] = field(converter=_messages)
    second: tuple[Message, ...] = field(converter=_messages)

    def swapped(self) -> Comparison:
        return Comparison(self.prompt, self.second, self.first)

    def question(self) -> tuple[Message, ...]:
        """What a judge is asked, as one message of a user: a form that every chat format has. The answer is `FIRST` or
        `SECOND`."""
        parts = [
            *(f"[{m.role}]\n{m.text}" for m in self.prompt.messages),
            f"[answer {FIRST}]\n{_text(self.first)}",
            f"[answer {SECOND}]\n{_text(self.second)}",
            f"Which answer is better, {FIRST} or {SECOND}?",
        ]
        return (Message.user("\n\n".join(parts)),)


def labelled(pair: Preference) -> tuple[Conversation, Conversation]:
    """A preference as two examples for a judge: the better answer first, and the better answer second, so that nothing
    can be learned from the place."""
    comparison = Comparison(pair.prompt, pair.chosen, pair.rejected)
    return (
        Conversation((*comparison.question(), Message.assistant(FIRST))),
        Conversation((*comparison.swapped().question(), Message.assistant(SECOND))),
    )


def _text(messages: Sequence[Message]) -> str:
    return "\n\n".join(m.text for m in messages)


def matchups(members: int, size: int, *, both_ways: bool = True) -> list[tuple[int, int]]:
    """Who of a group meets whom: all pairs within each `size` members that follow one another, in both orders or in
    one. The last part takes a single member that is over, so that nobody is left without an opponent."""
    if size < 2:
        raise ConfigError(f"matchups among {size}: at least 2")
    starts = list(range(0, max(members, 1), size))
    if len(starts) > 1 and members - starts[-1] == 1:
        del starts[-1]
    out = []
    for start, end in zip(starts, [*starts[1:], members], strict=True):
        for i in range(start, end):
            out += [(i, j) for j in range(start, end) if (i != j if both_ways else i < j)]
    return out


def matchup_rewards(
    members: int, pairs: Sequence[tuple[int, int]], first_wins: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """[members]: (wins - losses) / matchups of each, from -1 to 1, 0 for one without a matchup. first_wins: of each
    pair the probability that its first member has the better answer, 1/2 for a tie."""
    wins = np.asarray(first_wins, np.float64)
    if wins.shape != (len(pairs),) or not ((wins >= 0) & (wins <= 1)).all():
        raise ShapeError(f"{wins.shape} probabilities, each from 0 to 1, are wanted of {len(pairs)} matchups")
    score, count = np.zeros(members), np.zeros(members)
    for (i, j), p in zip(pairs, wins, strict=True):
        score[i] += 2 * p - 1
        score[j] -= 2 * p - 1
        count[[i, j]] += 1
    return np.divide(score, count, out=np.zeros(members), where=count > 0)
