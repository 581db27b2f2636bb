"""Returns along one row, from their definitions."""

from __future__ import annotations


def discounted_sums(x: list[float], mask: list[bool], gamma: float, distance: str) -> list[float]:
    out = []
    for t in range(len(x)):
        total = 0.0
        for u in range(t, len(x)):
            steps = u - t if distance == "positions" else sum(mask[t:u])
            if mask[u]:
                total += gamma**steps * x[u]
        out.append(total if mask[t] else 0.0)
    return out


def gae(
    rewards: list[float], values: list[float], bootstrap: float, mask: list[bool], gamma: float, lam: float
) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, over the positions that take part."""
    kept = [t for t in range(len(rewards)) if mask[t]]
    v = [values[t] for t in kept] + [bootstrap]
    deltas = [rewards[t] + gamma * v[i + 1] - v[i] for i, t in enumerate(kept)]
    out = [0.0] * len(rewards)
    for i, t in enumerate(kept):
        out[t] = sum((gamma * lam) ** step * d for step, d in enumerate(deltas[i:]))
    return out


def kl_penalty(
    q: list[list[float]], reference: list[list[float]], mask: list[list[bool]], coef: float, gamma: float, distance: str
) -> tuple[list[float], float]:
    d = [[a - b if m else 0.0 for a, b, m in zip(*row, strict=True)] for row in zip(q, reference, mask, strict=True)]
    count = sum(sum(m) for m in mask)
    mean = sum(map(sum, d)) / count if count else 0.0
    x = [[coef * (mean - value) for value in row] for row in d]
    out = [discounted_sums(row, m, gamma, distance) for row, m in zip(x, mask, strict=True)]
    return [value for row in out for value in row], mean
