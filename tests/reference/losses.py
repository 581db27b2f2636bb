"""Token losses, from their formulas: values only, for a derivative can be taken of a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp


@dataclass
class Row:
    lp: list[float]
    q: list[float]
    a: list[float]
    w: list[float]
    reference: list[float]


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def token_loss(
    name: str, lp: float, q: float, a: float, s: float, frozen: float, options: Mapping[str, float]
) -> float:
    """s is the sequence ratio; `frozen` is lp as a constant, where a formula takes no derivative through it."""
    r = exp(lp - q)
    low, high = options.get("clip_low_threshold", 0.0), options.get("clip_high_threshold", 0.0)
    if name == "cross_entropy":
        return -lp
    if name == "importance_sampling":
        return -r * a
    if name == "ppo":
        return -min(r * a, clip(r, low, high) * a)
    if name == "cispo":
        return -clip(exp(frozen - q), low, high) * a * lp
    if name == "dro":
        return -(a * lp - options["beta"] / 2 * (lp - q) ** 2)
    assert name == "gspo"
    return -min(s * a, clip(s, low, high) * a)


DEFAULTS = {
    "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
    "cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
    "gspo": {"clip_low_threshold": 1 - 3e-4, "clip_high_threshold": 1 + 4e-4},
    "dro": {"beta": 0.05},
}


def value(name: str, rows: list[Row], options: Mapping[str, float | str], frozen: list[Row] | None = None) -> float:
    """The loss of a batch. `frozen` has the logprobs that stand for constants (default: those of `rows`)."""
    full = {**DEFAULTS.get(name, {}), **options}
    reduction = full.get("reduction", "token_sum")
    kept = [
        (row, constant)
        for row, constant in zip(rows, frozen or rows, strict=True)
        if any(row.w)
        and not (
            full.get("zero_advantage_rows") == "drop"
            and all(a == 0 for a, w in zip(row.a, row.w, strict=True) if w != 0)
        )
    ]
    total, denominator = 0.0, {"token_sum": 1.0, "token_mean": 0.0, "sequence_mean": 0.0}[str(reduction)]
    for row, constant in kept:
        weight = sum(row.w)
        sequence = [i for i, w in enumerate(row.w) if w != 0]
        log_s = sum(row.w[i] * (row.lp[i] - row.q[i]) for i in sequence) / weight if name == "gspo" else 0.0
        subtotal = 0.0
        for i in sequence:
            lp = row.lp[i]
            one = token_loss(name, lp, row.q[i], row.a[i], exp(log_s), constant.lp[i], full)
            d = lp - row.reference[i]
            k2, k3 = d * d / 2, exp(-d) - 1 + d
            one += full.get("kl_coef", 0.0) * (k2 if full.get("kl_estimator") == "k2" else k3)
            one += full.get("entropy_coef", 0.0) * lp * lp / 2
            subtotal += row.w[i] * one
        if reduction == "token_mean":
            denominator += weight
        elif reduction == "sequence_mean":
            denominator += 1
            subtotal /= weight
        total += subtotal
    return total / denominator
