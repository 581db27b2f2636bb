"""What a client holds: a model in training, a sampler, and what comes of their requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.ports.trainer import LossSpec
from tinsmith.testing.conformance.client import Refused, Wire
from tinsmith.testing.conformance.law import Broken, Unsupported, expect
from tinsmith.testing.conformance.rows import Row, batch
from tinsmith.wire import sampling, training
from tinsmith.wire.messages import types

if TYPE_CHECKING:
    from tinsmith.testing.conformance.world import World

Vector = npt.NDArray[Any]


@frozen
class Train:
    """One forward_backward, or forward."""

    rows: Sequence[Row]
    loss: str = "cross_entropy"
    options: Mapping[str, float] = field(factory=dict)
    forward: bool = False
    logprobs: Sequence[Sequence[float]] | None = None
    without: tuple[str, ...] = ()


@frozen
class Step:
    """One optim_step."""

    learning_rate: float
    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def json(self) -> dict[str, float]:
        names = ("learning_rate", "eps", "beta1", "beta2", "weight_decay", "grad_clip_norm")
        return {name: getattr(self, name) for name in names}


@frozen(eq=False)
class Trained:
    """The result of a Train."""

    rows: list[npt.NDArray[np.float32]]
    """Logprobs of each datum, [T] or [T, K]."""
    metrics: Mapping[str, float]

    @property
    def flat(self) -> Vector:
        return np.concatenate([row.ravel() for row in self.rows]).astype(np.float64)

    @property
    def loss(self) -> float:
        if "loss:sum" not in self.metrics:
            raise Broken(f"there is no loss:sum among the metrics {sorted(self.metrics)}")
        return self.metrics["loss:sum"]


class Model:
    """A model in training. Requests get numbers in the order in which they are made."""

    def __init__(self, world: World, model_id: str) -> None:
        self.world = world
        self.id = model_id
        self.seq = 0

    def submit(self, path: str, body: Mapping[str, Any]) -> str:
        answer = self.world.wire.call(path, {"model_id": self.id, "seq_id": self.seq + 1, **body})
        self.seq += 1  # a request that was refused at the door has no number
        return request_id(answer)

    def submit_train(self, work: Train, edit: Callable[[Any], object] | None = None) -> str:
        """`edit` changes the protobuf message on its way."""
        body = self.encode(work, self.seq + 1)
        if edit is not None:
            message = types().ForwardBackwardRequest.FromString(body)
            edit(message)
            body = message.SerializeToString()
        answer = self.world.wire.call("forward_backward", body)
        self.seq += 1
        return request_id(answer)

    def encode(self, work: Train, seq: int) -> bytes:
        loss = LossSpec(work.loss, dict(work.options))
        data = batch(work.rows, work.logprobs)
        return training.encode_request(self.id, seq, data, loss, forward_only=work.forward, without=work.without)

    def submit_step(self, step: Step) -> str:
        return self.submit("optim_step", {"adam_params": step.json(), "type": "optim_step"})

    def trained(self, request: str, *, forward: bool = False) -> Trained:
        answer = self.world.wire.result(request, "Forward" if forward else "ForwardBackward")
        return decode_trained(answer.protobuf)

    def stepped(self, request: str) -> dict[str, Any]:
        return self.world.wire.result(request, "OptimStep").json

    def train(self, work: Train) -> Trained:
        return self.trained(self.submit_train(work), forward=work.forward)

    def step(self, step: Step) -> dict[str, Any]:
        return self.stepped(self.submit_step(step))

    def logprobs(self, rows: Sequence[Row]) -> Vector:
        """Of the targets of these rows."""
        return self.train(Train(rows, forward=True)).flat

    def save(self, name: str, **more: Any) -> str:
        """Weights and optimizer; gives the path."""
        request = self.submit("save_weights", {"path": name, "overwrite": False, "type": "save_weights", **more})
        return self.world.keep(path_of(self.world.wire.result(request, "SaveWeights").json))

    def save_for_sampler(self, name: str, **more: Any) -> str:
        body = {"path": name, "kind": "snapshot", "type": "save_weights_for_sampler", **more}
        request = self.submit("save_weights_for_sampler", body)
        return self.world.keep(path_of(self.world.wire.result(request, "SaveWeightsForSampler").json))

    def load(self, path: str, *, optimizer: bool) -> None:
        request = self.submit("load_weights", {"path": path, "optimizer": optimizer, "type": "load_weights"})
        self.world.wire.result(request, "LoadWeights")

    def sampler(self) -> Sampler:
        """A sampler of the weights as they are."""
        return self.saved_sampler(self.submit_sampler())

    def submit_sampler(self) -> str:
        body = {
            "sampling_session_seq_id": self.world.next_sampler(),
            "kind": "snapshot",
            "type": "save_weights_for_sampler",
        }
        return self.submit("save_weights_for_sampler", body)

    def saved_sampler(self, request: str) -> Sampler:
        answer = self.world.wire.result(request, "SaveWeightsForSampler").json
        return Sampler(self.world.wire, string_of(answer, "sampling_session_id"))


@frozen(eq=False)
class Sampled:
    sequences: list[sampling.SampledSequence]
    prompt_logprobs: npt.NDArray[np.float32] | None
    top: tuple[Any, Any] | None
    """(ids, logprobs) [len(prompt), k]."""

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [tuple(int(t) for t in s.tokens) for s in self.sequences]


class Sampler:
    def __init__(self, wire: Wire, session: str) -> None:
        self.wire = wire
        self.id = session
        self.seq = -1

    def body(self, prompt: Sequence[int], *, n: int = 1, extra: Mapping[str, Any] | None = None, **params: Any) -> Any:
        """`params`: of the sampling; `extra`: beside them."""
        defaults = {"max_tokens": 8, "temperature": 1.0, "top_k": -1, "top_p": 1.0, "stop": []}
        return {
            "num_samples": n,
            "prompt": {"chunks": [{"tokens": [int(t) for t in prompt], "type": "encoded_text"}]},
            "sampling_params": {k: v for k, v in {**defaults, **params}.items() if k != "stop" or v is not None},
            "sampling_session_id": self.id,
            "type": "sample",
            **(extra or {}),
        }

    def submit(self, prompt: Sequence[int], *, seq: int | None = None, **how: Any) -> Any:
        self.seq += 1
        body = {**self.body(prompt, **how), "seq_id": self.seq if seq is None else seq}
        return self.wire.call("asample", body, headers={"X-Tinker-Sampling-Backpressure": "1"})

    def result(self, request: str) -> Sampled:
        return decode_sampled(self.wire.result(request, "Sample").protobuf)

    def sample(self, prompt: Sequence[int], **how: Any) -> Sampled:
        """n completions, without any stop unless `stop` says so (None: the server's own)."""
        return self.result(request_id(self.submit(prompt, **how)))

    def score(self, tokens: Sequence[int]) -> Vector:
        """[len(tokens)]: logprob of each token after those before; NaN for the first."""
        result = self.sample(tokens, max_tokens=1, extra={"prompt_logprobs": True})
        if result.prompt_logprobs is None:
            raise Broken("prompt_logprobs were asked for and did not come")
        return result.prompt_logprobs.astype(np.float64)

    def next_logprobs(self, prompt: Sequence[int], candidates: Iterable[int]) -> dict[int, float]:
        """Logprob of each candidate after the prompt."""
        requests = [(c, self.submit((*prompt, c), max_tokens=1, extra={"prompt_logprobs": True})) for c in candidates]
        found = {}
        for token, answer in requests:
            scores = self.result(request_id(answer)).prompt_logprobs
            expect(scores is not None and len(scores) == len(prompt) + 1, "prompt_logprobs did not come, or not all")
            assert scores is not None
            found[token] = float(scores[-1])
        return found


def request_id(answer: Mapping[str, Any]) -> str:
    return string_of(answer, "request_id")


def path_of(answer: Mapping[str, Any]) -> str:
    path = string_of(answer, "path")
    expect(path.startswith("tinker://"), f"the path of a checkpoint is {path!r}, not tinker://...")
    return path


def string_of(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value:
        raise Broken(f"{key} is {value!r} in the answer {dict(answer)!r:.200}")
    return value


def decode_trained(body: bytes) -> Trained:
    try:
        return Trained(*training.decode_result(body))
    except Exception as error:
        raise Broken(f"the result is no ForwardBackwardOutput with logprobs: {error}") from error


def decode_sampled(body: bytes) -> Sampled:
    try:
        return Sampled(*sampling.decode_result(body))
    except Exception as error:
        raise Broken(f"the result is no SampleResponse: {error}") from error


def supported(work: Callable[[], Any]) -> Any:
    """What the work gives; where the server refuses it as the user's mistake, or does not know the route, it does not
    do this."""
    try:
        return work()
    except Refused as refused:
        if refused.category == "user" or refused.status in (404, 405, 501):
            raise Unsupported(str(refused)) from refused
        raise
