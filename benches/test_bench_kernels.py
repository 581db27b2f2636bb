"""Kernels as Python calls them, beside what peers do for the same: `pytest benches --benchmark-only`.

Shapes: a step of 16 groups of 8 episodes of 1,000 tokens. Each peer is the common practice of the field, written here:
lists that grow token by token, prefix checks on copied slices, a loop of numpy scalars, numpy a group at a time. They
do the same work (the tests below the timings hold both to the same result), without the tensors and messages that a
library would wrap around them, so they are quicker than the libraries themselves. Compare within one run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tinsmith.domain.advantages import group_advantages, ragged_advantages
from tinsmith.domain.assembly import assemble
from tinsmith.domain.datums import Batch
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.losses import evaluate, mean_nll
from tinsmith.domain.packing import minibatches, pack
from tinsmith.domain.returns import discounted_sums, gae
from tinsmith.domain.tokens import offsets_of
from tinsmith.domain.utf8 import decode_rows

rng = np.random.default_rng(0)


def make_groups(turns: int, groups: int = 16, size: int = 8, tokens: int = 1000) -> list[Group]:
    half = tokens // turns // 2

    def episode(reward: float) -> Episode:
        running, steps = np.zeros(0, np.int32), []
        for _ in range(turns):
            observation = np.concatenate([running, rng.integers(0, 50_000, half, dtype=np.int32)])
            action = rng.integers(0, 50_000, half, dtype=np.int32)
            logprobs = -rng.random(half, dtype=np.float32)
            steps.append(Transition(observation=observation, action=action, logprobs=logprobs))
            running = np.concatenate([observation, action])
        return Episode(transitions=tuple(steps), stop_reason=StopReason.COMPLETED, final_reward=reward)

    return [Group(problem=str(p), episodes=tuple(episode(float(g % 2)) for g in range(size))) for p in range(groups)]


def in_lists(groups: list[Group]) -> list[list[list[tuple[list[int], list[int], list[float]]]]]:
    """The same episodes as peers hold them: lists of ints and floats."""
    return [
        [[(t.observation.tolist(), t.action.tolist(), t.logprobs.tolist()) for t in e.transitions] for e in g.episodes]
        for g in groups
    ]


def peer_assemble(groups: list[Any], advantages: list[Any]) -> list[dict[str, np.ndarray]]:
    data = []
    for group, group_values in zip(groups, advantages, strict=True):
        for episode, advantage in zip(group, group_values, strict=True):
            tokens: list[int] = []
            logprobs: list[float] = []
            values: list[float] = []
            mask: list[float] = []

            def flush(tokens: Any, logprobs: Any, values: Any, mask: Any) -> None:
                data.append(
                    {
                        "tokens": np.array(tokens[:-1], np.int64),
                        "targets": np.array(tokens[1:], np.int64),
                        "logprobs": np.array(logprobs[1:], np.float32),
                        "advantages": np.array(values[1:], np.float32),
                        "mask": np.array(mask[1:], np.float32),
                    }
                )

            for observation, action, action_logprobs in episode:
                if tokens and observation[: len(tokens)] != tokens:
                    flush(tokens, logprobs, values, mask)
                    tokens, logprobs, values, mask = [], [], [], []
                new = observation[len(tokens) :]
                tokens.extend(new)
                tokens.extend(action)
                logprobs.extend([0.0] * len(new) + action_logprobs)
                values.extend([0.0] * len(new) + [advantage] * len(action))
                mask.extend([0.0] * len(new) + [1.0] * len(action))
            flush(tokens, logprobs, values, mask)
    return data


@pytest.mark.parametrize("turns", [1, 10])
@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_assembly_of_128_000_tokens(benchmark: Any, who: str, turns: int) -> None:
    benchmark.group = f"assembly, {turns} turns"
    groups = make_groups(turns)
    advantages = group_advantages([g.rewards for g in groups])
    lists = in_lists(groups)
    ours = assemble(groups, advantages).batch
    theirs = peer_assemble(lists, [a.tolist() for a in advantages])
    assert ours.targets.tolist() == np.concatenate([d["targets"] for d in theirs]).tolist()
    assert ours.advantages is not None
    assert ours.advantages.tolist() == np.concatenate([d["advantages"] for d in theirs]).tolist()
    if who == "tinsmith":
        benchmark(assemble, groups, advantages)
    else:
        benchmark(peer_assemble, lists, [a.tolist() for a in advantages])


def peer_discounted(rows: list[np.ndarray], gamma: float) -> list[np.ndarray]:
    out = []
    for row in rows:
        result, running = np.empty_like(row), 0.0
        for t in range(len(row) - 1, -1, -1):
            running = row[t] + gamma * running
            result[t] = running
        out.append(result)
    return out


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_discounted_sums_of_128_000_tokens(benchmark: Any, who: str) -> None:
    benchmark.group = "discounted sums"
    values = rng.random(128_000)
    offsets = offsets_of([1000] * 128)
    rows = np.split(values, offsets[1:-1])
    assert np.concatenate(peer_discounted(rows, 0.99)) == pytest.approx(discounted_sums(values, offsets, 0.99))
    if who == "tinsmith":
        benchmark(discounted_sums, values, offsets, 0.99)
    else:
        benchmark(peer_discounted, rows, 0.99)


def peer_mean_std(groups: list[np.ndarray]) -> list[np.ndarray]:
    return [(g - g.mean()) / (g.std() + 1e-6) for g in groups]


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_advantages_of_1024_groups_of_16(benchmark: Any, who: str) -> None:
    benchmark.group = "group advantages (mean_std)"
    groups = [rng.integers(0, 2, 16).astype(float) for _ in range(1024)]
    for ours, theirs in zip(group_advantages(groups, "mean_std"), peer_mean_std(groups), strict=True):
        assert ours == pytest.approx(theirs)
    if who == "tinsmith":
        benchmark(ragged_advantages, np.concatenate(groups), offsets_of([16] * 1024), "mean_std")
    else:
        benchmark(peer_mean_std, groups)


def peer_ppo(lp: np.ndarray, q: np.ndarray, a: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
    """As vectorised as numpy allows; no metrics."""
    r = np.exp(lp - q)
    free, bound = r * a, np.clip(r, 0.8, 1.2) * a
    return float(-(np.minimum(free, bound) * w).sum(dtype=np.float64)), np.where(free <= bound, -free, 0) * w


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_ppo_of_128_000_tokens(benchmark: Any, who: str) -> None:
    benchmark.group = "ppo, value and gradient"
    lp, q, a = (rng.random((3, 128_000), dtype=np.float32) - [[1], [1], [0.5]]).astype(np.float32)
    w = (np.arange(128_000) % 1000 > 200).astype(np.float32)
    zeros = np.zeros(128_000, np.int32)
    batch = Batch(tokens=zeros, targets=zeros, weights=w, logprobs=q, advantages=a, offsets=offsets_of([1000] * 128))
    ours, theirs = evaluate(batch, lp, "ppo"), peer_ppo(lp, q, a, w)
    assert ours.value == pytest.approx(theirs[0], rel=1e-5)
    assert ours.gradient == pytest.approx(theirs[1], rel=1e-4, abs=1e-6)
    run: Callable[[], Any] = (
        (lambda: evaluate(batch, lp, "ppo")) if who == "tinsmith" else lambda: peer_ppo(lp, q, a, w)
    )
    benchmark(run)


def peer_best_fit(lengths: list[int], budget: int) -> list[list[int]]:
    bins: list[tuple[int, list[int]]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [b for b in range(len(bins)) if bins[b][0] >= lengths[i]]
        if fits:
            best = min(fits, key=lambda b: bins[b][0])
            bins[best] = (bins[best][0] - lengths[i], [*bins[best][1], i])
        else:
            bins.append((budget - lengths[i], [i]))
    return [b for _, b in bins]


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_packing_of_2_000_datums(benchmark: Any, who: str) -> None:
    benchmark.group = "best-fit packing"
    lengths = rng.integers(16, 2000, 2000)
    as_list = lengths.tolist()
    assert len(pack(lengths, 4096)) == len(peer_best_fit(as_list, 4096))
    if who == "tinsmith":
        benchmark(pack, lengths, 4096)
    else:
        benchmark.pedantic(peer_best_fit, (as_list, 4096), rounds=3)


def peer_gae(rewards: np.ndarray, values: np.ndarray, offsets: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    out = np.empty_like(rewards)
    for a, b in pairwise(offsets):
        running = following = 0.0
        for t in range(b - 1, a - 1, -1):
            running = rewards[t] + gamma * following - values[t] + gamma * lam * running
            following = values[t]
            out[t] = running
    return out


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_gae_of_128_000_tokens(benchmark: Any, who: str) -> None:
    benchmark.group = "GAE"
    rewards, values, offsets = rng.random(128_000), rng.random(128_000), offsets_of([1000] * 128)
    ends = np.zeros(128)
    ours = gae(rewards, values, ends, offsets, gamma=0.99, lam=0.95)
    assert ours == pytest.approx(peer_gae(rewards, values, offsets, 0.99, 0.95))
    if who == "tinsmith":
        benchmark(lambda: gae(rewards, values, ends, offsets, gamma=0.99, lam=0.95))
    else:
        benchmark(peer_gae, rewards, values, offsets, 0.99, 0.95)


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_mean_nll_of_128_000_tokens(benchmark: Any, who: str) -> None:
    benchmark.group = "mean NLL"
    lp = (-rng.random(128_000)).astype(np.float32)
    w = rng.integers(0, 2, 128_000).astype(np.float32)

    def peer() -> float:
        return float(-(lp.astype(np.float64) * w).sum() / w.sum(dtype=np.float64))

    assert mean_nll(lp, w) == pytest.approx(peer())
    benchmark(mean_nll, lp, w) if who == "tinsmith" else benchmark(peer)


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_decoding_of_2_000_texts(benchmark: Any, who: str) -> None:
    benchmark.group = "UTF-8"
    rows = [("naïve 日本語 text " * 20).encode()[: 100 + i % 50] for i in range(2000)]

    def peer() -> list[str]:
        return [row.decode(errors="replace") for row in rows]

    assert decode_rows(rows) == peer()
    benchmark(decode_rows, rows) if who == "tinsmith" else benchmark(peer)


@pytest.mark.parametrize("who", ["tinsmith", "peer"])
def test_minibatches_of_2_000_datums(benchmark: Any, who: str) -> None:
    benchmark.group = "minibatches (8, balanced in tokens)"
    sizes = rng.integers(10, 200, 2000)
    zeros = np.zeros(int(sizes.sum()), np.int32)
    batch = Batch(tokens=zeros, targets=zeros, weights=zeros, offsets=offsets_of(sizes))

    def peer() -> list[Batch]:
        cuts = np.searchsorted(batch.offsets, np.arange(1, 8) * batch.num_tokens / 8)
        return [Batch.of([batch[int(i)] for i in part]) for part in np.split(np.arange(2000), cuts)]

    assert sum(len(b) for b in minibatches(batch, 8)) == sum(len(b) for b in peer()) == 2000
    benchmark(minibatches, batch, 8) if who == "tinsmith" else benchmark(peer)
