"""A game of the package as the rules of a table.

Its games draw from the global `random`, at their start and between moves. Each game here keeps a state of its own, so
that games that are played side by side neither disturb each other nor anyone else, and come out the same again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from tinsmith.domain.errors import ConfigError, MissingExtraError, WorldError
from tinsmith.domain.messages import Message

MOST_PLAYERS = 15


def _package() -> Any:
    try:
        import textarena
    except ImportError:
        raise MissingExtraError("textarena", "textarena") from None
    return textarena


def num_players(name: str, asked: int | None = None) -> int:
    """How many play the game: as many as asked for, else two where that may be, else the fewest that may.

    Raises ConfigError for a game that there is not, that takes another number of players, or that cannot be set up here
    (some need data or keys of their own); MissingExtraError.
    """
    _package()
    from textarena.envs.registration import ENV_REGISTRY

    if name not in ENV_REGISTRY:
        near = get_close_matches(name, ENV_REGISTRY, n=3)
        raise ConfigError(
            f"textarena has no game {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else " by this name")
        )
    told: Exception | None = None
    counts: tuple[int, ...] = (2, 1, *range(3, MOST_PLAYERS + 1)) if asked is None else (asked,)
    for players in counts:
        try:
            TextArenaGame(name, players, seed=0)
        except WorldError as error:
            told = told or error
            if not isinstance(error.__cause__, AssertionError):
                break
        else:
            return players
    raise ConfigError(f"game=textarena:{name} players={asked or 'none'} cannot be set up: {told}") from told


class TextArenaGame:
    """A `Game`. Rewards are the package's. A player who quits loses: -1 for them and, of two, 1 for the other; of more
    the others get nothing, for the package has no rule for it. What the package raises is the world's failure."""

    def __init__(self, name: str, players: int, *, seed: int) -> None:
        self._name, self._players = name, players
        self._random = random.Random(seed).getstate()
        self._seen: dict[int, str] = {}
        self._turn: int | None = None
        self._text = ""
        self._rewards: Mapping[int, float] = {}
        self._info: Mapping[int, Mapping[str, Any]] = {}
        with self._calling():
            self._env = _package().make(name)
            self._env.reset(num_players=players, seed=seed)
            self._look()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """The package works with this game's randomness, and its errors are the world's."""
        others = random.getstate()
        random.setstate(self._random)
        try:
            yield
        except MissingExtraError:
            raise
        except Exception as error:
            raise WorldError(f"textarena, {self._name}: {type(error).__name__}: {str(error)[:500]}") from error
        finally:
            self._random = random.getstate()
            random.setstate(others)

    def _look(self) -> None:
        turn, text = self._env.get_observation()
        self._turn, self._text = int(turn), str(text)

    @property
    def players(self) -> int:
        return self._players

    @property
    def turn(self) -> int | None:
        return self._turn

    def observe(self, player: int) -> Sequence[Message]:
        """What is new: most games say all that was said since the start, some the state of a board alone."""
        before, text = self._seen.get(player, ""), self._text
        self._seen[player] = text
        new = text.removeprefix(before) if before else text
        return (Message.user(new.strip("\n") or text.strip("\n") or "Your move."),)

    def act(self, player: int, text: str) -> None:
        with self._calling():
            done, _ = self._env.step(action=text)
            if not done:
                self._look()
                return
            rewards, info = self._env.close()
            self._rewards = {int(p): float(r) for p, r in (rewards or {}).items()}
            if not all(math.isfinite(r) for r in self._rewards.values()):
                raise ValueError(f"rewards {self._rewards}")
            self._info = info or {}
        self._turn = None

    def quit(self, player: int) -> None:
        self._turn = None
        others = 1.0 if self._players == 2 else 0.0
        self._rewards = {p: -1.0 if p == player else others for p in range(self._players)}

    def reward(self, player: int) -> float:
        return self._rewards.get(player, 0.0)

    def metrics(self, player: int) -> Mapping[str, float]:
        reward = self.reward(player)
        return {
            "win": float(reward > 0),
            "draw": float(reward == 0),
            "loss": float(reward < 0),
            "invalid_move": float(bool(self._info.get(player, {}).get("invalid_move", False))),
        }
