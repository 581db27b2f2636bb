"""The best contiguous cut, by trying them all."""

from __future__ import annotations

from itertools import combinations


def smallest_largest_run(lengths: list[int], n: int) -> int:
    """The fewest tokens that the largest of n non-empty runs of consecutive items can have."""
    return min(
        max(sum(lengths[a:b]) for a, b in zip((0, *cuts), (*cuts, len(lengths)), strict=True))
        for cuts in combinations(range(1, len(lengths)), n - 1)
    )
