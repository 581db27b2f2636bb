"""Chapter: preferences.

Of a pair one answer is preferred. With L the sum over an answer's tokens of w (lp - reference), and h = L of the chosen
answer less L of the rejected one,

    dpo   -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h)
    ipo   (h - 1 / (2 beta))^2

The loss of a batch is the mean over its pairs. It is a pure function of the logprobs that the learner gives, with its
derivative by each; so it runs wherever logprobs and a weighted cross-entropy do.
"""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import preferences as reference
from reference.losses import Row
from reference.strategies import numbers
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import ShapeError
from tinsmith.domain.preferences import PairLoss, pair_loss, pair_metrics

Pairs = list[tuple[Row, Row]]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    n = draw(st.integers(1, 4))

    def column(of: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(of, min_size=n, max_size=n))

    logprobs, weights = numbers(-3, 0), st.one_of(st.just(0.0), st.just(1.0), numbers(0.125, 2))
    return Row(column(logprobs), [0.0] * n, [0.0] * n, column(weights), column(logprobs))


PAIRS = st.lists(st.tuples(rows(), rows()), min_size=1, max_size=3)
LOSSES = st.tuples(st.sampled_from(["dpo", "ipo"]), st.sampled_from([0.05, 0.1, 1.0]), st.sampled_from([0.0, 0.1]))


def batch_of(pairs: Pairs) -> Batch:
    return Batch.of(
        [
            Datum(
                tokens=np.zeros(len(row.lp), np.int32),
                targets=np.zeros(len(row.lp), np.int32),
                weights=row.w,
                reference_logprobs=row.reference,
            )
            for pair in pairs
            for row in pair
        ]
    )


def evaluated(pairs: Pairs, loss: tuple[str, float, float]) -> PairLoss:
    name, beta, smoothing = loss
    learner = [x for pair in pairs for row in pair for x in row.lp]
    return pair_loss(batch_of(pairs), learner, name, beta=beta, label_smoothing=smoothing)


@given(PAIRS, LOSSES)
def test_the_value_is_what_the_formula_says(pairs: Pairs, loss: tuple[str, float, float]) -> None:
    assert evaluated(pairs, loss).value == pytest.approx(reference.value(loss[0], pairs, *loss[1:]), rel=1e-5, abs=1e-5)


@given(PAIRS, LOSSES)
def test_the_gradient_is_the_derivative_of_the_formula(pairs: Pairs, loss: tuple[str, float, float]) -> None:
    gradient = iter(evaluated(pairs, loss).gradient.tolist())
    step = 1e-5
    for pair in pairs:
        for row in pair:
            for t in range(len(row.lp)):
                here = row.lp[t]
                values = []
                for by in (step, -step):
                    row.lp[t] = here + by
                    values.append(reference.value(loss[0], pairs, *loss[1:]))
                row.lp[t] = here
                assert next(gradient) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-4)


@given(PAIRS, LOSSES, st.sampled_from([np.nan, np.inf, -np.inf, -5.0]))
def test_a_token_of_weight_zero_has_no_part(pairs: Pairs, loss: tuple[str, float, float], noise: float) -> None:
    clean = evaluated(pairs, loss)
    for pair in pairs:
        for row in pair:
            for t, w in enumerate(row.w):
                if w == 0:
                    row.lp[t] = row.reference[t] = noise
    dirty = evaluated(pairs, loss)
    assert dirty.losses.tobytes() == clean.losses.tobytes()
    assert dirty.gradient.tobytes() == clean.gradient.tobytes()
    for value, w in zip(clean.gradient, [w for pair in pairs for row in pair for w in row.w], strict=True):
        assert w != 0 or value == 0


@given(PAIRS, st.floats(0.01, 2))
def test_the_reference_itself_prefers_nothing(pairs: Pairs, beta: float) -> None:
    """The learner that is its own reference has the loss log 2, whatever the pairs, and is right about half of them."""
    for pair in pairs:
        for row in pair:
            row.lp[:] = row.reference
    loss = evaluated(pairs, ("dpo", beta, 0.0))
    assert loss.value == pytest.approx(log(2))
    metrics = pair_metrics([loss])
    assert metrics["accuracy"] == 0.5
    assert metrics["margin"] == metrics["chosen_reward"] == metrics["rejected_reward"] == 0


@given(PAIRS, LOSSES)
def test_preferring_the_other_answer_mirrors_the_gradient_at_the_reference(
    pairs: Pairs, loss: tuple[str, float, float]
) -> None:
    for pair in pairs:
        for row in pair:
            row.lp[:] = row.reference
    one = evaluated(pairs, loss).gradient
    swapped = [(rejected, chosen) for chosen, rejected in pairs]
    other = evaluated(swapped, loss)
    offsets, batch = batch_of(swapped).offsets, []
    for i in range(len(pairs)):
        batch += [
            other.gradient[offsets[2 * i + 1] : offsets[2 * i + 2]],
            other.gradient[offsets[2 * i] : offsets[2 * i + 1]],
        ]
    np.testing.assert_allclose(one, -np.concatenate(batch), atol=1e-6)


@given(PAIRS, LOSSES)
def test_metrics_of_parts_are_those_of_the_whole(pairs: Pairs, loss: tuple[str, float, float]) -> None:
    whole = pair_metrics([evaluated(pairs, loss)])
    parts = pair_metrics([evaluated([pair], loss) for pair in pairs])
    assert parts == pytest.approx(whole)
    assert whole["num_pairs"] == len(pairs)


def test_a_step_along_the_gradient_raises_the_chosen_answer_and_lowers_the_other() -> None:
    pair = (Row([-1.0], [0.0], [0.0], [1.0], [-1.0]), Row([-1.0], [0.0], [0.0], [1.0], [-1.0]))
    for name in ("dpo", "ipo"):
        chosen, rejected = evaluated([pair], (name, 0.1, 0.0)).gradient
        assert chosen < 0 < rejected


def test_a_difference_in_the_first_token_is_seen() -> None:
    """A pair that differs there alone trains it."""
    pair = (
        Row([-1.0, -2.0], [0, 0], [0, 0], [1, 1], [-1.0, -2.0]),
        Row([-3.0, -2.0], [0, 0], [0, 0], [1, 1], [-1.0, -2.0]),
    )
    loss = evaluated([pair], ("dpo", 1.0, 0.0))
    assert loss.chosen[0] - loss.rejected[0] == pytest.approx(2.0)
    assert all(loss.gradient != 0)


def test_what_are_no_pairs_is_refused() -> None:
    row = Row([-1.0], [0.0], [0.0], [1.0], [-1.0])
    batch = batch_of([(row, row)])
    with pytest.raises(ShapeError, match="1 rows are no pairs"):
        pair_loss(batch.rows(0, 1), [-1.0])
    with pytest.raises(ShapeError, match="reference_logprobs"):
        pair_loss(Batch.of([Datum(tokens=[0], targets=[0], weights=[1.0])] * 2), [-1.0, -1.0])
    with pytest.raises(ShapeError, match="one a position"):
        pair_loss(batch, [-1.0])
