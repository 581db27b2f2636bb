"""A backend small enough to check by hand: a log-linear language model over the last few tokens, in numpy.

    logits[t] = bias + sum over k < order of table[k][token[t - k]]          float64, exact gradients

It really learns: supervised and RL loops improve on it within tens of steps, in milliseconds. It keeps every promise
of the ports (order, accumulation, exact save and load, snapshots, seeds, stops, cancellation), as the contracts check.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from tinsmith.domain.datums import Batch
from tinsmith.domain.errors import (
    CancelledWorkError,
    CapabilityError,
    ConfigError,
    ModelNotFoundError,
    NonFiniteError,
    ShapeError,
    TrainingError,
)
from tinsmith.domain.tokens import Floats, Ints, floats, ints
from tinsmith.ports.blob import BlobStore
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SampleResult, SamplingParams
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.ports.trainer import AdamW, LossSpec, ModelInfo, OptimResult, TrainerCapabilities, TrainResult
from tinsmith.testing.fakes import FakeTokenizer, MemoryBlobStore

T = TypeVar("T")
Table = npt.NDArray[np.float64]


def _log_softmax(logits: Table) -> Table:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return cast(Table, shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class _Model:
    """Weights as one array [order * V + 1, V]: the tables, then the bias."""

    def __init__(self, weights: Table, order: int) -> None:
        self.weights = weights
        self.order = order
        self.vocab = weights.shape[1]

    def rows(self, tokens: Ints, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[T, order + 1]: which rows of the weights each position adds up; before a row's start, only the bias."""
        bias = self.order * self.vocab
        where = np.arange(len(tokens))
        out = np.full((len(tokens), self.order + 1), bias, np.int64)
        for k in range(self.order):
            inside = where - k >= starts
            out[inside, k] = k * self.vocab + tokens[where[inside] - k]
        # A position without a k-th last token adds the bias once more instead; this keeps the gradient a plain scatter.
        return out

    def logprobs(self, rows: npt.NDArray[np.int64]) -> Table:
        """[T, V]."""
        return _log_softmax(self.weights[rows].sum(axis=1))


