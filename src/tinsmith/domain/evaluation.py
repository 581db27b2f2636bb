"""Statistics of evaluations: pass@k, intervals, and two runs on the same problems.

The problems are the sample. Attempts at one problem are not independent of each other, so that whatever is said of
several attempts a problem rests on one number for each problem (Miller 2024, arXiv:2411.00640, sections 2.2 and 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith.domain.errors import ShapeError

RESAMPLES = 10_000
ENUMERATED = 16
"""Problems that differ up to which all signs are gone through."""
CONFIDENCE = 0.95

Doubles = npt.NDArray[np.float64]


@frozen
class Estimate:
    """A value and the interval around it."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that of k attempts drawn from n, of which c are right, one at least is right.

    The unbiased estimate of Chen et al. 2021 (arXiv:2107.03374, section 2.1), from whole numbers and rounded once.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} right attempts among {n}: 0 <= c <= n and 1 <= k <= n")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def wilson(right: float, total: float, confidence: float = CONFIDENCE) -> Estimate:
    """A share and its score interval (Wilson 1927); it has a width also where all or none are right."""
    if not (total > 0 and 0 <= right <= total):
        raise ValueError(f"a share of {right:g} among {total:g}")
    return _scored(right / total, total, confidence)


def _scored(share: float, total: float, confidence: float) -> Estimate:
    z2 = _z(confidence) ** 2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total * total))) / (1 + z2 / total)
    return Estimate(share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share))


def standard_error(values_P: Sequence[float] | Doubles) -> float:
    """Of the mean over problems; NaN for one problem. values_P: [P], one mean for each problem, so that attempts at one
    problem are one cluster."""
    values = np.asarray(values_P, np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def mean(values_P: Sequence[float] | Doubles, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over problems with its normal interval. values_P: [P], at least one. NaN bounds for one problem."""
    values = _some(values_P)
    value, half = float(values.mean()), _z(confidence) * standard_error(values)
    return Estimate(value, value - half, value + half)


def share(
    values_P: Sequence[float] | Doubles,
    attempts: int = 1,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean over problems of shares, with Wilson's interval for as many independent attempts as would have the clustered
    standard error: at least one a problem, at most all (Korn and Graubard 1998 use Clopper-Pearson's that way).

    values_P: [P], each from 0 to 1: the share of right attempts, or pass@k. attempts: of each problem.
    """
    values = _some(values_P)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("shares lie from 0 to 1")
    value = min(float(values.mean()), 1.0)
    error = standard_error(values)
    least, most = float(len(values)), float(len(values) * attempts)
    effective = value * (1 - value) / error**2 if error > 0 else least
    effective = min(max(effective, least), most)
    return _scored(value, effective, confidence)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p-value of McNemar's test: how likely a split at least as uneven is when each of the problems on
    which two runs differ is as likely to fall to either."""
    total = better + worse
    tail = sum(math.comb(total, i) for i in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << total))


def sign_flip(differences_P: Sequence[float] | Doubles, *, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test: the share of assignments of signs whose sum is as far from 0.

    Exact where all differences have one size (it is then `mcnemar`) or where at most ENUMERATED are not 0; else from
    RESAMPLES draws, the observed signs counted with them. differences_P: [P].
    """
    every = np.asarray(differences_P, np.float64)
    sizes = np.abs(every[every != 0])
    if len(sizes) == 0:
        return 1.0
    if np.all(sizes == sizes[0]):
        return mcnemar(int((every > 0).sum()), int((every < 0).sum()))
    reached = abs(float(every.sum())) * (1 - 1e-12)  # the same sum in another order is as far
    if len(sizes) <= ENUMERATED:
        signs = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1) * 2 - 1
        return int((np.abs(signs @ sizes) >= reached).sum()) / len(signs)
    drawn = np.random.default_rng([seed, 1])
    far = sum(int(abs((drawn.integers(0, 2, len(sizes)) * 2 - 1) @ sizes) >= reached) for _ in range(RESAMPLES))
    return (far + 1) / (RESAMPLES + 1)


def bootstrap(
    values_P: Sequence[float] | Doubles,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean over problems with the percentile interval of RESAMPLES draws of whole problems. values_P: [P]."""
    values = _some(values_P)
    drawn = np.random.default_rng([seed, 0])
    means = [values[drawn.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = float(values.mean())
    return Estimate(value, min(float(low), value), max(float(high), value))


@frozen(kw_only=True)
class Comparison:
    """Two runs on the same problems; a difference above 0 says that the second is better."""

    problems: int
    better: int
    """Problems on which the second run has more."""
    worse: int
    difference: Estimate
    """Of the means over problems."""
    p_value: float
    """Of the hypothesis that neither is better."""


def compare(
    first_P: Sequence[float] | Doubles,
    second_P: Sequence[float] | Doubles,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Pair two runs, problem by problem. first_P, second_P: [P], the mean of each problem's attempts in a run.

    The interval is bootstrapped and the p-value of sign flips, which for one right or wrong attempt a problem is
    McNemar's exact test. Raises ShapeError where the runs have not the same number of problems.
    """
    one, two = _some(first_P), _some(second_P)
    if len(one) != len(two):
        raise ShapeError(f"{len(one)} problems in the first run, {len(two)} in the second")
    differences = two - one
    return Comparison(
        problems=len(one),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        difference=bootstrap(differences, seed=seed, confidence=confidence),
        p_value=sign_flip(differences, seed=seed),
    )


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _some(values: Sequence[float] | Doubles) -> Doubles:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ShapeError(f"one value for each problem, at least one: got an array of shape {array.shape}")
    return array
