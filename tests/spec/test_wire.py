"""The wire: what was put on it comes off it, and nothing that comes off it can do harm."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attrs import fields
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from tinsmith import _native
from tinsmith.domain.datums import COLUMNS, Batch, Datum
from tinsmith.domain.errors import ConfigError, TinsmithError
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult
from tinsmith.ports.trainer import LossSpec
from tinsmith.wire import requests, sampling, training
from tinsmith.wire.messages import types

ids = st.integers(0, 2**31 - 1)
finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, tuple[int, ...]]:
    """A batch as a server holds it, and the width of each of its datums (0: one target a position)."""
    policy = draw(st.booleans())
    widths = draw(st.lists(st.just(0) if policy else st.integers(0, 3), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    datums = []
    for width in widths:
        length = draw(st.integers(1, 5))
        shape = (length,) if width == 0 else (length, width)
        columns = {"logprobs": rng.normal(size=length), "advantages": rng.normal(size=length)} if policy else {}
        datums.append(
            Datum(
                tokens=rng.integers(0, 2**31, length),
                targets=rng.integers(0, 2**31, shape),
                weights=rng.normal(size=shape),
                **columns,
            )
        )
    return datums, tuple(widths)


def encoded(datums: list[Datum], loss: LossSpec) -> bytes:
    """The requests of single datums, joined: protobuf messages join by their bytes."""
    first, *rest = [training.encode_request("m", 3, Batch.of([d]), loss) for d in datums]
    message = types().ForwardBackwardRequest.FromString(first)
    for body in rest:
        message.data.extend(types().ForwardBackwardRequest.FromString(body).data)
    return message.SerializeToString()


@given(batches(), st.dictionaries(st.text(max_size=5), finite | st.text(max_size=5), max_size=3))
def test_a_training_request_comes_off_the_wire_as_it_was_put_on_it(made, options):
    datums, widths = made
    loss = LossSpec("cross_entropy", options)
    request = training.decode_request(encoded(datums, loss))
    assert (request.model_id, request.seq_id, request.forward_only) == ("m", 3, False)
    assert request.loss == loss
    assert request.widths == widths
    widest = max(widths)
    for row, datum, width in zip(request.batch, datums, widths, strict=True):
        assert row.tokens.tobytes() == datum.tokens.tobytes()
        targets = row.targets if widest == 0 else row.targets[:, : max(width, 1)].reshape(datum.targets.shape)
        weights = row.weights if widest == 0 else row.weights[:, : max(width, 1)].reshape(datum.weights.shape)
        assert targets.tobytes() == datum.targets.tobytes()
        assert weights.tobytes() == datum.weights.tobytes()
        if widest:
            assert not row.weights[:, max(width, 1) :].any(), "targets that nobody sent must weigh nothing"
        for name in ("logprobs", "advantages"):
            column = getattr(datum, name)
            assert column is None or getattr(row, name).tobytes() == column.tobytes()


def read(decode: Callable[[bytes], training.TrainRequest], body: bytes) -> object:
    """All that a request says, or what is wrong with it."""
    try:
        request = decode(body)
    except TinsmithError as error:
        return type(error), str(error)
    batch = request.batch
    rows = [None if c is None else (c.dtype, c.shape, c.tobytes()) for c in (getattr(batch, n) for n in COLUMNS)]
    head = request.model_id, request.seq_id, request.forward_only, request.loss
    return head, rows, batch.offsets.tolist(), request.widths


@st.composite
def usual_requests(draw: st.DrawFn) -> bytes:
    """Of the form that is read in Rust."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    columns = draw(st.sets(st.sampled_from(["logprobs", "advantages", "reference_logprobs"])))
    datums = [
        Datum(
            tokens=rng.integers(0, 2**31, n),
            targets=rng.integers(0, 2**31, n),
            weights=rng.normal(size=n),
            **{name: rng.normal(size=n) for name in columns},
        )
        for n in lengths
    ]
    options = draw(st.dictionaries(st.text(max_size=3), finite | st.text(max_size=3), max_size=2))
    loss = LossSpec(draw(st.sampled_from(["cross_entropy", "ppo", "gspo"])), options)
    without = draw(st.sampled_from([(), ("weights",)]))
    return training.encode_request(
        draw(st.text(max_size=5)),
        draw(st.integers(0, 2**31 - 1)),
        Batch.of(datums),
        loss,
        forward_only=draw(st.booleans()),
        without=without,
    )


