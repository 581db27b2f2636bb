"""Chapter: losses.

A loss is a pure function of the logprobs lp that the learner gives the targets of a batch. It gives a value, the
derivative of the value by each logprob, and metrics; whatever trains needs no more of it. With q the logprob that a
target was sampled with, A its advantage, w its weight, r = exp(lp - q), and s = exp(sum w (lp - q) / sum w) of the row:

    cross_entropy         -lp
    importance_sampling   -r A
    ppo                   -min(r A, clip(r, lo, hi) A)
    cispo                 -clip(r, lo, hi) A lp            the clipped ratio is a constant: no derivative through it
    dro                   -(A lp - beta/2 (lp - q)^2)
    gspo                  -min(s A, clip(s, lo, hi) A)

To each may be added kl_coef times an estimate of KL(learner || reference), with d = lp - reference,

    k2 = d^2 / 2          k3 = exp(-d) - 1 + d

and entropy_coef lp^2 / 2. The sum of w times this over all tokens of all rows is the loss (`token_sum`); `token_mean`
divides it by the sum of all w; `sequence_mean` is the mean over rows of each row's own mean.

A weight of 0 means: no part. Not a small part, not 0 times infinity; nothing else at that token is even read.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reference import losses as reference
from reference.losses import Row
from reference.strategies import lengths, numbers
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import ConfigError, ShapeError
from tinsmith.domain.losses import LOSSES, LossResult, bits_per_byte, check_loss, denominator, evaluate, mean_nll

POLICY_LOSSES = [name for name in LOSSES if name != "cross_entropy"]
REDUCTIONS = ["token_sum", "token_mean", "sequence_mean"]
Options = dict[str, float | str]


@st.composite
def rows(draw: st.DrawFn, low: float = -3) -> list[Row]:
    def column(n: int, of: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(of, min_size=n, max_size=n))

    weights = st.one_of(st.just(0.0), st.just(1.0), numbers(0.125, 2))
    advantages = st.one_of(st.just(0.0), numbers(-2, 2))
    logprobs = numbers(low, 0)
    return [
        Row(column(n, logprobs), column(n, logprobs), column(n, advantages), column(n, weights), column(n, logprobs))
        for n in draw(lengths())
    ]


@st.composite
def losses(draw: st.DrawFn, names: list[str] | None = None) -> tuple[str, Options]:
    name = draw(st.sampled_from(names or list(LOSSES)))
    options: Options = {
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "kl_coef": draw(st.sampled_from([0.0, 0.1])),
        "kl_estimator": draw(st.sampled_from(["k2", "k3"])),
        "entropy_coef": draw(st.sampled_from([0.0, 0.05])),
    }
    if name != "cross_entropy":
        options["zero_advantage_rows"] = draw(st.sampled_from(["keep", "drop"]))
    if name in ("ppo", "cispo", "gspo"):
        options["clip_low_threshold"] = draw(st.sampled_from([0.0, 0.5, 0.8]))
        options["clip_high_threshold"] = draw(st.sampled_from([1.2, 4.0]))
    if name == "dro":
        options["beta"] = draw(st.sampled_from([0.0, 0.05, 1.0]))
    return name, options


def batch_of(some: list[Row]) -> Batch:
    return Batch.of(
        [
            Datum(
                tokens=np.zeros(len(row.lp), np.int32),
                targets=np.zeros(len(row.lp), np.int32),
                weights=row.w,
                logprobs=row.q,
                advantages=row.a,
                reference_logprobs=row.reference,
            )
            for row in some
        ]
    )


def learner(some: list[Row]) -> list[float]:
    return [x for row in some for x in row.lp]


def evaluated(some: list[Row], loss: tuple[str, Options], **more: float) -> LossResult:
    """The loss of a batch in which something takes part."""
    batch = batch_of(some)
    assume(loss[1].get("reduction", "token_sum") == "token_sum" or denominator(batch, *loss) > 0)
    return evaluate(batch, learner(some), *loss, **more)


@given(rows(), losses())
def test_the_value_is_what_the_formula_says(some: list[Row], loss: tuple[str, Options]) -> None:
    got = evaluated(some, loss)
    assert got.value == pytest.approx(reference.value(loss[0], some, loss[1]), rel=1e-6, abs=1e-6)
    assert got.metrics["loss:sum"] == got.value


@given(rows(), losses())
def test_the_gradient_is_the_derivative_of_the_formula(some: list[Row], loss: tuple[str, Options]) -> None:
    """Differences of the reference, in double precision; a token next to a bend of a clip is left out."""
    gradient = iter(evaluated(some, loss).gradient.tolist())
    step = 1e-5
    for i, row in enumerate(some):
        for t in range(len(row.lp)):
            got = next(gradient)

            def value(by: float, i: int = i, t: int = t, row: Row = row) -> float:
                moved = Row([*row.lp[:t], row.lp[t] + by, *row.lp[t + 1 :]], row.q, row.a, row.w, row.reference)
                return reference.value(loss[0], [*some[:i], moved, *some[i + 1 :]], loss[1], frozen=some)

            up, middle, down = value(step), value(0.0), value(-step)
            bends = abs((up - middle) - (middle - down)) > 1e-8
            if not bends:
                assert got == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-3)


@given(rows(), losses(), st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
def test_a_token_of_weight_zero_has_no_part(some: list[Row], loss: tuple[str, Options], noise: float) -> None:
    clean = evaluated(some, loss)
    for row in some:
        for t, w in enumerate(row.w):
            if w == 0:
                row.lp[t] = row.q[t] = row.a[t] = row.reference[t] = noise
    noisy = evaluated(some, loss)
    assert noisy.value == clean.value
    assert noisy.metrics == clean.metrics
    assert noisy.gradient.tolist() == clean.gradient.tolist()
    assert not clean.gradient[batch_of(some).weights == 0].any()


@given(rows(), losses(), st.integers(0, 5))
def test_however_a_batch_is_cut_the_gradient_is_the_same(some: list[Row], loss: tuple[str, Options], at: int) -> None:
    """Bit for bit; values and counts add up."""
    whole = evaluated(some, loss)
    total = denominator(batch_of(some), *loss)
    parts = [part for part in (some[:at], some[at:]) if part]
    assert sum(denominator(batch_of(p), *loss) for p in parts) == pytest.approx(total, rel=1e-9)
    got = [evaluate(batch_of(p), learner(p), *loss, total_denominator=total) for p in parts]
    assert np.concatenate([g.gradient for g in got]).tolist() == whole.gradient.tolist()
    for name, value in whole.metrics.items():
        if name.endswith(":sum"):
            assert sum(g.metrics[name] for g in got) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(rows(), losses(), st.randoms())
def test_the_order_of_rows_does_not_matter(some: list[Row], loss: tuple[str, Options], random: object) -> None:
    plain = evaluated(some, loss)
    shuffled = sorted(some, key=lambda _: random.random())  # type: ignore[attr-defined]
    moved = evaluated(shuffled, loss)
    assert moved.value == pytest.approx(plain.value, rel=1e-9, abs=1e-9)
    assert sorted(moved.gradient.tolist()) == pytest.approx(sorted(plain.gradient.tolist()), rel=1e-6)


@given(rows(-3e38), losses())
@example([Row([0.0], [-3e38], [0.0], [1.0], [-1.0])], ("importance_sampling", {}))  # 0 times an infinite ratio
@example([Row([0.0, 0.0], [-3e38, -1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0])], ("gspo", {}))
def test_however_far_apart_two_policies_are_all_is_finite(some: list[Row], loss: tuple[str, Options]) -> None:
    got = evaluated(some, loss)
    assert np.isfinite(got.value)
    assert np.isfinite(got.gradient).all()
    assert all(np.isfinite(v) for v in got.metrics.values())


@given(rows(), st.sampled_from(POLICY_LOSSES))
def test_on_policy_every_loss_follows_the_policy_gradient(some: list[Row], name: str) -> None:
    """Where the learner is the sampler, the gradient is -w A: all of them are the same at the first step."""
    for row in some:
        row.q = row.lp
        row.a = row.a[:1] * len(row.a)
    got = evaluated(some, (name, {}))
    expected = [-w * a for row in some for w, a in zip(row.w, row.a, strict=True)]
    assert got.gradient.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if got.metrics["tokens:sum"]:
        assert (got.metrics["ratio:max"], got.metrics["ratio:min"]) == (1.0, 1.0)
        assert got.metrics["kl_sample_train_v1:sum"] == got.metrics["kl_sample_train_v2:sum"] == 0


@given(rows())
def test_a_clip_that_never_binds_is_importance_sampling(some: list[Row]) -> None:
    wide: Options = {"clip_low_threshold": 0.0, "clip_high_threshold": 1e9}
    plain = evaluated(some, ("importance_sampling", {}))
    clipped = evaluated(some, ("ppo", wide))
    assert clipped.gradient.tolist() == plain.gradient.tolist()
    assert clipped.metrics["clipped_low:sum"] == clipped.metrics["clipped_high:sum"] == 0


@given(rows())
def test_ppo_stops_exactly_the_tokens_that_it_counts_as_clipped(some: list[Row]) -> None:
    got = evaluated(some, ("ppo", {}))
    stopped = 0
    for row in some:
        for lp, q, a, w in zip(row.lp, row.q, row.a, row.w, strict=True):
            r = exp(lp - q)
            stopped += w != 0 and ((r > 1.2 and a > 0) or (r < 0.8 and a < 0))
    assert got.metrics["clipped_low:sum"] + got.metrics["clipped_high:sum"] == stopped


@given(rows(), st.sampled_from(POLICY_LOSSES), st.sampled_from(REDUCTIONS))
def test_a_row_without_advantage_counts_or_takes_no_part_as_asked(some: list[Row], name: str, reduction: str) -> None:
    """A constant group has no advantage, yet its tokens count in a mean and a KL term still trains on them: `keep`.
    With `drop` the batch is as if they were not there."""
    options: Options = {"reduction": reduction, "kl_coef": 0.1}
    left = [row for row in some if any(a != 0 and w != 0 for a, w in zip(row.a, row.w, strict=True))]
    assume(left)
    dropped = evaluated(some, (name, {**options, "zero_advantage_rows": "drop"}))
    assert dropped.value == pytest.approx(evaluated(left, (name, options)).value, rel=1e-9, abs=1e-12)
    counted = denominator(batch_of(some), name, options)
    of_all = {"token_sum": 0, "token_mean": sum(sum(r.w) for r in some), "sequence_mean": sum(any(r.w) for r in some)}
    assert counted == pytest.approx(of_all[reduction])


@given(rows())
def test_k3_is_never_negative_and_both_estimates_vanish_where_the_policies_agree(some: list[Row]) -> None:
    assert evaluated(some, ("dro", {})).metrics["kl_reference_k3:sum"] >= 0
    for row in some:
        row.reference = row.lp
    metrics = evaluated(some, ("dro", {})).metrics
    assert all(metrics[f"kl_reference_k{i}:sum"] == 0 for i in (1, 2, 3))


def test_k1_is_no_loss() -> None:
    """The expectation of its gradient, sum over tokens of p d(log p), is the derivative of sum p = 1: nothing."""
    with pytest.raises(ConfigError, match="trains nothing"):
        check_loss("ppo", {"kl_estimator": "k1"})


def test_the_entropy_term_and_k2_have_the_gradients_of_what_they_stand_for() -> None:
    """Over a vocabulary of three with logits z, the expected gradient under the policy equals the derivative of
    -entropy and of KL(policy || reference)."""
    z, ref = np.array([0.3, -0.2, 0.9]), np.log([0.5, 0.2, 0.3])

    def log_p(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum())

    p = np.exp(log_p(z))
    rows_of_one = [Row([float(x)], [float(x)], [0.0], [1.0], [float(b)]) for x, b in zip(log_p(z), ref, strict=True)]
    for options, exact in (
        ({"entropy_coef": 1.0}, lambda z: (np.exp(log_p(z)) * log_p(z)).sum()),
        ({"kl_coef": 1.0, "kl_estimator": "k2"}, lambda z: (np.exp(log_p(z)) * (log_p(z) - ref)).sum()),
    ):
        by_lp = evaluate(batch_of(rows_of_one), learner(rows_of_one), "importance_sampling", options).gradient
        by_z = (p * by_lp) @ (np.eye(3) - p)  # d log p_i / d z_j = [i = j] - p_j
        h = 1e-6
        numeric = [(exact(z + h * e) - exact(z - h * e)) / (2 * h) for e in np.eye(3)]
        assert by_z == pytest.approx(numeric, abs=1e-6)


@given(st.lists(st.tuples(numbers(-5, 0), numbers(-5, 0), numbers(-2, 2), numbers(-2, 2)), min_size=1, max_size=6))
def test_cross_entropy_takes_k_targets_a_position_and_any_weights(tokens: list[tuple[float, ...]]) -> None:
    """Soft targets are one sum more; a negative weight carries the gradient of a loss computed elsewhere."""
    lp, w = np.float32([t[:2] for t in tokens]), np.float32([t[2:] for t in tokens])
    zeros = np.zeros(lp.shape, np.int32)
    batch = Batch.of([Datum(tokens=zeros[:, 0], targets=zeros, weights=w)])
    got = evaluate(batch, lp, "cross_entropy")
    assert got.value == pytest.approx(-(lp.astype(float) * w).sum(), rel=1e-9, abs=1e-9)
    assert got.gradient.tolist() == (-w).tolist()


@given(st.lists(st.tuples(numbers(-5, 0), numbers(0, 2)), min_size=1))
def test_mean_nll_and_bits_per_byte_are_ratios_of_sums(tokens: list[tuple[float, float]]) -> None:
    lp, w = [t[0] for t in tokens], [t[1] for t in tokens]
    assume(sum(w) > 0)
    assert mean_nll(lp, w) == pytest.approx(-sum(a * b for a, b in tokens) / sum(w), rel=1e-6, abs=1e-9)
    assert bits_per_byte(lp, 7) == pytest.approx(-sum(lp) / log(2) / 7, rel=1e-6, abs=1e-9)


def test_bad_input_is_refused_by_row_and_index() -> None:
    good = [Row([-1.0], [-1.0], [1.0], [1.0], [-1.0]), Row([-1.0, -1.0], [-1.0] * 2, [1.0] * 2, [1.0] * 2, [-1.0] * 2)]

    def message(**columns: list[float]) -> str:
        second = Row(**{**vars(good[1]), **columns})
        with pytest.raises(ShapeError) as error:
            evaluate(batch_of([good[0], second]), learner([good[0], second]), "ppo", {"kl_coef": 0.1})
        return str(error.value)

    for column in ("lp", "q", "a", "reference", "w"):
        assert "NaN at row 1, index 1" in message(**{column: [1.0, np.nan]})
    assert "row 1, index 0: is negative" in message(w=[-1.0, 1.0])
    batch = batch_of(good)
    with pytest.raises(ShapeError, match="learner logprobs are"):
        evaluate(batch, [-1.0], "ppo")
    bare = Batch.of([Datum(tokens=[1], targets=[1], weights=[1.0])])
    with pytest.raises(ShapeError, match='"logprobs" is missing'):
        evaluate(bare, [-1.0], "ppo")
    with pytest.raises(ShapeError, match='"reference_logprobs" is missing'):
        evaluate(bare, [-1.0], "cross_entropy", {"kl_coef": 0.1})
    empty = Batch.of([Datum(tokens=[1], targets=[1], weights=[0.0])])
    with pytest.raises(ShapeError, match="nothing to average over"):
        evaluate(empty, [-1.0], "cross_entropy", {"reduction": "token_mean"})
    with pytest.raises(ShapeError, match="without a single weighted token"):
        mean_nll([-1.0], [0.0])
    with pytest.raises(ShapeError, match="0 bytes"):
        bits_per_byte([-1.0], 0)


def test_an_unknown_loss_or_option_names_the_nearest() -> None:
    for name, options, hint in (
        ("pppo", {}, 'did you mean "ppo"'),
        ("ppo", {"clip_hi_threshold": 1.2}, 'did you mean "clip_high_threshold"'),
        ("ppo", {"beta": 1.0}, "unknown"),
        ("cross_entropy", {"reduction": "token_men"}, 'did you mean "token_mean"'),
        ("ppo", {"clip_low_threshold": 2.0}, "0 <= low <= high"),
        ("dro", {"beta": -1.0}, "must not be negative"),
        ("dro", {"beta": "much"}, "must be a finite number"),
    ):
        with pytest.raises(ConfigError) as error:
            check_loss(name, options)
        assert hint in str(error.value)
    for name in LOSSES:
        check_loss(name, {"reduction": "token_mean"})
