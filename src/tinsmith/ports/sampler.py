"""The sampler half of a backend."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol, Self

from attrs import field, frozen

from tinsmith.domain.errors import ConfigError
from tinsmith.domain.tokens import Floats, Ints
from tinsmith.ports.pending import Pending


class FinishReason(StrEnum):
    """Why sampling of one completion ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


def _strings(value: str | Iterable[str]) -> tuple[str, ...]:
    """One string is one string, not its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class SamplingParams:
    """How to sample. Filters come in this order: temperature, then top-k, then top-p."""

    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens with at least this probability."""
    stop_ids: tuple[int, ...] = ()
    """Token ids that end a completion; the id is part of the completion."""
    stop: tuple[str, ...] = field(default=(), converter=_strings)
    """Strings that end a completion once its text holds one."""
    seed: int = 0
    """With the prompt, fixes every completion; completion j of a call draws from (seed, j). The same prompt and
    seed give the same completions again, also by the default: give each call its own seed for new ones."""
    top_logprobs: int = 0
    """Also report this many likeliest tokens at each sampled position."""
    prompt_logprobs: bool = False
    top_prompt_logprobs: int = 0
    """Also report this many likeliest tokens at each position of the prompt."""

    def __attrs_post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens={self.max_tokens}: at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature={self.temperature}: finite, 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: above 0, at most 1")
        if min(self.top_k, self.top_logprobs, self.top_prompt_logprobs) < 0:
            raise ConfigError("top_k, top_logprobs and top_prompt_logprobs: 0 or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}: 0 or more, below 2**63")


@frozen(eq=False, kw_only=True)
class Completion:
    """One completion of N tokens."""

    tokens: Ints
    """[N] int32, its stop token included."""
    logprobs: Floats
    """[N] float32: natural-log probability of each token under the model itself (temperature 1, nothing filtered)."""
    finish: FinishReason
    top_ids: Ints | None = None
    """[N, k] int32, likeliest first."""
    top_logprobs: Floats | None = None
    """[N, k] float32."""


@frozen(eq=False, kw_only=True)
class SampleResult:
    completions: tuple[Completion, ...]
    prompt_logprobs: Floats | None = field(default=None)
    """[len(prompt)] float32; NaN for the first token, which has no prefix."""
    prompt_top_ids: Ints | None = None
    """[len(prompt), k] int32, likeliest first; -1 for the first token. None of a prompt of one token."""
    prompt_top_logprobs: Floats | None = None
    """[len(prompt), k] float32; NaN for the first token."""


class Sampler(Protocol):
    """Samples from one fixed set of weights."""

    @property
    def policy_version(self) -> int:
        """Optimizer steps taken by the weights; -1 for weights that were never trained here."""
        ...

    @property
    def context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        ...

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        """n completions of one prompt, which is read once. A prompt that leaves no room raises at once."""
        ...

    def score(self, tokens: Ints) -> Pending[Floats]:
        """[N] float32: logprob of each token given those before it; NaN for the first."""
        ...

    def close(self) -> None:
        """Release memory and threads; `with sampler:` does so at its end."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