class _Worker:
    """One thread that carries work out in order."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._name = name
        self.closed = False

    def submit(self, work: Callable[..., T], *args: Any, on_cancel: Callable[[], None] | None = None) -> Pending[T]:
        if self.closed:
            raise CancelledWorkError(f"the {self._name} is closed")
        return Pending(self._pool.submit(work, *args), on_cancel=on_cancel)

    def close(self) -> None:
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


class FakeTrainer:
    """A Trainer of the model above. `likely` are ids that the untrained model prefers (by a factor of about 150), so
    that an RL loop finds a reward; `states` may be shared with another FakeTrainer, or be on disk, to test resuming.
    """

    capabilities = TrainerCapabilities(deterministic=True, soft_targets=True)

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        *,
        seed: int = 0,
        context: int = 512,
        order: int = 2,
        likely: Sequence[int] | Ints = (),
        states: BlobStore | None = None,
    ) -> None:
        self.tokenizer = tokenizer or FakeTokenizer()
        self.states = states if states is not None else MemoryBlobStore()
        vocab = self.tokenizer.vocab_size
        weights = np.random.default_rng(seed).normal(0.0, 0.3, (order * vocab + 1, vocab))
        weights[-1, list(likely)] += 5.0
        self._model = _Model(weights, order)
        self._gradient = np.zeros_like(weights)
        self._accumulated = False
        self._moments = np.zeros((2, *weights.shape))
        self._step = 0
        self._failure: BaseException | None = None
        self.info = ModelInfo("fake", vocab, context, weights.size, weights.size)
        self._worker = _Worker("trainer")

    @property
    def weights(self) -> Table:
        """A copy of the weights [order * V + 1, V], for tests; waits for what was submitted."""
        return self._worker.submit(self._model.weights.copy).result()

    def forward(self, batch: Batch) -> Pending[TrainResult]:
        self._check(batch)
        return self._worker.submit(self._run, batch, None)

    def forward_backward(self, batch: Batch, loss: LossSpec) -> Pending[TrainResult]:
        if loss.name not in self.capabilities.losses:
            known = ", ".join(sorted(self.capabilities.losses))
            raise CapabilityError(
                f"loss {loss.name!r} is not one of this trainer's ({known}); use forward and backward"
            )
        self._check(batch)
        return self._worker.submit(self._guarded, self._run, batch, -batch.weights.astype(np.float64))

    def backward(self, batch: Batch, gradients: Floats) -> Pending[TrainResult]:
        self._check(batch)
        given = floats(gradients).astype(np.float64)
        if given.shape != batch.targets.shape:
            raise ShapeError(f"gradients {given.shape} and targets {batch.targets.shape} differ in shape")
        if not np.isfinite(given).all():
            raise NonFiniteError(f"gradient {int(np.argmin(np.isfinite(given).ravel()))} is not finite")
        return self._worker.submit(self._guarded, self._run, batch, given)

    def optim_step(self, settings: AdamW) -> Pending[OptimResult]:
        return self._worker.submit(self._step_if_any, settings)

    def save_state(self, name: str, *, ttl_s: int | None = None) -> Pending[str]:
        if not name:
            raise ConfigError("a state needs a name")
        return self._worker.submit(self._save, name)

    def load_state(self, handle: str, *, optimizer: bool = True) -> Pending[None]:
        return self._worker.submit(self._load, handle, optimizer)

    def delete_state(self, handle: str) -> Pending[None]:
        return self._worker.submit(self.states.delete, handle)

    def sampler(self) -> Pending[Sampler]:
        return self._worker.submit(self._snapshot)

    def export(self, directory: str | os.PathLike[str], kind: str = "merged") -> Pending[Sequence[Path]]:
        raise CapabilityError("the fake trainer has no Hugging Face form; it cannot export")

    def close(self) -> None:
        self._worker.close()

    def _guarded(self, work: Callable[..., T], *args: Any) -> T:
        """Work that moves gradients or weights: refused after a failure, until a state is loaded."""
        if self._failure is not None:
            raise TrainingError(f"not carried out, since earlier work failed: {self._failure}") from self._failure
        try:
            return work(*args)
        except BaseException as error:
            self._failure = error
            raise

    def _step_if_any(self, settings: AdamW) -> OptimResult:
        if self._failure is None and not self._accumulated:
            raise TrainingError("no gradient since the last optimizer step: call forward_backward or backward first")
        return self._guarded(self._optimize, settings)

    def _check(self, batch: Batch) -> None:
        if not batch.num_tokens:
            raise ShapeError("the batch holds no token")
        if not np.isfinite(batch.weights).all():
            raise NonFiniteError("column 'weights' holds a value that is not finite")
        for name, ids in (("tokens", batch.tokens), ("targets", batch.targets)):
            if ids.size and not (ids.min() >= 0 and ids.max() < self.info.vocab_size):
                worst = ids.max() if ids.min() >= 0 else ids.min()
                raise ShapeError(f"{name} hold id {worst}, but the vocabulary is {self.info.vocab_size}")
        for i, length in enumerate(batch.lengths):
            if length > self.info.context:
                raise ShapeError(f"row {i} has {length} tokens, but the context is {self.info.context}")

    def _run(self, batch: Batch, by_logprob: Table | None) -> TrainResult:
        starts = np.repeat(batch.offsets[:-1], batch.lengths)
        rows = self._model.rows(batch.tokens, starts)
        every = self._model.logprobs(rows)
        targets = batch.targets.reshape(len(batch.tokens), -1)
        logprobs = np.take_along_axis(every, targets.astype(np.int64), axis=1)
        if by_logprob is not None:
            self._accumulated = True
            columns = by_logprob.reshape(targets.shape)
            taking_part = columns.any(axis=1)
            # d logprob of target j / d logit i = [i == j] - p_i
            gradient = -np.exp(every) * columns.sum(axis=1, keepdims=True)
            at = np.arange(len(targets))
            for k in range(targets.shape[1]):
                np.add.at(gradient, (at, targets[:, k]), columns[:, k])
            for j in range(rows.shape[1]):
                np.add.at(self._gradient, rows[taking_part, j], gradient[taking_part])
        used = batch.weights != 0
        flat = logprobs.reshape(batch.targets.shape)
        loss = -float(np.sum(batch.weights[used] * flat[used]))
        return TrainResult(floats(flat), loss)

    @np.errstate(all="ignore")
    def _optimize(self, settings: AdamW) -> OptimResult:
        gradient, self._gradient = self._gradient, np.zeros_like(self._gradient)
        self._accumulated = False
        norm = float(np.sqrt(np.sum(gradient**2)))
        if not np.isfinite(norm):
            raise NonFiniteError(
                f"the gradient of optimizer step {self._step + 1} is not finite; no weight was changed"
            )
        if settings.grad_clip_norm > 0 and norm > settings.grad_clip_norm:
            gradient *= settings.grad_clip_norm / norm
        self._step += 1
        first, second = self._moments
        first += (1 - settings.beta1) * (gradient - first)
        second += (1 - settings.beta2) * (gradient**2 - second)
        unbiased = first / (1 - settings.beta1**self._step)
        scale = np.sqrt(second / (1 - settings.beta2**self._step)) + settings.eps
        weights = self._model.weights * (1 - settings.learning_rate * settings.weight_decay)
        # A new array: samplers keep the one they were made with.
        self._model = _Model(weights - settings.learning_rate * unbiased / scale, self._model.order)
        return OptimResult(self._step, {"optim/grad_norm": norm})

    def _save(self, name: str) -> str:
        buffer = io.BytesIO()
        np.savez(buffer, weights=self._model.weights, moments=self._moments, step=np.int64(self._step))
        self.states.put(name, buffer.getvalue())
        return name

    def _load(self, handle: str, optimizer: bool) -> None:
        try:
            data = self.states.get(handle)
        except FileNotFoundError:
            raise ModelNotFoundError(f"no saved state {handle!r} in {self.states.url}") from None
        with np.load(io.BytesIO(data)) as saved:
            if saved["weights"].shape != self._model.weights.shape:
                raise ShapeError(f"state {handle!r} is of another model: weights {saved['weights'].shape}")
            self._model = _Model(saved["weights"], self._model.order)
            self._moments = saved["moments"] if optimizer else np.zeros_like(saved["moments"])
            self._step = int(saved["step"]) if optimizer else 0
        self._failure = None
        self._accumulated = False
        self._gradient = np.zeros_like(self._gradient)

    def _snapshot(self) -> Sampler:
        return FakeSampler(self._model, self.tokenizer, self.info.context, self._step)


class FakeSampler:
    """A Sampler of one set of weights. Made by `FakeTrainer.sampler()`."""

    def __init__(self, model: _Model, tokenizer: Tokenizer, context: int, policy_version: int) -> None:
        self._model = model
        self._bytes = tokenizer.token_bytes()
        self.context = context
        self.policy_version = policy_version
        self._worker = _Worker("sampler")

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        tokens = self._check(prompt)
        if len(tokens) >= self.context:
            raise ShapeError(f"a prompt of {len(tokens)} tokens leaves no room in a context of {self.context}")
        if n < 1:
            raise ConfigError(f"n={n}: at least 1 completion")
        cancelled = threading.Event()
        return self._worker.submit(self._sample, tokens, params, n, cancelled, on_cancel=cancelled.set)

    def score(self, tokens: Ints) -> Pending[Floats]:
        checked = self._check(tokens)
        if len(checked) > self.context:
            raise ShapeError(f"{len(checked)} tokens, but the context is {self.context}")
        return self._worker.submit(self._score, checked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._worker.close()

    def _check(self, tokens: Ints) -> Ints:
        checked = ints(tokens)
        if checked.ndim != 1 or not len(checked):
            raise ShapeError(f"tokens must be [N] with N >= 1, not {checked.shape}")
        if not (checked.min() >= 0 and checked.max() < self._model.vocab):
            raise ShapeError(f"ids from {checked.min()} to {checked.max()}, the vocabulary is {self._model.vocab}")
        return checked

    def _score(self, tokens: Ints) -> Floats:
        out = np.full(len(tokens), np.nan)
        every = self._model.logprobs(self._model.rows(tokens[:-1], np.zeros(len(tokens) - 1, np.int64)))
        out[1:] = every[np.arange(len(tokens) - 1), tokens[1:]]
        return floats(out)

    def _sample(self, prompt: Ints, params: SamplingParams, n: int, cancelled: threading.Event) -> SampleResult:
        completions = tuple(self._complete(prompt, params, j, cancelled) for j in range(n))
        ids, logprobs = self._prompt_table(prompt, params.top_prompt_logprobs)
        return SampleResult(
            completions=completions,
            prompt_logprobs=self._score(prompt) if params.prompt_logprobs else None,
            prompt_top_ids=ids,
            prompt_top_logprobs=logprobs,
        )

    def _prompt_table(self, prompt: Ints, k: int) -> tuple[Ints | None, Floats | None]:
        if not k or len(prompt) == 1:
            return None, None
        every = self._model.logprobs(self._model.rows(prompt[:-1], np.zeros(len(prompt) - 1, np.int64)))
        ids, logprobs = np.full((len(prompt), k), -1), np.full((len(prompt), k), np.nan)
        ids[1:] = np.argsort(-every, axis=1, kind="stable")[:, :k]
        logprobs[1:] = np.take_along_axis(every, ids[1:], axis=1)
        return ints(ids), floats(logprobs)

    def _complete(self, prompt: Ints, params: SamplingParams, index: int, cancelled: threading.Event) -> Completion:
        rng = np.random.default_rng((params.seed, index))
        stops = [stop.encode() for stop in params.stop]
        tokens, logprobs, text = [int(t) for t in prompt], [], b""
        top_ids: list[npt.NDArray[Any]] = []
        finish = FinishReason.LENGTH
        for _ in range(min(params.max_tokens, self.context - len(prompt))):
            if cancelled.is_set():
                raise CancelledWorkError("sampling was cancelled")
            recent = ints(tokens[-self._model.order :])
            last = self._model.logprobs(self._model.rows(recent, np.zeros(len(recent), np.int64)))[-1]
            token = _draw(last, params, rng)
            tokens.append(token)
            logprobs.append(last[token])
            if params.top_logprobs:
                top_ids.append(np.argsort(-last, kind="stable")[: params.top_logprobs])
                top_ids.append(last[top_ids[-1]])
            text += self._bytes[token]
            if token in params.stop_ids or any(stop in text for stop in stops):
                finish = FinishReason.STOP
                break
        return Completion(
            tokens=ints(tokens[len(prompt) :]),
            logprobs=floats(logprobs),
            finish=finish,
            top_ids=ints(np.stack(top_ids[::2])) if params.top_logprobs else None,
            top_logprobs=floats(np.stack(top_ids[1::2])) if params.top_logprobs else None,
        )


def _draw(logprobs: Table, params: SamplingParams, rng: np.random.Generator) -> int:
    """One token id by temperature, then top-k, then top-p; ties go to the lower id."""
    if params.temperature == 0:
        return int(np.argmax(logprobs))
    order = np.argsort(-logprobs, kind="stable")
    kept = logprobs[order] / params.temperature
    if params.top_k:
        kept = kept[: params.top_k]
    p = np.exp(kept - kept[0])
    p /= p.sum()
    if params.top_p < 1:
        p = p[: int(np.searchsorted(np.cumsum(p), params.top_p)) + 1]
        p /= p.sum()
    return int(order[min(int(np.searchsorted(np.cumsum(p), rng.random(), side="right")), len(p) - 1)])
