"""What a teacher says, from its definitions."""

from __future__ import annotations

import math

from .returns import discounted_sums


def reverse_kl(
    q: list[list[float]], teacher: list[list[float]], mask: list[list[bool]], coef: float, gamma: float, distance: str
) -> tuple[list[float], list[float], list[int]]:
    advantages, sums, counts = [], [], []
    for q_row, teacher_row, m in zip(q, teacher, mask, strict=True):
        x = [-coef * (a - b) for a, b in zip(q_row, teacher_row, strict=True)]
        advantages += discounted_sums(x, m, gamma, distance)
        sums.append(sum(a - b for a, b, kept in zip(q_row, teacher_row, m, strict=True) if kept))
        counts.append(sum(m))
    return advantages, sums, counts


def log_softmax(logits: list[float]) -> list[float]:
    total = math.log(sum(math.exp(z) for z in logits))
    return [z - total for z in logits]
