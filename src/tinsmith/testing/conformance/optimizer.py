"""The arithmetic of AdamW, seen through logprobs: plays that it makes equal."""

from __future__ import annotations

import math

import numpy as np
from attrs import evolve
from hypothesis import strategies as st

from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.client import Refused
from tinsmith.testing.conformance.handles import Step, Train
from tinsmith.testing.conformance.law import Broken, expect, law
from tinsmith.testing.conformance.rows import Row
from tinsmith.testing.conformance.world import EXACT, PROBE, World

ADAMW = "arXiv:1711.05101, alg. 2"
LR = 2e-4
EPS = 1e-12
powers = st.sampled_from((0.25, 0.5, 2.0, 4.0))
scales = st.sampled_from((-2.0, -1.0, 0.5, 1.0, 2.0))


@law(source=ADAMW, rows=r.rows())
def zero_learning_rate(world: World, rows: list[Row]) -> None:
    """A step with learning rate 0 moves nothing."""
    played = world.play([Train(rows), Step(0.0, weight_decay=0.1)], rows)
    world.equal(played.moved, 0 * played.moved, "logprobs before and after a step with learning rate 0")


@law(rows=r.rows())
def step_clears_gradient(world: World, rows: list[Row]) -> None:
    """optim_step uses the gradient up: without a new one the next step has none."""
    step = world.descend(beta1=0.0)
    once, again = world.play([Train(rows), step], rows), None
    try:
        again = world.play([Train(rows), step, step], rows)
    except Refused as refused:  # a step without a gradient may be refused
        expect(refused.category == "user", f"a step without a gradient is {refused}")
        world.drop_model()
        return
    world.same(once.moved, again.moved, "moved by one step, and by two of which the second had no gradient")


@law(source=ADAMW, rows=r.rows(), power=powers)
def scale_of_gradient(world: World, rows: list[Row], power: float) -> None:
    """With eps next to 0 a first step does not depend on the scale of the gradient."""
    one = world.play([Train(rows), Step(LR, eps=1e-9)], rows)
    scaled = [row.scaled(power) for row in rows]
    world.same(
        one.moved,
        world.play([Train(scaled), Step(LR, eps=1e-9 * power)], rows).moved,
        f"moved by g, and by {power:g} g",
    )


@law(source=ADAMW, rows=r.rows(), power=powers, eps=st.sampled_from((1e-3, 1e-2, 0.1, 1.0)))
def epsilon(world: World, rows: list[Row], power: float, eps: float) -> None:
    """eps is added to the root of the second moment: c times the gradient with c times eps is the same step."""
    scaled = [row.scaled(power) for row in rows]
    lr = LR * (1 + 10 * eps)
    one, other = (
        world.play([Train(rows), Step(lr, eps=eps)], rows),
        world.play([Train(scaled), Step(lr, eps=eps * power)], rows),
    )
    world.same(one.moved, other.moved, f"moved by g with eps {eps:g}, and by {power:g} g with {power:g} eps")


@law(source=ADAMW, rows=r.rows(), power=powers)
def learning_rate(world: World, rows: list[Row], power: float) -> None:
    """The step is proportional to the learning rate (and with a great eps to 1 / eps)."""
    step = world.descend()
    other = evolve(step, learning_rate=step.learning_rate * power, eps=step.eps * power)
    one, two = world.play([Train(rows), step], rows), world.play([Train(rows), other], rows)
    world.same(one.moved, two.moved, f"moved at lr and eps, and at {power:g} lr and {power:g} eps")
    half = world.play(
        [Train([row.scaled(0.5) for row in rows]), evolve(step, learning_rate=2 * step.learning_rate)], rows
    )
    world.same(one.moved, half.moved, "moved by g at lr, and by g / 2 at 2 lr")


@law(source=ADAMW, rows=r.rows(), beta1=st.sampled_from((0.0, 0.5, 0.9)), beta2=st.sampled_from((0.0, 0.9, 0.999)))
def bias_correction(world: World, rows: list[Row], beta1: float, beta2: float) -> None:
    """Moments are corrected for their start at 0: a first step does not depend on the betas."""
    one = world.play([Train(rows), Step(LR)], rows)
    other = world.play([Train(rows), Step(LR, beta1=beta1, beta2=beta2)], rows)
    world.same(one.moved, other.moved, f"moved with betas 0.9 0.95, and with {beta1:g} {beta2:g}")


