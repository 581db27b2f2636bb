"""A sampler as a model of `inspect-ai`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from inspect_ai.model import (
    ChatCompletionChoice,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)

from tinsmith.adapters.inspect.convert import answer_of, messages_of, tools_of
from tinsmith.domain.errors import ConfigError, DeadlineError, WorldError
from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SamplingParams
from tinsmith.ports.tokenizer import Tokenizer

MAX_TOKENS = 2048
"""Of an answer, where neither the task nor the person says."""

CONNECTIONS = 64
"""Answers that are sampled at once, where nobody says."""

NOT_DONE = ("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "response_schema")
"""Options of generation that change what is sampled, and that no sampler here has."""


class Chat(Protocol):
    """A chat format: messages to tokens and back. What `tinsmith.rendering.Renderer` does of this."""

    tokenizer: Tokenizer

    @property
    def stop(self) -> Any: ...
    def generation_prompt(self, messages: Sequence[Message], *, tools: Sequence[Tool]) -> Any: ...
    def parse(self, ids: Ints, *, prompt: Ints, tools: Sequence[Tool]) -> Any: ...


class SamplerAPI(ModelAPI):  # type: ignore[misc]
    """Answers of a sampler. An answer is a draw of its own: the k-th one to the same prompt is fixed by the seed and k,
    so that epochs of a task differ and a run of it comes out the same again."""

    def __init__(
        self, name: str, sampler: Sampler, chat: Chat, config: Any = None, *, timeout_s: float, owns_sampler: bool
    ) -> None:
        """timeout_s: seconds that an answer may take. owns_sampler: closed with the model."""
        super().__init__(name, None, None, [], config or GenerateConfig())
        self._sampler, self._chat = sampler, chat
        self._timeout_s, self._owns_sampler = timeout_s, owns_sampler
        self._asked: Counter[bytes] = Counter()
        self._bytes: list[bytes] | None = None

    async def generate(self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any) -> Any:
        refused = [name for name in NOT_DONE if getattr(config, name, None) not in (None, 0, 0.0, {})]
        if refused:
            raise ConfigError(f"{self.model_name}: {', '.join(refused)}: a sampler of tinsmith has no such option")
        shown = [] if tool_choice == "none" else tools_of(tools)
        prompt = self._chat.generation_prompt(messages_of(input), tools=shown).ids
        room = self._sampler.context - len(prompt)
        if room < 1:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        wanted = config.max_tokens or MAX_TOKENS
        params = self._params(config, prompt, min(room, wanted))
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                result = await self._sampler.sample(prompt, params, n=config.num_choices or 1)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(f"{self.model_name}: no answer within {self._timeout_s:g} s") from error
        choices = [self._choice(c, prompt, shown, config, room <= wanted) for c in result.completions]
        sampled = sum(len(c.tokens) for c in result.completions)
        usage = ModelUsage(input_tokens=len(prompt), output_tokens=sampled, total_tokens=len(prompt) + sampled)
        return ModelOutput(model=self.model_name, choices=choices, usage=usage)

    def _params(self, config: Any, prompt: Ints, max_tokens: int) -> SamplingParams:
        key = hashlib.blake2b(prompt.tobytes(), digest_size=16).digest()
        again = self._asked[key]
        self._asked[key] += 1
        drawn = hashlib.blake2b(key, digest_size=8, key=f"{config.seed or 0}/{again}".encode()).digest()
        stop = self._chat.stop
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
            stop_ids=stop.ids,
            stop=(*stop.strings, *(config.stop_seqs or ())),
            seed=int.from_bytes(drawn, "big") >> 1,
            top_logprobs=(config.top_logprobs or 0) if config.logprobs else 0,
        )

    def _choice(self, completion: Completion, prompt: Ints, tools: Sequence[Tool], config: Any, filled: bool) -> Any:
        message = self._chat.parse(completion.tokens, prompt=prompt, tools=tools).message
        cut = completion.finish is FinishReason.LENGTH
        done = "tool_calls" if message.tool_calls else "stop"
        return ChatCompletionChoice(
            message=answer_of(message, self.model_name),
            stop_reason=("model_length" if filled else "max_tokens") if cut else done,
            logprobs=self._logprobs(completion) if config.logprobs else None,
        )

    def _logprobs(self, completion: Completion) -> Any:
        if self._bytes is None:
            self._bytes = self._chat.tokenizer.token_bytes()
        content = []
        for i, (token, logprob) in enumerate(zip(completion.tokens, completion.logprobs, strict=True)):
            top = None
            if completion.top_ids is not None and completion.top_logprobs is not None:
                pairs = zip(completion.top_ids[i], completion.top_logprobs[i], strict=True)
                top = [TopLogprob(**self._told(int(t), float(p))) for t, p in pairs if np.isfinite(p)]
            content.append(Logprob(**self._told(int(token), float(logprob)), top_logprobs=top))
        return Logprobs(content=content)

    def _told(self, token: int, logprob: float) -> Mapping[str, Any]:
        assert self._bytes is not None
        raw = self._bytes[token] if token < len(self._bytes) else b""
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

    async def count_text_tokens(self, text: str) -> int:
        return len(self._chat.tokenizer.encode(text))

    async def tokenize(self, text: str) -> list[int]:
        return [int(t) for t in self._chat.tokenizer.encode(text)]

    def should_retry(self, ex: Exception) -> bool:
        return isinstance(ex, WorldError)

    def max_connections(self) -> int:
        return CONNECTIONS

    def connection_key(self) -> str:
        return str(self.model_name)

    def close(self) -> None:
        if self._owns_sampler:
            self._sampler.close()
