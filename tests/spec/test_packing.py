"""Chapter: packing.

Datums have different lengths; memory and time are bounded in tokens. *Packing* puts datums into bins of at most
`budget` tokens. Whatever the method, it moves whole datums: none is lost, repeated, cut or (a datum longer than the
budget) silently dropped. `in_order` keeps the order, `best_fit` wastes least.

A *minibatch* is a run of consecutive datums of a batch, for one optimizer step. Cut by `count` or by `tokens`, the runs
are together the batch again, in its order.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reference import packing as reference
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.packing import minibatches, pack

METHODS = ["in_order", "best_fit"]
item_lengths = st.lists(st.integers(0, 12), max_size=24)


@given(item_lengths, st.integers(0, 20), st.sampled_from(METHODS))
def test_every_datum_is_in_exactly_one_bin_within_the_budget(lengths: list[int], extra: int, method: str) -> None:
    budget = max(lengths, default=0) + extra
    bins = pack(lengths, budget, method)
    assert sorted(i for b in bins for i in b.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= budget and len(b) for b in bins)
    assert all(b.tolist() == sorted(b.tolist()) for b in bins)
    assert [b.tolist() for b in pack(lengths, budget, method)] == [b.tolist() for b in bins]


@given(item_lengths, st.integers(0, 20))
def test_in_order_keeps_the_order_and_closes_a_bin_only_when_the_next_does_not_fit(
    lengths: list[int], extra: int
) -> None:
    budget = max(lengths, default=0) + extra
    bins = [b.tolist() for b in pack(lengths, budget, "in_order")]
    assert [i for b in bins for i in b] == list(range(len(lengths)))
    for b, after in pairwise(bins):
        assert sum(lengths[i] for i in b) + lengths[after[0]] > budget


@given(item_lengths, st.integers(0, 20))
def test_best_fit_leaves_no_two_bins_that_would_go_into_one(lengths: list[int], extra: int) -> None:
    """Hence at most twice the fewest bins; the known bound is 11/9 of them, plus one."""
    budget = max(lengths, default=0) + extra
    sums = sorted(sum(lengths[i] for i in b) for b in pack(lengths, budget, "best_fit"))
    assert len(sums) < 2 or sums[0] + sums[1] > budget


def test_a_datum_longer_than_the_budget_is_refused_by_index() -> None:
    for method in METHODS:
        with pytest.raises(ShapeError, match="item 1 has 9 tokens, more than the budget of 8"):
            pack([1, 9, 2], 8, method)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='did you mean "best_fit"'):
        pack([1], 8, "bestfit")  # type: ignore[arg-type]


def batch_of(lengths: list[int]) -> Batch:
    """A batch in which every token differs from every other."""
    tokens = np.split(np.arange(sum(lengths), dtype=np.int32), np.cumsum(lengths)[:-1])
    return Batch.of([Datum(tokens=t, targets=t, weights=np.ones(len(t), np.float32)) for t in tokens])


some_lengths = st.lists(st.integers(0, 9), min_size=1, max_size=9)


@given(some_lengths, st.integers(1, 12), st.sampled_from(["tokens", "count"]))
@example([3], 4, "tokens")
def test_minibatches_are_the_batch_again_and_none_is_empty(lengths: list[int], n: int, by: str) -> None:
    batch = batch_of(lengths)
    parts = minibatches(batch, n, by)
    assert len(parts) == min(n, len(batch))
    assert all(len(p) for p in parts)
    assert Batch.of([d for p in parts for d in p]).same_as(batch)


@given(some_lengths, st.integers(1, 9))
def test_by_count_sizes_differ_by_at_most_one(lengths: list[int], n: int) -> None:
    sizes = [len(p) for p in minibatches(batch_of(lengths), n, "count")]
    assert max(sizes) - min(sizes) <= 1


@given(some_lengths, st.integers(1, 9))
@example([9, 0, 0, 0], 3)
def test_by_tokens_the_largest_run_is_as_small_as_any_cut_makes_it(lengths: list[int], n: int) -> None:
    parts = minibatches(batch_of(lengths), n)
    assert max(p.num_tokens for p in parts) == reference.smallest_largest_run(lengths, len(parts))


def test_less_than_one_minibatch_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 minibatches"):
        minibatches(batch_of([1]), 0)
