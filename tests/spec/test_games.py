"""Games: each player's episode ends, whoever gives up; rewards are those of the rules; exact play never loses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith import rendering
from tinsmith.domain.episodes import Group, StopReason
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.game import Against, SelfPlay, Table
from tinsmith.envs.games import GuessNumber, TicTacToe, best_move, value, won
from tinsmith.envs.message import RenderedEnv
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()
RENDERER = rendering.get("chatml", TOKENIZER)
moves = st.lists(st.sampled_from([*"123456789", "0", "x", "10", ""]), max_size=9)


def played(answer, size: int = 2, **limits) -> Group:
    builder = SelfPlay(problem="ttt", tags=("ttt",), game=TicTacToe, renderer=RENDERER)
    plan = RolloutPlan(limits=RolloutLimits(**{"max_tokens": 20, "turn_timeout": 5.0, **limits}), group_size=size)
    (group,) = roll_out(ScriptedSampler(TOKENIZER, answer), [builder], plan)
    return group


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([None, 1, 2]), st.sampled_from([1, 2, 20]))
def test_every_player_comes_to_an_end_whoever_gives_up(seed, tables, max_turns, max_tokens):
    """Random moves, some that cannot be made, some cut by the limit of tokens; a limit on turns may stop one player
    before the other. Nobody waits for ever, and a game pays its two players nothing together."""
    rng = random.Random(seed)

    def answer(prompt: str, j: int) -> str:
        return rng.choice([*"123456789", "nothing", "99", "<|im_start|>"])

    group = played(answer, 2 * tables, max_turns=max_turns, max_tokens=max_tokens)
    assert len(group.episodes) == 2 * tables
    for table in range(tables):
        one, other = group.episodes[2 * table : 2 * table + 2]
        for player in (one, other):
            assert isinstance(player.stop_reason, StopReason)
        if {one.stop_reason, other.stop_reason} == {StopReason.COMPLETED}:
            assert one.reward + other.reward == 0.0
            marks = [e.metrics | (dict(e.transitions[-1].metrics) if e.transitions else {}) for e in (one, other)]
            assert [m["win"] + m["draw"] + m["loss"] for m in marks] == [1.0, 1.0]


@pytest.mark.parametrize("words", ["on and on and on and on", "<|im_start|>"], ids=["cut", "unreadable"])
def test_who_talks_beyond_the_limit_or_nonsense_has_given_up_and_earns_what_that_costs(words):
    """Not what a draw pays: else a player who is about to lose would talk on."""
    group = played(lambda prompt, j: "5" if "5" in prompt.split("\n")[-5] else words, max_tokens=4)
    assert [e.reward for e in group.episodes] == [1.0, -1.0]


def test_each_player_reads_the_board_as_it_is_at_their_move():
    boards: list[str] = []

    def answer(prompt: str, j: int) -> str:
        board = prompt.split("\n")[-6:-3]
        boards.append("/".join(board))
        free = [c for row in board for c in row.split() if c.isdigit()]
        return free[0]

    group = played(answer)
    assert boards[:3] == ["1 2 3/4 5 6/7 8 9", "X 2 3/4 5 6/7 8 9", "X O 3/4 5 6/7 8 9"]
    assert [e.reward for e in group.episodes] == [1.0, -1.0]
    assert [len(e.transitions) for e in group.episodes] == [4, 3]


def test_a_player_whose_opponent_quits_before_their_first_move_has_an_episode_without_a_turn():
    group = played(lambda prompt, j: "no number at all")
    x, o = group.episodes
    assert (x.reward, o.reward) == (-1.0, 1.0)
    assert (len(x.transitions), len(o.transitions)) == (1, 0)
    assert o.metrics["win"] == 1.0
    assert x.transitions[0].metrics["illegal_move"] == 1.0


def test_a_group_that_fills_no_table_is_refused():
    with pytest.raises(ConfigError, match="a multiple of 2"):
        played(lambda prompt, j: "1", 3)


@given(moves)
def test_the_rules_of_tic_tac_toe(sequence):
    game = TicTacToe()
    for text in sequence:
        before, player = game.board, game.turn
        if player is None:
            break
        game.act(player, text)
        legal = text in "123456789" and text and before[int(text) - 1] == "."
        if not legal:
            assert game.reward(player) == -1.0
            assert game.board == before
        else:
            assert [a for a, b in zip(before, game.board, strict=True) if a != b] == ["."]
    assert game.board.count("X") - game.board.count("O") in (0, 1)
    assert game.over == (game.turn is None)
    assert not (won(game.board, "X") and won(game.board, "O"))
    if game.over:
        assert game.reward(0) == -game.reward(1)


def test_best_play_is_a_draw_and_the_opponent_never_loses():
    assert value("." * 9, "X") == 0
    for seat in (0, 1):
        for seed in range(200):
            rng = random.Random(seed)
            game = TicTacToe()
            against = Against(game, seat, best_move)
            while against.turn is not None:
                free = [str(i + 1) for i, c in enumerate(game.board) if c == "."]
                against.act(0, rng.choice(free))
            assert game.reward(seat) <= 0.0
            assert against.reward(0) == game.reward(seat)


@given(st.integers(0, 1023), st.integers(1, 12))
def test_halving_finds_a_number_in_ten_guesses(secret, turns):
    game = GuessNumber(secret, turns=turns)
    low, high = 0, 1023
    guesses = 0
    while game.turn is not None:
        said = game.observe(0)[0].text
        if "low" in said:
            low = middle + 1  # noqa: F821
        elif "high" in said:
            high = middle - 1  # noqa: F821
        middle = (low + high) // 2
        game.act(0, f"I guess {middle}.")
        guesses += 1
    assert guesses <= turns
    assert game.reward(0) == (1.0 if turns >= 10 else game.reward(0))
    assert game.metrics(0) == {"found": float(game.reward(0) == 1.0), "guesses": float(guesses)}


def test_an_answer_without_a_number_ends_the_game():
    game = GuessNumber(5)
    game.act(0, "I do not know")
    assert (game.turn, game.reward(0)) == (None, -1.0)


def test_a_seat_that_is_closed_releases_the_other():
    async def work() -> Sequence[object]:
        first, second = Table(TicTacToe()).seats()
        await first.reset()
        waiting = asyncio.create_task(RenderedEnv(env=second, renderer=RENDERER).reset())
        await asyncio.sleep(0.01)
        await first.close()
        return await asyncio.gather(waiting, return_exceptions=True)

    (over,) = asyncio.run(work())
    assert over.reward == 1.0