@given(usual_requests())
def test_the_usual_request_is_read_in_rust_as_by_protobuf(body):
    assert _native.read_training_request(body) is not None
    assert read(training.decode_request, body) == read(training.decode_any_request, body)
    message = types().ForwardBackwardRequest.FromString(body)
    assert training.address(body) == (message.model_id, message.seq_id, message.forward_only)


@given(usual_requests(), st.lists(st.tuples(st.integers(0), st.binary(max_size=3), st.integers(0, 3)), max_size=3))
def test_any_other_request_is_left_to_protobuf(body, damage):
    """Cut, spliced, of unknown fields: what is read in Rust is what protobuf reads, or it is not read in Rust."""
    for at, put, cut in damage:
        at %= len(body) + 1
        body = body[:at] + put + body[at + cut :]
    assert read(training.decode_request, body) == read(training.decode_any_request, body)
    try:
        message = types().ForwardBackwardRequest.FromString(body)
    except DecodeError:
        return  # `address` does not look into datums: what is wrong there is what the request comes to
    assert training.address(body) == (message.model_id, message.seq_id, message.forward_only)


def _a_request() -> Any:
    columns = {"weights": np.ones(2), "advantages": np.ones(2)}
    datums = [Datum(tokens=[5, 6], targets=[6, 7], **columns) for _ in range(2)]
    body = training.encode_request("m", 1, Batch.of(datums), LossSpec("ppo"))
    return types().ForwardBackwardRequest.FromString(body)


def _tensor(request: Any, name: str) -> Any:
    return request.data[1].loss_fn_inputs[name]


UNUSUAL = {
    "no datum": lambda r: r.ClearField("data"),
    "a number beyond 2^31": lambda r: setattr(r, "seq_id", -1),
    "no target": lambda r: r.data[1].loss_fn_inputs.pop("target_tokens"),
    "a target below 0": lambda r: setattr(_tensor(r, "target_tokens"), "dense", np.int64([6, -1]).tobytes()),
    "a target beyond int32": lambda r: setattr(_tensor(r, "target_tokens"), "dense", np.int64([6, 2**31]).tobytes()),
    "a number that is none": lambda r: setattr(_tensor(r, "advantages"), "dense", np.float32([1, np.nan]).tobytes()),
    "a number without end": lambda r: setattr(_tensor(r, "weights"), "dense", np.float32([np.inf, 1]).tobytes()),
    "another dtype": lambda r: setattr(_tensor(r, "weights"), "dtype", 4),
    "a number too few": lambda r: setattr(_tensor(r, "weights"), "dense", b"1234"),
    "half a number": lambda r: setattr(_tensor(r, "weights"), "dense", b"123456"),
    "half a token": lambda r: setattr(r.data[0].model_input[0].encoded_text, "tokens", b"123456"),
    "no token": lambda r: setattr(r.data[0].model_input[0].encoded_text, "tokens", b""),
    "another shape": lambda r: _tensor(r, "weights").shape.__setitem__(0, 3),
    "two dimensions": lambda r: _tensor(r, "target_tokens").shape.append(1),
    "sparse": lambda r: setattr(_tensor(r, "weights").sparse_csr, "values", b""),
    "two chunks": lambda r: r.data[0].model_input.add().encoded_text.CopyFrom(r.data[0].model_input[0].encoded_text),
    "no chunk": lambda r: r.data[0].ClearField("model_input"),
    "an image": lambda r: setattr(r.data[0].model_input[0].image, "format", "png"),
    "an input that the first datum has alone": lambda r: r.data[1].loss_fn_inputs.pop("advantages"),
    "an input that the second datum has alone": lambda r: r.data[0].loss_fn_inputs.pop("advantages"),
    "an unknown input": lambda r: setattr(r.data[0].loss_fn_inputs["mask"], "dtype", 1),
    "where tokens came from": lambda r: r.data[0].model_input_spans.add(),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_request_is_not_read_in_rust(what):
    request = _a_request()
    assert _native.read_training_request(request.SerializeToString()) is not None
    UNUSUAL[what](request)
    assert _native.read_training_request(request.SerializeToString()) is None
    body = request.SerializeToString()
    assert read(training.decode_request, body) == read(training.decode_any_request, body)


LONG = {
    "a tag of six bytes": lambda body: b"\x8a\x80\x80\x80\x80\x00" + body[1:],
    "a length of six bytes": lambda body: body[:1] + b"\x81\x80\x80\x80\x80\x00" + body[2:],
}


@pytest.mark.parametrize("what", LONG)
def test_numbers_longer_than_protobuf_takes_are_not_read_in_rust(what):
    body = _a_request().SerializeToString()
    assert body.startswith(b"\x0a\x01m")
    broken = LONG[what](body)
    assert _native.read_training_request(broken) is None
    assert _native.read_address(broken) is None
    with pytest.raises(ConfigError, match="no ForwardBackwardRequest"):
        training.decode_request(broken)


def test_no_option_is_said_a_million_times():
    """Each would hold up the event loop; protobuf keeps the last."""
    request = _a_request()
    request.loss_fn_config["x"] = 1.0
    body = request.SerializeToString()
    entry = body[body.index(b"\x0a\x01x") - 2 :][:14]
    assert _native.read_training_request(body) is not None
    assert _native.read_training_request(body + entry * 100) is None
    assert read(training.decode_request, body + entry * 100) == read(training.decode_request, body)


def test_requests_of_the_sdk_are_read_in_rust():
    tinker = pytest.importorskip("tinker")
    from tinker.proto.request_conv import forward_backward_request_to_proto

    rows = [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints([5, 6, 7]),
            loss_fn_inputs={"target_tokens": np.int64([6, 7, 2]), "logprobs": np.ones(3), "advantages": np.ones(3)},
        )
        for _ in range(2)
    ]
    request = tinker.types.ForwardBackwardRequest(
        forward_backward_input=tinker.types.ForwardBackwardInput(
            data=rows, loss_fn="ppo", loss_fn_config={"clip_low_threshold": 0.8}
        ),
        model_id="m",
        seq_id=4,
    )
    body = forward_backward_request_to_proto(request).SerializeToString()
    assert _native.read_training_request(body) is not None
    seen = training.decode_request(body)
    assert (seen.model_id, seen.seq_id, seen.loss.options) == ("m", 4, {"clip_low_threshold": 0.8})
    assert [row.targets.tolist() for row in seen.batch] == [[6, 7, 2]] * 2


