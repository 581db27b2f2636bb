"""Chapter: assembly.

An episode is turns: an *observation* (all the tokens that the policy saw) and the *action* that it sampled. A trainer
learns from *datums*, one row of tokens each. Usually a turn's observation begins with everything that came before, so
that a whole conversation is one row and every token is computed once:

    observation 1 | action 1 | what is new in observation 2 | action 2 | ...

Where an observation does not begin with the running row, token for token (the history was rewritten, thinking was
taken out), the turn starts a row of its own. Then each row is shifted by one: position t holds token t as input and
token t + 1 as target, and every other column is about the *target*.

    sampled        the target was chosen by the policy
    weight         1 where it was, and is trained on; 0 for observed tokens and for masked actions
    logprob        what the policy that sampled it gave it, bit for bit; 0 for observed tokens
    advantage      that of the episode, 0 where the weight is 0
    message        the turn that brought it
    policy_version of the policy that sampled it; -1 for observed tokens

Tokens are never decoded and encoded again on the way.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import assembly as reference
from reference.strategies import groups
from tinsmith.domain.assembly import assemble
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.errors import ShapeError


def advantages_of(some: list[Group]) -> list[list[float]]:
    """A different advantage for every episode."""
    numbers = iter(range(1, 1000))
    return [[float(next(numbers)) for _ in g.episodes] for g in some]


@given(groups())
def test_datums_are_the_running_sequences_of_the_episodes_shifted_by_one(some: list[Group]) -> None:
    advantages = advantages_of(some)
    expected = [
        (g, e, sequence)
        for g, group in enumerate(some)
        for e, episode in enumerate(group.episodes)
        for sequence in reference.sequences(episode, advantages[g][e])
    ]
    got = assemble(some, advantages)
    assert list(zip(got.group.tolist(), got.episode.tolist(), strict=True)) == [(g, e) for g, e, _ in expected]
    assert len(got.batch) == len(expected)
    for datum, (_, _, sequence) in zip(got.batch, expected, strict=True):
        assert datum.tokens.tolist() == [token[0] for token in sequence[:-1]]
        about_targets = zip(
            datum.targets.tolist(),
            datum.message.tolist(),
            datum.sampled.tolist(),
            datum.weights.tolist(),
            datum.logprobs.tolist(),
            datum.advantages.tolist(),
            datum.policy_version.tolist(),
            strict=True,
        )
        assert list(about_targets) == sequence[1:]


@given(groups())
def test_every_sampled_token_is_trained_once_with_the_logprob_it_was_sampled_with(some: list[Group]) -> None:
    batch = assemble(some, advantages_of(some)).batch
    turns = [t for g in some for e in g.episodes for t in e.transitions]
    assert batch.targets[batch.sampled].tolist() == [x for t in turns for x in t.action.tolist()]
    assert batch.logprobs is not None
    assert batch.logprobs[batch.sampled].tobytes() == b"".join(t.logprobs.tobytes() for t in turns)
    assert batch.num_loss_tokens == sum(len(t.action) for t in turns if not t.masked)


@given(groups())
def test_observed_and_masked_tokens_pull_nothing(some: list[Group]) -> None:
    batch = assemble(some, advantages_of(some)).batch
    assert batch.advantages is not None
    assert not batch.advantages[batch.weights == 0].any()
    assert not batch.weights[~batch.sampled].any()


@given(groups(), st.data())
def test_advantages_may_be_given_token_by_token(some: list[Group], data: st.DataObject) -> None:
    turns = [t for g in some for e in g.episodes for t in e.transitions]
    n = sum(len(t.action) for t in turns)
    per_token = data.draw(st.lists(st.integers(-9, 9).map(float), min_size=n, max_size=n))
    batch = assemble(some, advantages_of(some), token_advantages=per_token).batch
    trained = np.repeat([not t.masked for t in turns], [len(t.action) for t in turns]).astype(bool)
    assert batch.advantages is not None
    assert batch.advantages[batch.sampled].tolist() == np.where(trained, per_token, 0.0).tolist()


def turn(observation: list[int], action: list[int], **more: float) -> Transition:
    return Transition(observation=observation, action=action, logprobs=[-1.0] * len(action), **more)  # type: ignore[arg-type]


def group(*turns: Transition) -> Group:
    return Group(problem="p", episodes=(Episode(transitions=turns, stop_reason=StopReason.COMPLETED),))


def test_a_conversation_is_one_row_and_a_rewritten_history_starts_the_next() -> None:
    told = group(turn([1, 2], [3]), turn([1, 2, 3, 4], [5, 6]))
    batch = assemble([told], [[2.0]]).batch
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5]
    assert batch.targets.tolist() == [2, 3, 4, 5, 6]
    assert batch.weights.tolist() == [0, 1, 0, 1, 1]
    assert batch.message.tolist() == [0, 0, 1, 1, 1]

    rewritten = group(turn([1, 2], [3]), turn([1, 2, 4], [5, 6]))
    assert assemble([rewritten], [[2.0]]).batch.offsets.tolist() == [0, 2, 6]


def test_a_turn_that_sampled_nothing_takes_no_part() -> None:
    assert len(assemble([group(turn([1, 2], []))], [[0.0]]).batch) == 0
    around = group(turn([1], [2]), turn([9], []), turn([1, 2, 3], [4]))
    assert assemble([around], [[1.0]]).batch.tokens.tolist() == [1, 2, 3]


def test_bad_input_is_refused_by_transition_and_index() -> None:
    with pytest.raises(ShapeError, match=r"transitions\): NaN at row 1, index 1"):
        assemble([group(turn([1], [2]), Transition(observation=[1], action=[2, 3], logprobs=[-1, np.nan]))], [[1.0]])
    with pytest.raises(ShapeError, match=r"episodes\): NaN at row 0"):
        assemble([group(turn([1], [2]))], [[np.nan]])
    with pytest.raises(ShapeError, match="transition 1 has an action but an empty observation"):
        assemble([group(turn([1], [2]), turn([], [2]))], [[1.0]])
    with pytest.raises(ShapeError, match="sizes of the groups"):
        assemble([group(turn([1], [2]))], [[1.0, 2.0]])
    with pytest.raises(ShapeError, match="advantages has length 1, expected 2"):
        assemble([group(turn([1], [2, 3]))], [[1.0]], token_advantages=[1.0])
