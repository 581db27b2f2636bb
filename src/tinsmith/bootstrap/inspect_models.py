"""Models for `inspect-ai`: `inspect eval TASK --model tinsmith/NAME`, and a sampler as a model of it.

The package finds this module by its entry point and reads nothing more of it until a model `tinsmith/...` is asked for.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import GenerateConfig, Model, modelapi

from tinsmith.bootstrap.models import Backend, open_model
from tinsmith.ports.pending import DEADLINE_S
from tinsmith.ports.sampler import Sampler
from tinsmith.rendering import Renderer


@modelapi(name="tinsmith")  # type: ignore[untyped-decorator]
def tinsmith() -> Any:
    from tinsmith.adapters.inspect.provider import SamplerAPI

    class Opened(SamplerAPI):
        """A model by name or path. What follows `config` are arguments of the command line, `-M backend=tinker`."""

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: Any = None,
            *,
            backend: Backend = "embedded",
            tokenizer: str | None = None,
            renderer: str | None = None,
            threads: int | None = None,
            timeout_s: float = DEADLINE_S,
        ) -> None:
            model = open_model(
                model_name,
                backend=backend,
                base_url=base_url,
                tokenizer=tokenizer,
                renderer=renderer,
                threads=threads,
                timeout_s=timeout_s,
            )
            super().__init__(
                model_name, model.sampler(), model.renderer, config, timeout_s=timeout_s, owns_sampler=True
            )

    return Opened


def inspect_model(
    sampler: Sampler, renderer: Renderer, *, name: str = "sampler", timeout_s: float = DEADLINE_S, **config: Any
) -> Model:
    """A sampler as a model that tasks of `inspect-ai` are given: the weights of a run, say, between two of its steps.

    It stays the caller's to close. config: options of `GenerateConfig`.
    """
    from tinsmith.adapters.inspect.provider import SamplerAPI

    generate = GenerateConfig(**config)
    return Model(SamplerAPI(name, sampler, renderer, generate, timeout_s=timeout_s, owns_sampler=False), generate)
