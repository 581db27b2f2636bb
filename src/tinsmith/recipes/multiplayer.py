"""multiplayer: games, against fixed opponents, against a model, or against oneself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Backend, Model
from tinsmith.config import option
from tinsmith.config.files import text_of
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.base import GroupBuilder, Speaker
from tinsmith.envs.game import Against, Game, ModelMatch, ModelPlayer, SelfPlay
from tinsmith.envs.games import GuessNumber, TicTacToe, best_answer, best_move
from tinsmith.envs.questions import ANSWERER, ASKER, THINGS, Menu, TwentyQuestions, exact_answer
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, costs, reinforcement
from tinsmith.recipes.reinforcement import Environments
from tinsmith.rendering import Renderer

NAME = "multiplayer"

OPPONENTS = {
    "guess_number": ("best",),
    "twenty_questions": ("best", "model"),
    "tic_tac_toe": ("best", "model", "self"),
    "textarena": ("self", "model"),
}
"""Of each game who may play the other side; the first is the default."""

_WINS = tuple((word, word) for word in ("win", "draw", "loss"))
SHOWN = {
    "guess_number": (("share of numbers found", "found"), ("guesses", "guesses")),
    "twenty_questions": (("share of things found", "found"), ("questions", "questions")),
    "tic_tac_toe": (*_WINS, ("illegal move", "illegal_move")),
    "textarena": (*_WINS, ("invalid move", "invalid_move")),
}


@frozen(kw_only=True)
class OpponentSettings:
    """A model that plays the other side and is not trained."""

    model: str | None = option(None, help="which one; none takes the model that the run starts from, where it is")
    backend: Backend | None = option(None, help="where it is: embedded or tinker; none: as the policy")
    base_url: str | None = option(None, help="its server with backend=tinker; none: as the policy's")
    tokenizer: str | None = option(None, help="with backend=tinker: where its tokenizer is, if not where its name says")
    renderer: str | None = option(None, help="its chat format; none takes the one that belongs to it")
    max_tokens: int | None = option(None, help="tokens a move of it may have; none: as many as the policy's", min=1)
    temperature: float = option(0.0, help="of its sampling", min=0)


@frozen(kw_only=True)
class Config(reinforcement.MultiTurnConfig):
    game: str = option(
        "guess_number", help="guess_number, twenty_questions, tic_tac_toe, or textarena:NAME, a game of that package"
    )
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
    players: int | None = option(
        None, help="of textarena: how many play; none takes two where that may be, else the fewest", min=1, max=15
    )
    test_games: int = option(128, help="games of each evaluation; 0 is off", min=0)
    group_size: int = option(8, help="attempts at each game; in self-play, players of its tables together", min=1)
    groups_per_batch: int = option(16, help="games a step", min=1)
    max_steps: int = option(12, help="steps: batches of games", min=1)
    max_tokens: int = option(6, help="tokens a move may have", min=1)
    max_turns: int | None = option(None, help="moves of a player, who then gives up; none: as many as it takes", min=1)


def kind(config: Config) -> str:
    """Of which games it is one: all of textarena's are alike here."""
    return config.game.partition(":")[0]


def opponent(config: Config) -> str:
    return config.opponent or OPPONENTS[kind(config)][0]


def run(config: Config, progress: Progress) -> int:
    with environments(config, progress.note) as envs:
        words = (config.game,) if config.game == "guess_number" else (config.game, opponent(config))
        path = config.log_path or common.default_path(NAME, config, *words)
        shown = [("reward", "reward/total"), *SHOWN[kind(config)]]
        reinforcement.train(NAME, config, progress, envs.model, envs.train, envs.test, path, shown)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    validate(config)
    model = common.open_model(config)
    with ExitStack() as open_:
        yield Environments(model, *problems(config, model, open_))


def validate(config: Config) -> None:
    reinforcement.validate(config)
    if kind(config) not in OPPONENTS or (kind(config) == "textarena") != (":" in config.game):
        near = get_close_matches(config.game, OPPONENTS, n=1)
        raise ConfigError(
            f"game={config.game}: one of {', '.join(OPPONENTS)}:NAME" + (f"; did you mean {near[0]}?" if near else "")
        )
    side, known = opponent(config), OPPONENTS[kind(config)]
    if side not in known:
        raise ConfigError(f"opponent={side}: {config.game} is played against {' or '.join(known)}")
    if config.words is not None and (config.game, side) != ("twenty_questions", "model"):
        raise ConfigError("words= belongs to game=twenty_questions opponent=model: exact answers know the things alone")
    if config.opponent_model != OpponentSettings() and side != "model" and kind(config) != "textarena":
        raise ConfigError("opponent_model belongs to opponent=model, which is not asked for")
    o = config.opponent_model
    if o.model is None and (o.backend, o.base_url, o.tokenizer, o.renderer) != (None, None, None, None):
        raise ConfigError(
            "opponent_model.backend, base_url, tokenizer and renderer are of a model: opponent_model.model="
        )
    if config.players is not None and kind(config) != "textarena":
        raise ConfigError("players= belongs to game=textarena:NAME: the other games have their own number")


