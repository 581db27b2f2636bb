"""Chapter: returns.

What a token earns is what follows it. Along each row of tokens, with x_t a quantity of token t and gamma a discount,

    y_t = x_t + gamma x_{t+1} + gamma^2 x_{t+2} + ...

Some tokens take no part: those of the prompt, of a tool, of the other player. They are *masked*: x is 0 there and so is
y. The second half matters. A sum that runs backwards carries a value past a masked token, and unless the mask is
applied again, the value stays on it, and a policy is trained on tokens that it never chose.

What a step of the discount is, is said, not implied: `positions` counts every token, `unmasked` only those that take
part, as if the others were not there.

Where a critic estimates values V, generalised advantage estimation sums its errors

    delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lambda delta_{t+1} + (gamma lambda)^2 ...

over the positions that take part; behind the last one, V is 0 where the episode ended and the critic's value where it
was cut.

A *KL penalty* against a reference policy turns log ratios d = q - reference of sampled tokens into advantages
coef (mean d - d_t), or into the discounted sums of these.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reference import returns as reference
from reference.strategies import cut, masked_rows, numbers
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.returns import discounted_sums, gae, kl_penalty
from tinsmith.domain.tokens import Offsets, offsets_of

Masked = tuple[list[float], list[bool], Offsets]
gammas = st.one_of(st.sampled_from([0.0, 1.0, 0.5, -0.5, 1.5]), numbers(-1.25, 1.25))
distances = st.sampled_from(["positions", "unmasked"])
close = {"rel": 1e-9, "abs": 1e-9}

PROMPT_BETWEEN_ACTIONS: Masked = ([1.0, 1.0, 1.0, 1.0], [True, False, False, True], offsets_of([4]))


def rows_of(values: list, offsets: Offsets) -> list[list]:
    return cut(values, np.diff(offsets).tolist())


@given(masked_rows(), gammas, distances)
@example(PROMPT_BETWEEN_ACTIONS, 0.5, "positions")
def test_discounted_sums_are_what_the_formula_says(drawn: Masked, gamma: float, distance: str) -> None:
    values, mask, offsets = drawn
    rows = zip(rows_of(values, offsets), rows_of(mask, offsets), strict=True)
    expected = [y for x, m in rows for y in reference.discounted_sums(x, m, gamma, distance)]
    got = discounted_sums(values, offsets, gamma, mask=mask, distance=distance)
    assert got.tolist() == pytest.approx(expected, **close)


@given(masked_rows(), gammas, distances, st.sampled_from([np.nan, np.inf, 1e300]))
@example(PROMPT_BETWEEN_ACTIONS, 0.5, "positions", np.nan)
def test_nothing_enters_from_a_masked_token_and_nothing_stays_on_it(
    drawn: Masked, gamma: float, distance: str, noise: float
) -> None:
    values, mask, offsets = drawn
    noisy = np.where(mask, values, noise)
    got = discounted_sums(noisy, offsets, gamma, mask=mask, distance=distance)
    assert got.tolist() == discounted_sums(values, offsets, gamma, mask=mask, distance=distance).tolist()
    assert not got[~np.array(mask, bool)].any()


@given(masked_rows(), gammas)
def test_unmasked_distance_is_that_of_the_row_without_its_masked_tokens(drawn: Masked, gamma: float) -> None:
    values, mask, offsets = drawn
    kept = np.array(mask, bool)
    lengths = [sum(row) for row in rows_of(mask, offsets)]
    short = discounted_sums(np.array(values)[kept], offsets_of(lengths), gamma)
    assert discounted_sums(values, offsets, gamma, mask=mask, distance="unmasked")[kept].tolist() == short.tolist()


@given(masked_rows(), distances)
def test_gamma_zero_keeps_each_token_and_gamma_one_sums_to_the_end(drawn: Masked, distance: str) -> None:
    values, mask, offsets = drawn
    masked = np.where(mask, values, 0.0)
    assert discounted_sums(values, offsets, 0.0, mask=mask, distance=distance).tolist() == masked.tolist()
    sums = [np.cumsum(row[::-1])[::-1] for row in np.split(masked, offsets[1:-1])]
    got = discounted_sums(values, offsets, 1.0, mask=mask, distance=distance)
    assert got.tolist() == pytest.approx(np.where(mask, np.concatenate(sums), 0.0).tolist(), **close)


@given(masked_rows(), gammas)
def test_rows_do_not_touch_each_other(drawn: Masked, gamma: float) -> None:
    values, mask, offsets = drawn
    alone = [
        y
        for x, m in zip(rows_of(values, offsets), rows_of(mask, offsets), strict=True)
        for y in discounted_sums(x, offsets_of([len(x)]), gamma, mask=m).tolist()
    ]
    assert discounted_sums(values, offsets, gamma, mask=mask).tolist() == alone


lambdas = st.one_of(st.sampled_from([0.0, 1.0]), numbers(0, 1))


@given(masked_rows(), st.data(), numbers(0, 1), lambdas)
def test_gae_sums_the_errors_of_the_critic(drawn: Masked, data: st.DataObject, gamma: float, lam: float) -> None:
    rewards, mask, offsets = drawn
    n, rows = len(rewards), len(offsets) - 1
    values = data.draw(st.lists(numbers(-3, 3), min_size=n, max_size=n))
    bootstraps = data.draw(st.lists(numbers(-3, 3), min_size=rows, max_size=rows))
    columns = [rows_of(c, offsets) for c in (rewards, values, mask)]
    expected = [
        a for r, v, m, b in zip(*columns, bootstraps, strict=True) for a in reference.gae(r, v, b, m, gamma, lam)
    ]
    got = gae(rewards, values, bootstraps, offsets, gamma=gamma, lam=lam, mask=mask)
    assert got.tolist() == pytest.approx(expected, **close)


@given(masked_rows(), numbers(0, 1), lambdas)
def test_a_perfect_critic_leaves_no_advantage(drawn: Masked, gamma: float, lam: float) -> None:
    """Where V is the return itself, every error is 0."""
    rewards, mask, offsets = drawn
    values = discounted_sums(rewards, offsets, gamma, mask=mask, distance="unmasked")
    got = gae(rewards, values, np.zeros(len(offsets) - 1), offsets, gamma=gamma, lam=lam, mask=mask)
    assert got.tolist() == pytest.approx([0.0] * len(got), abs=1e-9)


@given(masked_rows(), numbers(0, 1), numbers(-3, 3))
def test_lambda_one_is_the_return_less_the_value(drawn: Masked, gamma: float, value: float) -> None:
    rewards, mask, offsets = drawn
    values = np.full(len(rewards), value)
    got = gae(rewards, values, np.zeros(len(offsets) - 1), offsets, gamma=gamma, lam=1.0, mask=mask)
    sums = discounted_sums(rewards, offsets, gamma, mask=mask, distance="unmasked")
    assert got.tolist() == pytest.approx(np.where(mask, sums - value, 0.0).tolist(), **close)


def batch_of(q: list[float], mask: list[bool], offsets: Offsets) -> Batch:
    n = len(q)
    zeros = np.zeros(n, np.int32)
    return Batch(tokens=zeros, targets=zeros, weights=np.array(mask, np.float32), logprobs=q, offsets=offsets)


@given(masked_rows(-5, 0), st.data(), numbers(0, 2), gammas, distances)
def test_the_kl_penalty_is_what_the_formula_says(
    drawn: Masked, data: st.DataObject, coef: float, gamma: float, distance: str
) -> None:
    q, mask, offsets = drawn
    base = data.draw(st.lists(numbers(-5, 0), min_size=len(q), max_size=len(q)))
    rows = [rows_of(c, offsets) for c in (q, base, mask)]
    expected, mean = reference.kl_penalty(*rows, coef, gamma, distance)
    got, got_mean = kl_penalty(batch_of(q, mask, offsets), base, coef=coef, discount=gamma, distance=distance)
    assert got.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert got_mean == pytest.approx(mean, **close)


@given(masked_rows(-5, 0), st.data(), gammas, distances)
@example(([-1.0, 0.0, -2.0], [True, False, True], offsets_of([3])), None, 0.9, "positions")
def test_a_discounted_kl_penalty_never_reaches_tokens_that_the_policy_did_not_choose(
    drawn: Masked, data: st.DataObject | None, gamma: float, distance: str
) -> None:
    q, mask, offsets = drawn
    base = data.draw(st.lists(numbers(-5, 0), min_size=len(q), max_size=len(q))) if data else [-3.0] * len(q)
    got, _ = kl_penalty(batch_of(q, mask, offsets), base, coef=0.5, discount=gamma, distance=distance)
    assert not got[~np.array(mask, bool)].any()


@given(masked_rows(-5, 0), st.data())
def test_the_kl_penalty_moves_no_baseline_and_pulls_towards_the_reference(drawn: Masked, data: st.DataObject) -> None:
    q, mask, offsets = drawn
    base = data.draw(st.lists(numbers(-5, 0), min_size=len(q), max_size=len(q)))
    got, mean = kl_penalty(batch_of(q, mask, offsets), base, coef=0.5)
    assert float(got.sum(dtype=np.float64)) == pytest.approx(0.0, abs=1e-4)
    d = np.array(q) - np.array(base)
    kept = np.array(mask, bool)
    assert (got[kept & (d > mean + 1e-5)] < 0).all()
    assert (got[kept & (d < mean - 1e-5)] > 0).all()


def test_bad_input_is_refused_by_row_and_index() -> None:
    two = offsets_of([1, 2])
    with pytest.raises(ShapeError, match="row 1, index 0"):
        discounted_sums([0.0, np.nan, 0.0], two, 1.0)
    with pytest.raises(ShapeError, match="row 1, index 0: the discounted sum overflows"):
        discounted_sums([0.0, 1.0, 1e300], two, 1e300)
    with pytest.raises(ShapeError, match="mask has length 2, expected 3"):
        discounted_sums([0.0] * 3, two, 1.0, mask=[True, False])
    with pytest.raises(ShapeError, match=r"offsets fall from 2 to 1 \(at offsets\[2\]\)"):
        discounted_sums([0.0], np.array([0, 2, 1]), 1.0)
    with pytest.raises(ConfigError, match="gamma"):
        discounted_sums([0.0], offsets_of([1]), np.inf)
    with pytest.raises(ConfigError, match='did you mean "positions"'):
        discounted_sums([0.0], offsets_of([1]), 1.0, distance="position")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="bootstraps has length 1, expected 2"):
        gae([0.0] * 3, [0.0] * 3, [0.0], two)
    with pytest.raises(ShapeError, match="reference_logprobs: NaN at row 0, index 0"):
        kl_penalty(batch_of([0.0], [True], offsets_of([1])), [np.nan], coef=1.0)