@given(batches())
def test_logprobs_come_back_in_the_shape_of_each_datums_targets(made):
    datums, widths = made
    request = training.decode_request(encoded(datums, LossSpec("cross_entropy")))
    logprobs = np.random.default_rng(0).normal(size=request.batch.targets.shape).astype(np.float32)
    body = training.encode_result(logprobs, request.batch, widths, 1.25, {"tokens:sum": 3.0, "not for the wire": 1.0})
    rows, metrics = training.decode_result(body)
    assert metrics == {"loss:sum": 1.25, "tokens:sum": 3.0}
    for i, (row, datum, width) in enumerate(zip(rows, datums, widths, strict=True)):
        start, end = request.batch.offsets[i : i + 2]
        sent = logprobs[start:end] if logprobs.ndim == 1 else logprobs[start:end, : max(width, 1)]
        assert row.shape == datum.targets.shape
        assert row.tobytes() == np.ascontiguousarray(sent).tobytes()
    output = types().ForwardBackwardOutput.FromString(body)
    assert output.loss_fn_output_type == "ArrayRecord"
    assert {record.type_tag for record in output.loss_fn_outputs} == {"ArrayRecord"}
    assert sum(record.num_datums for record in output.loss_fn_outputs) == len(datums)


@given(st.data())
def test_a_sparse_tensor_is_the_dense_one_with_zeros(data):
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    dense = np.where(rng.random((rows, columns)) < 0.5, rng.normal(size=(rows, columns)), 0).astype(np.float32)
    at = np.nonzero(dense)
    tensor = types().Tensor(dtype=1, shape=[rows, columns])
    tensor.sparse_csr.values = dense[at].tobytes()
    counts = np.bincount(at[0], minlength=rows)
    tensor.sparse_csr.crow_indices = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64).tobytes()
    tensor.sparse_csr.col_indices = at[1].astype(np.int64).tobytes()
    assert training.decode_tensor(tensor, "it").tobytes() == dense.tobytes()


