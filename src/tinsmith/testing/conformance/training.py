"""Gradients and logprobs."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import evolve
from hypothesis import strategies as st

from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.handles import Step, Train, supported
from tinsmith.testing.conformance.law import SDK, expect, law
from tinsmith.testing.conformance.rows import Row
from tinsmith.testing.conformance.world import PROBE, World

RECIPES = "tinker-cookbook: losses are sums, weights carry the reduction"


@law(rows=r.rows(min_size=2), cut=st.integers(1, 2))
def gradient_accumulation(world: World, rows: list[Row], cut: int) -> None:
    """Two forward_backward add up to one of all their datums."""
    cut = min(cut, len(rows) - 1)
    whole = world.play([Train(rows), world.descend()], rows)
    parts = world.play([Train(rows[:cut]), Train(rows[cut:]), world.descend()], rows)
    world.same(whole.moved, parts.moved, f"moved by all datums at once, and in two requests (cut at {cut})")


@law(source=RECIPES, rows=r.rows())
def sum_over_datums(world: World, rows: list[Row]) -> None:
    """A batch that holds each datum twice has twice the gradient and twice the loss."""
    once, twice = Train(rows), Train([*rows, *rows])
    half = Step(world.descend().learning_rate, eps=2 * world.descend().eps)
    one, two = world.play([once, world.descend()], rows), world.play([twice, half], rows)
    world.same(one.moved, two.moved, "moved by a batch, and by half the step of each datum twice")
    a, b = one.results[0].loss, two.results[0].loss
    expect(abs(2 * a - b) <= 0.01 * abs(b) + 1e-3, f"loss:sum {a:.5g} of the batch, {b:.5g} of each datum twice")


@law(source=RECIPES, rows=r.rows(), power=st.sampled_from((2.0, 4.0, 0.5)))
def sum_over_tokens(world: World, rows: list[Row], power: float) -> None:
    """A weight is a factor: c times the weights is c times the gradient and the loss, whatever the weights sum to."""
    step = world.descend()
    one = world.play([Train(rows), step], rows)
    more = world.play(
        [Train([row.scaled(power) for row in rows]), Step(step.learning_rate, eps=power * step.eps)], rows
    )
    world.same(
        one.moved, more.moved, f"moved by a batch, and by {power:g} times its weights at 1/{power:g} of the step"
    )
    a, b = one.results[0].loss, more.results[0].loss
    expect(
        abs(power * a - b) <= 0.01 * abs(b) + 1e-3, f"loss:sum {a:.5g}, and {b:.5g} with {power:g} times the weights"
    )


@law(source=RECIPES, rows=r.rows(), noise=r.rows())
def signed_weights(world: World, rows: list[Row], noise: list[Row]) -> None:
    """Weights may be negative: a batch and the same with all weights negated cancel."""
    plain = world.play([Train(rows), world.descend()], rows)
    work: list[Train | Step] = [Train(noise), Train(rows), Train([row.scaled(-1.0) for row in noise]), world.descend()]
    world.same(plain.moved, world.play(work, rows).moved, f"moved without, and with {noise} and its negative beside")


@law(source=RECIPES, rows=r.rows(), dead=r.rows(max_size=1, max_length=3))
def zero_weights(world: World, rows: list[Row], dead: list[Row]) -> None:
    """A target of weight 0 takes no part, in a datum of its own or at the end of one."""
    plain = world.play([Train(rows), world.descend()], rows)
    beside = world.play([Train([*rows, *(row.scaled(0.0) for row in dead)]), world.descend()], rows)
    world.same(plain.moved, beside.moved, f"moved without, and with {dead} of weight 0 beside")
    a, b = plain.results[0].loss, beside.results[0].loss
    expect(abs(a - b) <= 0.01 * abs(a) + 1e-3, f"loss:sum {a:.5g} without, {b:.5g} with datums of weight 0 beside")
    tail = dead[0].scaled(0.0)
    longer = [Row(o.tokens + tail.tokens, o.targets + tail.targets, o.weights + tail.weights) for o in rows]
    padded = world.play([Train(longer), world.descend()], rows)
    world.same(plain.moved, padded.moved, f"moved without, and with {tail} at the end of each datum")


@law(rows=r.rows(min_size=2))
def order_of_datums(world: World, rows: list[Row]) -> None:
    """Results come in the order of the datums, and the gradient does not depend on it."""
    alone = world.at_start([rows[0]])[0]
    turned = rows[::-1]
    one, two = world.play([Train(rows), world.descend()], rows), world.play([Train(turned), world.descend()], rows)
    world.same(one.moved, two.moved, "moved by the datums, and by the same in reverse")
    world.equal(alone, one.results[0].rows[0].ravel(), "logprobs of datum 0 alone, and where it is the first")
    for i, (a, b) in enumerate(zip(one.results[0].rows, two.results[0].rows[::-1], strict=True)):
        world.equal(a.ravel(), b.ravel(), f"logprobs of datum {i} in this order, and in reverse")


@law(rows=r.rows(min_size=2, max_size=4), order=st.permutations(range(4)))
def order_of_chunks(world: World, rows: list[Row], order: list[int]) -> None:
    """Requests between two steps may come in any order, one datum each: the step is the same."""
    whole = world.play([Train(rows), world.descend()], rows)
    parts = [Train([rows[i]]) for i in order if i < len(rows)]
    each = world.play([*parts, world.descend()], rows)
    world.same(whole.moved, each.moved, f"moved by one request, and by one a datum in the order {order}")


@law(rows=r.rows(min_size=2))
def datums_alone(world: World, rows: list[Row]) -> None:
    """Logprobs of a datum do not depend on its neighbours in the request."""
    together = world.at_start(rows)
    for i, row in enumerate(rows):
        world.equal(together[i], world.at_start([row])[0], f"logprobs of datum {i} among others, and alone")


@law(source="causal attention", rows=r.rows(max_size=1), token=r.ids)
def causality(world: World, rows: list[Row], token: int) -> None:
    """A logprob depends on the tokens up to its position alone."""
    row = rows[0]
    changed = Row((*row.tokens, token), (*row.targets, 3), (*row.weights, 1.0))
    before, after = world.at_start([row, changed])
    world.equal(before, after[:-1], f"logprobs before and after {token} was appended")


@law(rows=r.rows())
def logprobs_are_logprobs(world: World, rows: list[Row]) -> None:
    """The results are logprobs, one for each target: none is above 0, and probabilities of several tokens sum to at
    most 1."""
    for row, found in zip(rows, world.at_start(rows), strict=True):
        expect(
            found.shape == np.shape(row.targets), f"logprobs of shape {found.shape} for {np.shape(row.targets)} targets"
        )
        expect(bool(np.isfinite(found).all() and (found <= 1e-4).all()), f"logprobs {found.tolist()}")
    tokens = rows[0].tokens
    others = [Row(tokens, (target,) * len(tokens), (1.0,) * len(tokens)) for target in range(30, 38)]
    mass = np.exp(world.at_start(others)).sum(axis=0)
    expect(bool((mass <= 1.001).all()), f"the probabilities of 8 of all tokens sum to {mass.max():.4g}")


@law(rows=r.rows())
def forward_equals_backward(world: World, rows: list[Row]) -> None:
    """forward gives the logprobs and the loss of forward_backward."""
    seen = world.play([Train(rows, forward=True), Train(rows), world.descend()]).results
    world.equal(seen[0].flat, seen[1].flat, "logprobs by forward, and by forward_backward")
    a, b = seen[0].loss, seen[1].loss
    expect(abs(a - b) <= 1e-3 * abs(b) + 1e-3, f"loss:sum {a:.5g} by forward, {b:.5g} by forward_backward")


@law(rows=r.rows(), looked=r.rows())
def forward_leaves_no_gradient(world: World, rows: list[Row], looked: list[Row]) -> None:
    """A forward between a forward_backward and its step changes nothing."""
    plain = world.play([Train(rows), world.descend()], rows)
    beside = world.play([Train(looked, forward=True), Train(rows), Train(looked, forward=True), world.descend()], rows)
    world.same(plain.moved, beside.moved, f"moved without, and with a forward of {looked} beside")


@law(source="forward_backward_custom of " + SDK, rows=r.rows())
def custom_loss(world: World, rows: list[Row]) -> None:
    """A forward, then cross_entropy weighted with minus dL/dlogprob, is training on the loss L (here the squares of the
    logprobs)."""
    lp = world.at_start(rows)
    derivative = [2 * found / 10 for found in lp]
    pushed = [
        Row(row.tokens, row.targets, tuple(float(-d) for d in g)) for row, g in zip(rows, derivative, strict=True)
    ]
    played = world.play([Train(rows, forward=True), Train(pushed), world.descend()], rows)
    count = sum(len(row.tokens) for row in rows)
    own = played.moved[-count:]
    first_order = float((np.concatenate(derivative) * own).sum())
    expect(
        first_order < -1e-5 or float(np.abs(np.concatenate(derivative)).max()) < 1e-3,
        f"the loss goes by {first_order:+.4g} along its own descent",
    )
    a, b = played.results[0].flat, np.concatenate(lp)
    world.equal(a, b, "logprobs of the forward, and at the start")
    doubled = [row.scaled(2.0) for row in pushed]
    step = world.descend()
    twice = world.play([Train(doubled), Step(step.learning_rate, eps=2 * step.eps)], rows)
    world.same(played.moved, twice.moved, "moved by L, and by 2 L at half the step")


@law(rows=r.rows(k=2))
def several_targets(world: World, rows: list[Row]) -> None:
    """With K targets a position, results are [T, K] and everything is as for each target in a datum of its own."""
    both = supported(lambda: world.play([Train(rows), world.descend()], rows))
    alone = [row.column(k) for row in rows for k in range(2)]
    each = world.play([Train(alone), world.descend()], rows)
    world.same(both.moved, each.moved, "moved by two targets a position, and by each in its own datum")
    for i, found in enumerate(both.results[0].rows):
        for k in range(2):
            expect(found.ndim == 2, f"logprobs of datum {i} have shape {found.shape}")
            world.equal(found[:, k], each.results[0].rows[2 * i + k], f"logprobs of target {k} of datum {i}")


@law(rows=r.rows(max_size=2), cut=st.integers(1, 4))
def chunks_of_a_datum(world: World, rows: list[Row], cut: int) -> None:
    """The tokens of a datum may come in several chunks."""
    right = np.concatenate(world.at_start(rows))
    model = world.reset()

    def split(message: Any) -> None:
        for datum in message.data:
            whole = datum.model_input[0].encoded_text.tokens
            datum.model_input[0].encoded_text.tokens = whole[: 4 * cut]
            if whole[4 * cut :]:
                datum.model_input.add().encoded_text.tokens = whole[4 * cut :]

    request = supported(lambda: model.submit_train(Train(rows, forward=True), split))
    world.equal(right, model.trained(request, forward=True).flat, f"logprobs in one chunk, and cut after {cut} tokens")


@law(rows=r.rows(max_size=1, k=3))
def sparse_tensors(world: World, rows: list[Row]) -> None:
    """Inputs as compressed sparse rows are as the same dense ones, with 0 where nothing is."""
    row = evolve(rows[0], weights=tuple((w[0], 0.0, w[2]) for w in rows[0].weights if isinstance(w, tuple)))
    model = world.reset()
    dense = supported(lambda: model.train(Train([row], forward=True)))

    def compress(message: Any) -> None:
        tensor = message.data[0].loss_fn_inputs["weights"]
        weights = np.frombuffer(tensor.dense, "<f4").reshape(tuple(tensor.shape))
        at = np.nonzero(weights)
        tensor.sparse_csr.values = weights[at].tobytes()  # takes the place of the dense ones
        tensor.sparse_csr.crow_indices = (
            np.concatenate([[0], np.cumsum((weights != 0).sum(axis=1))]).astype("<i8").tobytes()
        )
        tensor.sparse_csr.col_indices = at[1].astype("<i8").tobytes()

    request = model.submit_train(Train([row], forward=True), compress)
    sparse = supported(lambda: model.trained(request, forward=True))
    world.equal(dense.flat, sparse.flat, "logprobs with dense, and with sparse weights")
    a, b = dense.loss, sparse.loss
    expect(abs(a - b) <= 1e-3 * abs(a) + 1e-3, f"loss:sum {a:.6g} with dense, {b:.6g} with sparse weights")


@law(source="tinker-cookbook: sl_loop")
def training_learns(world: World) -> None:
    """Steps on cross_entropy raise the logprobs of the targets."""
    row = PROBE[0]
    played = world.play([work for _ in range(4) for work in (Train([row]), world.descend())])
    gained = float(played.moved[: len(row.tokens)].sum())
    expect(gained > 0.01, f"after four steps the sum of its logprobs changed by {gained:+.4g}")


@law(rows=r.rows())
def metrics_of_training(world: World, rows: list[Row]) -> None:
    """Metrics are named name:reduction, and loss:sum is the weighted sum of minus the logprobs."""
    result = world.reset().train(Train(rows, forward=True))
    reductions = ("mean", "sum", "min", "max", "slack", "hash2", "unique")
    for name in result.metrics:
        known = name.rpartition(":")[2] in reductions and ":" in name
        expect(known, f"metric {name!r}: the client reduces {', '.join(reductions)} alone")
    right = -float(sum((np.array(row.weights) * lp).sum() for row, lp in zip(rows, result.rows, strict=True)))
    expect(abs(result.loss - right) <= 1e-3 * abs(right) + 1e-3, f"loss:sum {result.loss:.6g}, by logprobs {right:.6g}")
