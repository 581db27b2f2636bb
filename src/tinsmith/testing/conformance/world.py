"""A session on the server under test: models, samplers, and the state from which all laws of training begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import evolve, field, frozen

from tinsmith.domain.errors import WorldError
from tinsmith.ports.trainer import LossSpec
from tinsmith.testing.conformance.client import VERSION, Refused, Wire
from tinsmith.testing.conformance.law import Broken, Unsupported, expect
from tinsmith.testing.conformance.rows import Row, batch
from tinsmith.wire import sampling, training

Vector = npt.NDArray[Any]
RANK = 8
SEED = 11
PROBE = (
    Row((17, 42, 91, 64, 30, 77), (42, 91, 64, 30, 77, 105), (1.0,) * 6),
    Row((120, 55, 23, 88), (55, 23, 88, 51), (1.0,) * 4),
)
"""Rows whose logprobs show where the weights are, whatever was trained."""
EXACT = 1e-4
"""How far two logprobs of one model may be apart for no reason but rounding, beside the server's own noise."""


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


@frozen(eq=False)
class Played:
    moved: Vector
    """How far the logprobs of PROBE and of the rows that were watched are from those of the start."""
    results: list[Trained]


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

    def submit_train(self, work: Train) -> str:
        body = self.encode(work, self.seq + 1)
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
        return path_of(self.world.wire.result(request, "SaveWeights").json)

    def save_for_sampler(self, name: str, **more: Any) -> str:
        body = {"path": name, "kind": "snapshot", "type": "save_weights_for_sampler", **more}
        request = self.submit("save_weights_for_sampler", body)
        return path_of(self.world.wire.result(request, "SaveWeightsForSampler").json)

    def load(self, path: str, *, optimizer: bool) -> None:
        request = self.submit("load_weights", {"path": path, "optimizer": optimizer, "type": "load_weights"})
        self.world.wire.result(request, "LoadWeights")

    def sampler(self) -> Sampler:
        """A sampler of the weights as they are."""
        body = {
            "sampling_session_seq_id": self.world.next_sampler(),
            "kind": "snapshot",
            "type": "save_weights_for_sampler",
        }
        request = self.submit("save_weights_for_sampler", body)
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


