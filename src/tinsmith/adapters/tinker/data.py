"""Batches and losses as the SDK sends them, and its results as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain import losses
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import CapabilityError, NonFiniteError, ShapeError, WorldError
from tinsmith.domain.tokens import Floats
from tinsmith.ports.trainer import LossSpec

_OPTIONS: Mapping[str, Mapping[str, float]] = {
    "cross_entropy": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
    "cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
    "dro": {"beta": 0.05},
}
"""Losses that a server knows by name, with their options and our defaults, which are sent: a server's may differ."""

LOSSES = frozenset(_OPTIONS)

_ANOTHER_WAY = "tinsmith.workflows.loss_step.forward_backward takes any loss, as a forward and a backward pass"


@frozen(eq=False)
class NamedLoss:
    """A loss as it goes over the wire."""

    name: str
    config: dict[str, float]
    batch: Batch
    """With the loss's weights and reduction in the columns that the server reads."""


def named(batch: Batch, loss: LossSpec) -> NamedLoss:
    """The loss in the server's form, which sums over tokens and has weights for cross-entropy alone.

    Weights go into the advantages, and a reduction of cross-entropy into the weights: both are the same loss. Raises
    CapabilityError for what has no such form: other options and reductions, and dro with weights that are not 1;
    ShapeError for a missing column, and for weights below 0 where they have no meaning.
    """
    known = _OPTIONS.get(loss.name)
    if known is None:
        raise CapabilityError(
            f"loss {loss.name!r} is not known by name here; known are {sorted(_OPTIONS)}. {_ANOTHER_WAY}"
        )
    losses.check_loss(loss.name, loss.options)
    options = {name: value for name, value in loss.options.items() if (name, value) != ("reduction", "token_sum")}
    if (options or loss.name != "cross_entropy") and np.any(batch.weights < 0):
        raise ShapeError("weights below 0: only cross_entropy with token_sum gives them a meaning")
    if loss.name == "cross_entropy":
        if options.keys() <= {"reduction"}:
            return NamedLoss("cross_entropy", {}, _reduced(batch, options) if options else batch)
        raise CapabilityError(f"cross_entropy with {sorted(options)} has no name at a server. {_ANOTHER_WAY}")
    for column in ("logprobs", "advantages"):
        if getattr(batch, column) is None:
            raise ShapeError(f"loss {loss.name!r} needs the column {column!r}")
    if not options.keys() <= known.keys():
        unknown = sorted(options.keys() - known.keys())
        raise CapabilityError(f"{loss.name} with {unknown} has no name at a server. {_ANOTHER_WAY}")
    if loss.name == "dro" and not np.all(batch.weights == 1):
        raise CapabilityError(f"dro with weights that are not 1 has no name at a server. {_ANOTHER_WAY}")
    assert batch.advantages is not None
    config = {name: float(options.get(name, default)) for name, default in known.items()}
    return NamedLoss(loss.name, config, evolve(batch, advantages=batch.advantages * batch.weights))


def _reduced(batch: Batch, options: Mapping[str, float | str]) -> Batch:
    """Weights that make the sum over tokens this reduction: cross-entropy has the same gradient at any logprobs."""
    gradient = losses.evaluate(batch, np.zeros(batch.targets.shape, np.float32), "cross_entropy", options).gradient
    return evolve(batch, weights=-gradient)


def datums(batch: Batch, *, policy: bool) -> list[Any]:
    """The rows as the SDK's datums; rows without a token are left out. policy: with logprobs and advantages, else with
    weights."""
    from tinker import types

    names = ("logprobs", "advantages") if policy else ("weights",)
    columns = {name: getattr(batch, name) for name in names}
    targets = batch.targets.astype(np.int64)
    out = []
    for start, end in zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True):
        if start == end:
            continue
        inputs = {"target_tokens": types.TensorData.from_numpy(targets[start:end])}
        for name, column in columns.items():
            inputs[name] = types.TensorData.from_numpy(column[start:end])
        out.append(types.Datum(model_input=text(batch.tokens[start:end]), loss_fn_inputs=inputs))
    return out


def text(tokens: Any) -> Any:
    """Token ids as the SDK's input. Not validated id by id: they are an array of int32 that was checked."""
    from tinker import types

    chunk = types.EncodedTextChunk.model_construct(tokens=tokens.tolist(), type="encoded_text")
    return types.ModelInput.model_construct(chunks=[chunk])


def logprobs_of(output: Any, batch: Batch) -> Floats:
    """Logprobs of all targets, [T] or [T, K], from what a forward or forward_backward gave. WorldError without them."""
    rows = list(output.loss_fn_outputs)
    filled = [n for n in batch.lengths.tolist() if n]
    if len(rows) != len(filled):
        raise WorldError(f"the server gave outputs of {len(rows)} datums for {len(filled)}")
    tail = batch.targets.shape[1:]
    parts = []
    for index, (row, length) in enumerate(zip(rows, filled, strict=True)):
        if "logprobs" not in row:
            raise WorldError(f"the server gave no logprobs of datum {index}; a trainer needs them")
        values = np.asarray(row["logprobs"].to_numpy(), np.float32)
        if values.size != length * int(np.prod(tail, dtype=int)):
            raise WorldError(f"the server gave {values.size} logprobs of datum {index}, which has {length} targets")
        parts.append(values.reshape(length, *tail))
    return np.concatenate(parts)


def evaluated(batch: Batch, logprobs: Floats, loss: LossSpec) -> losses.LossResult:
    """The loss's value and metrics, from the logprobs that came back. NonFiniteError if they are not finite."""
    if not np.isfinite(logprobs[batch.weights != 0]).all():
        raise NonFiniteError(f"the server gave logprobs that are not finite; loss {loss.name} has no value")
    return losses.evaluate(batch, logprobs, loss.name, loss.options)
