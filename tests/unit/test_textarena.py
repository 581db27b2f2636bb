"""Games of textarena: with a fake of its interface, and the package itself where it is installed."""

from __future__ import annotations

import random
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

from tinsmith import bootstrap, rendering
from tinsmith.cli import main
from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import ConfigError, MissingExtraError, WorldError
from tinsmith.envs.game import Game, SelfPlay
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()
RENDERER = rendering.get("chatml", TOKENIZER)


class Race:
    """The fake's game: players add the dice they roll; who comes to 10 first wins. `crash` makes the package fail."""

    def __init__(self, players: tuple[int, ...] = (2,)) -> None:
        self._possible = players

    def reset(self, num_players: int, seed: int | None = None) -> None:
        assert num_players in self._possible, f"takes {self._possible}"
        random.seed(seed)
        self._n, self._player, self._total = num_players, 0, 0
        self._log = [f"[GAME] Race of {num_players}, first die {random.randint(1, 6)}."]

    def get_observation(self) -> tuple[int, str]:
        return self._player, "\n" + "\n".join(self._log)

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        if action == "crash":
            raise KeyError("a table that is not there")
        self._log.append(f"[Player {self._player}] {action}")
        self._bad = action != "roll"
        self._total += random.randint(1, 6)
        self._log.append(f"[GAME] {self._total}")
        self._winner = self._player
        self._player = (self._player + 1) % self._n
        return self._bad or self._total >= 10, {}

    def close(self) -> tuple[dict[int, float], dict[int, dict[str, Any]]]:
        one = -1 if self._bad else 1
        rewards = {p: one if p == self._winner else -one for p in range(self._n)}
        return rewards, {p: {"invalid_move": self._bad and p == self._winner} for p in range(self._n)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    games = {"Race-v0": (2,), "Solo-v0": (1,), "Crowd-v0": (3, 4), "Broken-v0": ()}

    def make(name: str) -> Race:
        if name == "Broken-v0":
            raise LookupError("word lists are missing")
        return Race(games[name])

    package, envs, registration = (
        ModuleType(n) for n in ("textarena", "textarena.envs", "textarena.envs.registration")
    )
    package.make, registration.ENV_REGISTRY = make, games  # type: ignore[attr-defined]
    for module in (package, envs, registration):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def played(game: str, answer, size: int, **failures: Any):
    _, make = bootstrap.textarena_game(game)
    builder = SelfPlay(problem="p", tags=("p",), game=lambda: make(3), renderer=RENDERER)
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=20, turn_timeout=5.0), group_size=size, failures=FailurePolicy(**failures)
    )
    (group,) = roll_out(ScriptedSampler(TOKENIZER, answer), [builder], plan)
    return group


@pytest.mark.usefixtures("fake")
def test_both_players_read_what_is_new_and_the_rewards_are_the_packages():
    seen: list[str] = []

    def answer(prompt: str, j: int) -> str:
        seen.append(prompt)
        return "roll"

    group = played("Race-v0", answer, 2)
    assert sorted(e.reward for e in group.episodes) == [-1.0, 1.0]
    assert {e.stop_reason for e in group.episodes} == {StopReason.COMPLETED}
    assert all(prompt.count("Race of 2") == 1 for prompt in seen), "what was said is not said again"
    assert all(t.metrics["invalid_move"] == 0.0 for e in group.episodes for t in e.transitions[-1:])
    assert sum(len(e.transitions) for e in group.episodes) == len(seen)


@pytest.mark.usefixtures("fake")
def test_a_bad_move_costs_its_player_alone():
    group = played("Race-v0", lambda prompt, j: "pass", 2)
    first, second = group.episodes
    assert (first.reward, second.reward) == (-1.0, 1.0)
    assert (first.transitions[-1].metrics["invalid_move"], second.metrics["invalid_move"]) == (1.0, 0.0)


@pytest.mark.usefixtures("fake")
def test_games_side_by_side_keep_their_own_randomness():
    def moves(games: list[Game]) -> list[str]:
        said = [g.observe(0)[0].text for g in games]
        for game in games * 2:
            if game.turn is not None:
                game.act(game.turn, "roll")
        return said + [g.observe(0)[0].text for g in games]

    _, make = bootstrap.textarena_game("Race-v0")
    random.seed(5)
    before = random.getstate()
    together = moves([make(1), make(2)])
    assert random.getstate() == before, "nobody else's draws are touched"
    random.seed(7)
    apart = [moves([make(seed)]) for seed in (1, 2)]
    assert together == [apart[0][0], apart[1][0], apart[0][1], apart[1][1]]


