"""Preference losses, from their formulas, one pair at a time."""

from __future__ import annotations

from math import exp, log1p

from reference.losses import Row


def log_sigmoid(x: float) -> float:
    return -log1p(exp(-x)) if x > 0 else x - log1p(exp(x))


def reward(row: Row, beta: float) -> float:
    return beta * sum(w * (lp - q) for w, lp, q in zip(row.w, row.lp, row.reference, strict=True) if w)


def value(name: str, pairs: list[tuple[Row, Row]], beta: float, smoothing: float) -> float:
    total = 0.0
    for chosen, rejected in pairs:
        margin = reward(chosen, beta) - reward(rejected, beta)
        if name == "dpo":
            total += -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)
        else:
            total += (margin / beta - 1 / (2 * beta)) ** 2
    return total / len(pairs)
