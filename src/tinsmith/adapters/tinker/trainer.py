"""A model at a Tinker server as a Trainer."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinsmith.adapters.tinker import checkpoints
from tinsmith.adapters.tinker.data import LOSSES, NamedLoss, datums, evaluated, logprobs_of, named
from tinsmith.adapters.tinker.errors import status_of, translated, was_lost
from tinsmith.adapters.tinker.sampler import TinkerSampler
from tinsmith.adapters.tinker.service import Service
from tinsmith.adapters.tinker.trained import TrainedModel, not_carried_out
from tinsmith.adapters.tinker.work import Lane, Work, failing, in_thread
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import (
    CapabilityError,
    ConfigError,
    DeadlineError,
    NonFiniteError,
    ShapeError,
    TrainingError,
)
from tinsmith.domain.tokens import Floats, floats
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import (
    AdamW,
    Lora,
    LossSpec,
    ModelInfo,
    OptimResult,
    TrainerCapabilities,
    TrainResult,
    check_batch,
)

T = TypeVar("T")

ALPHA = 32.0
"""Scale of the adapters of every server: the protocol has no place for another."""


class TinkerTrainer:
    """Trains adapters of one model at the server. The model is made with the first work, or by loading a state.

    Requests are sent in the order of submission, each without waiting for the results of others. A failed request ends
    those behind it as the port says. Where a server took an optimizer step although work before it had failed, its
    weights are not those that anybody asked for: all work is then refused until `load_state`.
    """

    def __init__(
        self,
        service: Service,
        *,
        model: str,
        lora: Lora | None,
        seed: int,
        run_name: str = "",
        context: int,
        vocab_size: int,
        token_bytes: Sequence[bytes],
        deterministic: bool = False,
    ) -> None:
        """run_name: the names of checkpoints begin with it. deterministic: this server gives the same bits again."""
        if lora is None:
            raise ConfigError("a Tinker server trains adapters, not all weights: take lora.rank of at least 1")
        if lora.alpha != ALPHA:
            raise ConfigError(f"alpha={lora.alpha:g}: a Tinker server has {ALPHA:g}, and takes no other")
        if not (lora.attention or lora.mlp or lora.unembed):
            raise ConfigError("attention, mlp and unembed are all off: there is nothing to train")
        self._service = service
        self._model = model
        self._lora = lora
        self._seed = seed
        self._run_name = run_name
        self._token_bytes = token_bytes
        self._info = ModelInfo(name=model, vocab_size=vocab_size, context=context, num_parameters=0, num_trained=0)
        self._capabilities = TrainerCapabilities(losses=LOSSES, deterministic=deterministic, soft_targets=True)
        self._lane = Lane(f"tinker {model}", service.driver, service.timeout)
        self._state = TrainedModel()
        self._compared = False
        self._making: concurrent.futures.Future[Any] | None = None
        self._lock = threading.Lock()
        self._accumulated = False  # a gradient waits, of the work submitted so far
        service.acquire()

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def capabilities(self) -> TrainerCapabilities:
        return self._capabilities

    # Training

    def forward(self, batch: Batch) -> Pending[TrainResult]:
        check_batch(self._info, batch)

        def work() -> Work[TrainResult]:
            output = yield from self._sent(self._usable().forward(datums(batch, policy=False), "cross_entropy"))
            return TrainResult(logprobs_of(output, batch))

        return self._lane.submit(work)

    def forward_backward(self, batch: Batch, loss: LossSpec) -> Pending[TrainResult]:
        """By name; CapabilityError for options or weights that the server's form of the loss does not have."""
        check_batch(self._info, batch)
        sent = named(batch, loss)

        def finish(output: Any) -> TrainResult:
            logprobs = logprobs_of(output, batch)
            result = evaluated(batch, logprobs, loss)
            if sent.name == "cross_entropy":
                self._compare_sums(output.metrics.get("loss:sum"), result.value)
            return TrainResult(logprobs, result.value, {**output.metrics, **result.metrics})

        return self._gradient(sent, finish)

    def _compare_sums(self, theirs: float | None, ours: float) -> None:
        """Warn, once, of a server that does not sum over tokens: a step there would not be a step elsewhere."""
        if theirs is None or self._compared or abs(theirs - ours) <= 0.02 * abs(ours) + 1e-3:
            return
        self._compared = True
        warnings.warn(
            f"the server says that its loss is {theirs:.6g}, and the sum over tokens is {ours:.6g}: if it takes means, "
            "learning rates mean something else there",
            RuntimeWarning,
            stacklevel=2,
        )

    def backward(self, batch: Batch, gradients: Floats) -> Pending[TrainResult]:
        check_batch(self._info, batch)
        gradients = floats(gradients)
        if gradients.shape != batch.targets.shape:
            raise ShapeError(f"gradients {gradients.shape} and targets {batch.targets.shape} differ in shape")
        if not np.isfinite(gradients).all():
            raise NonFiniteError(f"gradient {int(np.argmin(np.isfinite(gradients).ravel()))} is not finite")
        weighted = Batch(offsets=batch.offsets, tokens=batch.tokens, targets=batch.targets, weights=-gradients)

        def finish(output: Any) -> TrainResult:
            logprobs = logprobs_of(output, batch)
            return TrainResult(logprobs, -float(np.vdot(-gradients, logprobs)))

        return self._gradient(NamedLoss("cross_entropy", {}, weighted), finish)

    def optim_step(self, settings: AdamW) -> Pending[OptimResult]:
        with self._lock:
            accumulated, self._accumulated = self._accumulated, False
            failed = self._state.failure is not None
        if not accumulated and not failed:
            return failing(
                TrainingError("no gradient since the last optimizer step: call forward_backward or backward first")
            )

        def start() -> Any:
            from tinker import types

            model = self._state
            future = self._usable().optim_step(
                types.AdamParams(
                    learning_rate=settings.learning_rate,
                    beta1=settings.beta1,
                    beta2=settings.beta2,
                    eps=settings.eps,
                    weight_decay=settings.weight_decay,
                    grad_clip_norm=settings.grad_clip_norm,
                )
            )
            with self._lock:
                model.steps += 1
            return future, (model, model.steps)

        def finish(response: Any, sent: tuple[TrainedModel, int]) -> OptimResult:
            model, step = sent
            metrics = _optim_metrics(response.metrics or {})
            metrics.pop("optim/step", None)
            if not all(np.isfinite(value) for value in metrics.values()):
                model.unusable = TrainingError("the server took a step with a gradient that is not finite")
                raise NonFiniteError(f"optimizer step {step}: {metrics}")
            return OptimResult(step, metrics)

        return self._lane.submit(lambda: self._guarded(start, finish, steps=True))

    def _gradient(self, sent: NamedLoss, finish: Callable[[Any], TrainResult]) -> Pending[TrainResult]:
        def start() -> Any:
            rows = datums(sent.batch, policy=sent.name != "cross_entropy")
            return self._usable().forward_backward(rows, sent.name, sent.config or None), None

        pending = self._lane.submit(lambda: self._guarded(start, lambda output, _: finish(output)))
        with self._lock:
            self._accumulated = True
        return pending

    def _guarded(
        self, start: Callable[[], tuple[Any, Any]], finish: Callable[[Any, Any], T], *, steps: bool = False
    ) -> Work[T]:
        """Work that moves gradients or weights: refused after a failure, until a state is loaded."""
        model, before, over = self._state, self._state.last, concurrent.futures.Future[None]()
        model.last = over
        try:
            if model.failure is not None:
                raise not_carried_out(model.failure)
            future, extra = start()
            try:
                value = yield from self._sent(future)
            except Exception as error:
                with self._lock:
                    model.steps -= steps
                yield before  # the first failure is the one to tell of
                if model.failure is not None:
                    raise not_carried_out(model.failure) from error
                raise
            yield before
            if model.failure is not None:
                if steps:
                    model.unusable = TrainingError("the server took an optimizer step although work before it failed")
                raise not_carried_out(model.failure)
            return finish(value, extra)
        except Exception as error:
            if model.failure is None:
                model.failure = translated(error)
            raise
        finally:
            over.set_result(None)

    def _sent(self, request: Any) -> Work[Any]:
        """The result of a numbered request. After one that the server may not have seen, it waits for that number: the
        model is of no use then, and all that is under way ends."""
        model = self._state
        try:
            return (yield request.future())
        except Exception as error:
            if was_lost(error) and model is self._state:
                model.unusable = model.unusable or TrainingError(f"a request to the server was lost: {error}")
                lost = TrainingError(f"not carried out, since a request before it was lost: {error}")
                self._lane.fail_behind(self._service.driver.current, lost)
            raise

    # States

    def save_state(self, name: str, *, ttl_s: int | None = None) -> Pending[str]:
        checkpoints.name_of(self._run_name, name, 0)

        def work() -> Work[str]:
            wire_name = checkpoints.name_of(self._run_name, name, self._state.steps)
            saved = yield from self._sent(self._usable().save_state(wire_name, ttl_seconds=ttl_s))
            return (yield from checkpoints.verify(self._service, saved.path))

        return self._lane.submit(work)

    def load_state(self, handle: str, *, optimizer: bool = True) -> Pending[None]:
        checkpoints.check_handle(handle)
        with self._lock:
            self._accumulated = False

        def work() -> Work[None]:
            session = self._service.session()
            try:
                load = (
                    session.create_training_client_from_state_with_optimizer
                    if optimizer
                    else session.create_training_client_from_state
                )
                client = self._made(load(handle))
            except Exception as error:
                raise checkpoints.lost(handle, error) from error
            self._state = TrainedModel(client, checkpoints.steps_of(handle) if optimizer else 0)
            return None
            yield

        return self._lane.submit(work)

    def delete_state(self, handle: str) -> Pending[None]:
        return self._lane.submit(lambda: checkpoints.delete(self._service, handle), cancellable=True)

    def save_sampler(self, name: str, *, ttl_s: int | None = None) -> Pending[str]:
        """Keep the weights at the server to sample from; gives their tinker:// path."""

        def work() -> Work[str]:
            wire_name = checkpoints.name_of(self._run_name, name, self._state.steps)
            saved = yield from self._sent(self._usable().save_weights_for_sampler(wire_name, ttl_seconds=ttl_s))
            return (yield from checkpoints.verify(self._service, saved.path))

        return self._lane.submit(work)

    def sampler(self) -> Pending[Sampler]:
        def work() -> Work[Sampler]:
            client, version = self._usable(), self._state.steps
            sampling = yield from self._sent(client.save_weights_and_get_sampling_client())
            return TinkerSampler(
                self._service,
                sampling,
                context=self._info.context,
                vocab_size=self._info.vocab_size,
                token_bytes=self._token_bytes,
                policy_version=version,
            )

        return self._lane.submit(work)

    def export(self, directory: str | os.PathLike[str], kind: str = "merged") -> Pending[Sequence[Path]]:
        """`kind` "adapter" alone: a server gives the adapter, not the model that it belongs to."""
        target = Path(directory)
        if kind == "merged":
            raise CapabilityError("a Tinker server gives the adapter, not the merged model: use export=adapter")
        if kind != "adapter":
            raise ConfigError(f"kind={kind!r}: one of ['adapter', 'merged']")

        def work() -> Work[Sequence[Path]]:
            name = checkpoints.name_of(self._run_name, "export", self._state.steps)
            state = yield from self._sent(self._usable().save_state(name, ttl_seconds=checkpoints.DOWNLOAD_TTL_S))
            try:
                files = yield in_thread(lambda: checkpoints.download_archive(self._service, state.path, target))
            finally:
                self._service.rest.delete_checkpoint_from_tinker_path(state.path)  # not waited for
            if files is not None:
                unpacked: Sequence[Path] = files
                return unpacked
            try:
                saved = yield from self._sent(
                    self._usable().save_weights_external(name, ttl_seconds=checkpoints.DOWNLOAD_TTL_S)
                )
            except Exception as error:
                if status_of(error) in (404, 405, 501):
                    raise CapabilityError(f"{self._service.url} gives no weights; use export=none") from error
                raise
            return (yield from checkpoints.download(self._service, saved.path, target))

        return self._lane.submit(work)

    def close(self) -> None:
        if self._lane.closed:
            return
        self._lane.close()
        making = self._making
        if making is not None:
            making.cancel()
        self._service.release()

    # Helpers

    def _usable(self) -> Any:
        """The SDK's client of the model, which is made when there is none. Blocks the lane meanwhile."""
        model = self._state
        if model.unusable is not None:
            raise TrainingError(f"not carried out: {model.unusable}") from model.unusable
        if model.client is None:
            model.client = self._made(
                self._service.session().create_lora_training_client(
                    self._model,
                    rank=self._lora.rank,
                    seed=self._seed,
                    train_mlp=self._lora.mlp,
                    train_attn=self._lora.attention,
                    train_unembed=self._lora.unembed,
                    user_metadata={"run": self._run_name} if self._run_name else None,
                )
            )
        return model.client

    def _made(self, client: Any) -> Any:
        self._making = client.future()
        try:
            return self._making.result(self._service.timeout)
        except TimeoutError as error:
            if self._making.done():
                raise
            self._making.cancel()
            raise DeadlineError(f"the server made no model within {self._service.timeout:g} s") from error
        finally:
            self._making = None


def _optim_metrics(given: Mapping[str, float]) -> dict[str, float]:
    """`optim/<name>`, without the reduction that the protocol adds to names."""
    return {f"optim/{name.removeprefix('optim/').partition(':')[0]}": float(value) for name, value in given.items()}
