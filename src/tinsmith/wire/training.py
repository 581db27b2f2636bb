"""forward_backward on the wire: protobuf request -> batch and loss, result -> protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith import _native
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import CapabilityError, ConfigError, NonFiniteError, ShapeError
from tinsmith.domain.tokens import Floats, floats, offsets_of
from tinsmith.ports.trainer import LossSpec
from tinsmith.wire.messages import types

_DTYPES: dict[int, npt.DTypeLike] = {1: "<f4", 2: "<i8", 3: "<i4"}
_BFLOAT16 = 4
_INPUTS = ("target_tokens", "weights", "logprobs", "advantages", "reference_logprobs")
_RATIO_MASK = "sequence_ratio_mask"
_TOKENS = np.dtype("<i4")


@frozen(eq=False)
class TrainRequest:
    """One forward_backward, or with `forward_only` one forward."""

    model_id: str
    seq_id: int
    batch: Batch
    loss: LossSpec
    forward_only: bool
    widths: tuple[int, ...]
    """[B]: targets a position of each datum; 0 where they are [T]. Where datums differ the batch holds the greatest,
    and the targets beyond a datum's own have weight 0."""


def address(body: bytes) -> tuple[str, int, bool]:
    """(model_id, seq_id, forward_only) of a request; the datums are not looked at. ConfigError if it is none."""
    known = _native.read_address(body)
    if known is not None:
        return known
    message = _parse(body)
    return message.model_id, message.seq_id, message.forward_only


def decode_request(body: bytes) -> TrainRequest:
    """Raises ConfigError, ShapeError, CapabilityError or NonFiniteError, naming the datum and the field."""
    read = _native.read_training_request(body)
    if read is None:  # of another form than nearly all have, or wrong: datum by datum it is said what
        return decode_any_request(body)
    (model_id, seq_id, forward_only, loss), options, offsets, tokens, targets, columns = read
    if "weights" not in columns:
        columns["weights"] = np.ones(len(targets), np.float32)
    batch = Batch(tokens=tokens, targets=targets, offsets=offsets, **columns)
    return TrainRequest(model_id, seq_id, batch, LossSpec(loss, options), forward_only, (0,) * len(batch))


def decode_any_request(body: bytes) -> TrainRequest:
    """decode_request for every form that there is."""
    message = _parse(body)
    if not message.data:
        raise ShapeError("data: at least one datum")
    loss = LossSpec(message.loss_fn, _options(message))
    rows = [_row(datum, index, loss.name) for index, datum in enumerate(message.data)]
    lengths = [len(tokens) for tokens, _ in rows]
    columns = _columns([inputs for _, inputs in rows], lengths)
    widths = tuple(0 if inputs["target_tokens"].ndim == 1 else inputs["target_tokens"].shape[1] for _, inputs in rows)
    batch = Batch(tokens=np.concatenate([tokens for tokens, _ in rows]), offsets=offsets_of(lengths), **columns)
    return TrainRequest(message.model_id, message.seq_id, batch, loss, message.forward_only, widths)


def _parse(body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return types().ForwardBackwardRequest.FromString(body)
    except DecodeError as error:
        raise ConfigError(f"the body is no ForwardBackwardRequest: {error}") from error


def _options(message: Any) -> dict[str, float | str]:
    options: dict[str, float | str] = dict(message.loss_fn_config)
    for name, value in message.loss_fn_config_v2.items():
        options[name] = getattr(value, value.WhichOneof("kind") or "number")
    return options


def _row(datum: Any, index: int, loss: str) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    """(tokens, inputs) of one datum."""
    parts = []
    for chunk in datum.model_input:
        kind = chunk.WhichOneof("kind")
        if kind != "encoded_text":
            raise CapabilityError(f"datum {index}: a chunk of {kind or 'no known kind'}; this server takes text alone")
        data = chunk.encoded_text.tokens
        if len(data) % 4:
            raise ShapeError(f"datum {index}: tokens of {len(data)} bytes are no int32")
        parts.append(np.frombuffer(data, _TOKENS))
    tokens = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, _TOKENS)
    if len(tokens) == 0:
        raise ShapeError(f"datum {index}: model_input holds no token")
    inputs = {}
    for name, tensor in datum.loss_fn_inputs.items():
        if name not in _INPUTS and not (loss == "gspo" and name == _RATIO_MASK):
            raise ConfigError(f"datum {index}: loss_fn_inputs has {name!r}; known are {', '.join(_INPUTS)}")
        value = decode_tensor(tensor, f"datum {index}, {name}")
        if value.shape[:1] != tokens.shape:
            raise ShapeError(f"datum {index}: {name} has shape {value.shape} for {len(tokens)} tokens")
        inputs[name] = value
    if "target_tokens" not in inputs:
        raise ConfigError(f"datum {index}: loss_fn_inputs has no target_tokens")
    targets, weights = inputs["target_tokens"], inputs.get("weights")
    if targets.dtype.kind != "i":
        raise ShapeError(f"datum {index}: target_tokens must be integers")
    if targets.size and not (int(targets.min()) >= 0 and int(targets.max()) < 2**31):
        raise ShapeError(f"datum {index}: target_tokens holds an id that is none")
    if weights is not None and weights.shape != targets.shape:
        raise ShapeError(f"datum {index}: weights {weights.shape} and target_tokens {targets.shape} differ in shape")
    for name in (*_INPUTS[2:], _RATIO_MASK):
        if name in inputs and inputs[name].ndim != 1:
            raise ShapeError(f"datum {index}: {name} has shape {inputs[name].shape}, not [{len(tokens)}]")
    if _RATIO_MASK in inputs:
        inputs["weights"] = _weights_of_ratio(inputs.pop(_RATIO_MASK), inputs, index)
    return tokens, inputs


