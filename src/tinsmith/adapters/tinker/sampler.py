"""Weights at a Tinker server as a Sampler."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from attrs import evolve

from tinsmith.adapters.tinker.data import text
from tinsmith.adapters.tinker.errors import translated
from tinsmith.adapters.tinker.service import Service
from tinsmith.adapters.tinker.work import Task, Work
from tinsmith.domain.errors import CancelledWorkError, ConfigError, ShapeError, WorldError
from tinsmith.domain.tokens import Floats, Ints, floats, ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult, SamplingParams


class TinkerSampler:
    """Samples from one set of weights that the server keeps."""

    def __init__(
        self,
        service: Service,
        client: Any,
        *,
        context: int,
        vocab_size: int,
        token_bytes: Sequence[bytes],
        policy_version: int,
    ) -> None:
        """client: the SDK's. Acquires the service's session until it is closed."""
        self._service = service
        self._client = client
        self._context = context
        self._vocab_size = vocab_size
        self._token_bytes = token_bytes
        self._policy_version = policy_version
        self._lock = threading.Lock()
        self._open: set[Task] = set()
        self._closed = False
        service.acquire()

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
        room = self._context - len(prompt)
        if room < 1:
            raise ShapeError(f"a prompt of {len(prompt)} tokens leaves no room in a context of {self._context}")

        def work() -> Work[SampleResult]:
            response = yield self._client.sample(
                text(prompt),
                n,
                _settings(params, room),
                include_prompt_logprobs=params.prompt_logprobs,
                topk_prompt_logprobs=params.top_prompt_logprobs,
                topk_sample_logprobs=params.top_logprobs,
            ).future()
            return self._result(response, params, n, len(prompt))

        return self._submit(work)

    def score(self, tokens: Ints) -> Pending[Floats]:
        tokens = self._check(tokens)
        if len(tokens) > self._context:
            raise ShapeError(f"{len(tokens)} tokens do not fit a context of {self._context}")

        def work() -> Work[Floats]:
            scores = yield self._client.compute_logprobs(text(tokens)).future()
            if len(scores) != len(tokens):
                raise WorldError(f"the server scored {len(scores)} tokens of {len(tokens)}")
            return floats([np.nan if score is None else score for score in scores])

        return self._submit(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            tasks = list(self._open)
        for task in tasks:
            task.abandon()
        self._service.release()

    def _submit(self, work: Any) -> Pending[Any]:
        task = Task(work)
        with self._lock:
            if self._closed:
                raise CancelledWorkError("this sampler was closed")
            self._open.add(task)
        task.future.add_done_callback(lambda _: self._forget(task))
        self._service.driver.start(task)
        return Pending(task.future, on_cancel=task.abandon)

    def _forget(self, task: Task) -> None:
        with self._lock:
            self._open.discard(task)

    def _check(self, tokens: Ints) -> Ints:
        tokens = ints(tokens)
        if tokens.ndim != 1 or len(tokens) == 0:
            raise ShapeError("a prompt needs at least one token")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self._vocab_size:
            position = int(np.argmax((tokens < 0) | (tokens >= self._vocab_size)))
            raise ShapeError(f"token {tokens[position]} at {position} is outside the vocabulary of {self._vocab_size}")
        return tokens

    def _result(self, response: Any, params: SamplingParams, n: int, length: int) -> SampleResult:
        if len(response.sequences) != n:
            raise WorldError(f"the server gave {len(response.sequences)} completions for n={n}")
        scores = response.prompt_logprobs_np
        if params.prompt_logprobs and (scores is None or len(scores) != length):
            raise WorldError("the server gave no logprobs of the prompt")
        ids, logprobs = _prompt_table(response.topk_prompt_logprobs_np, params.top_prompt_logprobs, length)
        return SampleResult(
            completions=tuple(self._completion(sequence, params) for sequence in response.sequences),
            prompt_logprobs=floats(scores) if params.prompt_logprobs else None,
            prompt_top_ids=ids,
            prompt_top_logprobs=logprobs,
        )

    def _completion(self, sequence: Any, params: SamplingParams) -> Completion:
        tokens = np.asarray(sequence.tokens, np.int32) if sequence.tokens_np is None else sequence.tokens_np
        logprobs = sequence.logprobs_np
        if logprobs is None or len(logprobs) != len(tokens):
            raise WorldError(f"the server gave no logprobs of the {len(tokens)} tokens that it sampled")
        top = sequence.topk_logprobs_np
        if params.top_logprobs and top is None and len(tokens):
            raise WorldError(f"the server gave no table of the {params.top_logprobs} likeliest tokens")
        completion = Completion(
            tokens=ints(tokens),
            logprobs=floats(logprobs),
            finish=FinishReason.STOP if sequence.stop_reason == "stop" else FinishReason.LENGTH,
            top_ids=None if top is None or not params.top_logprobs else ints(top.token_ids),
            top_logprobs=None if top is None or not params.top_logprobs else floats(top.logprobs),
        )
        return self._cut(completion, params.stop)

    def _cut(self, completion: Completion, stops: Sequence[str]) -> Completion:
        """The shortest start whose text holds a stop string: a server may be given ids or strings, not both, and may go
        on to the end of a word."""
        sought = [stop.encode() for stop in stops if stop]
        if not sought:
            return completion
        longest, tail = max(map(len, sought)), b""
        for i, token in enumerate(completion.tokens.tolist()):
            tail += self._token_bytes[token] if token < len(self._token_bytes) else b""
            if any(stop in tail for stop in sought):
                if i + 1 == len(completion.tokens):
                    return evolve(completion, finish=FinishReason.STOP)
                return Completion(
                    tokens=completion.tokens[: i + 1],
                    logprobs=completion.logprobs[: i + 1],
                    finish=FinishReason.STOP,
                    top_ids=None if completion.top_ids is None else completion.top_ids[: i + 1],
                    top_logprobs=None if completion.top_logprobs is None else completion.top_logprobs[: i + 1],
                )
            tail = tail[-longest:]
        return completion


def kept_sampler(service: Service, model: str, weights: str | None = None, **settings: Any) -> TinkerSampler:
    """A sampler of weights that the server keeps at a tinker:// path; None: of the model, never trained."""
    service.acquire()  # so that the session is there, whatever becomes of this
    try:
        what = {"base_model": model} if weights is None else {"model_path": weights}
        future = service.session().create_sampling_client(**what).future()
        client = future.result(service.timeout)
        return TinkerSampler(service, client, policy_version=-1, **settings)
    except Exception as error:
        raise translated(error) from error
    finally:
        service.release()


def _prompt_table(table: Any, k: int, length: int) -> tuple[Ints | None, Floats | None]:
    """The likeliest tokens at each position of a prompt: of its first, which has none, -1 and NaN."""
    if not k or length == 1:
        return None, None
    if table is None or table.token_ids.shape != (length, k):
        found = "nothing" if table is None else f"a table of {table.token_ids.shape}"
        raise WorldError(f"the server gave {found} for the {k} likeliest tokens at each of {length} of the prompt")
    ids, logprobs = np.array(table.token_ids, np.int32), np.array(table.logprobs, np.float32)
    ids[0], logprobs[0] = -1, np.nan
    return ids, logprobs


def _settings(params: SamplingParams, room: int) -> Any:
    from tinker import types

    return types.SamplingParams(
        max_tokens=min(params.max_tokens, room),
        seed=params.seed,
        # An empty list and not None, with which a server would stop at its own end of text.
        stop=list(params.stop_ids) or list(params.stop),
        temperature=params.temperature,
        top_k=params.top_k or -1,
        top_p=params.top_p,
    )
