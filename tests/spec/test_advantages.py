"""Chapter: advantages.

A *group* is G episodes of one problem. Nobody can say whether a reward of 0.7 is good; whether it is better than the
others of its group, one can. So the advantage of an episode is its reward r against those of its group, whose mean is m
and whose population standard deviation is s:

    mean                    r - m
    mean_std                (r - m) / (s + eps)                              GRPO
    leave_one_out           r - mean of the other G - 1 rewards              RLOO
    maxrl                   (r - m) / m, for rewards >= 0                    maximum likelihood RL
    pass_at_k               for rewards 0 and 1; what each episode adds to the chance that one of k is right

Two look at the whole batch:

    reinforce_pp            (r - mean of the batch) / (std of the batch + eps)
    reinforce_pp_baseline   (r - m) / (std of all r - m of the batch + eps)

A group in which all earned the same teaches nothing: its advantages are exactly 0, not a rounding residue that a
division by its own deviation makes large.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reference import advantages as reference
from reference.strategies import numbers
from tinsmith.domain.advantages import group_advantages
from tinsmith.domain.errors import ConfigError, ShapeError, TinsmithError

GROUPWISE = ["mean", "mean_std", "leave_one_out", "maxrl", "pass_at_k"]
ALL = [*GROUPWISE, "reinforce_pp", "reinforce_pp_baseline"]

whole_rewards = st.integers(0, 20).map(float)
"""Rewards on which sums are exact, so that laws about shifts hold to rounding of the result alone."""


def rewards_for(estimator: str) -> st.SearchStrategy[float]:
    if estimator == "pass_at_k":
        return st.sampled_from([0.0, 1.0])
    return st.one_of(numbers(0, 10), whole_rewards)


@st.composite
def batches(draw: st.DrawFn, names: list[str] = ALL) -> tuple[str, list[list[float]]]:
    estimator = draw(st.sampled_from(names))
    group = st.lists(rewards_for(estimator), min_size=1, max_size=8)
    return estimator, draw(st.lists(group, min_size=1, max_size=5))


def of(estimator: str, *groups: list[float], **options: float) -> list[list[float]]:
    return [a.tolist() for a in group_advantages(groups, estimator, **options)]


@given(batches(), st.sampled_from([0.0, 1e-6, 0.1]), st.integers(1, 3))
def test_the_kernel_computes_the_formulas(batch: tuple[str, list[list[float]]], eps: float, k: int) -> None:
    estimator, groups = batch
    k = min(k, *(len(g) for g in groups))
    expected = reference.group_advantages(groups, estimator, eps, k)
    for got, want in zip(of(estimator, *groups, eps=eps, k=k), expected, strict=True):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-9)


@given(st.sampled_from(ALL), st.floats(0, 1e6), st.integers(1, 64))
@example("mean_std", 0.1, 3)  # 0.1 + 0.1 + 0.1 is not 3 * 0.1
@example("mean_std", 0.7, 10)
def test_a_constant_group_has_advantages_of_exactly_zero(estimator: str, reward: float, size: int) -> None:
    reward = float(reward > 0.5) if estimator == "pass_at_k" else reward
    assert of(estimator, [reward] * size, eps=0.0) == [[0.0] * size]


def test_a_spread_of_rounding_alone_is_no_spread() -> None:
    assert of("mean_std", [0.3, 0.1 + 0.2], eps=0.0) == [[0.0, 0.0]]


@given(batches(["mean_std", "reinforce_pp"]))
def test_standardised_advantages_are_never_larger_than_their_number_allows(
    batch: tuple[str, list[list[float]]],
) -> None:
    """|A| <= sqrt(n - 1) for n standardised numbers. An error in a deviation shows here at once."""
    estimator, groups = batch
    n = max(map(len, groups)) if estimator == "mean_std" else sum(map(len, groups))
    assert all(abs(a) <= sqrt(max(n - 1, 0)) * (1 + 1e-6) for g in of(estimator, *groups, eps=0.0) for a in g)


@given(batches([*GROUPWISE, "reinforce_pp_baseline"]))
def test_the_advantages_of_a_group_sum_to_zero(batch: tuple[str, list[list[float]]]) -> None:
    estimator, groups = batch
    for group in of(estimator, *groups):
        assert abs(sum(group)) <= 1e-9 * max(1.0, *map(abs, group)) * len(group)


@given(batches(), st.randoms())
def test_the_order_of_episodes_does_not_matter(batch: tuple[str, list[list[float]]], random: object) -> None:
    estimator, groups = batch
    order = [sorted(range(len(g)), key=lambda _: random.random()) for g in groups]  # type: ignore[attr-defined]
    shuffled = [[g[i] for i in o] for g, o in zip(groups, order, strict=True)]
    plain, moved = of(estimator, *groups), of(estimator, *shuffled)
    for a, b, o in zip(plain, moved, order, strict=True):
        assert [a[i] for i in o] == pytest.approx(b, rel=1e-9, abs=1e-9)


@given(batches(GROUPWISE))
def test_groups_do_not_touch_each_other(batch: tuple[str, list[list[float]]]) -> None:
    estimator, groups = batch
    assert of(estimator, *groups) == [of(estimator, g)[0] for g in groups]


@given(st.lists(whole_rewards, min_size=1, max_size=8), st.integers(-100, 100))
def test_adding_the_same_to_all_rewards_changes_nothing(group: list[float], shift: int) -> None:
    for estimator in ("mean", "mean_std", "leave_one_out", "reinforce_pp", "reinforce_pp_baseline"):
        moved = [r + shift for r in group]
        assert of(estimator, moved)[0] == pytest.approx(of(estimator, group)[0], rel=1e-9, abs=1e-9)


@given(st.lists(whole_rewards, min_size=1, max_size=8), st.sampled_from([0.25, 3.0, 1e-6, 1e6]))
def test_scaling_rewards_scales_differences_and_leaves_ratios(group: list[float], scale: float) -> None:
    scaled = [r * scale for r in group]
    for estimator in ("mean", "leave_one_out"):
        expected = [a * scale for a in of(estimator, group)[0]]
        assert of(estimator, scaled)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)
    for estimator in ("mean_std", "maxrl", "reinforce_pp", "reinforce_pp_baseline"):
        expected = of(estimator, group, eps=0.0)[0]
        assert of(estimator, scaled, eps=0.0)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(numbers(-5, 5), min_size=2, max_size=8))
def test_leave_one_out_is_mean_centring_times_g_over_g_minus_one(group: list[float]) -> None:
    factor = len(group) / (len(group) - 1)
    assert of("leave_one_out", group)[0] == pytest.approx([factor * a for a in of("mean", group)[0]])


def test_one_episode_alone_has_no_baseline_and_no_advantage() -> None:
    assert all(of(estimator, [1.0]) == [[0.0]] for estimator in ALL)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
def test_pass_at_k_asks_less_of_the_wrong_as_k_grows(right: int, wrong: int, k: int) -> None:
    """Where k episodes are sure to hold a right one, there is nothing left to learn; below, right ones are pushed up
    and wrong ones down; k = 1 is mean_std."""
    assume(k <= right + wrong)
    group = [1.0] * right + [0.0] * wrong
    advantages = of("pass_at_k", group, k=k)[0]
    if wrong < k:
        assert advantages == [0.0] * len(group)
    else:
        assert advantages[0] > 0 > advantages[-1]
    if k == 1:
        assert advantages == pytest.approx(of("mean_std", group, eps=0.0)[0])


def test_maxrl_weighs_the_one_success_of_a_hard_problem_most() -> None:
    hard, easy = of("maxrl", [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    assert hard == [3.0, -1.0, -1.0, -1.0]
    assert easy[0] == pytest.approx(1 / 3)
    assert of("maxrl", [0.0, 0.0]) == [[0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("estimator", ALL)
def test_a_reward_that_is_no_number_is_refused_by_group_and_index(estimator: str, bad: float) -> None:
    with pytest.raises(ShapeError, match="row 1, index 2"):
        of(estimator, [0.0, 1.0], [0.0, 1.0, bad])


def test_what_an_estimator_cannot_use_is_refused_where_it_stands() -> None:
    with pytest.raises(ShapeError, match="row 0, index 1: maxrl needs rewards that are not negative"):
        of("maxrl", [1.0, -1.0])
    with pytest.raises(ShapeError, match="row 1, index 0: pass_at_k needs rewards of 0 or 1"):
        of("pass_at_k", [1.0, 0.0], [0.5, 1.0])
    with pytest.raises(ShapeError, match="row 0: pass_at_k with k = 3"):
        of("pass_at_k", [1.0, 0.0], k=3)
    with pytest.raises(ConfigError, match='did you mean "mean_std"'):
        of("mean_sdt", [1.0])
    with pytest.raises(ConfigError, match="eps"):
        of("mean_std", [1.0], eps=-1.0)
    with pytest.raises(ConfigError, match="whole number"):
        of("pass_at_k", [1.0], k=1.5)
    assert issubclass(ShapeError, TinsmithError)
    assert issubclass(ShapeError, ValueError)
