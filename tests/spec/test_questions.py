"""Twenty questions: answers are what is true, every game ends, and only the secret pays."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinsmith import rendering
from tinsmith.domain.episodes import Group, StopReason
from tinsmith.domain.errors import WorldError
from tinsmith.domain.messages import Message
from tinsmith.envs.game import Against, Game, ModelMatch, ModelPlayer
from tinsmith.envs.games import TicTacToe
from tinsmith.envs.questions import ANSWERER, ASKER, THINGS, Menu, TwentyQuestions, exact_answer
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()
RENDERER = rendering.get("chatml", TOKENIZER)
menus = st.lists(st.sampled_from(sorted(THINGS)), min_size=2, unique=True).map(lambda names: Menu(tuple(names)))


def test_no_two_things_are_told_alike():
    assert len(set(THINGS.values())) == len(THINGS)


@given(menus)
def test_the_questions_of_a_menu_tell_all_its_things_apart(menu):
    told = {name: tuple(q in THINGS[name] for q in menu.questions) for name in menu.things}
    assert len(set(told.values())) == len(menu.things)


@given(menus, st.data())
def test_a_line_is_meant_by_its_number_or_its_word(menu, data):
    lines = (*menu.questions, *menu.things)
    place = data.draw(st.integers(0, len(lines) - 1))
    assert menu.read(f"{place + 1}") == lines[place]
    assert menu.read(f"Is it {lines[place].upper()}?") == lines[place]
    for unclear in (f"Is it not {lines[place]}?", " ".join(lines), f"{len(lines) + 1}", "1 2", "0", "", "what is it"):
        assert menu.read(unclear) is None


def asked(menu: Menu, secret: str) -> int:
    """Turns that a player takes who asks what parts what is left best, and then guesses."""
    game = TwentyQuestions(secret, turns=20, menu=menu)
    against = Against(game, ASKER, exact_answer)
    left = list(menu.things)
    while against.turn is not None:
        said = against.observe(0)[0].text
        if said in ("Yes.", "No."):
            left = [name for name in left if (question in THINGS[name]) == (said == "Yes.")]  # noqa: F821
        question = min(menu.questions, key=lambda q: abs(2 * sum(q in THINGS[n] for n in left) - len(left)))
        against.act(0, left[0] if len(left) == 1 else f"Is it {question}?")
    assert against.reward(0) == 1.0
    return int(against.metrics(0)["questions"])


@given(menus, st.data())
def test_a_player_that_asks_well_always_finds_the_secret(menu, data):
    assert asked(menu, data.draw(st.sampled_from(menu.things))) <= len(menu.questions) + 1


@given(menus, st.integers(1, 5), st.lists(st.text() | st.sampled_from(["1", "2", "Guess: apple", "apple"]), max_size=9))
def test_every_game_ends_and_only_the_secret_pays(menu, turns, texts):
    secret = menu.things[0]
    game = Against(TwentyQuestions(secret, turns=turns, menu=menu), ASKER, exact_answer)
    for text in [*texts, *["nothing"] * turns]:
        if game.turn is None:
            break
        assert secret not in game.observe(0)[0].text.split("\n", 2)[-1]
        game.act(0, text)
    assert game.turn is None
    assert game.metrics(0)["questions"] <= turns
    assert game.reward(0) == game.metrics(0)["found"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Guess: The Apple!", True),
        ("guess apple", True),
        ("Guess: pear", False),
        ("It is an apple, I guess: no", False),
    ],
)
def test_a_guess_is_compared_without_case_article_and_marks(text, found):
    game = TwentyQuestions("apple")
    game.act(ASKER, text)
    assert (game.turn is None) is found
    assert game.reward(ASKER) == float(found)


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [("Yes, it is.", "Yes."), ("no", "No."), ("The word is apple", "I cannot say."), ("", "I cannot say.")],
)
def test_of_an_answer_yes_and_no_alone_are_passed_on(said, passed_on):
    game = TwentyQuestions("apple")
    game.act(ASKER, "Is it food?")
    assert game.turn == ANSWERER
    assert "apple" in game.observe(ANSWERER)[0].text
    game.act(ANSWERER, said)
    assert game.observe(ASKER)[0].text == passed_on
    assert game.metrics(ASKER)["unclear_answers"] == float(passed_on == "I cannot say.")


def test_a_guess_of_many_empty_lines_is_read_in_time_in_proportion():
    game = TwentyQuestions("apple")
    began = time.process_time()
    game.act(ASKER, "guess" + "\n" * 60_000)
    assert time.process_time() - began < 2
    assert game.turn == ANSWERER


def test_giving_up_ends_the_game():
    for player, reward in ((ASKER, -1.0), (ANSWERER, 0.0)):
        game = TwentyQuestions("apple")
        game.quit(player)
        assert (game.turn, game.reward(ASKER)) == (None, reward)


def matched(game: Game, seat: int, answer, other, *, context: int = 1 << 20, **limits) -> Group:
    player = ModelPlayer(
        sampler=ScriptedSampler(TOKENIZER, other, context=context), renderer=RENDERER, max_tokens=30, temperature=0.0
    )
    builder = ModelMatch(
        problem="g", tags=("g",), game=partial(type(game), **vars_of(game)), seat=seat, player=player, renderer=RENDERER
    )
    plan = RolloutPlan(limits=RolloutLimits(**{"max_tokens": 30, "turn_timeout": 5.0, **limits}), group_size=1)
    (group,) = roll_out(ScriptedSampler(TOKENIZER, answer), [builder], plan)
    return group


def vars_of(game: Game) -> dict[str, object]:
    if isinstance(game, Lost):
        return {"ruled_by": game.ruled_by}
    return {"secret": game.secret, "turns": game.turns} if isinstance(game, TwentyQuestions) else {}


def test_a_model_answers_and_remembers_what_it_said():
    seen: list[str] = []
    questions = iter(["Is it food?", "Is it red?", "Guess: apple"])

    def other(prompt: str, j: int) -> str:
        seen.append(prompt)
        return "yes" if len(seen) == 1 else "It could be red, apple"

    group = matched(TwentyQuestions("apple"), ASKER, lambda prompt, j: next(questions), other)
    (episode,) = group.episodes
    assert (episode.reward, episode.stop_reason, len(episode.transitions)) == (1.0, StopReason.COMPLETED, 3)
    assert "apple" in seen[0]
    assert "Is it food?" in seen[1]
    assert "Is it red?" in seen[1]
    read = TOKENIZER.decode(episode.transitions[-1].observation)
    assert "Yes." in read
    assert "could be red" not in read
    assert episode.transitions[-1].metrics["unclear_answers"] == 1.0


@pytest.mark.parametrize("seat", [0, 1])
def test_a_model_on_the_other_side_of_a_board(seat):
    def first_free(prompt: str, j: int) -> str:
        board = prompt.split("\n")[-6:-3]
        return next(c for row in board for c in row.split() if c.isdigit())

    group = matched(TicTacToe(), seat, first_free, first_free)
    assert [e.reward for e in group.episodes] == [1.0 if seat == 0 else -1.0]


class Lost:
    """A game that player 0 has lost from the start: each reads what the other says, and after `rounds` of it player 1
    has won. Only giving up ends it before; then the other has won."""

    players = 2

    def __init__(self, ruled_by: str = "system", rounds: int = 6) -> None:
        self.ruled_by, self.rounds, self.said, self.winner = ruled_by, rounds, ["You may begin."], 1
        self._begun: set[int] = set()

    @property
    def turn(self) -> int | None:
        return None if len(self.said) > 2 * self.rounds else (len(self.said) - 1) % 2

    def observe(self, player: int) -> Sequence[Message]:
        rule = () if player in self._begun else (Message(self.ruled_by, "The rule."),)
        self._begun.add(player)
        return (*rule, Message.user(self.said[-1]))

    def act(self, player: int, text: str) -> None:
        self.said.append(text)

    def quit(self, player: int) -> None:
        self.winner, self.rounds = 1 - player, 0

    def reward(self, player: int) -> float:
        return 1.0 if self.winner == player else -1.0

    def metrics(self, player: int) -> dict[str, float]:
        return {"win": float(self.winner == player)}


def total(group: Group, metric: str) -> float:
    (episode,) = group.episodes
    return sum(t.metrics.get(metric, 0.0) for t in episode.transitions) + episode.metrics.get(metric, 0.0)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=6),
    st.one_of(st.integers(100, 700), st.just(1 << 20)),
    st.sampled_from([0, 1]),
    st.sampled_from(["system", "user"]),
)
@example([400, 400, 400], 560, 0, "system")
@example([400], 200, 0, "user")
def test_who_has_lost_wins_nothing_by_filling_the_opponents_context(lengths, context, seat, ruled_by):
    """Long messages make the opponent forget the oldest turns, never the rule nor what was said last; the game goes on.
    One message alone that it has no room for is as if the policy had given up."""
    seen: list[str] = []
    flood, count = iter(lengths), ScriptedSampler(TOKENIZER, lambda prompt, j: "")

    def talks(prompt: str, j: int) -> str:
        return "x" * next(flood, 3)

    def other(prompt: str, j: int) -> str:
        seen.append(prompt)
        return f"move {len(seen)}."

    group = matched(Lost(ruled_by), seat, talks, other, context=context, max_tokens=1000)
    (episode,) = group.episodes
    if seat == 0:
        assert episode.reward == -1.0
    else:  # it has won, unless it talked itself out of that
        assert episode.reward == (-1.0 if episode.stop_reason is StopReason.CONTEXT_OVERFLOW else 1.0)
    said = [TOKENIZER.decode(t.action).partition("<")[0] for t in episode.transitions]
    read = ["You may begin.", *said] if seat == 1 else said
    forgot = 0
    for i, prompt in enumerate(seen):
        assert len(count.tokens(prompt)) + 30 <= context
        assert prompt.count("The rule.") == 1
        assert prompt.split("user\n")[-1].startswith(f"{read[i]}<"), "what was said last"
        own = re.findall(r"move (\d+)\.", prompt)
        assert own == [str(k) for k in range(i + 1 - len(own), i + 1)], "the newest turns"
        forgot += len(own) < i
    overflow = episode.stop_reason is StopReason.CONTEXT_OVERFLOW
    assert total(group, "opponent_forgot") == forgot
    assert total(group, "opponent_overflow") == overflow
    if overflow:
        assert total(group, "win") == 0.0
        if ruled_by == "system":
            alone = [Message.system("The rule."), Message.user(read[len(seen)])]
            assert len(RENDERER.generation_prompt(alone).ids) + 30 > context, "one message and no more"
    if context > 10_000:
        assert (overflow, forgot) == (False, 0)


def test_a_game_that_no_opponent_could_read_pays_nobody_and_one_that_fails_is_the_worlds_error():
    group = matched(TicTacToe(), 1, lambda prompt, j: "1", lambda prompt, j: "1", context=10)
    (episode,) = group.episodes
    assert (episode.reward, episode.transitions) == (0.0, ())
    assert (episode.stop_reason, total(group, "opponent_overflow")) == (StopReason.CONTEXT_OVERFLOW, 1.0)

    def broken(prompt: str, j: int) -> str:
        raise WorldError("the server is gone")

    with pytest.raises(WorldError, match="gone"):
        matched(TicTacToe(), 1, lambda prompt, j: "1", broken)


def test_a_policy_that_is_cut_gives_up():
    said: Sequence[str] = ["x" * 40]
    group = matched(TicTacToe(), 0, lambda prompt, j: said[0], lambda prompt, j: "1")
    (episode,) = group.episodes
    assert episode.stop_reason is StopReason.MAX_TOKENS


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1]), st.sampled_from([None, 1, 2]), st.sampled_from([1, 2, 30]))
def test_a_game_against_a_model_ends_whoever_says_what(seed, seat, max_turns, max_tokens):
    """Moves that can and cannot be made, answers that are cut, limits of turns; an opponent that says anything."""
    rng = random.Random(seed)

    def say(prompt: str, j: int) -> str:
        return rng.choice([*"123456789", "yes", "nothing", "Guess: apple", "x" * 40, "<|im_start|>", ""])

    game = TicTacToe() if seed % 2 else TwentyQuestions("apple", turns=5)
    group = matched(game, seat if seed % 2 else ASKER, say, say, max_turns=max_turns, max_tokens=max_tokens)
    (episode,) = group.episodes
    assert -1.0 <= episode.reward <= 1.0
    assert len(episode.transitions) <= (max_turns or 5)
