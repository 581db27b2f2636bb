"""What the chapters draw from: ragged rows of numbers, masks, and groups of episodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.tokens import Offsets, offsets_of


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats of 32 bits, so that columns hold them exactly."""
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32, allow_subnormal=False)


def lengths(max_rows: int = 5, max_length: int = 6) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, max_length), min_size=1, max_size=max_rows)


def cut(flat: list, rows: list[int]) -> list[list]:
    """The flat values as rows of these lengths."""
    ends = np.cumsum([0, *rows]).tolist()
    return [flat[a:b] for a, b in pairwise(ends)]


@st.composite
def masked_rows(draw: st.DrawFn, low: float = -4, high: float = 4) -> tuple[list[float], list[bool], Offsets]:
    """Values, a mask along them, and offsets of rows."""
    rows = draw(lengths())
    n = sum(rows)
    values = draw(st.lists(numbers(low, high), min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return values, mask, offsets_of(rows)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    """An episode of some turns over a tiny vocabulary, so that prefixes match by accident too. Most observations extend
    what came before, as those of a chat do; some start afresh, as those of a chat whose history is rewritten do."""
    token = st.integers(0, 2)
    running: list[int] = []
    turns = []
    for _ in range(draw(st.integers(0, 4))):
        extends = draw(st.integers(0, 4)) > 0
        fresh = draw(st.lists(token, min_size=0 if running and extends else 1, max_size=3))
        observation = (running if extends else []) + fresh
        action = draw(st.lists(token, max_size=3))
        turns.append(
            Transition(
                observation=np.array(observation, np.int32),
                action=np.array(action, np.int32),
                logprobs=draw(st.lists(numbers(-5, 0), min_size=len(action), max_size=len(action))),
                masked=draw(st.booleans()),
                policy_version=draw(st.integers(0, 9)),
            )
        )
        if action:
            running = observation + action
    return Episode(transitions=tuple(turns), stop_reason=StopReason.COMPLETED, final_reward=draw(numbers(-1, 1)))


def groups() -> st.SearchStrategy[list[Group]]:
    group = st.lists(episodes(), max_size=3).map(lambda e: Group(problem="p", episodes=tuple(e)))
    return st.lists(group, max_size=3)