@law(
    source=ADAMW,
    rows=r.rows(),
    history=st.lists(scales, min_size=1, max_size=3),
    last=scales,
    beta1=st.sampled_from((0.5, 0.9)),
    beta2=st.sampled_from((0.5, 0.95)),
)
def moments(world: World, rows: list[Row], history: list[float], last: float, beta1: float, beta2: float) -> None:
    """After gradients c1 g, c2 g, ... (at learning rate 0) a step is Adam's of the numbers c1, c2, ... times a first
    step's."""
    m = v = 0.0
    for c in (*history, last):
        m, v = beta1 * m + (1 - beta1) * c, beta2 * v + (1 - beta2) * c * c
    n = len(history) + 1
    factor = m / (1 - beta1**n) / math.sqrt(v / (1 - beta2**n))
    if abs(factor) < 0.05:
        return  # too little to see
    betas = {"beta1": beta1, "beta2": beta2, "eps": EPS}
    work: list[Train | Step] = []
    for c in history:
        work += [Train([row.scaled(c) for row in rows]), Step(0.0, **betas)]
    one = world.play([*work, Train([row.scaled(last) for row in rows]), Step(LR, **betas)], rows)
    signed = [row.scaled(math.copysign(1.0, factor)) for row in rows]
    other = world.play([Train(signed), Step(LR * abs(factor), eps=EPS)], rows)
    world.same(one.moved, other.moved, f"moved after that history, and by a first step of {factor:.4g} of its length")


@law(source=ADAMW)
def weight_decay(world: World) -> None:
    """Weight decay is w - lr wd w, apart from the gradient: at lr wd = 1 the adapters are gone, and the base model is
    left."""
    base = world.create_model().logprobs(PROBE)
    start = world.reset().logprobs(PROBE)
    apart = float(abs(base - start).max())
    for lr in (1e-6, 1e-7):
        played = world.play([Train(PROBE), Step(lr, weight_decay=1 / lr)])
        world.same(
            start + played.moved[: len(start)],
            base,
            f"logprobs after lr {lr:g}, wd {1 / lr:g}, and of the base",
            scale=apart,
        )


@law(source="the global norm", rows=r.rows(), power=st.sampled_from((2.0, 4.0)))
def gradient_clipping(world: World, rows: list[Row], power: float) -> None:
    """grad_clip_norm scales a gradient above it down to it, over all that was accumulated; 0 is off."""
    step = world.descend()
    norm = 1e-3
    clipped = Step(step.learning_rate / norm, eps=step.eps, grad_clip_norm=norm)
    scaled = [row.scaled(power) for row in rows]
    one, more = world.play([Train(rows), clipped], rows), world.play([Train(scaled), clipped], rows)
    world.same(one.moved, more.moved, f"moved by g clipped to {norm:g}, and by {power:g} g clipped to it")
    parts = world.play([*(Train([row]) for row in rows), clipped], rows)
    world.same(one.moved, parts.moved, "moved by one request clipped, and by one a datum clipped")
    free, loose = (
        world.play([Train(rows), step], rows),
        world.play([Train(rows), evolve(step, grad_clip_norm=1e9)], rows),
    )
    world.same(free.moved, loose.moved, "moved without clipping, and with a norm of 1e9")


@law(source="the global norm", rows=r.rows())
def clipping_keeps_direction(world: World, rows: list[Row]) -> None:
    """A clipped gradient has the direction of the whole: at some learning rate its step is that without clipping."""
    step, norm = world.descend(0.5), 1e-3
    free = world.play([Train(rows), step], rows).moved
    size = float(np.abs(free).max())
    if size < 20 * (world.noise + EXACT):
        return  # nothing to see
    at, times = int(np.abs(free).argmax()), 1 / norm
    for _ in range(4):
        clipped = Step(step.learning_rate * times, eps=step.eps, grad_clip_norm=norm)
        moved = world.play([Train(rows), clipped], rows).moved
        if abs(moved[at] - free[at]) < world.tolerance * size / 4 or moved[at] * free[at] <= 0:
            break
        times *= float(free[at] / moved[at])
    world.same(free, moved, "moved without clipping, and clipped at the learning rate that makes up for it")


@law()
def result_of_step(world: World) -> None:
    """The result of optim_step is JSON, with metrics that are numbers where there are any."""
    model = world.reset()
    model.train(Train(PROBE))
    metrics = model.step(Step(0.0)).get("metrics") or {}
    for name, value in metrics.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Broken(f"metric {name!r} is {value!r}")