def _weights_of_ratio(
    mask: npt.NDArray[Any], inputs: Mapping[str, npt.NDArray[Any]], index: int
) -> npt.NDArray[np.float32]:
    """The tokens whose ratios gspo averages, as weights. The same loss as long as the others have no advantage."""
    if not np.isin(mask, (0, 1)).all():
        raise ConfigError(f"datum {index}: {_RATIO_MASK} must hold 0 and 1 alone")
    if "weights" in inputs:
        raise ConfigError(f"datum {index}: weights or {_RATIO_MASK}, not both")
    advantages = inputs.get("advantages")
    if advantages is not None and advantages[mask == 0].any():
        raise CapabilityError(f"datum {index}: an advantage where {_RATIO_MASK} is 0; this server takes none there")
    return mask.astype(np.float32)


def _columns(rows: Sequence[dict[str, npt.NDArray[Any]]], lengths: Sequence[int]) -> dict[str, Any]:
    width = max(1 if row["target_tokens"].ndim == 1 else row["target_tokens"].shape[1] for row in rows)
    flat = all(row["target_tokens"].ndim == 1 for row in rows)
    columns: dict[str, Any] = {"targets": [], "weights": []}
    for row, length in zip(rows, lengths, strict=True):
        targets = row["target_tokens"]
        weights = row.get("weights", np.ones(targets.shape, np.float32))
        if not flat:
            targets, weights = targets.reshape(length, -1), weights.reshape(length, -1)
            missing = ((0, 0), (0, width - targets.shape[1]))
            targets, weights = np.pad(targets, missing), np.pad(weights, missing)
        columns["targets"].append(targets)
        columns["weights"].append(weights)
    gathered = {name: np.concatenate(parts) for name, parts in columns.items()}
    for name in _INPUTS[2:]:
        have = [name in row for row in rows]
        if any(have):
            if not all(have):
                raise ShapeError(f"datum {have.index(False)} has no {name!r}, others of the request have")
            gathered[name] = np.concatenate([row[name] for row in rows])
    return gathered


def decode_tensor(tensor: Any, what: str) -> npt.NDArray[Any]:
    """Dense or compressed sparse rows (whose missing cells are 0), in the shape it has; float32, int64 or int32."""
    kind = tensor.WhichOneof("kind")
    shape = tuple(tensor.shape)
    if any(n < 0 for n in shape) or len(shape) > 2:
        raise ShapeError(f"{what}: shape {list(shape)} is neither [T] nor [T, K]")
    if kind != "sparse_csr":
        values = _values(tensor.dense, tensor.dtype, what)
        if not shape:
            return values
        if int(np.prod(shape, dtype=object)) != len(values):
            raise ShapeError(f"{what}: {len(values)} values do not fill shape {list(shape)}")
        return values.reshape(shape)
    values = _values(tensor.sparse_csr.values, tensor.dtype, what)
    rows = _values(tensor.sparse_csr.crow_indices, 2, f"{what}, crow_indices")
    columns = _values(tensor.sparse_csr.col_indices, 2, f"{what}, col_indices")
    if len(shape) != 2:
        raise ShapeError(f"{what}: a sparse tensor needs a shape of two numbers")
    if len(rows) != shape[0] + 1 or rows[0] != 0 or rows[-1] != len(values) or np.any(np.diff(rows) < 0):
        raise ShapeError(f"{what}: crow_indices do not rise from 0 to {len(values)} in {shape[0] + 1} steps")
    if len(columns) != len(values) or (len(columns) and not 0 <= columns.min() <= columns.max() < shape[1]):
        raise ShapeError(f"{what}: col_indices must be {len(values)} numbers below {shape[1]}")
    if shape[0] * shape[1] > 1 << 26:
        raise ShapeError(f"{what}: shape {list(shape)} is beyond {1 << 26} cells")
    dense = np.zeros(shape, values.dtype)
    dense[np.repeat(np.arange(shape[0]), np.diff(rows)), columns] = values
    return dense


