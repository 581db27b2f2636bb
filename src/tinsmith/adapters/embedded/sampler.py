"""The embedded engine as a Sampler: a thread that drives continuous batching."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from tinsmith import _native
from tinsmith.domain.errors import CancelledWorkError, ConfigError, NonFiniteError, ShapeError
from tinsmith.domain.tokens import Floats, Ints, ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult, SamplingParams

_STEPS_PER_RUN = 256
"""Decode steps before the driver looks at the clock again; new and cancelled requests interrupt a run at once."""


class EmbeddedSampler:
    """Samples from a snapshot. Requests that arrive while others run join the batch."""

    def __init__(
        self,
        snapshot: _native.Snapshot,
        *,
        policy_version: int,
        threads: int,
        token_bytes: list[bytes],
        kv_tokens: int = 1 << 18,
    ) -> None:
        self._native = _native.Sampler(snapshot, threads=threads, kv_tokens=kv_tokens, token_bytes=token_bytes)
        self._context = snapshot.context
        self._vocab_size = snapshot.vocab
        self._policy_version = policy_version
        self._waiting: dict[int, concurrent.futures.Future[SampleResult]] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def policy_version(self) -> int:
        return self._policy_version

    @property
    def context(self) -> int:
        return self._context

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        prompt = self._check(prompt)
        if n < 1:
            raise ConfigError(f"n={n}: at least 1")
        if len(prompt) >= self._context:
            raise ShapeError(f"a prompt of {len(prompt)} tokens leaves no room in a context of {self._context}")
        return self._submit(prompt, params, n)

    def score(self, tokens: Ints) -> Pending[Floats]:
        tokens = self._check(tokens)
        if len(tokens) > self._context:
            raise ShapeError(f"{len(tokens)} tokens do not fit a context of {self._context}")
        return self._submit(tokens, SamplingParams(max_tokens=1, prompt_logprobs=True), 0).then(_prompt_logprobs)

    def _submit(self, prompt: Ints, params: SamplingParams, n: int) -> Pending[SampleResult]:
        future: concurrent.futures.Future[SampleResult] = concurrent.futures.Future()
        with self._wake:
            if self._closed:
                raise CancelledWorkError("this sampler was closed")
            request = self._native.submit(
                prompt,
                n=n,
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                seed=params.seed,
                stop_ids=params.stop_ids,
                stop_strings=[s.encode() for s in params.stop],
                prompt_logprobs=params.prompt_logprobs,
                topk=params.top_logprobs,
                topk_prompt=params.top_prompt_logprobs,
            )
            self._waiting[request] = future
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="sample", daemon=True)
                self._thread.start()
            self._wake.notify()
        return Pending(future, on_cancel=lambda: self._native.cancel(request))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._native.interrupt()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(60.0)

    def _check(self, tokens: Ints) -> Ints:
        tokens = ints(tokens)
        if tokens.ndim != 1 or len(tokens) == 0:
            raise ShapeError("a prompt needs at least one token")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self._vocab_size:
            position = int(np.argmax((tokens < 0) | (tokens >= self._vocab_size)))
            raise ShapeError(f"token {tokens[position]} at {position} is outside the vocabulary of {self._vocab_size}")
        return tokens

    def _drive(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait(1.0)
                if self._closed:
                    for future in self._waiting.values():
                        future.cancel()
                    self._waiting.clear()
                    return
            try:
                finished = self._native.run(_STEPS_PER_RUN)
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                with self._wake:
                    failed = dict(self._waiting)
                    self._waiting.clear()
                for request, future in failed.items():
                    self._native.cancel(request)  # the engine still has it; its answer finds nobody waiting
                    if future.set_running_or_notify_cancel():
                        future.set_exception(error)
                continue
            for item in finished:
                with self._wake:
                    waiting = self._waiting.pop(item["id"], None)
                if waiting is None or not waiting.set_running_or_notify_cancel():
                    continue
                if item["error"] is not None:
                    waiting.set_exception(NonFiniteError(item["error"]))
                else:
                    waiting.set_result(_result(item))


def _prompt_logprobs(result: SampleResult) -> Floats:
    assert result.prompt_logprobs is not None
    return result.prompt_logprobs


def _result(item: Mapping[str, Any]) -> SampleResult:
    completions = tuple(
        Completion(
            tokens=c["tokens"],
            logprobs=c["logprobs"],
            finish=FinishReason(c["stop_reason"]),
            top_ids=c["top_ids"],
            top_logprobs=c["top_logprobs"],
        )
        for c in item["completions"]
    )
    return SampleResult(
        completions=completions,
        prompt_logprobs=item["prompt_logprobs"],
        prompt_top_ids=item["prompt_top_ids"],
        prompt_top_logprobs=item["prompt_top_logprobs"],
    )
