"""A session on the server under test: models, samplers, and the state from which all laws of training begin."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain.errors import WorldError
from tinsmith.testing.conformance.client import VERSION, Refused, Wire
from tinsmith.testing.conformance.handles import (
    Model,
    Sampler,
    Step,
    Train,
    Trained,
    Vector,
    request_id,
    string_of,
)
from tinsmith.testing.conformance.law import Broken, expect
from tinsmith.testing.conformance.rows import Row

RANK = 8
SEED = 11
PROBE = (
    Row((17, 42, 91, 64, 30, 77), (42, 91, 64, 30, 77, 105), (1.0,) * 6),
    Row((120, 55, 23, 88), (55, 23, 88, 51), (1.0,) * 4),
)
"""Rows whose logprobs show where the weights are, whatever was trained."""
EXACT = 1e-4
"""How far two logprobs of one model may be apart for no reason but rounding, beside the server's own noise."""


@frozen(eq=False)
class Played:
    moved: Vector
    """How far the logprobs of PROBE and of the rows that were watched are from those of the start."""
    results: list[Trained]


T = TypeVar("T")


def once(make: Callable[[Any], T]) -> cached_property[T]:
    """A property that is made once: what kept it from being made is raised again, not waited for again."""
    failed: weakref.WeakKeyDictionary[Any, Exception] = weakref.WeakKeyDictionary()

    def made(self: Any) -> T:
        if self in failed:
            raise failed[self]
        try:
            return make(self)
        except (Broken, Refused) as error:
            failed[self] = error
            raise

    made.__doc__ = make.__doc__
    return cached_property(made)


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
        self._saved: dict[str, None] = {}

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the checkpoints and finish the session, as far as the server does so: laws have said where not."""
        try:
            for path in self._saved:
                run, kind, name = path.removeprefix("tinker://").split("/")
                self.wire.raw(f"training_runs/{run}/checkpoints/{kind}/{name}", method="DELETE")
            if "session" in self.__dict__:
                self.wire.raw(f"sessions/{self.session}/finish", {"reason": {"type": "success"}, "detail": None})
        except (ValueError, WorldError):
            pass
        finally:
            self.wire.close()

    def keep(self, path: str) -> str:
        """Remember a checkpoint, to delete it at the end."""
        self._saved[path] = None
        return path

    @once
    def capabilities(self) -> dict[str, Any]:
        return dict(self.wire.call("get_server_capabilities"))

    @once
    def base_model(self) -> str:
        if self._wanted:
            return self._wanted
        models = self.capabilities.get("supported_models") or []
        expect(bool(models), "get_server_capabilities names no model; say model=...")
        return string_of(models[0], "model_name")

    @once
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

    @once
    def base_sampler(self) -> Sampler:
        return self.sampling_session(base_model=self.base_model)

    @once
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

    @once
    def start_sampler(self) -> Sampler:
        return self.reset().sampler()

    @once
    def open_prompt(self) -> tuple[int, ...]:
        """Of some prompts that after which the sampler of the start is least sure of the next token."""
        prompts = [(17, 42, 91), (64,), (120, 55, 23, 88), (30, 77), (105, 51, 9), (150, 33, 60)]

        def share(prompt: tuple[int, ...]) -> int:
            drawn = self.start_sampler.sample(prompt, n=64, max_tokens=1, seed=1).tokens
            return Counter(drawn).most_common(1)[0][1]

        return min(prompts, key=share)

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

    @once
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

    @once
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
