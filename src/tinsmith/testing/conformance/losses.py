"""Each loss beside its reference (`tinsmith.domain.losses`), computed from the logprobs that came back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from tinsmith.domain import losses
from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.handles import Train, supported
from tinsmith.testing.conformance.law import expect, law
from tinsmith.testing.conformance.rows import Row, batch
from tinsmith.testing.conformance.world import World

SCORED = ("weights",)
"""What a request of a policy loss leaves out."""


def _as_reference(world: World, rows: list[Row], name: str, options: Mapping[str, float]) -> None:
    """Value and gradient of a loss that compares two policies are the reference's."""
    start = world.at_start(rows)
    q = [lp - np.array(row.shifts) for lp, row in zip(start, rows, strict=True)]
    work = Train(rows, name, options, logprobs=[x.tolist() for x in q], without=SCORED)
    played = supported(lambda: world.play([work, world.descend()], rows))
    _compare(world, rows, played, name, options, q)


def _compare(world: World, rows: list[Row], played, name, options, q) -> None:  # type: ignore[no-untyped-def]
    result = played.results[0]
    data = batch(rows, None if q is None else [x.tolist() for x in q])
    reference = losses.evaluate(data, result.flat.reshape(data.targets.shape), name, options)
    scale = max(abs(reference.value), float(np.abs(reference.gradient).sum()), 1e-3)
    expect(
        abs(result.loss - reference.value) <= 2e-3 * scale + len(result.flat) * (world.noise + 1e-4),
        f"loss:sum is {result.loss:.6g}, the reference {reference.value:.6g}",
    )
    pushed, first = [], 0
    for row in rows:
        weights = -reference.gradient[first : first + len(row.tokens)]
        pushed.append(Row(row.tokens, row.targets, tuple(float(w) for w in weights)))
        first += len(row.tokens)
    if not np.abs(reference.gradient).max() > 0:
        return  # all is clipped: a step of nothing is no step
    by_hand = world.play([Train(pushed), world.descend()], rows)
    world.same(played.moved, by_hand.moved, "moved by the loss, and by its derivatives as weights of cross_entropy")


@law(source="tinker-cookbook: losses", rows=r.rows())
def loss_cross_entropy(world: World, rows: list[Row]) -> None:
    """cross_entropy is the sum of -w lp."""
    _compare(world, rows, world.play([Train(rows), world.descend()], rows), "cross_entropy", {}, None)


@law(source="tinker-cookbook: losses", rows=r.scored_rows())
def loss_importance_sampling(world: World, rows: list[Row]) -> None:
    """importance_sampling is the sum of -r A, r = exp(lp - q)."""
    _as_reference(world, rows, "importance_sampling", {})


@law(source="arXiv:1707.06347, eq. 7", rows=r.scored_rows())
def loss_ppo(world: World, rows: list[Row]) -> None:
    """ppo is the sum of -min(r A, clip(r, 0.8, 1.2) A)."""
    _as_reference(world, rows, "ppo", {})


@law(source="arXiv:2506.13585, eq. 4", rows=r.scored_rows())
def loss_cispo(world: World, rows: list[Row]) -> None:
    """cispo is the sum of -clip(r, lo, hi) A lp, without a gradient through r."""
    _as_reference(world, rows, "cispo", {"clip_low_threshold": 0.5, "clip_high_threshold": 2.0})


@law(source="arXiv:2405.19107", rows=r.scored_rows())
def loss_dro(world: World, rows: list[Row]) -> None:
    """dro is the sum of -(A lp - beta/2 (lp - q)^2)."""
    _as_reference(world, rows, "dro", {"beta": 0.05})


@law(source="arXiv:2507.18071", rows=r.scored_rows())
def loss_gspo(world: World, rows: list[Row]) -> None:
    """gspo is the sum over tokens of -min(s A, clip(s, lo, hi) A), s the exponential of the datum's mean lp - q."""
    _as_reference(world, rows, "gspo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1})


@law(rows=r.scored_rows(), low=st.sampled_from((0.5, 0.95)), high=st.sampled_from((1.05, 3.0)))
def loss_options(world: World, rows: list[Row], low: float, high: float) -> None:
    """loss_fn_config sets the thresholds of ppo."""
    _as_reference(world, rows, "ppo", {"clip_low_threshold": low, "clip_high_threshold": high})
