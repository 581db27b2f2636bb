"""Tokens and money: counted on any backend, summed over a run, and a budget that is kept."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loops import PATH, TOKENIZER, MemoryBlobStore, MemoryDisk, lines, supervised

from tinsmith.domain.cost import KINDS, Prices, Spending, Spent, Tokens
from tinsmith.domain.errors import BudgetError, ConfigError
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW, LossSpec
from tinsmith.testing.backend import FakeTrainer
from tinsmith.testing.contracts._common import random_batch
from tinsmith.workflows.metering import Meter

counts = st.builds(Tokens, **{kind: st.integers(0, 10**9) for kind in KINDS})
prices = st.builds(Prices, **{kind: st.floats(0, 1e3) for kind in KINDS})


@given(counts, counts, prices)
def test_the_cost_of_two_steps_is_the_sum_of_their_costs(a: Tokens, b: Tokens, price: Prices) -> None:
    assert price.cost(a + b) == pytest.approx(price.cost(a) + price.cost(b), rel=1e-12)
    assert Tokens.of_metrics(a.metrics()) == a


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    st.integers(0, 20),
    st.floats(0.01, 50),
)
def test_a_budget_is_exceeded_by_no_more_than_a_step_grows(steps: list[int], done: int, budget: float) -> None:
    """It stops where one more step like the last would exceed the budget; what was spent before counts."""
    price = Prices(prefill=0, sample=0, train=1)
    before = Spent()
    for tokens in steps[:done]:
        before = before.plus(Tokens(train=tokens))
    meter = Meter(Spending(prices=price, budget=budget), before)
    last = meter.total / max(before.steps, 1)
    for tokens in steps[done:]:
        expected = meter.total + last > budget
        assert (meter.exceeded() is not None) == expected
        if expected:
            break
        meter.add(Tokens(train=tokens))
        guess, last = last, meter.take()["cost/step"]
        assert meter.total <= budget + max(last - guess, 0) + 1e-9
    assert Meter(Spending(prices=price), before).exceeded() is None


def test_every_call_is_counted_as_what_it_is() -> None:
    trainer = FakeTrainer(TOKENIZER)
    meter = Meter(Spending(), Spent())
    counted = meter.trainer(trainer)
    batch = random_batch(trainer.info, [3, 4], 0)
    counted.forward(batch).result(5)
    counted.forward_backward(batch, LossSpec("cross_entropy")).result(5)
    counted.backward(batch, batch.weights).result(5)
    counted.optim_step(AdamW(0.1)).result(5)
    with counted.sampler().result(5) as sampler:
        got = sampler.sample(np.array([1, 2], np.int32), SamplingParams(max_tokens=5), n=3).result(5)
        sampler.score(np.array([1, 2, 3], np.int32)).result(5)
    sampled = sum(len(c.tokens) for c in got.completions)
    assert meter.take() == {"tokens/prefill": 7 + 2 + 3, "tokens/sample": sampled, "tokens/train": 14}
    assert meter.take() == {f"tokens/{kind}": 0 for kind in KINDS}


def test_a_budget_stops_between_steps_and_more_money_ends_as_if_it_had_been_there() -> None:
    whole, parts, states = MemoryDisk(), MemoryDisk(), MemoryBlobStore()
    price = Prices(prefill=1.0, sample=0.0, train=1000.0)
    calm = supervised(whole, MemoryBlobStore(), spending=Spending(prices=price))
    totals = [row["cost/total"] for row in lines(whole)]
    assert totals == sorted(totals)
    budget = (totals[3] + totals[4]) / 2
    for _ in range(2):
        with pytest.raises(BudgetError, match="larger budget="):
            supervised(parts, states, spending=Spending(prices=price, budget=budget))
    assert 1 <= len(lines(parts)) <= 4
    assert lines(parts)[-1]["cost/total"] <= budget
    journal = b"".join(parts.mount().stream(PATH / "journal.jsonl")).decode()
    assert [json.loads(r)["reason"][:7] for r in journal.splitlines() if '"kind":"stopped"' in r] == ["budget:"] * 2
    trained = supervised(parts, states, spending=Spending(prices=price, budget=2 * totals[-1]))
    assert trained.weights.tobytes() == calm.weights.tobytes()
    assert [row["cost/step"] for row in lines(parts)] == [row["cost/step"] for row in lines(whole)]


def test_a_batch_that_costs_more_than_the_budget_is_not_trained() -> None:
    """What a supervised step trains on is known before it, also before the first one."""
    whole, parts, states = MemoryDisk(), MemoryDisk(), MemoryBlobStore()
    price = Prices(prefill=0.0, sample=0.0, train=1000.0)
    calm = supervised(whole, MemoryBlobStore(), spending=Spending(prices=price))
    costs = [row["cost/step"] for row in lines(whole)]
    with pytest.raises(BudgetError, match=f"0 of a budget of .* a step costs about {costs[0]:.4g}"):
        supervised(parts, states, spending=Spending(prices=price, budget=0.99 * costs[0]))
    assert not lines(parts)
    for budget in [sum(costs[: n + 1]) * (1 + 1e-9) for n in range(len(costs) - 1)]:
        with contextlib.suppress(BudgetError):  # it stops earlier where a step is cheaper than the last
            supervised(parts, states, spending=Spending(prices=price, budget=budget))
        assert sum(row["cost/step"] for row in lines(parts)) <= budget
    trained = supervised(parts, states, spending=Spending(prices=price, budget=2 * sum(costs)))
    assert trained.weights.tobytes() == calm.weights.tobytes()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"prefill": 1, "sample": 2}, "missing"),
        ({"prefill": 1, "sample": 2, "train": 3, "storage": 4}, "storage"),
        ({"prefill": -1, "sample": 2, "train": 3}, "prefill"),
        ({"other": {"prefill": 1, "sample": 2, "train": 3}}, "no prices of 'mine'"),
        ({"mine": 7}, "no prices of 'mine'"),
    ],
)
def test_a_price_list_that_is_none_is_refused(table: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Prices.of(table, "mine", "prices.json")


def test_a_price_list_of_many_models() -> None:
    one = {"prefill": 1, "sample": 2, "train": 3}
    assert Prices.of({"mine": one, "other": one}, "mine", "") == Prices.of(one, "mine", "") == Prices(**one)