@pytest.mark.usefixtures("fake")
def test_what_the_package_raises_is_the_worlds_error():
    with pytest.raises(WorldError, match=r"Race-v0: KeyError.*not there"):
        played("Race-v0", lambda prompt, j: "crash", 2)
    crashes = iter([True, False])

    def once(prompt: str, j: int) -> str:
        return "crash" if next(crashes, False) else "roll"

    group = played("Race-v0", once, 2, retries=1, backoff_s=0.0)
    assert sorted(e.reward for e in group.episodes) == [-1.0, 1.0]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("name", "players"), [("Race-v0", 2), ("Solo-v0", 1), ("Crowd-v0", 3)])
def test_a_game_is_played_by_as_many_as_it_takes(name: str, players: int):
    assert bootstrap.textarena_game(name)[0] == players


@pytest.mark.usefixtures("fake")
def test_players_who_quit_lose():
    for name, rewards in (("Race-v0", [-1.0, 1.0]), ("Crowd-v0", [-1.0, 0.0, 0.0]), ("Solo-v0", [-1.0])):
        game = bootstrap.textarena_game(name)[1](0)
        game.quit(0)
        assert game.turn is None
        assert [game.reward(p) for p in range(game.players)] == rewards


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "players", "said"),
    [
        ("Rase-v0", None, "did you mean Race-v0"),
        ("Race-v0", 3, "takes"),
        ("Broken-v0", None, "word lists are missing"),
    ],
)
def test_a_game_that_cannot_be_set_up_is_said_before_anything(name: str, players: int | None, said: str):
    with pytest.raises(ConfigError, match=said):
        bootstrap.textarena_game(name, players)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(MissingExtraError, match=r"tinsmith\[textarena\]"):
        bootstrap.textarena_game("TicTacToe-v0")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["game=textarena:Race-v0", "group_size=2", "groups_per_batch=1", "max_turns=2"], 0, "win"),
        (["game=textarena:Solo-v0", "group_size=2", "groups_per_batch=1"], 0, "invalid move"),
        (["game=textarena:Race-v0", "group_size=3"], 2, "2 players at a table"),
        (["game=textarena:Race-v0", "opponent=best"], 2, "self or model"),
        (["game=textarena"], 2, "textarena:NAME"),
        (["game=tic_tac_toe", "opponent=model", "opponent_model.backend=tinker"], 2, "opponent_model.model="),
        (["game=tic_tac_toe", "opponent_model.model=tiny"], 2, "not asked for"),
        (["game=twenty_questions", "words=x"], 2, "exact answers know the things alone"),
        (["game=guess_number", "players=2"], 2, "textarena:NAME"),
        (["game=tic_tac_toe:x"], 2, "one of"),
    ],
)
def test_the_recipe_plays_them(
    words: list[str],
    code: int,
    said: str,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    words = ["multiplayer", *words, "max_steps=1", "test_games=2", "export=none", "log_path=run"]
    assert main(words) == code
    out = capsys.readouterr()
    assert said in out.out + out.err


@pytest.fixture
def real() -> None:
    if find_spec("textarena") is None:
        pytest.skip("needs the extra: textarena")


@pytest.mark.usefixtures("real")
def test_the_real_packages_tic_tac_toe_is_won_in_self_play():
    moves = iter("03142")
    seen: list[str] = []

    def answer(prompt: str, j: int) -> str:
        seen.append(prompt)
        return f"[{next(moves)}]"

    group = played("TicTacToe-v0", answer, 2)
    assert [e.reward for e in group.episodes] == [1.0, -1.0]
    assert [len(e.transitions) for e in group.episodes] == [3, 2]
    assert seen[-1].count("Your goal is to win") == 1


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("name", "players"),
    [("GuessTheNumber-v0", 1), ("KuhnPoker-v0", 2), ("PigDice-v0", 2), ("Nim-v0", 2), ("LiarsDice-v0", 2)],
)
def test_the_real_packages_games_come_to_an_end_and_are_the_same_again(name: str, players: int):
    def told() -> list[str]:
        seats, make = bootstrap.textarena_game(name)
        assert seats == players
        game, rng, log = make(7), random.Random(1), []
        for _ in range(400):
            if game.turn is None:
                break
            log.append(game.observe(game.turn)[0].text)
            game.act(game.turn, rng.choice(["[roll]", "[hold]", "[check]", "[call]", "[0 1]", "[5]", "[1 2]"]))
        else:
            game.quit(0)
        return [*log, *(str(game.reward(p)) for p in range(seats))]

    assert told() == told()


@pytest.mark.usefixtures("real")
def test_games_that_there_are_not_or_that_need_data_of_their_own():
    with pytest.raises(ConfigError, match="did you mean TicTacToe-v0"):
        bootstrap.textarena_game("TicTacToe")
    with pytest.raises(ConfigError, match="cannot be set up"):
        bootstrap.textarena_game("TwentyQuestions-v0")
