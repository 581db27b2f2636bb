"""Games: tic-tac-toe, and one player's games against a host who knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from tinsmith.domain.messages import Message
from tinsmith.envs.game import Game

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
_NUMBER = re.compile(r"-?\d+")


class TicTacToe:
    """Cells 1 to 9, row by row; X, player 0, begins. A move is the first number of the answer. A win pays 1, a draw
    0, a loss -1; a move that cannot be made loses, and so does giving up."""

    def __init__(self) -> None:
        self.board = "." * 9
        self.winner: int | None = None
        self.over = False
        self._illegal: set[int] = set()
        self._seen = [False, False]

    @property
    def players(self) -> int:
        return 2

    @property
    def turn(self) -> int | None:
        return None if self.over else self.board.count("X") - self.board.count("O")

    def observe(self, player: int) -> Sequence[Message]:
        text = f"{self.shown()}\nYour move, {'XO'[player]}:"
        if self._seen[player]:
            return (Message.user(text),)
        self._seen[player] = True
        return (Message.user(f"Tic-tac-toe. Answer with the number of a free cell.\n{text}"),)

    def shown(self) -> str:
        cells = [c if c != "." else str(i + 1) for i, c in enumerate(self.board)]
        return "\n".join(" ".join(cells[row : row + 3]) for row in (0, 3, 6))

    def act(self, player: int, text: str) -> None:
        found = _NUMBER.search(text)
        cell = int(found.group()) - 1 if found and len(found.group()) < 3 else -1
        if not 0 <= cell < 9 or self.board[cell] != ".":
            self._illegal.add(player)
            self.quit(player)
            return
        self.board = self.board[:cell] + "XO"[player] + self.board[cell + 1 :]
        if won(self.board, "XO"[player]):
            self.winner, self.over = player, True
        elif "." not in self.board:
            self.over = True

    def quit(self, player: int) -> None:
        self.winner, self.over = 1 - player, True

    def reward(self, player: int) -> float:
        if self.winner is None:
            return 0.0
        return 1.0 if self.winner == player else -1.0

    def metrics(self, player: int) -> Mapping[str, float]:
        reward = self.reward(player)
        return {
            "win": float(reward > 0),
            "draw": float(reward == 0),
            "loss": float(reward < 0),
            "illegal_move": float(player in self._illegal),
        }


def won(board: str, mark: str) -> bool:
    return any(all(board[i] == mark for i in line) for line in LINES)


@cache
def value(board: str, mark: str) -> int:
    """What the game is worth to `mark`, whose move it is, when both play best: 1, 0 or -1."""
    other = "O" if mark == "X" else "X"
    if won(board, other):
        return -1
    if "." not in board:
        return 0
    return max(-value(board[:i] + mark + board[i + 1 :], other) for i, c in enumerate(board) if c == ".")


def best_move(game: Game, player: int) -> str:
    """An opponent that never loses: the first of its best cells."""
    assert isinstance(game, TicTacToe)
    mark, other = "XO"[player], "OX"[player]
    free = [i for i, c in enumerate(game.board) if c == "."]
    return str(max(free, key=lambda i: (-value(game.board[:i] + mark + game.board[i + 1 :], other), -i)) + 1)


def best_answer(text: str) -> str:
    """The same, for the board that was shown last in a text."""
    *_, (board, mark) = re.findall(r"((?:[1-9XO] [1-9XO] [1-9XO]\n){3})Your move, ([XO])", text)
    game = TicTacToe()
    game.board = "".join(c if c in "XO" else "." for c in board.split())
    return best_move(game, "XO".index(mark))


class GuessNumber:
    """A number from 0 to `most` is to be found: the host says too low or too high. Finding it pays 1, using up `turns`
    guesses 0, an answer without a number -1."""

    def __init__(self, secret: int, *, most: int = 1023, turns: int = 10) -> None:
        self.secret, self.most, self.left = secret, most, turns
        self._said = f"I think of a number from 0 to {most}. You have {turns} guesses. Answer with a number."
        self._reward: float | None = None
        self._guesses = 0

    @property
    def solution(self) -> str:
        return str(self.secret)

    @property
    def players(self) -> int:
        return 1

    @property
    def turn(self) -> int | None:
        return 0 if self._reward is None else None

    def observe(self, player: int) -> Sequence[Message]:
        return (Message.user(self._said),)

    def act(self, player: int, text: str) -> None:
        found = _NUMBER.search(text)
        if found is None or len(found.group()) > 9:
            self._reward = -1.0
            return
        guess, self.left, self._guesses = int(found.group()), self.left - 1, self._guesses + 1
        if guess == self.secret:
            self._reward = 1.0
        elif self.left == 0:
            self._reward = 0.0
        else:
            self._said = "Too low." if guess < self.secret else "Too high."

    def quit(self, player: int) -> None:
        self._reward = -1.0

    def reward(self, player: int) -> float:
        return -1.0 if self._reward is None else self._reward

    def metrics(self, player: int) -> Mapping[str, float]:
        return {"found": float(self._reward == 1.0), "guesses": float(self._guesses)}
