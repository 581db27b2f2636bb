"""Chapter: mixtures.

A mixture of sources is an endless sequence of examples. A pass has as many examples as the sources have together. A
source has its share of every pass, is spread evenly over it, and goes through its own examples again and again: of any
two of them, one is never seen twice more often than the other. A place in the mixture is a number; what stands there
depends on nothing else.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.errors import ConfigError
from tinsmith.domain.mixtures import Mixture, row_at

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
WEIGHT = st.floats(0.01, 100)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    sizes = draw(SIZES)
    weights = draw(st.none() | st.lists(WEIGHT, min_size=len(sizes), max_size=len(sizes)))
    return Mixture(sizes, weights, draw(st.integers(0, 2**31 - 1)))


@given(SIZES, st.integers(0, 1000), st.integers(0, 3))
def test_without_weights_a_pass_has_each_example_once(sizes: list[int], seed: int, epoch: int) -> None:
    mixture = Mixture(sizes, None, seed)
    seen = Counter(mixture.at(epoch * len(mixture) + i) for i in range(len(mixture)))
    assert seen == Counter((source, row) for source, size in enumerate(sizes) for row in range(size))


@given(mixtures(), st.integers(0, 3))
def test_a_source_has_its_share_of_every_pass(mixture: Mixture, epoch: int) -> None:
    seen = Counter(mixture.at(epoch * len(mixture) + i)[0] for i in range(len(mixture)))
    assert tuple(seen[i] for i in range(len(mixture.sizes))) == mixture.shares
    assert sum(mixture.shares) == len(mixture)
    weights = mixture.weights or mixture.sizes
    for share, weight in zip(mixture.shares, weights, strict=True):
        assert abs(share - len(mixture) * weight / sum(weights)) <= 1


@given(mixtures(), st.integers(0, 40), st.integers(1, 40))
def test_a_source_is_spread_evenly(mixture: Mixture, start: int, length: int) -> None:
    """A stretch of a pass has of each source what is due to it, to two examples of each source."""
    end = min(start + length, len(mixture))
    start = min(start, end)
    seen = Counter(mixture.at(i)[0] for i in range(start, end))
    for source, share in enumerate(mixture.shares):
        assert abs(seen[source] - share * (end - start) / len(mixture)) <= 2 * len(mixture.sizes)


@given(mixtures(), st.integers(1, 200))
def test_a_source_goes_round_its_own_examples(mixture: Mixture, length: int) -> None:
    """None is seen again before all of them were seen."""
    seen = [Counter[int]() for _ in mixture.sizes]
    for i in range(length):
        source, row = mixture.at(i)
        seen[source][row] += 1
        counts = [seen[source][r] for r in range(mixture.sizes[source])]
        assert max(counts) - min(counts) <= 1


@given(mixtures(), st.lists(st.integers(0, 300), max_size=20))
def test_a_place_is_a_number_and_nothing_else(mixture: Mixture, places: list[int]) -> None:
    again = Mixture(mixture.sizes, mixture.weights, mixture.seed)
    assert [mixture.at(i) for i in places] == [again.at(i) for i in reversed(places)][::-1]


@given(SIZES, st.integers(0, 100))
def test_only_the_ratio_of_weights_counts(sizes: list[int], seed: int) -> None:
    weights = [float(i + 1) for i in range(len(sizes))]
    one, other = Mixture(sizes, weights, seed), Mixture(sizes, [4 * w for w in weights], seed)
    assert [one.at(i) for i in range(60)] == [other.at(i) for i in range(60)]


def test_another_seed_or_pass_is_another_order() -> None:
    orders = [[Mixture([50], None, seed).at(50 * p + i)[1] for i in range(50)] for seed in (0, 1) for p in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(
    ("sizes", "weights", "said"),
    [
        ([], None, "at least one"),
        ([3, 0], None, "at least one"),
        ([3, 4], [1], "1 weights for 2 sources"),
        ([3], [0], "above 0"),
        ([3], [float("nan")], "finite"),
    ],
)
def test_what_is_no_mixture_is_refused(sizes: list[int], weights: list[float] | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mixture(sizes, weights)


@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**32))
def test_each_pass_over_rows_has_each_of_them_once(length, epoch, seed):
    passed = range(epoch * length, (epoch + 1) * length)
    assert sorted(row_at(i, length, seed) for i in passed) == list(range(length))
    assert [row_at(i, length, None) for i in passed] == list(range(length))


@given(st.integers(0, 2**32))
def test_passes_and_seeds_have_orders_of_their_own(seed):
    orders = {tuple(row_at(i, 30, s) for i in range(a, a + 30)) for s in (seed, seed + 1) for a in (0, 30)}
    assert len(orders) == 4
