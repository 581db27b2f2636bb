"""The embedded engine as a Trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tinsmith import _native
from tinsmith.adapters.embedded.lane import Lane
from tinsmith.adapters.embedded.sampler import EmbeddedSampler
from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import (
    CancelledWorkError,
    CapabilityError,
    ConfigError,
    JournalError,
    NonFiniteError,
    ShapeError,
    TinsmithError,
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

LOSSES = frozenset({"cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"})


class EmbeddedTrainer:
    """Trains adapters, or all weights, of one model. Base weights are shared between trainers of the same model."""

    def __init__(
        self,
        model: _native.Model,
        *,
        name: str,
        base_model: str = "",
        state_dir: Path | None,
        lora: Lora | None,
        seed: int,
        threads: int,
        micro_batch_tokens: int,
        token_bytes: list[bytes],
    ) -> None:

        def fresh() -> _native.Trainer:
            return _native.Trainer(
                model,
                lora_rank=None if lora is None else lora.rank,
                lora_alpha=0.0 if lora is None else lora.alpha,
                seed=seed,
                train_attn=lora is None or lora.attention,
                train_mlp=lora is None or lora.mlp,
                train_unembed=lora is None or lora.unembed,
                threads=threads,
                micro_batch_tokens=micro_batch_tokens,
            )

        try:
            self._native = fresh()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._fresh = fresh
        self._state_dir = state_dir
        self._base_model = base_model or name
        self._threads = threads
        self._token_bytes = token_bytes
        self._lane = Lane(f"train {name}", interrupt=lambda: self._native.cancel())
        self._failure: BaseException | None = None
        self._info = ModelInfo(
            name=name,
            vocab_size=model.vocab_size,
            context=model.context,
            num_parameters=model.num_parameters,
            num_trained=self._native.num_trained,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def capabilities(self) -> TrainerCapabilities:
        return TrainerCapabilities(losses=LOSSES, deterministic=True, soft_targets=True)

    def forward(self, batch: Batch) -> Pending[TrainResult]:
        check_batch(self._info, batch)
        return self._submit(
            lambda: TrainResult(self._native.forward(batch.tokens, batch.offsets, batch.targets)),
        )

    def forward_backward(self, batch: Batch, loss: LossSpec) -> Pending[TrainResult]:
        check_batch(self._info, batch)
        if loss.name not in LOSSES:
            raise CapabilityError(f"loss {loss.name!r} is not known here; known are {sorted(LOSSES)}")
        columns = {"weights": batch.weights}
        for name in ("logprobs", "advantages", "reference_logprobs"):
            column = getattr(batch, name)
            if column is not None:
                columns[name] = column
            elif name != "reference_logprobs" and loss.name != "cross_entropy":
                raise ShapeError(f"loss {loss.name!r} needs the column {name!r}")
        options = dict(loss.options)

        def work() -> TrainResult:
            logprobs, value, metrics = self._native.forward_backward(
                batch.tokens, batch.offsets, batch.targets, loss.name, columns, options
            )
            return TrainResult(logprobs, value, metrics)

        return self._submit(self._guarded(work))

    def backward(self, batch: Batch, gradients: Floats) -> Pending[TrainResult]:
        check_batch(self._info, batch)
        gradients = floats(gradients)
        if gradients.shape != batch.targets.shape:
            raise ShapeError(f"gradients {gradients.shape} and targets {batch.targets.shape} differ in shape")
        if not np.isfinite(gradients).all():
            raise NonFiniteError(f"gradient {int(np.argmin(np.isfinite(gradients).ravel()))} is not finite")

        def work() -> TrainResult:
            logprobs = self._native.backward(batch.tokens, batch.offsets, batch.targets, gradients)
            return TrainResult(logprobs, -float(np.vdot(-gradients, logprobs)))

        return self._submit(self._guarded(work))

    def optim_step(self, settings: AdamW) -> Pending[OptimResult]:
        if settings.learning_rate < 0 or not np.isfinite(settings.learning_rate):
            raise ConfigError(f"learning_rate={settings.learning_rate}: finite, 0 or more")

        def work() -> OptimResult:
            metrics = self._native.optim_step(
                settings.learning_rate,
                settings.beta1,
                settings.beta2,
                settings.eps,
                settings.weight_decay,
                settings.grad_clip_norm,
            )
            return OptimResult(self._native.step_count, {f"optim/{name}": v for name, v in metrics.items()})

        return self._submit(self._guarded(work))

    def save_state(self, name: str, *, ttl_s: int | None = None) -> Pending[str]:
        path = self._state_path(name)

        def work() -> str:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._native.save_state(str(path))
            return str(path)

        return self._submit(work)

    def load_state(self, handle: str, *, optimizer: bool = True) -> Pending[None]:
        path = Path(handle)
        if not path.is_file():
            raise JournalError(f"{path}: no saved state there")

        def work() -> None:
            self._native.load_state(str(path))
            if not optimizer:
                weights, self._native = self._native.parameters(), self._fresh()
                self._native.set_parameters(weights)
            self._failure = None

        return self._submit(work)

    def delete_state(self, handle: str) -> Pending[None]:
        return self._submit(lambda: Path(handle).unlink(missing_ok=True))

    def sampler(self) -> Pending[Sampler]:
        def work() -> Sampler:
            return EmbeddedSampler(
                self._native.snapshot(),
                policy_version=self._native.step_count,
                threads=self._threads,
                token_bytes=self._token_bytes,
            )

        return self._submit(work)

    def export(self, directory: str | os.PathLike[str], kind: str = "merged") -> Pending[Sequence[Path]]:
        directory = Path(directory)
        writers: dict[str, Callable[[str], None]] = {
            "adapter": lambda path: self._native.save_adapter(path, self._base_model),
            "merged": self._native.save_merged,
        }
        if kind not in writers:
            raise ConfigError(f"kind={kind!r}: one of {sorted(writers)}")

        def work() -> Sequence[Path]:
            directory.mkdir(parents=True, exist_ok=True)
            writers[kind](os.fspath(directory))
            return sorted(directory.iterdir())

        return self._submit(work)

    def close(self) -> None:
        self._lane.close()

    def _state_path(self, name: str) -> Path:
        if self._state_dir is None:
            raise ConfigError("this trainer was made without a state_dir to save states in")
        if not name or Path(name).name != name:
            raise ConfigError(f"state name {name!r}: one file name, without directories")
        return self._state_dir / f"{name}.safetensors"

    def _guarded(self, work: Callable[[], T]) -> Callable[[], T]:
        """Work that moves gradients or weights: refused after a failure, until a state is loaded."""

        def guarded() -> T:
            if self._failure is not None:
                raise TrainingError(f"not carried out, since earlier work failed: {self._failure}") from self._failure
            try:
                return work()
            except TrainingError:  # refused before anything was done
                raise
            except BaseException as error:
                self._failure = error
                raise

        return guarded

    def _submit(self, work: Callable[[], T]) -> Pending[T]:
        def translated() -> T:
            try:
                return work()
            except FloatingPointError as error:
                raise NonFiniteError(str(error)) from error
            except RuntimeError as error:
                if self._lane.closed and not isinstance(error, TinsmithError):  # `close` interrupted a batch
                    raise CancelledWorkError(str(error)) from error
                raise

        return self._lane.submit(translated)