def open_player(config: Config, model: Model, open_: ExitStack) -> ModelPlayer:
    """The model of the other side; `open_` closes its sampler."""
    o = config.opponent_model
    if o.model is not None:
        backend = o.backend or config.backend
        served_alike = backend == config.backend == "tinker"
        model = bootstrap.open_model(
            o.model,
            backend=backend,
            base_url=o.base_url or (config.base_url if served_alike else None),
            tokenizer=o.tokenizer,
            renderer=o.renderer,
            threads=config.threads if backend == "embedded" else None,
            timeout_s=config.timeout_s,
        )
    return ModelPlayer(
        sampler=open_.enter_context(model.sampler()),
        renderer=model.renderer,
        max_tokens=o.max_tokens or config.max_tokens,
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
    make: Callable[[np.random.Generator, int], Game]
    """From the draws of a game and its index, the game."""
    seats: int
    """Players of it; of those that are trained, where there is no `player`."""
    player: ModelPlayer | None = None
    """Who plays all seats but one."""
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
        problem, tags, game = f"{self.name}/{index}", (self.name,), partial(self.game, index)
        solution, paid = self._known(index)
        if self.player is not None:
            seat = ASKER if self.config.game == "twenty_questions" else index % self.seats
            return ModelMatch(
                problem=problem,
                tags=tags,
                game=game,
                seat=seat,
                player=self.player,
                renderer=self.renderer,
                solution=solution,
                reward_range=paid,
            )
        return SelfPlay(
            problem=problem, tags=tags, game=game, renderer=self.renderer, solution=solution, reward_range=paid
        )

    def _known(self, index: int) -> tuple[Speaker | None, tuple[float, float] | None]:
        """How the top reward is earned and what there is to earn, as far as that is known."""
        if kind(self.config) == "textarena":
            return None, None
        game = self.game(index)
        host = game.game if isinstance(game, Against) else game
        if isinstance(host, GuessNumber | TwentyQuestions):
            return (lambda text, turn: host.solution), (-1.0, 1.0)
        if isinstance(game, Against):  # of two who play exactly nobody wins
            return (lambda text, turn: best_answer(text)), (-1.0, 0.0)
        return None, (-1.0, 1.0)

    def game(self, index: int) -> Game:
        return self.make(np.random.default_rng([self.config.seed, self.split, index]), index)


def problems(config: Config, model: Model, open_: ExitStack) -> tuple[Games, Games | None]:
    """Games to train on and, where there are any, to test on. What they hold open is closed by `open_`."""
    side, words, seats = opponent(config), secrets(config), 1
    makes: Sequence[Callable[[np.random.Generator, int], Game]]
    if kind(config) == "textarena":
        seats, made = bootstrap.textarena_game(config.game.partition(":")[2], config.players)
        makes = [lambda rng, index: made(int(rng.integers(2**31)))] * 2
    elif config.game == "guess_number":
        makes = [lambda rng, index: GuessNumber(_draw(rng, config.most + 1), most=config.most, turns=config.turns)] * 2
    elif config.game == "twenty_questions":
        makes = [partial(_twenty_questions, config, secret) for secret in words]
    elif side == "best":
        makes = [_against_exact_play] * 2
    else:
        seats = 2
        makes = [_tic_tac_toe, _against_exact_play if side == "self" else _tic_tac_toe]
    if side == "self" and config.group_size % seats:
        raise ConfigError(
            f"group_size={config.group_size}: self-play seats {seats} players at a table, take a multiple"
        )
    # What was learned in self-play is shown against exact play, and where there is none against the start model.
    tested_by_model = side == "model" or (kind(config) == "textarena" and seats > 1)
    player = open_player(config, model, open_) if tested_by_model else None
    if player is not None:
        _check_room(config, player, makes[0 if side == "model" else 1](np.random.default_rng(config.seed), 0))
    train = Games(config, model.renderer, 0, 10_000, makes[0], seats, player if side == "model" else None, words[0])
    if not config.test_games:
        return train, None
    return train, Games(config, model.renderer, 1, config.test_games, makes[1], seats, player, words[1])


def _check_room(config: Config, player: ModelPlayer, game: Game) -> None:
    """Refuse an opponent that has no room for so much as the first message of a game."""
    mover = ANSWERER if config.game == "twenty_questions" else game.turn
    if mover is not None and not player.has_room(game.observe(mover)):
        raise ConfigError(
            f"the opponent's context of {player.sampler.context} tokens does not hold a game's first message and "
            f"opponent_model.max_tokens={player.max_tokens}: take fewer, or another model with opponent_model.model="
        )


def _draw(rng: np.random.Generator, below: int) -> int:
    return int(rng.integers(below))


def _tic_tac_toe(rng: np.random.Generator, index: int) -> Game:
    return TicTacToe()


def _against_exact_play(rng: np.random.Generator, index: int) -> Game:
    return Against(TicTacToe(), index % 2, best_move)


def _twenty_questions(config: Config, words: tuple[str, ...], rng: np.random.Generator, index: int) -> Game:
    menu = Menu(words) if config.words is None else None
    game = TwentyQuestions(words[_draw(rng, len(words))], turns=config.turns, menu=menu)
    return game if opponent(config) == "model" else Against(game, ASKER, exact_answer)


def secrets(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Secret words to train on and to test on. Of a file a fifth, 100 at most, is tested on alone."""
    if config.game != "twenty_questions":
        return (), ()
    if config.words is None:
        things = tuple(THINGS)[: config.things]
        return things, things
    lines = text_of(config.words, "words").splitlines()
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
    with ExitStack() as open_:
        train, _ = problems(config, model, open_)
        game = train.game(0)
    prompt = model.renderer.generation_prompt(game.observe(0)).ids
    yield f"the first prompt of a game, {len(prompt)} tokens:"
    yield model.tokenizer.decode(prompt)
    turns = config.turns if kind(config) in ("guess_number", "twenty_questions") else 5
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    longest = len(prompt) + turns * (config.max_tokens + 20)
    yield costs.estimate(model, config.lora, config.max_steps, episodes * longest, episodes * turns * config.max_tokens)
