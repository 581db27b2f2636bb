"""What each request that moves a model does, submitted to its trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from tinsmith.adapters.serve import encryption, names
from tinsmith.adapters.serve.outcome import PROTOBUF, Outcome, ok
from tinsmith.adapters.serve.records import Checkpoint, Model, SamplingSession
from tinsmith.adapters.serve.store import Store
from tinsmith.domain import losses
from tinsmith.domain.errors import CapabilityError, ConfigError, NonFiniteError, TrainingError
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import AdamW, OptimResult, Trainer, TrainResult
from tinsmith.wire import requests, training


@frozen(eq=False)
class Submitted:
    outcome: Pending[Outcome]
    snapshot: Pending[str] | None = None
    """The state after the request, where it was saved: what a restart may begin with if the request came off."""


class Operations:
    """Of one model. Nothing here waits; the parts after `then` run on the trainer's thread."""

    def __init__(
        self,
        model: Model,
        store: Store,
        *,
        count: Callable[[int], object],
        keep_sampler: Callable[[str, Sampler], object],
    ) -> None:
        self._model = model
        self._store = store
        self._count = count
        self._keep_sampler = keep_sampler
        self._gradient = False  # whether one may be there, which a snapshot would lose

    def submit(self, trainer: Trainer, seq: int, kind: str, body: bytes, *, snapshot_due: bool) -> Submitted:
        """Raises what is wrong with the request."""
        match kind:
            case "forward_backward":
                return self._forward_backward(trainer, seq, body, snapshot_due)
            case "optim_step":
                return self._optim_step(trainer, seq, requests.parse(requests.OptimStep, body), snapshot_due)
            case "load_weights":
                return self._load_weights(trainer, seq, requests.parse(requests.LoadWeights, body))
        _, done = self._store.outcome(self._model.id, seq)
        if done is not None:  # before a restart: what was saved then is there, and what was given up stays so
            return Submitted(Pending.of(done))
        match kind:
            case "save_weights":
                r = requests.parse(requests.SaveWeights, body)
                path = self._free(seq, "weights", r.path, overwrite=r.overwrite)
                saved = self._save(trainer, seq, path, kind, r.ttl_seconds, r.user_metadata, overwrite=r.overwrite)
                return Submitted(saved)
            case "save_weights_for_sampler":
                return Submitted(
                    self._save_for_sampler(trainer, seq, requests.parse(requests.SaveWeightsForSampler, body))
                )
            case "save_weights_external":
                return Submitted(self._save_external(trainer, seq, requests.parse(requests.SaveWeightsExternal, body)))
        raise CapabilityError(f"{kind} is not known")

    def _forward_backward(self, trainer: Trainer, seq: int, body: bytes, snapshot_due: bool) -> Submitted:
        request = training.decode_request(body)
        losses.check_loss(request.loss.name, request.loss.options)

        def encode(result: TrainResult) -> Outcome:
            value, metrics = result.loss, result.metrics
            if request.forward_only:
                evaluated = losses.evaluate(request.batch, result.logprobs, request.loss.name, request.loss.options)
                value, metrics = evaluated.value, evaluated.metrics
            if not math.isfinite(value):
                raise NonFiniteError(f"loss {request.loss.name} is {value}")
            self._count(request.batch.num_tokens)
            body = training.encode_result(result.logprobs, request.batch, request.widths, value, metrics)
            return Outcome(body, PROTOBUF)

        if request.forward_only:
            seen = trainer.forward(request.batch).then(encode)
            saved = trainer.save_state(f"snapshot-{seq}") if snapshot_due and not self._gradient else None
            return Submitted(seen, saved)
        self._gradient = True
        return Submitted(trainer.forward_backward(request.batch, request.loss).then(encode))

    def _optim_step(self, trainer: Trainer, seq: int, request: requests.OptimStep, snapshot_due: bool) -> Submitted:
        if request.adam_params is None:
            raise CapabilityError("optim_step without adam_params: AdamW is the one optimizer here")
        p = request.adam_params
        stepped = trainer.optim_step(AdamW(p.learning_rate, p.beta1, p.beta2, p.eps, p.weight_decay, p.grad_clip_norm))
        self._gradient = False
        saved = trainer.save_state(f"snapshot-{seq}") if snapshot_due else None

        def encode(result: OptimResult) -> Outcome:
            return ok({"metrics": {**result.metrics, "optim/step": result.step}, "type": "optim_step"})

        return Submitted(stepped.then(encode), saved)

    def _load_weights(self, trainer: Trainer, seq: int, request: requests.LoadWeights) -> Submitted:
        checkpoint = self._store.weights(request.path)
        of = self._store.model(checkpoint.model)
        if of is not None and (of.base_model, of.lora) != (self._model.base_model, self._model.lora):
            raise ConfigError(
                f"{request.path} is of {of.base_model} with {of.lora}; this model is {self._model.base_model} with "
                f"{self._model.lora}"
            )
        loaded = trainer.load_state(checkpoint.handle, optimizer=request.optimizer)
        self._gradient = False
        saved = trainer.save_state(f"snapshot-{seq}")  # the checkpoint may be gone when the server comes back
        said = ok({"path": request.path, "model_id": self._model.id, "type": "load_weights"})
        return Submitted(loaded.and_then(lambda _: saved.then(lambda _: said)), saved)

    def _free(self, seq: int, kind: str, name: str | None, *, overwrite: bool) -> str:
        """The path of a new checkpoint. TrainingError when there is one of another request."""
        path = f"tinker://{self._model.id}/{kind}/{names.checkpoint_name(name, seq)}"
        if not overwrite:
            self._check_free(seq, path)
        return path

    def _check_free(self, seq: int, path: str) -> None:
        if any(c.path == path and c.seq != seq for c in self._store.checkpoints(self._model.id)):
            raise TrainingError(f"there is a checkpoint {path}; save under another name, or with overwrite")

    def _save(
        self,
        trainer: Trainer,
        seq: int,
        path: str,
        said: str,
        ttl: int | None,
        metadata: Mapping[str, Any] | None,
        *,
        overwrite: bool,
    ) -> Pending[Outcome]:
        expires = names.expiry(ttl)
        _, kind, name = path.removeprefix("tinker://").split("/")

        def record(handle: str) -> Outcome:
            if not overwrite:  # again: another of this name may have been queued before it
                try:
                    self._check_free(seq, path)
                except TrainingError:
                    self._store.remove_state(handle)
                    raise
            self._add(seq, path, handle, expires, names.file_size(handle), metadata)
            return ok({"path": path, "type": said})

        # The number keeps a state that is overwritten apart from what still reads the old one.
        return trainer.save_state(f"{kind}-{seq}-{name}").then(record)

    def _add(
        self, seq: int, path: str, handle: str, expires: float | None, size: int, metadata: Mapping[str, Any] | None
    ) -> None:
        _, kind, name = path.removeprefix("tinker://").split("/")
        self._store.add_checkpoint(
            Checkpoint(
                path=path,
                model=self._model.id,
                seq=seq,
                kind=kind,
                name=name,
                handle=handle,
                created=time.time(),
                expires=expires,
                size=size,
                metadata=metadata,
            )
        )

    def _save_for_sampler(
        self, trainer: Trainer, seq: int, request: requests.SaveWeightsForSampler
    ) -> Pending[Outcome]:
        said = "save_weights_for_sampler"
        number = request.sampling_session_seq_id
        if request.path is not None or number is None:
            path = self._free(seq, "sampler_weights", request.path, overwrite=True)
            return self._save(trainer, seq, path, said, request.ttl_seconds, request.user_metadata, overwrite=True)
        session = SamplingSession(
            id=names.sampling_session(self._model.session, number),
            session=self._model.session,
            base_model=self._model.base_model,
            path=None,
            model=self._model.id,
            handle="",
        )
        saved, made = trainer.save_state(f"sampler-{number}"), trainer.sampler()

        def keep(sampler: Sampler, handle: str) -> Outcome:
            self._store.add_sampler(evolve(session, handle=handle))
            self._keep_sampler(handle, sampler)
            return ok({"path": None, "sampling_session_id": session.id, "type": said})

        return saved.and_then(lambda handle: made.then(lambda sampler: keep(sampler, handle)))

    def _save_external(self, trainer: Trainer, seq: int, request: requests.SaveWeightsExternal) -> Pending[Outcome]:
        """The adapter as Hugging Face files, in PEFT layout; encrypted where recipients are named."""
        sealed = encryption.to(request.age_encryption_recipients) if request.age_encryption_recipients else None
        expires = names.expiry(request.ttl_seconds)
        path = self._free(seq, "external_weights", request.path, overwrite=False)
        directory = self._store.states_of(self._model.id) / f"external_weights-{seq}"

        def record(files: Sequence[Path]) -> Outcome:
            if sealed is not None:  # what is sealed already is of a process that was killed
                files = [sealed(file) for file in files if file.suffix != encryption.SUFFIX]
            try:
                self._check_free(seq, path)
            except TrainingError:
                self._store.remove_state(str(directory))
                raise
            size = sum(names.file_size(str(file)) for file in files)
            self._add(seq, path, str(directory), expires, size, None)
            return ok({"path": path, "size_bytes": size, "type": "save_weights_external"})

        return trainer.export(directory, "adapter").then(record)
