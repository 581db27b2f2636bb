"""A server of the library on loopback, over a model small enough for laws, and what is needed to look inside."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import numpy as np
import pytest

from tinsmith.adapters.embedded.sampler import EmbeddedSampler
from tinsmith.adapters.embedded.trainer import EmbeddedTrainer
from tinsmith.adapters.serve.listen import Server
from tinsmith.adapters.tinker.service import Service

SDK_LEAVES_SOCKETS = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
"""The SDK never closes the connection of its first request."""


class SmallEngine:
    """A base model as the server needs it."""

    stop_ids = ()
    tokenizer_path = ""

    def __init__(self, model, token_bytes, *, name="small", micro_batch_tokens=16):
        self.model = model
        self.token_bytes = token_bytes
        self.name = name
        self.context = model.context
        self.vocab_size = model.vocab_size
        self._micro_batch_tokens = micro_batch_tokens

    def trainer(self, *, lora, seed, state_dir):
        return EmbeddedTrainer(
            self.model,
            name=self.name,
            state_dir=state_dir,
            lora=lora,
            seed=seed,
            threads=1,
            micro_batch_tokens=self._micro_batch_tokens,
            token_bytes=self.token_bytes,
        )

    def sampler(self):
        return EmbeddedSampler(
            self.model.snapshot(),
            policy_version=-1,
            threads=1,
            token_bytes=self.token_bytes,
        )


class Loopback:
    """One running server, one connection to it."""

    def __init__(self, engine: SmallEngine, directory: Path) -> None:
        self.engine = engine
        self.server = Server(
            {engine.name: engine}, directory, host="127.0.0.1", port=0, key=None, log=None, note=lambda _: None
        )
        self._stack = contextlib.ExitStack()
        self.url = self._stack.enter_context(self.server.running())
        self.service = Service(self.url, timeout=60.0)

    def weights(self, trainer):
        """The weights of a trainer of the adapter, as they lie in the server's engine."""
        run = self.server._hub.runs[trainer._state.client.model_id]
        return np.concatenate([v.ravel() for v in run._trainer._native.parameters().values()]).astype(np.float64)

    def close(self) -> None:
        self._stack.close()
        gc.collect()  # what the SDK left open goes here, and not in a test that minds