class World:
    """One session. `noise` is how far apart two equal plays are on this server."""

    def __init__(
        self, connect: Callable[[], Wire], model: str | None = None, *, tolerance: float = 0.02, patience: float = 1.0
    ) -> None:
        self.connect = connect
        self.wire = connect()
        self.tolerance = tolerance
        self.patience = patience
        self._wanted = model
        self._models = self._samplers = self._names = 0
        self._work: Model | None = None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the session, as a client does; the server may let go of its models."""
        try:
            if "session" in self.__dict__:
                self.wire.call(f"sessions/{self.session}/finish", {"reason": {"type": "success"}, "detail": None})
        except (Refused, Broken, WorldError):
            pass  # the law of it has said so
        finally:
            self.wire.close()

    @cached_property
    def capabilities(self) -> dict[str, Any]:
        return dict(self.wire.call("get_server_capabilities"))

    @cached_property
    def base_model(self) -> str:
        if self._wanted:
            return self._wanted
        models = self.capabilities.get("supported_models") or []
        expect(bool(models), "get_server_capabilities names no model; say model=...")
        return string_of(models[0], "model_name")

    @cached_property
    def session(self) -> str:
        return self.open_session(self.wire)

    @staticmethod
    def open_session(wire: Wire) -> str:
        body = {"tags": ["conformance"], "user_metadata": {}, "sdk_version": VERSION, "type": "create_session"}
        return string_of(wire.call("create_session", body), "session_id")

    def next_model(self) -> int:
        self._models += 1
        return self._models

    def next_sampler(self) -> int:
        self._samplers += 1
        return self._samplers

    def name(self) -> str:
        """A checkpoint's name that nothing had."""
        self._names += 1
        return f"conform-{self._names}"

    def create_model(self, *, seed: int | None = SEED, seq: int | None = None, **more: Any) -> Model:
        lora = {"rank": RANK, "seed": seed, "train_unembed": False, "train_mlp": True, "train_attn": True}
        body = {
            "session_id": self.session,
            "model_seq_id": self.next_model() if seq is None else seq,
            "base_model": self.base_model,
            "lora_config": lora,
            "optimizer_config": {"type": "adamw"},
            "type": "create_model",
            **more,
        }
        answer = self.wire.result(request_id(self.wire.call("create_model", body)), "CreateModel").json
        return Model(self, string_of(answer, "model_id"))

    def create_from_state(self, path: str, *, optimizer: bool) -> Model:
        seq = self.next_model()
        body = {
            "session_id": self.session,
            "model_seq_id": seq,
            "path": path,
            "optimizer": optimizer,
            "type": "load_weights",
        }
        self.wire.result(request_id(self.wire.call("load_weights", body)), "LoadWeights")
        return Model(self, f"{self.session}:train:{seq}")

    def sampling_session(self, **of: str) -> Sampler:
        """`base_model=` or `model_path=`."""
        body = {
            "session_id": self.session,
            "sampling_session_seq_id": self.next_sampler(),
            "type": "create_sampling_session",
            **of,
        }
        return Sampler(self.wire, string_of(self.wire.call("create_sampling_session", body), "sampling_session_id"))

    @cached_property
    def base_sampler(self) -> Sampler:
        return self.sampling_session(base_model=self.base_model)

    @cached_property
    def start(self) -> str:
        """The state from which laws of training begin: adapters that differ from those of a new model."""
        model = self.create_model()
        for _ in range(2):
            model.train(Train(PROBE))
            model.step(Step(2e-3))
        self._work = model
        return model.save(self.name())

    @property
    def model(self) -> Model:
        """The model that laws share; at the start after `reset`."""
        if self._work is None:
            if "start" in self.__dict__:
                self._work = self.create_model()
            else:
                _ = self.start
        assert self._work is not None
        return self._work

    def drop_model(self) -> None:
        """After a law that was broken: what its model waits for may never come."""
        self._work = None

    def reset(self) -> Model:
        """The shared model with the weights of the start, no gradient and a new optimizer."""
        model = self.model
        model.load(self.start, optimizer=False)
        return model

    @cached_property
    def start_sampler(self) -> Sampler:
        return self.reset().sampler()

    def at_start(self, rows: Sequence[Row]) -> list[Vector]:
        """Logprobs of the rows' targets at the start, row by row."""
        return [r.astype(np.float64) for r in self.reset().train(Train(rows, forward=True)).rows]

    def play(self, work: Sequence[Train | Step], watch: Sequence[Row] = ()) -> Played:
        """From the start: submit all of this, then see how far the logprobs moved."""
        model = self.reset()
        looked = Train([*PROBE, *(one.ones() for row in watch for one in row.columns())], forward=True)
        before = model.submit_train(looked)
        sent = [model.submit_train(w) if isinstance(w, Train) else model.submit_step(w) for w in work]
        after = model.submit_train(looked)
        start = model.trained(before, forward=True).flat
        results = []
        for request, w in zip(sent, work, strict=True):
            if isinstance(w, Train):
                results.append(model.trained(request, forward=w.forward))
            else:
                model.stepped(request)
        return Played(model.trained(after, forward=True).flat - start, results)

    @cached_property
    def rate(self) -> float:
        """A learning rate of plain gradient descent that moves logprobs enough to see and not so far that they bend."""
        rate = 0.01
        for _ in range(12):
            moved = float(np.abs(self.play([Train(PROBE), descent(rate)]).moved).max())
            if moved > 0.4:
                rate /= 3
            elif moved < 0.05:
                rate *= 4
            else:
                return rate
        raise Broken(f"no learning rate moves the logprobs of a batch by 0.05 to 0.4 (at {rate:g}: {moved:.3g})")

    @cached_property
    def noise(self) -> float:
        work: list[Train | Step] = [Train(PROBE), descent(self.rate)]
        apart = np.abs(self.play(work).moved - self.play(work).moved).max()
        return float(apart)

    def descend(self, scale: float = 1.0, **more: float) -> Step:
        """A step that moves along the gradient by its length, as Adam does whose eps is great."""
        return evolve(descent(self.rate * scale), **more)

    def same(self, first: Vector, second: Vector, what: str, *, scale: float | None = None) -> None:
        """Equal up to the tolerance and the noise of the server."""
        expect(first.shape == second.shape, f"{what}: shapes {first.shape} and {second.shape}")
        expect(bool(np.isfinite(first).all() and np.isfinite(second).all()), f"{what}: not finite")
        size = max(float(np.abs(first).max()), float(np.abs(second).max())) if scale is None else scale
        apart = float(np.abs(first - second).max())
        if apart > self.tolerance * size + 4 * self.noise + EXACT:
            at = int(np.abs(first - second).argmax())
            raise Broken(f"{what}: {first[at]:.5g} and {second[at]:.5g}")

    def equal(self, first: Vector, second: Vector, what: str) -> None:
        """Two logprobs of the same weights: equal up to rounding and the noise of the server."""
        self.same(first, second, what, scale=0.0)


def descent(rate: float) -> Step:
    """lr g / (|g| + eps) with eps far above any |g| is the gradient times lr / eps."""
    return Step(rate * 1e4, eps=1e4)


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
