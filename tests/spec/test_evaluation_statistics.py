"""Statistics of evaluations, against enumeration of what they stand for."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from statistics import NormalDist, stdev

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinsmith.domain.errors import ShapeError
from tinsmith.domain.evaluation import (
    bootstrap,
    compare,
    mcnemar,
    mean,
    pass_at_k,
    share,
    sign_flip,
    standard_error,
    wilson,
)

counts = st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
shares = st.lists(st.integers(0, 4).map(lambda i: i / 4), min_size=1, max_size=30)


@given(counts)
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_attempt(ncks: tuple[int, int, int]) -> None:
    n, c, k = ncks
    draws = list(itertools.combinations([i < c for i in range(n)], k))
    assert pass_at_k(n, c, k) == float(Fraction(sum(map(any, draws)), len(draws)))


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
@example((3000, 1, 1))
@example((3000, 1499, 1500))
def test_pass_at_k_grows_in_c_and_in_k_and_stays_a_share_at_any_size(ncks: tuple[int, int, int]) -> None:
    n, c, k = ncks
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert pass_at_k(n, c, 1) == c / n
    assert pass_at_k(n, c, n) == float(c > 0)
    if c < n:
        assert pass_at_k(n, c + 1, k) >= value
    if k < n:
        assert pass_at_k(n, c, k + 1) >= value


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.integers(1, 4))
def test_pass_at_k_is_unbiased(p: float, k: int) -> None:
    n = 5
    expected = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 0)])
def test_pass_at_k_of_nothing_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_bounds_are_the_shares_that_the_score_test_just_keeps(rn: tuple[int, int], confidence: float) -> None:
    right, total = rn
    found = wilson(right, total, confidence)
    assert 0 <= found.low <= found.value == right / total <= found.high <= 1
    assert found.low < found.high
    turned = wilson(total - right, total, confidence)
    assert (turned.low, turned.high) == (pytest.approx(1 - found.high, abs=1e-12), pytest.approx(1 - found.low))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for bound in (found.low, found.high):
        if 1e-6 < bound < 1 - 1e-6:
            assert (found.value - bound) ** 2 * total == pytest.approx(z**2 * bound * (1 - bound), rel=1e-6)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_wilson_covers_on_average_what_it_says(n: int, p: float) -> None:
    covered = sum(
        math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1) if wilson(c, n).low <= p <= wilson(c, n).high
    )
    assert 0.92 <= covered <= 0.98


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_one_attempt_a_problem_is_wilsons_interval(right: list[bool]) -> None:
    found, plain = share([float(r) for r in right]), wilson(sum(right), len(right))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-12)


@given(shares, st.integers(1, 8))
def test_attempts_narrow_an_interval_no_further_than_if_they_were_independent(values: list[float], n: int) -> None:
    found = share(values, attempts=n)
    most, least = share(values, attempts=1), wilson(found.value * len(values) * n, len(values) * n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert least.high - least.low - 1e-12 <= found.high - found.low <= most.high - most.low + 1e-12


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.integers(2, 8))
def test_attempts_that_all_repeat_the_first_add_nothing(right: list[bool], n: int) -> None:
    values = [float(r) for r in right]
    one, many = share(values), share(values, attempts=n)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=1.5 / len(values))


@pytest.mark.parametrize("n", [1, 4])
def test_intervals_over_problems_cover_the_mean_of_the_problems_they_were_drawn_from(n: int) -> None:
    """Problems of unequal difficulty: Beta(1/2, 1) has the mean 1/3."""
    drawn = np.random.default_rng(7)
    times = 400
    covered = {"share": 0, "mean": 0}
    for _ in range(times):
        values = drawn.binomial(n, drawn.beta(0.5, 1.0, 80)) / n
        for name, found in (("share", share(values, n)), ("mean", mean(values))):
            covered[name] += found.low <= 1 / 3 <= found.high
    assert all(0.91 <= c / times <= 0.985 for c in covered.values()), covered


def test_an_interval_that_takes_attempts_for_problems_would_not_cover() -> None:
    drawn = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        values = drawn.binomial(16, drawn.beta(0.5, 1.0, 80)) / 16
        naive = wilson(values.sum() * 16, 80 * 16)
        covered += naive.low <= 1 / 3 <= naive.high
    assert covered / 400 < 0.6


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(-10, 10))
def test_a_mean_moves_with_its_values_and_its_error_does_not(values: list[float], shift: float) -> None:
    moved = [v + shift for v in values]
    assert mean(moved).value == pytest.approx(mean(values).value + shift, abs=1e-9)
    assert standard_error(moved) == pytest.approx(standard_error(values), abs=1e-9)
    assert standard_error(values) == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_one_problem_has_no_error() -> None:
    assert math.isnan(standard_error([0.5]))
    assert math.isnan(mean([0.5]).low)
    assert share([0.5], 4).low < 0.5 < share([0.5], 4).high


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_the_share_of_all_ways_to_fall(better: int, worse: int) -> None:
    total = better + worse
    ways = [abs(2 * sum(w) - total) >= abs(better - worse) for w in itertools.product((0, 1), repeat=total)]
    assert mcnemar(better, worse) == sum(ways) / len(ways)
    assert mcnemar(better, worse) == mcnemar(worse, better)


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), max_size=9))
def test_sign_flips_are_the_share_of_all_signs(differences: list[float]) -> None:
    signs = list(itertools.product((-1, 1), repeat=len(differences)))
    far = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) >= abs(sum(differences)) for row in signs]
    assert sign_flip(differences) == pytest.approx(sum(far) / len(far), abs=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1))
def test_drawn_signs_come_near_to_all_signs(seed: int) -> None:
    values = np.array([0.25, 0.5] * 9)
    values[:5] *= -1
    signs = (np.arange(2**18)[:, None] >> np.arange(18) & 1) * 2 - 1
    exact = float((np.abs(signs @ np.abs(values)) >= abs(values.sum())).mean())
    assert sign_flip(values, seed=seed) == pytest.approx(exact, abs=0.025)


pairs = st.lists(st.tuples(*[st.integers(0, 4).map(lambda i: i / 4)] * 2), min_size=1, max_size=20)


@settings(max_examples=15)
@given(pairs, st.integers(0, 99))
def test_a_comparison_turned_round_is_the_same_one(pairs: list[tuple[float, float]], seed: int) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = compare(first, second, seed=seed), compare(second, first, seed=seed)
    assert (there.better, there.worse, there.p_value) == (
        back.worse,
        back.better,
        pytest.approx(back.p_value, abs=0.03),
    )
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-9)
    assert compare(first, second, seed=seed) == there
    assert there.difference.low <= there.difference.value <= there.difference.high


def test_a_run_against_itself_says_nothing() -> None:
    found = compare([0, 1, 1, 0.5], [0, 1, 1, 0.5])
    assert (found.better, found.worse, found.p_value) == (0, 0, 1.0)
    assert (found.difference.low, found.difference.high) == (0, 0)


def test_pairs_find_what_two_intervals_do_not() -> None:
    """20 of 200 problems turned right and none wrong: the scores' intervals overlap, the pairs are sure."""
    first, second = [1.0] * 90 + [0.0] * 110, [1.0] * 110 + [0.0] * 90
    assert share(first).high > share(second).low
    found = compare(first, second)
    assert found.p_value < 1e-5
    assert found.difference.low > 0


def test_bootstrap_agrees_with_the_normal_interval_over_many_problems() -> None:
    values = np.random.default_rng(3).binomial(1, 0.4, 400).astype(float)
    one, two = bootstrap(values), mean(values)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=0.006)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)


def test_runs_of_other_lengths_and_of_nothing_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 problems in the first run, 2 in the second"):
        compare([1, 0, 1], [1, 0])
    with pytest.raises(ShapeError, match="at least one"):
        mean([])
    with pytest.raises(ValueError, match="from 0 to 1"):
        share([1.5])
