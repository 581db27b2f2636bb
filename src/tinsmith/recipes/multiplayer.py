"""multiplayer: games, against fixed opponents, against a model, or against oneself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Backend, Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, DataNotFoundError
from tinsmith.envs.base import GroupBuilder, ProblemSource
from tinsmith.envs.game import Against, Game, ModelMatch, ModelPlayer, SelfPlay
from tinsmith.envs.games import GuessNumber, TicTacToe, best_move
from tinsmith.envs.questions import ASKER, THINGS, Menu, TwentyQuestions, exact_answer
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement
from tinsmith.rendering import Renderer

NAME = "multiplayer"

OPPONENTS = {
    "guess_number": ("best",),
    "twenty_questions": ("best", "model"),
    "tic_tac_toe": ("best", "model", "self"),
}
"""Of each game who may play the other side; the first is the default."""

_WINS = tuple((word, word.replace(" ", "_")) for word in ("win", "draw", "loss", "illegal move"))
SHOWN = {
    "guess_number": (("share of numbers found", "found"), ("guesses", "guesses")),
    "twenty_questions": (("share of things found", "found"), ("questions", "questions")),
    "tic_tac_toe": _WINS,
}


@frozen(kw_only=True)
class OpponentSettings:
    """A model that plays the other side and is not trained."""

    model: str | None = option(None, help="which one; none takes the model that the run starts from, where it is")
    backend: Backend = option("embedded", help="where it is")
    base_url: str | None = option(None, help="address of its tinker server")
    tokenizer: str | None = option(None, help="with backend=tinker: where its tokenizer is")
    renderer: str | None = option(None, help="its chat format; none takes the one that belongs to it")
    max_tokens: int = option(5, help="tokens a move or an answer of it may have", min=1)
    temperature: float = option(0.0, help="of its sampling", min=0)


@frozen(kw_only=True)
class Config(reinforcement.RLConfig):
    game: str = option("guess_number", help=f"what is played: {', '.join(OPPONENTS)}", choices=tuple(OPPONENTS))
    opponent: Literal["self", "best", "model"] | None = option(
        None,
        help="the other side: exact play or answers (best), a model that is not trained, or self-play, in which all "
        "players are trained; none takes what suits the game",
    )
    opponent_model: OpponentSettings = option(factory=OpponentSettings, help="of opponent=model: which model, and how")
    most: int = option(20, help="of guess_number: numbers from 0 to this", min=1)
    turns: int = option(6, help="of guess_number and twenty_questions: guesses and questions", min=1)
    things: int = option(
        8, help="of twenty_questions: things of the built-in ones that are in play", min=2, max=len(THINGS)
    )
    words: str | None = option(
        None, help="of twenty_questions with opponent=model: a file of secret words, one a line, in place of the things"
    )
    test_games: int = option(128, help="games of each evaluation; 0 is off", min=0)
    group_size: int = option(8, help="attempts at each game; in self-play, players of its tables together", min=1)
    groups_per_batch: int = option(16, help="games a step", min=1)
    max_steps: int = option(12, help="steps: batches of games", min=1)
    max_tokens: int = option(6, help="tokens a move may have", min=1)


def opponent(config: Config) -> str:
    return config.opponent or OPPONENTS[config.game][0]


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    words = (config.game,) if config.game == "guess_number" else (config.game, opponent(config))
    path = config.log_path or common.default_path(NAME, config, *words)
    shown = [("reward", "reward/total"), *SHOWN[config.game]]
    with ExitStack() as open_:
        player = open_player(config, model, open_) if opponent(config) == "model" else None
        train, test = problems(config, model, player)
        reinforcement.train(NAME, config, progress, model, train, test, path, shown)
    return 0


def validate(config: Config) -> None:
    reinforcement.validate(config)
    side, known = opponent(config), OPPONENTS[config.game]
    if side not in known:
        raise ConfigError(f"opponent={side}: {config.game} is played against {' or '.join(known)}")
    if config.game == "tic_tac_toe" and side == "self" and config.group_size % 2:
        raise ConfigError(
            f"group_size={config.group_size}: self-play seats two players at a table, take an even number"
        )
    if config.words is not None and (config.game, side) != ("twenty_questions", "model"):
        raise ConfigError("words= belongs to game=twenty_questions opponent=model: exact answers know the things alone")
    if side != "model" and config.opponent_model != OpponentSettings():
        raise ConfigError("opponent_model belongs to opponent=model, which is not asked for")


def open_player(config: Config, model: Model, open_: ExitStack) -> ModelPlayer:
    """The model of the other side; `open_` closes its sampler."""
    o = config.opponent_model
    if o.model is not None:
        model = bootstrap.open_model(
            o.model,
            backend=o.backend,
            base_url=o.base_url,
            tokenizer=o.tokenizer,
            renderer=o.renderer,
            threads=config.threads if o.backend == "embedded" else None,
            timeout_s=config.timeout_s,
        )
    return ModelPlayer(
        sampler=open_.enter_context(model.sampler()),
        renderer=model.renderer,
        max_tokens=o.max_tokens,
        temperature=o.temperature,
        seed=config.seed,
    )


@frozen(eq=False)
class Games:
    """A `ProblemSource`: game i is fixed by (seed, split, i)."""

    config: Config
    renderer: Renderer
    split: int
    length: int
    player: ModelPlayer | None = None
    secrets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.config.game

    @property
    def fingerprint(self) -> str:
        c = self.config
        told = f"{c.game}/{opponent(c)}/{c.most}/{c.turns}/{c.seed}"
        return f"{told}/{','.join(self.secrets)}" if self.secrets else told

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GroupBuilder:
        problem, tags, game = f"{self.name}/{index}", (self.name,), partial(self._game, index)
        if self.player is not None:
            seat = ASKER if self.config.game == "twenty_questions" else index % 2
            return ModelMatch(
                problem=problem, tags=tags, game=game, seat=seat, player=self.player, renderer=self.renderer
            )
        return SelfPlay(problem=problem, tags=tags, game=game, renderer=self.renderer)

    def _game(self, index: int) -> Game:
        config, side = self.config, opponent(self.config)
        rng = np.random.default_rng([config.seed, self.split, index])
        if config.game == "guess_number":
            return GuessNumber(int(rng.integers(config.most + 1)), most=config.most, turns=config.turns)
        if config.game == "twenty_questions":
            menu = Menu(self.secrets) if config.words is None else None
            game = TwentyQuestions(self.secrets[rng.integers(len(self.secrets))], turns=config.turns, menu=menu)
            return game if side == "model" else Against(game, ASKER, exact_answer)
        if side == "model" or (side == "self" and self.split == 0):
            return TicTacToe()
        return Against(TicTacToe(), index % 2, best_move)  # what was learned in self-play is shown against exact play


def problems(
    config: Config, model: Model, player: ModelPlayer | None = None
) -> tuple[ProblemSource, ProblemSource | None]:
    train, test = secrets(config)
    tests = Games(config, model.renderer, 1, config.test_games, player, test) if config.test_games else None
    return Games(config, model.renderer, 0, 10_000, player, train), tests


def secrets(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Secret words to train on and to test on. Of a file a fifth, 100 at most, is tested on alone."""
    if config.game != "twenty_questions":
        return (), ()
    if config.words is None:
        things = tuple(THINGS)[: config.things]
        return things, things
    try:
        lines = Path(config.words).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataNotFoundError(f"words={config.words}: there is no such file") from None
    words = list(dict.fromkeys(word for line in lines if (word := line.strip())))
    if len(words) < 5:
        raise ConfigError(f"words={config.words}: {len(words)} words, a fifth of which is set aside; at least 5")
    order = np.random.default_rng(config.seed).permutation(len(words))
    held = min(len(words) // 5, 100)
    return tuple(words[i] for i in order[held:]), tuple(words[i] for i in order[:held])


def check(config: Config) -> Iterable[Any]:
    """One game's first prompt, and the most that the run can take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    train, _ = problems(config, model)
    assert isinstance(train, Games)
    game = train._game(0)
    prompt = model.renderer.generation_prompt(game.observe(0)).ids
    yield f"the first prompt of a game, {len(prompt)} tokens:"
    yield model.tokenizer.decode(prompt)
    turns = config.turns if config.game != "tic_tac_toe" else 5
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    longest = len(prompt) + turns * (config.max_tokens + 20)
    yield common.estimate(model, config, config.max_steps, episodes * longest, episodes * turns * config.max_tokens)
