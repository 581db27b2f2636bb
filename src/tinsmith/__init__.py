"""tinsmith: post-training language models, with a Rust core and an embedded CPU engine.

    import tinsmith as ts

Nothing is imported before it is used: a name of `__all__` is looked up in its module at first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinsmith.bootstrap import LoadedModel as LoadedModel
    from tinsmith.bootstrap import Model as Model
    from tinsmith.bootstrap import load_model as load_model
    from tinsmith.bootstrap import open_model as open_model
    from tinsmith.bootstrap import open_source as open_source
    from tinsmith.cli import run_program as run_program
    from tinsmith.config.options import option as option
    from tinsmith.config.resolve import from_dict as from_dict
    from tinsmith.config.resolve import load as load
    from tinsmith.config.resolve import resolve as resolve
    from tinsmith.config.resolve import to_dict as to_dict
    from tinsmith.domain.datums import Batch as Batch
    from tinsmith.domain.datums import Datum as Datum
    from tinsmith.domain.episodes import Episode as Episode
    from tinsmith.domain.episodes import Group as Group
    from tinsmith.domain.episodes import StopReason as StopReason
    from tinsmith.domain.episodes import Transition as Transition
    from tinsmith.domain.errors import BudgetError as BudgetError
    from tinsmith.domain.errors import CapabilityError as CapabilityError
    from tinsmith.domain.errors import ConfigError as ConfigError
    from tinsmith.domain.errors import DataError as DataError
    from tinsmith.domain.errors import ModelError as ModelError
    from tinsmith.domain.errors import TinsmithError as TinsmithError
    from tinsmith.domain.errors import TrainingError as TrainingError
    from tinsmith.domain.errors import WorldError as WorldError
    from tinsmith.domain.messages import Conversation as Conversation
    from tinsmith.domain.messages import Message as Message
    from tinsmith.domain.tokens import Floats as Floats
    from tinsmith.domain.tokens import Ints as Ints
    from tinsmith.ports.data import DatasetSource as DatasetSource
    from tinsmith.ports.pending import Pending as Pending
    from tinsmith.ports.sampler import Completion as Completion
    from tinsmith.ports.sampler import FinishReason as FinishReason
    from tinsmith.ports.sampler import Sampler as Sampler
    from tinsmith.ports.sampler import SampleResult as SampleResult
    from tinsmith.ports.sampler import SamplingParams as SamplingParams
    from tinsmith.ports.tokenizer import Tokenizer as Tokenizer
    from tinsmith.ports.trainer import AdamW as AdamW
    from tinsmith.ports.trainer import Lora as Lora
    from tinsmith.ports.trainer import LossSpec as LossSpec
    from tinsmith.ports.trainer import Trainer as Trainer
    from tinsmith.ports.trainer import TrainResult as TrainResult
    from tinsmith.recipes.env import play_env as play_env
    from tinsmith.workflows.env_check import CheckSettings as CheckSettings
    from tinsmith.workflows.env_check import check_env as check_env

    __version__: str

_MODULE_OF = {
    "Lora": "ports.trainer",
    "Floats": "domain.tokens",
    "Ints": "domain.tokens",
    "Message": "domain.messages",
    "Conversation": "domain.messages",
    "run_program": "cli",
    "open_source": "bootstrap",
    "load_model": "bootstrap",
    "LoadedModel": "bootstrap",
    "Model": "bootstrap",
    "open_model": "bootstrap",
    "option": "config.options",
    "from_dict": "config.resolve",
    "load": "config.resolve",
    "resolve": "config.resolve",
    "to_dict": "config.resolve",
    "Batch": "domain.datums",
    "Datum": "domain.datums",
    "Episode": "domain.episodes",
    "Group": "domain.episodes",
    "StopReason": "domain.episodes",
    "Transition": "domain.episodes",
    "BudgetError": "domain.errors",
    "CapabilityError": "domain.errors",
    "ConfigError": "domain.errors",
    "DataError": "domain.errors",
    "ModelError": "domain.errors",
    "TinsmithError": "domain.errors",
    "TrainingError": "domain.errors",
    "WorldError": "domain.errors",
    "DatasetSource": "ports.data",
    "Pending": "ports.pending",
    "Completion": "ports.sampler",
    "FinishReason": "ports.sampler",
    "Sampler": "ports.sampler",
    "SampleResult": "ports.sampler",
    "SamplingParams": "ports.sampler",
    "Tokenizer": "ports.tokenizer",
    "AdamW": "ports.trainer",
    "LossSpec": "ports.trainer",
    "Trainer": "ports.trainer",
    "TrainResult": "ports.trainer",
    "play_env": "recipes.env",
    "CheckSettings": "workflows.env_check",
    "check_env": "workflows.env_check",
}
"""The public names, each with its module; the block above says the same to a type checker."""

_MODULES = ("answers", "bootstrap", "config", "domain", "envs", "ports", "recipes", "rendering", "testing", "workflows")

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module(f"{__name__}._native").__version__
    elif name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    elif name == "answers":
        value = import_module(f"{__name__}.domain.answers")
    elif name in _MODULES:
        if name == "rendering":
            import_module(f"{__name__}.bootstrap")  # which tells it where the tokenizers of models lie
        return import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
