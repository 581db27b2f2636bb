"""For each law of the protocol a fault that it must find: a sentence, and how to make the server do so."""

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


class _Counting(Fault):
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


def _scale(message: Any, factor: float) -> None:
    for datum in message.data:
        if "weights" in datum.loss_fn_inputs:
            tensor = datum.loss_fn_inputs["weights"]
            f.put(tensor, f.values(tensor) * factor)


def _only_first(message: Any, before: int) -> None:
    message.forward_only = before > 0


def _first_twice(message: Any, before: int) -> None:
    if before == 0:
        _scale(message, 2.0)


def _tokens(datum: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(datum.model_input[0].encoded_text.tokens, "<i4").copy()


def _see_neighbour(message: Any) -> None:
    for last, datum in zip(message.data, list(message.data)[1:], strict=False):
        tokens = _tokens(datum)
        tokens[0] = _tokens(last)[-1] + 1
        datum.model_input[0].encoded_text.tokens = tokens.tobytes()


def _see_future(message: Any) -> None:
    for datum in message.data:
        tokens = _tokens(datum)
        tokens[0] = tokens[-1]
        datum.model_input[0].encoded_text.tokens = tokens.tobytes()


def _reverse(message: Any) -> None:
    turned = list(message.data)[::-1]
    del message.data[:]
    message.data.extend(turned)


def _output(edit: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        for record in message.loss_fn_outputs:
            field = record.fields["logprobs"]
            field.data = np.asarray(edit(np.frombuffer(field.data, "<f4")), "<f4").tobytes()

    return change


def _loss(name: str, instead: str, *, keep: bool = True) -> Make:
    def change(message: Any) -> None:
        if message.loss_fn == name:
            message.loss_fn = instead
            if not keep:
                message.loss_fn_config.clear()
                message.loss_fn_config_v2.clear()

    return lambda _: f.Training(change)


def _no_config(message: Any) -> None:
    message.loss_fn_config.clear()
    message.loss_fn_config_v2.clear()


def _unclip(message: Any) -> None:
    if message.loss_fn not in ("cross_entropy", "importance_sampling", "ppo"):
        message.loss_fn = "cross_entropy"


def _fill(message: Any) -> None:
    for datum in message.data:
        for name in ("logprobs", "advantages"):
            if name not in datum.loss_fn_inputs and message.loss_fn != "cross_entropy":
                datum.loss_fn_inputs[name].dtype = 1
                f.put(datum.loss_fn_inputs[name], np.zeros(len(_tokens(datum))))


def _clean(message: Any) -> None:
    for datum in message.data:
        for tensor in datum.loss_fn_inputs.values():
            if tensor.dtype == 1:
                f.put(tensor, np.nan_to_num(f.values(tensor), posinf=0.0, neginf=0.0))


def _clamp(message: Any) -> None:
    for datum in message.data:
        datum.model_input[0].encoded_text.tokens = np.clip(_tokens(datum), 0, 511).tobytes()
        f.put(datum.loss_fn_inputs["target_tokens"], np.clip(f.values(datum.loss_fn_inputs["target_tokens"]), 0, 511))


def _sequences(edit: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        if not isinstance(message, dict):
            for sequence in message.sequences:
                edit(sequence)

    return change


def _temper(sequence: Any) -> None:
    sequence.logprobs = (np.frombuffer(sequence.logprobs, "<f4") * np.float32(0.9)).tobytes()


def _prompt(edit: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        if not isinstance(message, dict) and message.prompt_logprobs:
            scores = np.frombuffer(message.prompt_logprobs, "<f4").copy()
            message.prompt_logprobs = np.asarray(edit(scores), "<f4").tobytes()

    return change


def _first_is_zero(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores[0] = 0.0
    return scores


def _same_again(message: Any) -> None:
    for sequence in message.sequences[1:]:
        sequence.CopyFrom(message.sequences[0])


def _table(message: Any) -> None:
    message.logprobs = (np.frombuffer(message.logprobs, "<f4") + np.float32(0.1)).tobytes()


def _prompt_table(message: Any) -> None:
    if not isinstance(message, dict):
        _table(message.topk_prompt_logprobs)


def _ids_are_nothing(stop: Any) -> Any:
    return [] if isinstance(stop, list) and stop and isinstance(stop[0], int) else stop


class _BaseIsTrained(Fault):
    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "create_sampling_session" and self._switch.last_sampler:
            reply.put({"sampling_session_id": self._switch.last_sampler})


class _LatestResult(Fault):
    """Who asks for a result gets the latest."""

    def __init__(self) -> None:
        self._last = ""

    def before(self, call: Call) -> None:
        if call.path == "retrieve_future" and call.kind == "Sample" and self._last:
            call.body = json.dumps({**call.json, "request_id": self._last}).encode()

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "asample" and reply.status == 200:
            self._last = reply.json["request_id"]


class _NewModelInstead(Fault):
    def before(self, call: Call) -> None:
        body = call.json
        if call.path == "load_weights" and body.get("session_id"):
            call.path = "create_model"
            kept = {name: body[name] for name in ("session_id", "model_seq_id")}
            call.body = json.dumps({**kept, "base_model": "tiny", "lora_config": {"rank": 8}}).encode()


class _SavedLate(Fault):
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


class _DeleteNothing(Fault):
    def before(self, call: Call) -> Reply | None:
        return Reply(204, [], b"") if call.method == "DELETE" else None


class _Renumber(Fault):
    """seq_id of requests of a model becomes what `number` says of (model, seq_id)."""

    def __init__(self, number: Callable[[str, int], int]) -> None:
        self._number = number

    def before(self, call: Call) -> None:
        if call.path == "forward_backward":
            f.Training(lambda m: setattr(m, "seq_id", self._number(m.model_id, m.seq_id))).before(call)
        elif "model_id" in call.json and "seq_id" in call.json:
            body = call.json
            call.body = json.dumps({**body, "seq_id": self._number(body["model_id"], body["seq_id"])}).encode()


def _retries_count() -> Fault:
    seen, extra = set[tuple[str, int]](), Counter[str]()

    def number(model: str, seq: int) -> int:
        extra[model] += (model, seq) in seen
        seen.add((model, seq))
        return seq + extra[model]

    return _Renumber(number)


def _by_arrival() -> Fault:
    following: dict[str, int] = {}

    def number(model: str, seq: int) -> int:
        following[model] = following.get(model, seq - 1) + 1
        return following[model]

    return _Renumber(number)


def _ever_new(path: str, key: str) -> Fault:
    count = 10_000

    def change(body: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        body[key] = count

    return f.Json(path, change)


class _OnceOnly(Fault):
    def __init__(self) -> None:
        self._had = set[str]()

    def after(self, call: Call, reply: Reply) -> None:
        if call.path == "retrieve_future":
            request = call.json["request_id"]
            if request in self._had:
                reply.put({"detail": "gone"}, 404)
            elif b"try_again" not in reply.body:
                self._had.add(request)


class _NeverHeld(Fault):
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


class _LatestModel(Fault):
    """forward_backward goes to the model that was created last."""

    def __init__(self) -> None:
        self._last = ""

    def before(self, call: Call) -> None:
        if self._last:
            f.Training(lambda m: setattr(m, "model_id", self._last)).before(call)

    def after(self, call: Call, reply: Reply) -> None:
        if call.kind == "CreateModel" and b"model_id" in reply.body:
            self._last = reply.json["model_id"]


class _Inside(Fault):
    def __init__(self, what: str) -> None:
        self.engine = what


def _crash(body: bytes) -> Callable[[Call, Reply], bool]:
    return lambda call, reply: body in call.body


def _shorter(body: dict[str, Any]) -> None:
    for chunk in body["prompt"]["chunks"]:
        chunk["tokens"] = chunk["tokens"][:1000]


def _positive(value: Any) -> Any:
    return abs(value) if isinstance(value, float) else value


def _at_least_one(value: Any) -> Any:
    return max(value, 1) if isinstance(value, int) else value


def with_optimizer(always: bool) -> Fault:
    return f.Json("load_weights", lambda body: body.update(optimizer=always))


def adam(**changes: Any) -> Fault:
    return f.within("optim_step", "adam_params", **changes)


def params(**changes: Any) -> Fault:
    return f.within("asample", "sampling_params", **changes)


def _no_bias_correction(body: dict[str, Any]) -> None:
    settings = body["adam_params"]
    settings["learning_rate"] *= (1 - settings["beta1"]) / math.sqrt(1 - settings["beta2"])


FAULTS: dict[str, tuple[str, Make]] = {
    # training
    "gradient_accumulation": ("the first request before a step counts alone", lambda _: _Counting(_only_first)),
    "sum_over_datums": (
        "losses are means over datums",
        lambda _: f.Training(lambda m: _scale(m, 1 / max(len(m.data), 1))),
    ),
    "sum_over_tokens": (
        "losses are divided by the sum of weights",
        lambda _: f.column("weights", lambda w: w / max(np.abs(w).sum(), 1e-9)),
    ),
    "signed_weights": ("negative weights count as positive", lambda _: f.column("weights", np.abs)),
    "zero_weights": ("weight 0 is taken for none given", lambda _: f.column("weights", lambda w: np.where(w, w, 1.0))),
    "order_of_datums": ("results come in another order", lambda _: f.Training(_reverse)),
    "order_of_chunks": ("the first request after a step counts twice", lambda _: _Counting(_first_twice)),
    "datums_alone": ("a datum sees the one before it", lambda _: f.Training(_see_neighbour)),
    "causality": ("attention sees the future", lambda _: f.Training(_see_future)),
    "logprobs_are_logprobs": ("probabilities instead of logprobs", lambda _: f.Result(TRAINED, _output(np.exp))),
    "forward_equals_backward": (
        "forward has its own arithmetic",
        lambda _: f.Result("Forward", _output(lambda lp: lp + 0.01)),
    ),
    "forward_leaves_no_gradient": (
        "forward keeps a gradient",
        lambda _: f.Training(lambda m: setattr(m, "forward_only", False)),
    ),
    "custom_loss": ("weights are clipped to 0.5", lambda _: f.column("weights", lambda w: np.clip(w, -0.5, 0.5))),
    "several_targets": (
        "of several targets the first counts alone",
        lambda _: f.column("weights", lambda w: w if w.ndim == 1 else w * (np.arange(w.shape[1]) == 0)),
    ),
    "training_learns": ("the gradient goes up", lambda _: f.Training(lambda m: _scale(m, -1.0))),
    "metrics_of_training": ("no loss:sum", lambda _: f.Result(TRAINED, lambda m: m.metrics.clear())),
    # losses
    "loss_cross_entropy": ("label smoothing nobody asked for", lambda _: f.column("weights", lambda w: w * 0.9)),
    "loss_importance_sampling": ("importance_sampling is clipped", _loss("importance_sampling", "ppo")),
    "loss_ppo": ("ppo is not clipped", _loss("ppo", "importance_sampling")),
    "loss_cispo": ("cispo is ppo", _loss("cispo", "ppo")),
    "loss_dro": ("dro has no square", _loss("dro", "importance_sampling", keep=False)),
    "loss_gspo": ("gspo has the ratios of ppo", _loss("gspo", "ppo")),
    "loss_options": ("loss_fn_config is ignored", lambda _: f.Training(_no_config)),
    # optimizer
    "zero_learning_rate": ("a learning rate has a floor", lambda _: adam(learning_rate=lambda lr: max(lr, 1e-3))),
    "step_clears_gradient": ("the gradient stays after a step", lambda _: _Inside("gradient stays")),
    "scale_of_gradient": ("plain gradient descent", lambda _: adam(eps=0.1)),
    "epsilon": ("eps is fixed", lambda _: adam(eps=0.01)),
    "learning_rate": ("the learning rate is fixed", lambda _: adam(learning_rate=50.0)),
    "bias_correction": ("moments are not corrected", lambda _: f.Json("optim_step", _no_bias_correction)),
    "moments": ("nothing of past gradients is kept", lambda _: adam(beta1=0.0, beta2=0.0)),
    "weight_decay": ("weight_decay is ignored", lambda _: adam(weight_decay=0.0)),
    "gradient_clipping": ("grad_clip_norm is ignored", lambda _: adam(grad_clip_norm=0.0)),
    "result_of_step": (
        "a metric is text",
        lambda _: f.Result("OptimStep", lambda value: value.update(metrics={"loss": "low"})),
    ),
    # sampling
    "sampling_equals_scoring": ("logprobs are of another temperature", lambda _: f.Result(SAMPLE, _sequences(_temper))),
    "sampler_equals_trainer": (
        "the sampler rounds otherwise",
        lambda _: f.Result(SAMPLE, _prompt(lambda scores: scores * np.float32(1.01))),
    ),
    "prompt_logprobs": ("the first token has a logprob", lambda _: f.Result(SAMPLE, _prompt(_first_is_zero))),
    "temperature": ("temperature is ignored", lambda _: params(temperature=lambda t: 1.0 if t else t)),
    "greedy": ("temperature 0 is 0.7", lambda _: params(temperature=lambda t: t or 0.7)),
    "top_k": ("top_k is ignored", lambda _: params(top_k=-1)),
    "top_p": ("top_p is ignored", lambda _: params(top_p=1.0)),
    "stop_ids": ("stop ids are ignored", lambda _: params(stop=_ids_are_nothing)),
    "stop_strings": ("a bare stop string is ignored", lambda _: params(stop=lambda s: [] if isinstance(s, str) else s)),
    "stop_default": ("an empty list of stops is as none", lambda _: params(stop=lambda s: s or None)),
    "max_tokens": (
        "the reason is always stop",
        lambda _: f.Result(SAMPLE, _sequences(lambda s: setattr(s, "stop_reason", 0))),
    ),
    "seeded": ("seeds are ignored", lambda _: params(seed=lambda seed: None)),
    "num_samples": ("one completion, copied", lambda _: f.Result(SAMPLE, _same_again)),
    "top_prompt_logprobs": ("the table is of another model", lambda _: f.Result(SAMPLE, _prompt_table)),
    "top_sample_logprobs": (
        "the table is of another model",
        lambda _: f.Result(SAMPLE, _sequences(lambda s: _table(s.topk_sampled_logprobs))),
    ),
    "frozen_sampler": ("a sampler follows its model", lambda _: _Inside("live sampler")),
    "base_sampler": ("the base model is the last trained", _BaseIsTrained),
    "many_samples_at_once": ("who asks gets the latest result", lambda _: _LatestResult()),
    # storage
    "load_with_optimizer": (
        "moments are not loaded",
        lambda _: with_optimizer(False),
    ),
    "load_without_optimizer": (
        "moments are always loaded",
        lambda _: with_optimizer(True),
    ),
    "create_from_state": ("a model from a state is a new model", lambda _: _NewModelInstead()),
    "checkpoint_is_frozen": ("a save waits for the step behind it", lambda _: _SavedLate()),
    "checkpoints_are_listed": (
        "the list stops after one",
        lambda _: f.Answered("/checkpoints", lambda r: r.put({"checkpoints": r.json["checkpoints"][:1]})),
    ),
    "deleted_is_gone": ("nothing is deleted", lambda _: _DeleteNothing()),
    "ttl": ("ttl_seconds is ignored", lambda _: f.Json("save_weights", lambda b: b.pop("ttl_seconds", None))),
    "overwrite": ("saves always overwrite", lambda _: f.Json("save_weights", lambda b: b.update(overwrite=True))),
    "sampler_from_path": (
        "saved weights are not looked at",
        lambda _: f.Json("create_sampling_session", lambda b: (b.pop("model_path", None), b.update(base_model="tiny"))),
    ),
    "weights_info": ("the rank is the usual one", lambda _: f.Answered("weights_info", f.replaced(lora_rank=32))),
    "training_runs": ("the list is empty", lambda _: f.Answered("training_runs", f.replaced(training_runs=[]))),
    "lora_seed": ("the seed is ignored", lambda _: f.within("create_model", "lora_config", seed=lambda seed: None)),
    # protocol
    "retried_training": ("a retry is a request of its own", lambda _: _retries_count()),
    "order_of_arrival": ("requests are carried out as they arrive", lambda _: _by_arrival()),
    "retried_sampling": ("a retry is a request of its own", lambda _: _ever_new("asample", "seq_id")),
    "results_stay": ("a result is given once", lambda _: _OnceOnly()),
    "results_whole": (
        "metadata only, ever",
        lambda _: f.Answered("retrieve_future", lambda r: r.put({"status": "complete_metadata"})),
    ),
    "polls_are_held": ("questions are not held", lambda _: _NeverHeld()),
    "content_types": (
        "results have no type",
        lambda _: f.Answered("retrieve_future", lambda r: setattr(r, "headers", [(b"content-type", b"text/plain")])),
    ),
    "sample_sequence_ids": (
        "completions have no names",
        lambda _: f.Answered("asample", f.replaced(sample_sequence_ids=None)),
    ),
    "unknown_json_fields": (
        "an unknown field is a crash",
        lambda _: f.Answered("", f.status(500), _crash(b"later_version")),
    ),
    "unknown_protobuf_fields": (
        "an unknown field is a crash",
        lambda _: f.Answered("forward_backward", f.status(500), _crash(b"\xa2\x1f\x03new")),
    ),
    "models_at_once": ("requests go to the latest model", lambda _: _LatestModel()),
    "retried_create_model": ("a retry makes another model", lambda _: _ever_new("create_model", "model_seq_id")),
    "model_info": ("get_info lacks model_data", lambda _: f.Answered("get_info", f.replaced(model_data=None))),
    "client_config": (
        "keys are exchanged for tokens",
        lambda _: f.Answered("client/config", f.replaced(pjwt_auth_enabled=True)),
    ),
    "capabilities": ("no model is named", lambda _: f.Answered("capabilities", f.replaced(supported_models=[]))),
    "heartbeat": ("any session has a heart", lambda _: f.Answered("session_heartbeat", f.status(200))),
    "finish": ("sessions cannot be finished", lambda _: f.Answered("finish", f.status(404))),
    "telemetry": ("telemetry is a crash", lambda _: f.Answered("telemetry", f.status(500))),
    # errors
    "unknown_base_model": ("an unknown model is a crash", lambda _: f.failing("create_model")),
    "unknown_ids": ("an unknown model is a crash", lambda _: f.failing("get_info")),
    "unknown_route": ("an unknown route is a crash", lambda _: f.failing("later_version")),
    "unknown_loss": ("an unknown loss is cross_entropy", lambda _: f.Training(_unclip)),
    "wrong_shapes": ("wrong shapes are the server's fault", lambda _: f.blamed(TRAINED)),
    "missing_inputs": ("what is missing is 0", lambda _: f.Training(_fill)),
    "not_finite": ("NaN is 0", lambda _: f.Training(_clean)),
    "outside_the_vocabulary": ("tokens are clamped", lambda _: f.Training(_clamp)),
    "too_long": ("prompts are cut", lambda _: f.Json("asample", _shorter)),
    "bad_checkpoint_path": ("a missing checkpoint is the server's fault", lambda _: f.blamed("LoadWeights")),
    "bad_sampling_params": (
        "temperatures are made positive",
        lambda _: params(temperature=_positive),
    ),
    "bad_optimizer_settings": (
        "rates are made positive",
        lambda _: adam(learning_rate=_positive),
    ),
    "bad_lora": (
        "a rank has a floor",
        lambda _: f.within("create_model", "lora_config", rank=_at_least_one),
    ),
    "no_body": ("what is no JSON is a crash", lambda _: f.failing("asample")),
    "all_or_nothing": ("a refused batch leaves part of its gradient", lambda _: _Inside("part of a refused batch")),
}
