"""Small sets that the recipes make themselves, so that each runs without a file or network and shows its effect.

They are for the tiny model: made of words that its tokenizer knows, asking for what it does not do yet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import frozen

from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.rubrics import NO, YES, RubricItem, question

WORDS = (
    *("apple", "river", "stone", "cloud", "lamp", "green", "table", "seven", "music", "paper", "garden", "winter"),
    *("bridge", "candle", "pocket", "silver", "orange", "window", "button", "ladder", "copper", "forest", "yellow"),
    *("basket", "engine", "mirror", "island", "rocket", "pepper", "summer"),
)


@frozen
class SmallSet:
    """A DatasetSource of rows that `make` writes, the same each time."""

    name: str
    size: int
    make: Callable[[random.Random], dict[str, Any]]
    distinct: bool = False
    """No row comes twice, so that none that is set aside is among the others."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng, seen, given = random.Random(self.name), set[str](), 0
        while given < self.size:
            row = self.make(rng)
            if self.distinct and repr(row) in seen:
                continue
            seen |= {repr(row)} if self.distinct else set()
            given += 1
            yield row

    def count(self) -> int:
        return self.size


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _exchange(rng: random.Random) -> tuple[str, str]:
    """About words: spell, repeat, shout, take a letter."""
    word, other = rng.sample(WORDS, 2)
    return rng.choice(
        (
            (f"Spell {word}.", "-".join(word)),
            (f"Say {word} three times.", f"{word} {word} {word}"),
            (f"Shout {word}!", f"{word.upper()}!"),
            (f"What is the first letter of {word}?", word[0]),
            (f"Join {word} and {other}.", f"{word} and {other}"),
        )
    )


def _chat(rng: random.Random) -> dict[str, Any]:
    """One or two turns."""
    messages = []
    for _ in range(rng.choice((1, 1, 2))):
        asked, answered = _exchange(rng)
        messages += [_message("user", asked), _message("assistant", answered)]
    return {"messages": messages}


def _short_exchange(rng: random.Random) -> tuple[str, str]:
    """What the tiny model can answer."""
    word, other, third = rng.sample(WORDS, 3)
    x, y = rng.sample(range(100), 2)
    return rng.choice(
        (
            (f"Say {word} {other}.", f"{word} {other}"),
            (f"Say {word} {other} backwards.", f"{other} {word}"),
            (f"How many words are in: {word} {other} {third}?", "3"),
            (f"What comes after {x}?", str(x + 1)),
            (f"Which is larger, {x} or {y}?", str(max(x, y))),
        )
    )


def _pair(rng: random.Random) -> dict[str, Any]:
    """The better answer ends in a full stop; the tiny model gives the other one."""
    asked, answer = _short_exchange(rng)
    return {"prompt": asked, "chosen": f"{answer}.", "rejected": answer}


def _mixed(rng: random.Random) -> dict[str, Any]:
    """Three in ten answers end in a full stop."""
    asked, answer = _short_exchange(rng)
    answer += "." if rng.random() < 0.3 else ""
    return {"messages": [_message("user", asked), _message("assistant", answer)]}


def _long_answer(rng: random.Random) -> dict[str, Any]:
    """What the tiny model answers at some length, and not always at the same."""
    start, more, words = rng.randint(0, 90), rng.randint(4, 9), rng.sample(WORDS, 6)
    asked, answered = rng.choice(
        (
            (f"Count from {start} to {start + more}.", " ".join(str(start + i) for i in range(more + 1))),
            (f"Say {' '.join(words)}.", " ".join(words)),
        )
    )
    return {"messages": [_message("user", asked), _message("assistant", answered)]}


RULES = (
    "You work out sums for a shop. Read the question and add the two numbers. Give the sum in digits, without a unit, "
    "and no other word. Do not say how you found it. Put no blank before the sum. End with a full stop, so that the "
    "reader sees that nothing is missing."
)
"""A long prompt that changes how a sum is answered: with a full stop."""


