"""A sampler that says what a function tells it: a policy by hand, for environments and rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np

from tinsmith.domain.tokens import Floats, Ints, ints
from tinsmith.ports.pending import Pending
from tinsmith.ports.sampler import Completion, FinishReason, SampleResult, SamplingParams
from tinsmith.ports.tokenizer import Tokenizer


class ScriptedSampler:
    """Answers each prompt with `answer(prompt, j)`, the text of completion j, and the first stop id of the request.

    Control tokens are written by name in the text (`<tool_call>`). A text that is longer than max_tokens is cut, and
    ends by length. Every token's logprob is -1.
    """

    def __init__(self, tokenizer: Tokenizer, answer: Callable[[str, int], str], *, context: int = 1 << 20) -> None:
        self._tokenizer = tokenizer
        self._answer = answer
        self._context = context

    @property
    def policy_version(self) -> int:
        return -1

    @property
    def context(self) -> int:
        return self._context

    def sample(self, prompt: Ints, params: SamplingParams, n: int = 1) -> Pending[SampleResult]:
        text = self._tokenizer.decode(prompt)
        return Pending.of(SampleResult(completions=tuple(self._completion(text, j, params) for j in range(n))))

    def _completion(self, prompt: str, j: int, params: SamplingParams) -> Completion:
        tokens = [*self.tokens(self._answer(prompt, j)), *params.stop_ids[:1]]
        cut = len(tokens) > params.max_tokens
        kept = ints(tokens[: params.max_tokens])
        finish = FinishReason.LENGTH if cut else FinishReason.STOP
        return Completion(tokens=kept, logprobs=np.full(len(kept), -1.0, np.float32), finish=finish)

    def tokens(self, text: str) -> list[int]:
        """The text's tokens, names of control tokens being those."""
        special = self._tokenizer.special_tokens
        for name, token in special.items():
            before, found, after = text.partition(name)
            if found:
                return [*self.tokens(before), token, *self.tokens(after)]
        return [int(t) for t in self._tokenizer.encode(text)]

    def score(self, tokens: Ints) -> Pending[Floats]:
        scores = np.full(len(tokens), -1.0, np.float32)
        scores[:1] = np.nan
        return Pending.of(scores)

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""