def _values(data: bytes, dtype: int, what: str) -> npt.NDArray[Any]:
    if dtype == _BFLOAT16:
        if len(data) % 2:
            raise ShapeError(f"{what}: {len(data)} bytes are no bfloat16")
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype not in _DTYPES:
        raise ConfigError(f"{what}: dtype {dtype} is not known")
    known = np.dtype(_DTYPES[dtype])
    if len(data) % known.itemsize:
        raise ShapeError(f"{what}: {len(data)} bytes are no {known.name}")
    values = np.frombuffer(data, known)
    if known.kind == "f" and not np.isfinite(values).all():
        raise NonFiniteError(f"{what}: value {int(np.argmin(np.isfinite(values)))} is not finite")
    return values


def encode_request(
    model_id: str,
    seq_id: int,
    batch: Batch,
    loss: LossSpec,
    *,
    forward_only: bool = False,
    without: Sequence[str] = (),
) -> bytes:
    """The other direction. `without` names columns that are left out."""
    message = types().ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id, loss_fn=loss.name, forward_only=forward_only
    )
    for name, value in loss.options.items():
        if isinstance(value, str):
            message.loss_fn_config_v2[name].text = value
        else:
            message.loss_fn_config[name] = value
            message.loss_fn_config_v2[name].number = value
    for row in batch:
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = row.tokens.astype(_TOKENS).tobytes()
        columns = {
            "target_tokens": row.targets.astype("<i8"),
            "weights": row.weights,
            "logprobs": row.logprobs,
            "advantages": row.advantages,
            "reference_logprobs": row.reference_logprobs,
        }
        for name, column in columns.items():
            if column is not None and name not in without:
                tensor = datum.loss_fn_inputs[name]
                tensor.dense, tensor.dtype = column.tobytes(), 2 if name == "target_tokens" else 1
                tensor.shape.extend(column.shape)
    return bytes(message.SerializeToString())


def encode_result(
    logprobs: Floats, batch: Batch, widths: Sequence[int], loss: float, metrics: Mapping[str, float]
) -> bytes:
    """`logprobs` as the batch's targets. Datums of one width go into one record, in order."""
    told = {"loss:sum": loss, **{name: value for name, value in metrics.items() if ":" in name}}
    # The client's reducer knows no name without a colon.
    if not any(widths) and logprobs.ndim == 1:
        return _native.write_training_result(floats(logprobs), batch.offsets, list(told.items()))
    message = types().ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    for name, value in told.items():
        message.metrics[name] = value
    first = 0
    for end in range(1, len(widths) + 1):
        if end < len(widths) and widths[end] == widths[first]:
            continue
        offsets = batch.offsets[first : end + 1]
        part, width = logprobs[int(offsets[0]) : int(offsets[-1])], widths[first]
        if part.ndim == 2:
            part = part[:, : max(width, 1)]
        field = message.loss_fn_outputs.add(type_tag="ArrayRecord", num_datums=end - first).fields["logprobs"]
        field.data, field.dtype = np.ascontiguousarray(part, "<f4").tobytes(), 1
        field.offsets = ((offsets - offsets[0]) * 4 * max(width, 1)).astype("<i8").tobytes()
        if width:
            field.trailing_shape.append(width)
        first = end
    return bytes(message.SerializeToString())


def decode_result(body: bytes) -> tuple[list[Floats], dict[str, float]]:
    """(logprobs of each datum, metrics): the other direction."""
    message = types().ForwardBackwardOutput.FromString(body)
    rows: list[Floats] = []
    for record in message.loss_fn_outputs:
        field = record.fields["logprobs"]
        offsets = np.frombuffer(field.offsets, "<i8") // 4
        values = _values(field.data, field.dtype, "logprobs")
        for start, end in pairwise(offsets):
            rows.append(values[start:end].reshape(-1, *field.trailing_shape).astype(np.float32))
    return rows, dict(message.metrics)