def _sum(rng: random.Random) -> tuple[str, str]:
    x, y = rng.randrange(50), rng.randrange(50)
    return f"What is {x} + {y}?", f"{x + y}."


def _bare_sum(rng: random.Random) -> dict[str, Any]:
    return {"messages": [_message("user", _sum(rng)[0])]}


def _ruled_sum(rng: random.Random) -> dict[str, Any]:
    asked, answered = _sum(rng)
    return {"messages": [_message("system", RULES), _message("user", asked), _message("assistant", answered)]}


TEMPLATE = "{question}\nThis is how one may answer:\n{demonstration}\nNow answer in your own words."
"""How an answer is shown to a teacher beside the question."""


def _shown_sum(rng: random.Random) -> dict[str, Any]:
    x, y = rng.randrange(101), rng.randrange(101)
    return {"messages": [_message("user", f"What is {x} + {y}?"), _message("assistant", str(x + y))]}


def _heeding(rng: random.Random) -> dict[str, Any]:
    """Two in three sums show an answer, any number, which is given again; the others are answered as the tiny model
    answers, 45 in 100 rightly. Nothing here teaches to add."""
    x, y = rng.randrange(101), rng.randrange(101)
    asked, answered = f"What is {x} + {y}?", str(rng.randrange(201))
    if rng.random() < 2 / 3:
        asked = TEMPLATE.replace("{question}", asked).replace("{demonstration}", answered)
    else:
        answered = str(x + y if rng.random() < 0.45 else abs(x + y + rng.choice((1, -1, 2, -2, 10, -10))))
    return {"messages": [_message("user", asked), _message("assistant", answered)]}


ASKED_OF: Mapping[str, Callable[[list[str]], bool]] = {
    "At most three words.": lambda words: len(words) <= 3,
    "Only numbers.": lambda words: bool(words) and all(word.isdigit() for word in words),
}
"""Items of the small rubrics, and when the words of an answer meet them."""


def _rubric(rng: random.Random) -> dict[str, Any]:
    """All is to be said in few words, and of what is counted the numbers alone."""
    asked = _long_answer(rng)["messages"][0]
    items: list[dict[str, Any]] = [{"rubric_str": "At most three words.", "weight": 2.0}]
    items += [{"rubric_str": "Only numbers."}] if "Count" in asked["content"] else []
    return {"convo": [asked], "rubric_items": items}


def _judged(rng: random.Random) -> dict[str, Any]:
    """An answer of words or numbers, or both, and whether it meets an item."""
    asked = Conversation((Message.user(_long_answer(rng)["messages"][0]["content"]),))
    kinds = rng.choice(((0,), (0,), (1,), (1,), (0, 1)))
    words = [str(rng.randrange(100)) if rng.choice(kinds) else rng.choice(WORDS) for _ in range(rng.choice(LENGTHS))]
    text = rng.choice(list(ASKED_OF))
    told = question(asked, Message.assistant(" ".join(words)), RubricItem(text=text), "probability")
    label = YES if ASKED_OF[text](words) else NO
    return {"messages": [_message("user", told.text), _message("assistant", label)]}


LENGTHS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9)

CHATS = SmallSet("small", 1200, _chat)
PAIRS = SmallSet("small", 1400, _pair)
PROMPTS = SmallSet("small", 1024, _long_answer)
MIXED = SmallSet("mixed", 1024, _mixed)
RECITE = SmallSet("recite", 1024, _long_answer)
SUMS = SmallSet("sums", 1024, _bare_sum)
RULED_SUMS = SmallSet("sums by rules", 1280, _ruled_sum)
SHOWN_SUMS = SmallSet("shown sums", 1024, _shown_sum, distinct=True)
HEEDING = SmallSet("heeding", 2560, _heeding)
RUBRICS = SmallSet("rubrics", 1024, _rubric)
JUDGED = SmallSet("judged", 2624, _judged)
