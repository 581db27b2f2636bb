"""Chapter: comparisons.

Answers to one prompt are compared in pairs. A judge gives the probability that the first of two is the better one, and
a member of a group earns (wins - losses) / matchups, a win and a loss each by its probability. So a group as a whole
earns nothing, whoever wins; a judge without an opinion pays nobody; and a judge that likes a place pays nobody either,
as long as each pair meets both ways.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinsmith.domain.comparisons import FIRST, SECOND, Comparison, labelled, matchup_rewards, matchups
from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.messages import Conversation, Message, Preference

MEMBERS, SIZES = st.integers(0, 12), st.integers(2, 6)


@given(MEMBERS, SIZES)
@example(0, 2)
def test_both_ways_is_each_pair_in_both_orders(members: int, size: int) -> None:
    one, both = matchups(members, size, both_ways=False), matchups(members, size)
    assert Counter(both) == Counter([*one, *((j, i) for i, j in one)])
    assert all(i < j for i, j in one)


@given(st.integers(2, 12), SIZES)
def test_everybody_meets_somebody_and_nobody_meets_themselves(members: int, size: int) -> None:
    pairs = matchups(members, size)
    assert {i for pair in pairs for i in pair} == set(range(members))
    assert all(i != j for i, j in pairs)
    assert len(set(pairs)) == len(pairs)
    assert all(abs(i - j) <= size for i, j in pairs)


@given(st.integers(2, 6))
def test_a_group_that_is_one_part_meets_in_full(members: int) -> None:
    assert len(matchups(members, members)) == members * (members - 1)


@given(st.data(), st.integers(2, 10), st.integers(2, 4))
def test_rewards_are_between_minus_one_and_one_and_add_up_to_nothing(
    data: st.DataObject, parts: int, size: int
) -> None:
    members = parts * size  # every member then has the same number of matchups
    pairs = matchups(members, size)
    wins = data.draw(st.lists(st.floats(0, 1), min_size=len(pairs), max_size=len(pairs)))
    rewards = matchup_rewards(members, pairs, wins)
    assert (abs(rewards) <= 1 + 1e-12).all()
    assert abs(rewards.sum()) < 1e-9


@given(st.integers(2, 10), SIZES, st.floats(0, 1))
def test_a_liking_for_a_place_pays_nobody(members: int, size: int, first: float) -> None:
    pairs = matchups(members, size)
    np.testing.assert_allclose(matchup_rewards(members, pairs, [first] * len(pairs)), 0, atol=1e-12)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6))
def test_the_best_of_a_part_earns_the_most(quality: list[int]) -> None:
    pairs = matchups(len(quality), len(quality))
    wins = [0.5 if quality[i] == quality[j] else float(quality[i] > quality[j]) for i, j in pairs]
    rewards = matchup_rewards(len(quality), pairs, wins)
    assert rewards[int(np.argmax(quality))] == max(rewards)
    order = np.argsort(quality, kind="stable")
    assert (np.diff(rewards[order]) >= -1e-12).all()


def test_what_is_no_matchup_or_verdict_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        matchups(4, 1)
    for wins in ([0.5], [0.5, 1.5], [0.5, float("nan")]):
        with pytest.raises(ShapeError):
            matchup_rewards(2, [(0, 1), (1, 0)], wins)


def test_a_preference_is_labelled_in_both_orders() -> None:
    this, that = ((Message.assistant(text),) for text in ("this", "that"))
    pair = Preference(Conversation((Message.user("Which?"),)), this, that)
    one, other = labelled(pair)
    assert (one.messages[-1].text, other.messages[-1].text) == (FIRST, SECOND)
    assert one.messages[0].text.index("this") < one.messages[0].text.index("that")
    assert other.messages[0].text.index("that") < other.messages[0].text.index("this")
    assert one.messages[:1] == Comparison(pair.prompt, pair.chosen, pair.rejected).question()
