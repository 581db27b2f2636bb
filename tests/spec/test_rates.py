"""Rates, answers and schedules: what a metric counts, when an answer is right, how fast a learning rate falls.

A rate is one sum over one count, and the count is *all* episodes: an episode that was cut off or failed did not report
`correct`, and it was not correct.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinsmith.domain import answers
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.metrics import Tally, episode_metrics
from tinsmith.domain.schedules import multiplier


def episode(reward: float, correct: float | None, reason: StopReason) -> Episode:
    metrics = {} if correct is None else {"correct": correct}
    turn = Transition(observation=[1, 2], action=[3], logprobs=[-0.5], reward=reward, metrics=metrics)
    return Episode(transitions=(turn,), stop_reason=reason)


episodes = st.builds(
    episode, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([None, 0.0, 1.0]), st.sampled_from(StopReason)
)
groups = st.lists(
    st.builds(
        Group,
        problem=st.just("p"),
        episodes=st.lists(episodes, min_size=1, max_size=4).map(tuple),
        tags=st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
    ),
    min_size=1,
    max_size=6,
)


@given(groups)
@example([Group(problem="p", episodes=(episode(1, 1, StopReason.COMPLETED), episode(0, None, StopReason.TIMEOUT)))])
def test_a_rate_counts_the_episodes_that_reported_nothing(groups: list[Group]) -> None:
    found = episode_metrics(groups)
    everyone = [e for g in groups for e in g.episodes]
    right = sum(t.metrics.get("correct", 0.0) for e in everyone for t in e.transitions)
    assert found.get("env/all/correct", 0.0) == pytest.approx(right / len(everyone))
    assert found["env/all/reward/total"] == pytest.approx(sum(e.reward for e in everyone) / len(everyone))


@given(groups)
def test_each_episode_has_one_stop_reason_and_each_group_one_kind(groups: list[Group]) -> None:
    found = episode_metrics(groups)
    assert sum(v for k, v in found.items() if k.startswith("env/all/stop/")) == pytest.approx(1)
    assert sum(v for k, v in found.items() if k.startswith("env/all/by_group/")) == pytest.approx(1)


@given(groups, groups)
def test_a_tag_tells_of_its_own_groups_alone(mine: list[Group], others: list[Group]) -> None:
    """Groups without the tag, wherever they stand among the others, change nothing that is said under it."""
    tagged = [g for g in mine if "a" in g.tags]
    foreign = [g for g in others if "a" not in g.tags]
    under = {k: v for k, v in episode_metrics([*foreign, *tagged]).items() if k.startswith("env/a/")}
    assert under == {k: v for k, v in episode_metrics(tagged).items() if k.startswith("env/a/")}


@given(st.lists(st.dictionaries(st.sampled_from("xy"), st.floats(-10, 10)), min_size=1))
def test_a_tally_divides_by_all_cases(cases: list[dict[str, float]]) -> None:
    for name, mean in Tally.of(cases).mean().items():
        assert mean == pytest.approx(sum(c.get(name, 0.0) for c in cases) / len(cases))


numbers = st.one_of(st.integers(-(10**12), 10**12).map(str), st.decimals(-(10**6), 10**6, places=3).map(str))


@given(numbers)
@example("1000")
def test_a_number_is_itself_however_it_is_written(text: str) -> None:
    value = Fraction(text)
    ways = [text, f" {text} ", f"{text}."]
    ways += [f"${text}"] if value >= 0 else []
    ways += [f"{value.numerator:,}"] if value.denominator == 1 else []
    for written in ways:
        assert answers.equal(text, written).equal, written


@given(numbers, numbers)
def test_different_numbers_are_different(a: str, b: str) -> None:
    for verdict in (answers.equal(a, b), answers.equal(b, a)):
        assert verdict.equal == (Fraction(a) == Fraction(b)), verdict


@given(st.integers(0, 10**6))
@example(50)
def test_marks_around_a_number_are_no_part_of_it(number: int) -> None:
    for written in (f"{number}%", f"{number}%.", f"{number}.", f"${number}", f"${number}."):
        assert answers.equal(str(number), written).equal, written
    assert answers.equal(str(-number), f"-${number}").equal


def test_a_dash_between_numbers_is_no_sign() -> None:
    assert answers.last_number("between 5-10") == "10"
    assert answers.last_number("it is -10") == "-10"


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 500), st.integers(0, 50))
def test_a_schedule_climbs_then_never_rises_and_always_learns(schedule: str, total: int, warmup: int) -> None:
    values = [multiplier(schedule, step, total, warmup) for step in range(total)]  # type: ignore[arg-type]
    assert all(0 < v <= 1 for v in values)
    climb, fall = values[:warmup], values[warmup:]
    assert climb == sorted(climb)
    assert fall == sorted(fall, reverse=True)
    if fall:
        assert fall[0] == 1.0
