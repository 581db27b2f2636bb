"""Group advantages, from their formulas."""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt


def mean(r: list[float]) -> float:
    return float(sum(map(Fraction, r)) / len(r))


def std(r: list[float]) -> float:
    """The population standard deviation; the variance in exact arithmetic."""
    exact = [Fraction(x) for x in r]
    m = sum(exact) / len(exact)
    return sqrt(sum((x - m) ** 2 for x in exact) / len(exact))


def constant(r: list[float]) -> bool:
    return max(r) - min(r) <= 1e-9 * max(abs(x) for x in r)


def group_advantages(groups: list[list[float]], estimator: str, eps: float = 1e-6, k: int = 1) -> list[list[float]]:
    everything = [x for g in groups for x in g]
    if estimator == "reinforce_pp":
        if not everything or constant(everything):
            return [[0.0] * len(g) for g in groups]
        m, s = mean(everything), std(everything)
        return [[(x - m) / (s + eps) for x in g] for g in groups]
    out = [[0.0] * len(g) if not g or constant(g) else one_group(g, estimator, eps, k) for g in groups]
    if estimator == "reinforce_pp_baseline":
        centred = [a for g in out for a in g]
        s = sqrt(sum(a * a for a in centred) / len(centred)) if centred else 0.0
        out = [[a / (s + eps) if s else 0.0 for a in g] for g in out]
    return out


def one_group(r: list[float], estimator: str, eps: float, k: int) -> list[float]:
    m, size = mean(r), len(r)
    if estimator in ("mean", "reinforce_pp_baseline"):
        return [x - m for x in r]
    if estimator == "mean_std":
        return [(x - m) / (std(r) + eps) for x in r]
    if estimator == "leave_one_out":
        return [x - mean(r[:i] + r[i + 1 :]) for i, x in enumerate(r)]
    if estimator == "maxrl":
        return [(x - m) / m for x in r]
    assert estimator == "pass_at_k"
    wrong = r.count(0.0)
    rate = 1 - comb(wrong, k) / comb(size, k)  # of subsets of k, those with a right episode
    if rate in (0, 1):
        return [0.0] * size
    deviation = sqrt(rate * (1 - rate))
    right_value = (1 - rate) / deviation
    wrong_value = (1 - rate - comb(wrong - 1, k - 1) / comb(size - 1, k - 1)) / deviation
    return [right_value if x == 1 else wrong_value for x in r]
