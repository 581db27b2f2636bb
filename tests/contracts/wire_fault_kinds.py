"""The faults that need more than a line: how a server goes wrong in each."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import faulty_wire as f
import numpy as np
from faulty_wire import Call, Fault, Reply, Switch

Make = Callable[[Switch], Fault]
SAMPLE, TRAINED = "Sample", "Forward ForwardBackward"


class Counting(Fault):
    """Counts the requests of each model since its last step."""

    def __init__(self, edit: Callable[[Any, int], Any]) -> None:
        self._edit, self._since = edit, Counter[str]()

    def before(self, call: Call) -> None:
        if call.path in ("optim_step", "load_weights"):
            self._since.pop(call.json.get("model_id", ""), None)

        def change(message: Any) -> None:
            if not message.forward_only:
                self._edit(message, self._since[message.model_id])
                self._since[message.model_id] += 1

        f.Training(change).before(call)


def scale(message: Any, factor: float) -> None:
    for datum in message.data:
        if "weights" in datum.loss_fn_inputs:
            tensor = datum.loss_fn_inputs["weights"]
            f.put(tensor, f.values(tensor) * factor)


def only_first(message: Any, before: int) -> None:
    message.forward_only = before > 0


def first_twice(message: Any, before: int) -> None:
    if before == 0:
        scale(message, 2.0)


def first_chunk(message: Any) -> None:
    for datum in message.data:
        short = len(datum.model_input[0].encoded_text.tokens) // 4
        if len(datum.model_input) > 1:
            whole = sum(len(chunk.encoded_text.tokens) for chunk in datum.model_input) // 4
            del datum.model_input[1:]
            chunk = datum.model_input[0].encoded_text
            chunk.tokens += chunk.tokens[-4:] * (whole - short)


def sparse_columns(message: Any) -> None:
    for datum in message.data:
        for tensor in datum.loss_fn_inputs.values():
            if tensor.WhichOneof("kind") == "sparse_csr":
                tensor.sparse_csr.values = bytes(len(tensor.sparse_csr.values))


def ids_of(datum: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(datum.model_input[0].encoded_text.tokens, "<i4").copy()


def see_neighbour(message: Any) -> None:
    for last, datum in zip(message.data, list(message.data)[1:], strict=False):
        tokens = ids_of(datum)
        tokens[0] = ids_of(last)[-1] + 1
        datum.model_input[0].encoded_text.tokens = tokens.tobytes()


def see_future(message: Any) -> None:
    for datum in message.data:
        tokens = ids_of(datum)
        tokens[0] = tokens[-1]
        datum.model_input[0].encoded_text.tokens = tokens.tobytes()


def reverse(message: Any) -> None:
    turned = list(message.data)[::-1]
    del message.data[:]
    message.data.extend(turned)


def output(edit: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        for record in message.loss_fn_outputs:
            field = record.fields["logprobs"]
            field.data = np.asarray(edit(np.frombuffer(field.data, "<f4")), "<f4").tobytes()

    return change


def loss(name: str, instead: str, *, keep: bool = True) -> Make:
    def change(message: Any) -> None:
        if message.loss_fn == name:
            message.loss_fn = instead
            if not keep:
                message.loss_fn_config.clear()
                message.loss_fn_config_v2.clear()

    return lambda _: f.Training(change)


def no_config(message: Any) -> None:
    message.loss_fn_config.clear()
    message.loss_fn_config_v2.clear()


def unclip(message: Any) -> None:
    if message.loss_fn not in ("cross_entropy", "importance_sampling", "ppo"):
        message.loss_fn = "cross_entropy"


def fill(message: Any) -> None:
    for datum in message.data:
        for name in ("logprobs", "advantages"):
            if name not in datum.loss_fn_inputs and message.loss_fn != "cross_entropy":
                datum.loss_fn_inputs[name].dtype = 1
                f.put(datum.loss_fn_inputs[name], np.zeros(len(ids_of(datum))))


def clean(message: Any) -> None:
    for datum in message.data:
        for tensor in datum.loss_fn_inputs.values():
            if tensor.dtype == 1:
                f.put(tensor, np.nan_to_num(f.values(tensor), posinf=0.0, neginf=0.0))


def clamp(message: Any) -> None:
    for datum in message.data:
        datum.model_input[0].encoded_text.tokens = np.clip(ids_of(datum), 0, 511).tobytes()
        f.put(datum.loss_fn_inputs["target_tokens"], np.clip(f.values(datum.loss_fn_inputs["target_tokens"]), 0, 511))


def sequences(edit: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        if not isinstance(message, dict):
            for sequence in message.sequences:
                edit(sequence)

    return change


def temper(sequence: Any) -> None:
    sequence.logprobs = (np.frombuffer(sequence.logprobs, "<f4") * np.float32(0.9)).tobytes()


def prompt(edit: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        if not isinstance(message, dict) and message.prompt_logprobs:
            scores = np.frombuffer(message.prompt_logprobs, "<f4").copy()
            message.prompt_logprobs = np.asarray(edit(scores), "<f4").tobytes()

    return change


def first_is_zero(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores[0] = 0.0
    return scores


def same_again(message: Any) -> None:
    for sequence in message.sequences[1:]:
        sequence.CopyFrom(message.sequences[0])


def table(message: Any) -> None:
    message.logprobs = (np.frombuffer(message.logprobs, "<f4") + np.float32(0.1)).tobytes()


def prompt_table(message: Any) -> None:
    if not isinstance(message, dict):
        table(message.topk_prompt_logprobs)


def ids_are_nothing(stop: Any) -> Any:
    return [] if isinstance(stop, list) and stop and isinstance(stop[0], int) else stop


class BaseIsTrained(Fault):
    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "create_sampling_session" and self._switch.last_sampler:
            reply.put({"sampling_session_id": self._switch.last_sampler})


class LatestResult(Fault):
    """Who asks for a result gets the latest."""

    def __init__(self) -> None:
        self._last = ""

    def before(self, call: Call) -> None:
        if call.path == "retrieve_future" and call.kind == "Sample" and self._last:
            call.body = json.dumps({**call.json, "request_id": self._last}).encode()

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "asample" and reply.status == 200:
            self._last = reply.json["request_id"]


class NewModelInstead(Fault):
    def before(self, call: Call) -> None:
        body = call.json
        if call.path == "load_weights" and body.get("session_id"):
            call.path = "create_model"
            kept = {name: body[name] for name in ("session_id", "model_seq_id")}
            call.body = json.dumps({**kept, "base_model": "tiny", "lora_config": {"rank": 8}}).encode()


class SavedLate(Fault):
    """A save and the step behind it change places."""

    def __init__(self) -> None:
        self._saved = False

    def before(self, call: Call) -> None:
        shift = 0
        if call.path == "save_weights" and not self._saved:
            self._saved, shift = True, 1
        elif call.path == "optim_step" and self._saved:
            self._saved, shift = False, -1
        if shift:
            call.body = json.dumps({**call.json, "seq_id": call.json["seq_id"] + shift}).encode()


class NoTtl(Fault):
    def before(self, call: Call) -> Reply | None:
        return Reply(200, [(b"content-type", b"application/json")], b"{}") if call.path.endswith("/ttl") else None


class DeleteNothing(Fault):
    def before(self, call: Call) -> Reply | None:
        return Reply(204, [], b"") if call.method == "DELETE" else None


class Renumber(Fault):
    """seq_id of requests of a model becomes what `number` says of (model, seq_id)."""

    def __init__(self, number: Callable[[str, int], int]) -> None:
        self._number = number

    def before(self, call: Call) -> None:
        if call.path == "forward_backward":
            f.Training(lambda m: setattr(m, "seq_id", self._number(m.model_id, m.seq_id))).before(call)
        elif "model_id" in call.json and "seq_id" in call.json:
            body = call.json
            call.body = json.dumps({**body, "seq_id": self._number(body["model_id"], body["seq_id"])}).encode()


def retries_count() -> Fault:
    seen, extra = set[tuple[str, int]](), Counter[str]()

    def number(model: str, seq: int) -> int:
        extra[model] += (model, seq) in seen
        seen.add((model, seq))
        return seq + extra[model]

    return Renumber(number)


def by_arrival() -> Fault:
    following: dict[str, int] = {}

    def number(model: str, seq: int) -> int:
        following[model] = following.get(model, seq - 1) + 1
        return following[model]

    return Renumber(number)


def ever_new(path: str, key: str) -> Fault:
    count = 10_000

    def change(body: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        body[key] = count

    return f.Json(path, change)


class OnceOnly(Fault):
    def __init__(self) -> None:
        self._had = set[str]()

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "retrieve_future":
            request = call.json["request_id"]
            if request in self._had:
                reply.put({"detail": "gone"}, 404)
            elif b"try_again" not in reply.body:
                self._had.add(request)


class NeverHeld(Fault):
    """Answers a question at once unless it has been asked for a while."""

    def __init__(self) -> None:
        self._asked = Counter[str]()

    def before(self, call: Call) -> Reply | None:
        if call.path != "retrieve_future":
            return None
        request = call.json["request_id"]
        self._asked[request] += 1
        if self._asked[request] > 2:
            return None
        return Reply(200, [(b"content-type", b"application/json")], b'{"type": "try_again"}')


class LatestModel(Fault):
    """forward_backward goes to the model that was created last."""

    def __init__(self) -> None:
        self._last = ""

    def before(self, call: Call) -> None:
        if self._last:
            f.Training(lambda m: setattr(m, "model_id", self._last)).before(call)

    def after(self, call: Call, reply: Reply) -> None:
        if call.kind == "CreateModel" and b"model_id" in reply.body:
            self._last = reply.json["model_id"]


class Inside(Fault):
    def __init__(self, what: str) -> None:
        self.engine = what


def clip_each(body: dict[str, Any]) -> None:
    """With every entry at the bound, a step along the gradient is one of its signs."""
    settings = body["adam_params"]
    if norm := settings["grad_clip_norm"]:
        settings.update(learning_rate=settings["learning_rate"] * norm / settings["eps"], eps=1e-12, grad_clip_norm=0.0)


def mean_of_targets(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return weights if weights.ndim == 1 else weights / weights.shape[1]


def add_metric(message: Any) -> None:
    message.metrics["grad_norm"] = 1.0


def late(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.roll(scores, 1)


def one_less(body: dict[str, Any]) -> None:
    body["num_samples"] = max(body["num_samples"] - 1, 1)


def cut_last(sequence: Any) -> None:
    if sequence.stop_reason == 0:
        sequence.tokens, sequence.logprobs = sequence.tokens[:-4], sequence.logprobs[:-4]


def unknown(call: Call, reply: Reply) -> bool:
    return reply.status == 404


def wait_on(reply: Reply) -> None:
    reply.put({"type": "try_again"}, 200)


def is_trained(call: Call, reply: Reply) -> bool:
    return call.kind.startswith("F") and reply.content_type == f.PROTOBUF


def as_json(reply: Reply) -> None:
    reply.put({"loss_fn_outputs": [], "metrics": {}})


def crash(body: bytes) -> Callable[[Call, Reply], bool]:
    return lambda call, reply: body in call.body


def shorter(body: dict[str, Any]) -> None:
    for chunk in body["prompt"]["chunks"]:
        chunk["tokens"] = chunk["tokens"][:1000]


def positive(value: Any) -> Any:
    return abs(value) if isinstance(value, float) else value


def at_least_one(value: Any) -> Any:
    return max(value, 1) if isinstance(value, int) else value


def with_optimizer(always: bool) -> Fault:
    return f.Json("load_weights", lambda body: body.update(optimizer=always))


def adam(**changes: Any) -> Fault:
    return f.within("optim_step", "adam_params", **changes)


def params(**changes: Any) -> Fault:
    return f.within("asample", "sampling_params", **changes)


def no_bias_correction(body: dict[str, Any]) -> None:
    settings = body["adam_params"]
    settings["learning_rate"] *= (1 - settings["beta1"]) / math.sqrt(1 - settings["beta2"])