@given(
    st.lists(st.integers(0, 6), min_size=0, max_size=4),
    st.integers(0, 3),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_a_sample_comes_off_the_wire_as_it_was_put_on_it(lengths, k, prompt, with_prompt, seed):
    rng = np.random.default_rng(seed)

    def top(n):
        return (rng.integers(0, 500, (n, k), dtype=np.int32), rng.normal(size=(n, k)).astype(np.float32))

    completions = []
    for n in lengths:
        ids, logprobs = top(n) if k else (None, None)
        completions.append(
            Completion(
                tokens=rng.integers(0, 500, n, dtype=np.int32),
                logprobs=rng.normal(size=n).astype(np.float32),
                finish=FinishReason.STOP if n % 2 else FinishReason.LENGTH,
                top_ids=ids,
                top_logprobs=logprobs,
            )
        )
    scores = rng.normal(size=prompt).astype(np.float32) if with_prompt else None
    result = SampleResult(completions=tuple(completions), prompt_logprobs=scores)
    rows, got, _ = sampling.decode_result(sampling.encode_result(result))
    assert len(rows) == len(completions)
    for row, completion in zip(rows, completions, strict=True):
        assert row.tokens.tobytes() == completion.tokens.tobytes()
        assert row.logprobs.tobytes() == completion.logprobs.tobytes()
        assert row.stopped == (completion.finish is FinishReason.STOP)
        if k:
            assert row.top[0].tobytes() == completion.top_ids.tobytes()
            assert row.top[1].tobytes() == completion.top_logprobs.tobytes()
    assert (got is None) == (scores is None)
    assert scores is None or got.tobytes() == scores.tobytes()


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A request with some of its bytes changed, cut or doubled."""
    datums, _ = draw(batches())
    body = bytearray(encoded(datums, LossSpec("ppo", {"clip_low_threshold": 0.5})))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "double"])):
            case "change" if body:
                body[at] = draw(st.integers(0, 255))
            case "cut":
                del body[at:]
            case _:
                body += body[at:]
    return bytes(body)


@given(st.binary(max_size=200) | broken())
@example(b"")
@example(b"\x1a\x00")  # one datum with nothing in it
def test_no_bytes_do_more_than_be_refused(body):
    with contextlib.suppress(TinsmithError):
        request = training.decode_request(body)
        assert request.batch.num_tokens > 0
        assert np.isfinite(request.batch.weights).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
BODIES = [
    requests.CreateModel,
    requests.CreateSession,
    requests.CreateSamplingSession,
    requests.LoadWeights,
    requests.OptimStep,
    requests.RetrieveFuture,
    requests.Sample,
    requests.SaveWeights,
    requests.SaveWeightsForSampler,
]


@given(st.sampled_from(BODIES), st.data())
def test_no_json_does_more_than_be_refused(kind, data):
    names = [field.name for field in fields(kind)]
    value = data.draw(json_values | st.dictionaries(st.sampled_from(names), json_values, max_size=len(names)))
    body = data.draw(st.sampled_from([json.dumps(value).encode(), json.dumps(value).encode()[:-1]]))
    with contextlib.suppress(TinsmithError):
        request = requests.parse(kind, body)
        assert isinstance(request, kind)
        if isinstance(request, requests.Sample):
            sampling.decode_request(request, seed=1, stop_ids=(2,), context=100, vocab_size=500)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"model_id": 5, "seq_id": 1}', "model_id: a string, not 5"),
        ('{"seq_id": 1}', "model_id is missing"),
        ('{"model_id": "m", "seq_id": 1.5}', "seq_id: a whole number, not 1.5"),
        ('{"model_id": "m", "seq_id": true}', "seq_id: a whole number, not true"),
        ('{"model_id": "m", "seq_id": 1, "adam_params": {"beta1": "x"}}', 'adam_params.beta1: a number, not "x"'),
        ("[1]", "the body: an object"),
        ("{", "the body is no JSON"),
        ('{"a":' * 100_000, "the body is no JSON"),
    ],
)
def test_a_refusal_names_the_field(body, message):
    with pytest.raises(TinsmithError, match=message.replace("(", r"\(")):
        requests.parse(requests.OptimStep, body.encode())


def test_fields_of_a_newer_client_are_let_be():
    body = b'{"model_id": "m", "seq_id": 1, "adam_params": {"learning_rate": 0.5, "new": [1]}, "newer": {"x": 1}}'
    request = requests.parse(requests.OptimStep, body)
    assert request.adam_params == requests.AdamParams(learning_rate=0.5)
