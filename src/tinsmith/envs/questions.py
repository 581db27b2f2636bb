"""Twenty questions: one player asks, one knows. Exact answers to a small closed set, or any player who answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from tinsmith.domain.messages import Message
from tinsmith.envs.game import Game

ASKER, ANSWERER = 0, 1

_TABLE = {
    "apple": "natural food round green",
    "lamp": "hard metal glass hot",
    "river": "natural big wet",
    "table": "hard wooden flat",
    "rocket": "hard metal big flying hot",
    "forest": "natural big green wooden",
    "paper": "flat",
    "stone": "natural hard",
    "orange": "natural food round",
    "mirror": "hard glass flat",
    "cloud": "natural big wet flying",
    "ladder": "hard wooden",
    "engine": "hard metal hot",
    "island": "natural big",
    "button": "hard round",
    "pepper": "natural food hot",
    "garden": "big green",
    "candle": "round hot",
    "bridge": "big hard",
    "basket": "wooden",
}
THINGS: Mapping[str, frozenset[str]] = {name: frozenset(told.split()) for name, told in _TABLE.items()}
"""What is true of each thing. No two have the same told of them."""

_GUESS = re.compile(r"\bguess\b\s*+:?\s*+(.+)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?!\d)")
_NEGATIONS = {"not", "no", "never", "isn", "nor", "without"}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _plain(text: str) -> str:
    """As guesses are compared: lower case, letters and digits alone, without an article."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


@frozen
class Menu:
    """Things in play and what may be asked about them, numbered from 1, questions first: a model of few
    words can play."""

    things: tuple[str, ...]

    @property
    def questions(self) -> tuple[str, ...]:
        """Properties that together tell every thing from every other, the most telling one first."""
        chosen: list[str] = []
        every = sorted(frozenset().union(*(THINGS[name] for name in self.things)))

        def kinds(asked: list[str]) -> int:
            return len({tuple(p in THINGS[name] for p in asked) for name in self.things})

        while kinds(chosen) < len(self.things):
            chosen.append(max(every, key=lambda p: (kinds([*chosen, p]), -self._gap(p))))
        return tuple(chosen)

    def _gap(self, asked: str) -> int:
        """How far from even the property parts the things."""
        return abs(2 * sum(asked in THINGS[name] for name in self.things) - len(self.things))

    def shown(self) -> str:
        asked = [f"{i} {p}?" for i, p in enumerate(self.questions, 1)]
        named = [f"{i} {name}" for i, name in enumerate(self.things, len(asked) + 1)]
        return f"{' '.join(asked)}\n{' '.join(named)}"

    def read(self, text: str) -> str | None:
        """The one property or thing that is meant, by word or, where no word is known, by number; None where none or
        several are, or where it is asked with a not."""
        words = set(_words(text))
        meant = words & {*self.questions, *self.things}
        if meant:
            return meant.pop() if len(meant) == 1 and not words & _NEGATIONS else None
        numbers = _NUMBER.findall(text)
        lines = (*self.questions, *self.things)
        return lines[int(numbers[0]) - 1] if len(numbers) == 1 and 0 < int(numbers[0]) <= len(lines) else None


class TwentyQuestions:
    """Player 0 finds the secret by questions, which player 1 answers with yes or no; `Guess: WORD` guesses. Finding it
    within `turns` questions and guesses pays player 0 one, anything else nothing; giving up ends the game and costs
    one. The answerer is paid nothing. What it says beside yes and no is not passed on: it could give the secret away.

    With a menu the secret is one of its things, and naming one is a guess too.
    """

    def __init__(self, secret: str, *, turns: int = 20, menu: Menu | None = None) -> None:
        self.secret, self.turns, self.menu = secret, turns, menu
        self.question = ""
        self._asked = self._unclear = 0
        self._turn: int | None = ASKER
        self._reward = 0.0
        if menu is None:
            self._said = (
                f"I think of a thing. Find it within {turns} questions, which I answer with yes or no. To guess, write "
                "`Guess: ` and the word."
            )
        else:
            self._said = (
                f"{menu.shown()}\nI think of one of these things. You have {turns} questions. Answer with a number."
            )
        self._told = False

    @property
    def solution(self) -> str:
        """What finds the secret at once."""
        if self.menu is None:
            return f"Guess: {self.secret}"
        return str(len(self.menu.questions) + self.menu.things.index(self.secret) + 1)

    @property
    def players(self) -> int:
        return 2

    @property
    def turn(self) -> int | None:
        return self._turn

    def observe(self, player: int) -> Sequence[Message]:
        if player == ASKER:
            return (Message.user(self._said),)
        if self._told:
            return (Message.user(self.question),)
        self._told = True
        rule = f"You know a secret word: {self.secret}. Answer each question about it truthfully, with yes or no alone."
        return (Message.system(rule), Message.user(self.question))

    def act(self, player: int, text: str) -> None:
        if player == ANSWERER:
            self._answered(text)
            return
        self._asked += 1
        guess = self._guess(text)
        if guess is not None and _plain(guess) == _plain(self.secret):
            self._reward, self._turn = 1.0, None
        elif self._asked == self.turns:
            self._turn = None
        elif guess is not None:
            self._said = f"It is not {guess}."
        else:
            self.question, self._turn = text, ANSWERER

    def _guess(self, text: str) -> str | None:
        found = _GUESS.search(text)
        if found is not None:
            return _plain(found.group(1)[:100])
        meant = None if self.menu is None else self.menu.read(text)
        return meant if meant in THINGS else None

    def _answered(self, text: str) -> None:
        first = (_words(text) or [""])[0]
        self._unclear += first not in ("yes", "no")
        self._said = {"yes": "Yes.", "no": "No."}.get(first, "I cannot say.")
        self._turn = ASKER

    def quit(self, player: int) -> None:
        self._turn = None
        self._reward = -1.0 if player == ASKER else 0.0

    def reward(self, player: int) -> float:
        return self._reward if player == ASKER else 0.0

    def metrics(self, player: int) -> Mapping[str, float]:
        return {
            "found": float(self._reward == 1.0),
            "questions": float(self._asked),
            "unclear_answers": float(self._unclear),
        }


def exact_answer(game: Game, player: int) -> str:
    """The answers of one who knows all that is true of the menu's things; neither yes nor no to what cannot be read."""
    assert isinstance(game, TwentyQuestions)
    assert game.menu is not None
    asked = game.menu.read(game.question)
    if asked is None:
        return "unclear"
    return "yes" if asked in THINGS[game.secret] else "no"
