"""asample on the wire: JSON request -> prompt and settings, result -> protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith.domain.errors import CapabilityError, ConfigError, ShapeError
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.sampler import FinishReason, SampleResult, SamplingParams
from tinsmith.wire.messages import types
from tinsmith.wire.prompt_scores import Targets, check_size, decode_targets, encode_draws, encode_targets
from tinsmith.wire.requests import Sample

DEFAULT_MAX_TOKENS = 256
MASKED = -99999.0
"""Logprob that stands, with token 0, for "nothing at this position" in a table of likeliest tokens."""

MAX_TOP = 1000
"""Likeliest tokens a request may ask for at each position."""
MAX_TOP_CELLS = 1 << 25
"""Likeliest tokens in one answer, 8 bytes each."""


@frozen(eq=False)
class SampleRequest:
    prompt: Ints
    params: SamplingParams
    n: int
    last_n: int | None
    """Score this many tokens of the prompt alone; None scores all."""
    top_prompt: int = 0
    """Likeliest tokens to report at each position of the prompt; `params` ask for all where more is read off them."""
    targets: Targets | None = None
    draws: int = 0
    """Tokens to draw at each position of the prompt."""
    scores: bool = True
    """The logprobs of the prompt are wanted themselves."""


def decode_request(
    request: Sample, *, seed: int, stop_ids: Sequence[int], context: int, vocab_size: int
) -> SampleRequest:
    """`seed` is used where the request has none, `stop_ids` (the model's own) where it says nothing of stopping.
    Without max_tokens, sampling goes on to DEFAULT_MAX_TOKENS or the end of the context."""
    for i, chunk in enumerate(request.prompt.chunks):
        if chunk.type != "encoded_text":
            raise CapabilityError(f"prompt.chunks[{i}]: {chunk.type!r}; this server takes text alone")
    flat = [token for chunk in request.prompt.chunks for token in chunk.tokens]
    if not flat:
        raise ShapeError("prompt: at least one token")
    if min(flat) < 0 or max(flat) >= 2**31:
        raise ShapeError("prompt: holds an id that is none")
    if max(request.topk_sample_logprobs, request.topk_prompt_logprobs) > MAX_TOP:
        raise ConfigError(f"topk_sample_logprobs and topk_prompt_logprobs: at most {MAX_TOP}")
    settings, last_n = request.sampling_params, request.prompt_logprobs_last_n
    if last_n is not None and not (request.prompt_logprobs and 1 <= last_n < len(flat)):
        raise ConfigError(f"prompt_logprobs_last_n={last_n}: with prompt_logprobs, from 1 to {len(flat) - 1}")
    if settings.top_k < -1:
        raise ConfigError(f"top_k={settings.top_k}: -1 for no limit, or more")
    stop = settings.stop
    ids: tuple[int, ...]
    strings: tuple[str, ...]
    if stop is None:
        ids, strings = tuple(stop_ids), ()
    elif isinstance(stop, str):
        ids, strings = (), (stop,)
    else:
        ids = tuple(s for s in stop if isinstance(s, int))
        strings = tuple(s for s in stop if isinstance(s, str))
        if any(not 0 <= i < 2**31 for i in ids):
            raise ConfigError("stop: holds an id that is none")
    if "" in strings:
        raise ConfigError("stop: an empty string would end every completion")
    room = max(context - len(flat), 1)
    targets, draws, top = None, request.prompt_alt_tokens_k, request.topk_prompt_logprobs
    if request.target_prompt_logprobs is not None:
        targets = decode_targets(request.target_prompt_logprobs, len(flat), vocab_size)
    if not 0 <= draws <= MAX_TOP:
        raise ConfigError(f"prompt_alt_tokens_k={draws}: from 0 to {MAX_TOP}")
    if targets is not None or draws:
        check_size(len(flat), vocab_size)
        top = vocab_size
    if request.num_samples < 1:
        raise ConfigError(f"num_samples={request.num_samples}: at least 1")
    max_tokens = min(DEFAULT_MAX_TOKENS if settings.max_tokens is None else settings.max_tokens, room)
    if request.num_samples * max_tokens * request.topk_sample_logprobs > MAX_TOP_CELLS:
        raise ConfigError(
            f"num_samples={request.num_samples} of {max_tokens} tokens with topk_sample_logprobs="
            f"{request.topk_sample_logprobs}: more than {MAX_TOP_CELLS:,} logprobs; ask in parts"
        )
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=settings.temperature,
        top_k=min(max(settings.top_k, 0), 2**31),
        top_p=settings.top_p,
        stop_ids=ids,
        stop=strings,
        seed=seed if settings.seed is None else settings.seed % 2**63,
        top_logprobs=request.topk_sample_logprobs,
        prompt_logprobs=bool(request.prompt_logprobs) or top > 0,
        top_prompt_logprobs=top,
    )
    return SampleRequest(
        ints(flat),
        params,
        request.num_samples,
        last_n,
        top_prompt=request.topk_prompt_logprobs,
        targets=targets,
        draws=draws,
        scores=bool(request.prompt_logprobs),
    )


def encode_result(result: SampleResult, request: SampleRequest | None = None) -> bytes:
    message = types().SampleResponse()
    last_n = None if request is None else request.last_n
    for completion in result.completions:
        sequence = message.sequences.add(
            stop_reason=0 if completion.finish is FinishReason.STOP else 1,
            tokens=completion.tokens.astype("<i4").tobytes(),
            logprobs=completion.logprobs.astype("<f4").tobytes(),
        )
        if completion.top_ids is not None:
            _topk(sequence.topk_sampled_logprobs, completion.top_ids, completion.top_logprobs)
    if result.prompt_logprobs is not None and (request is None or request.scores):
        scores = result.prompt_logprobs.astype("<f4")
        if last_n is not None:
            scores[:-last_n] = np.nan
        message.prompt_logprobs = scores.tobytes()
    if result.prompt_top_ids is not None and result.prompt_top_logprobs is not None:
        every = (result.prompt_top_ids, result.prompt_top_logprobs)
        if request is not None and request.targets is not None:
            encode_targets(message.target_prompt_logprobs, request.targets, *every)
        if request is not None and request.draws:
            encode_draws(
                message.prompt_alt_tokens, request.draws, request.params.temperature, request.params.seed, *every
            )
        k = result.prompt_top_ids.shape[1] if request is None else request.top_prompt
        if not k:
            return bytes(message.SerializeToString())
        top_ids, top_logprobs = result.prompt_top_ids[:, :k].copy(), result.prompt_top_logprobs[:, :k].copy()
        nothing = slice(0, 1 if last_n is None else -last_n)
        top_ids[nothing], top_logprobs[nothing] = 0, MASKED
        _topk(message.topk_prompt_logprobs, top_ids, top_logprobs)
    return bytes(message.SerializeToString())


def _topk(message: Any, ids: Any, logprobs: Any) -> None:
    message.token_ids, message.logprobs = ids.astype("<i4").tobytes(), logprobs.astype("<f4").tobytes()
    message.length, message.k = ids.shape


@frozen(eq=False)
class SampledSequence:
    """One completion as it came over the wire."""

    tokens: Ints
    logprobs: Any
    stopped: bool
    top: tuple[Any, Any] | None


def decode_result(body: bytes) -> tuple[list[SampledSequence], Any, tuple[Any, Any] | None]:
    """(completions, logprobs of the prompt or None, (ids, logprobs) of its likeliest tokens or None)."""
    message = types().SampleResponse.FromString(body)
    rows = [
        SampledSequence(
            np.frombuffer(s.tokens, "<i4"),
            np.frombuffer(s.logprobs, "<f4"),
            s.stop_reason == 0,
            _top(s.topk_sampled_logprobs) if s.HasField("topk_sampled_logprobs") else None,
        )
        for s in message.sequences
    ]
    scores = np.frombuffer(message.prompt_logprobs, "<f4") if message.prompt_logprobs else None
    top = _top(message.topk_prompt_logprobs) if message.HasField("topk_prompt_logprobs") else None
    return rows, scores, top


def _top(message: Any) -> tuple[Any, Any]:
    shape = (message.length, message.k)
    return np.frombuffer(message.token_ids, "<i4").reshape(shape), np.frombuffer(message.logprobs, "<f4").reshape(shape)
