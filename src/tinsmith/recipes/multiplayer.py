"""multiplayer: games, against fixed opponents or against oneself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.base import GroupBuilder, ProblemSource
from tinsmith.envs.game import Against, Game, SelfPlay
from tinsmith.envs.games import GuessNumber, TicTacToe, best_move
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement
from tinsmith.rendering import Renderer

NAME = "multiplayer"


@frozen(kw_only=True)
class Config(reinforcement.RLConfig):
    game: Literal["guess_number", "tic_tac_toe"] = option(
        "guess_number", help="what is played: a number to guess from a host's answers, or tic-tac-toe"
    )
    opponent: Literal["self", "best"] = option(
        "best", help="of tic_tac_toe: self-play, in which both players are trained, or exact play"
    )
    most: int = option(20, help="of guess_number: numbers from 0 to this", min=1)
    turns: int = option(6, help="of guess_number: guesses", min=1)
    test_games: int = option(128, help="games of each evaluation; 0 is off", min=0)
    group_size: int = option(8, help="attempts at each game; in self-play, players of its tables together", min=1)
    groups_per_batch: int = option(16, help="games a step", min=1)
    max_steps: int = option(12, help="steps: batches of games", min=1)
    max_tokens: int = option(6, help="tokens a move may have", min=1)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    train, test = problems(config, model)
    words = (config.game, config.opponent) if config.game == "tic_tac_toe" else (config.game,)
    path = config.log_path or common.default_path(NAME, config, *words)
    shown = [("reward", "reward/total")]
    if config.game == "guess_number":
        shown += [("share of numbers found", "found"), ("guesses", "guesses")]
    else:
        shown += [(word, word.replace(" ", "_")) for word in ("win", "draw", "loss", "illegal move")]
    reinforcement.train(NAME, config, progress, model, train, test, path, shown)
    return 0


def validate(config: Config) -> None:
    reinforcement.validate(config)
    if config.game == "tic_tac_toe" and config.opponent == "self" and config.group_size % 2:
        raise ConfigError(
            f"group_size={config.group_size}: self-play seats two players at a table, take an even number"
        )


@frozen(eq=False)
class Games:
    """A `ProblemSource`: game i is fixed by (seed, split, i)."""

    config: Config
    renderer: Renderer
    split: int
    length: int

    @property
    def name(self) -> str:
        return self.config.game

    @property
    def fingerprint(self) -> str:
        c = self.config
        return f"{c.game}/{c.opponent}/{c.most}/{c.turns}/{c.seed}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GroupBuilder:
        return SelfPlay(
            problem=f"{self.name}/{index}",
            tags=(self.name,),
            game=partial(self._game, index),
            renderer=self.renderer,
        )

    def _game(self, index: int) -> Game:
        rng = np.random.default_rng([self.config.seed, self.split, index])
        if self.config.game == "guess_number":
            return GuessNumber(int(rng.integers(self.config.most + 1)), most=self.config.most, turns=self.config.turns)
        if self.config.opponent == "self" and self.split == 0:
            return TicTacToe()
        return Against(TicTacToe(), index % 2, best_move)  # what was learned in self-play is shown against exact play


def problems(config: Config, model: Model) -> tuple[ProblemSource, ProblemSource | None]:
    test = Games(config, model.renderer, 1, config.test_games) if config.test_games else None
    return Games(config, model.renderer, 0, 10_000), test


def check(config: Config) -> Iterable[Any]:
    """One game's first prompt, and the most that the run can take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    game: Game = GuessNumber(0, most=config.most, turns=config.turns) if config.game == "guess_number" else TicTacToe()
    prompt = model.renderer.generation_prompt(game.observe(0)).ids
    yield f"the first prompt of a game, {len(prompt)} tokens:"
    yield model.tokenizer.decode(prompt)
    turns = config.turns if config.game == "guess_number" else 5
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    longest = len(prompt) + turns * (config.max_tokens + 20)
    yield common.estimate(model, config, config.max_steps, episodes * longest, episodes * turns * config.max_tokens)
