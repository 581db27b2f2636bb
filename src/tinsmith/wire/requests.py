"""The JSON bodies of the wire as values. Fields that a newer client adds are let be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from attrs import field, fields, frozen, has, resolve_types

from tinsmith.domain.errors import ConfigError

T = TypeVar("T")


@frozen
class LoraConfig:
    rank: int
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


@frozen
class OptimizerConfig:
    type: str = "adamw"


@frozen
class CreateSession:
    tags: Sequence[str] = ()
    user_metadata: Mapping[str, Any] | None = None
    sdk_version: str = ""


@frozen
class CreateModel:
    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: LoraConfig | None = None
    optimizer_config: OptimizerConfig = OptimizerConfig()
    user_metadata: Mapping[str, Any] | None = None


@frozen
class Numbered:
    """What all requests that move a model have."""

    model_id: str
    seq_id: int


@frozen
class LoadWhere:
    """A load into a model, or without one the making of a new model."""

    model_id: str | None = None


@frozen
class AdamParams:
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@frozen
class OptimStep:
    model_id: str
    seq_id: int
    adam_params: AdamParams | None = None
    optimizer_params: Mapping[str, Any] | None = None


@frozen
class SaveWeights:
    model_id: str
    seq_id: int
    path: str | None = None
    overwrite: bool = False
    ttl_seconds: int | None = None
    user_metadata: Mapping[str, Any] | None = None


@frozen
class SaveWeightsForSampler:
    model_id: str
    seq_id: int
    path: str | None = None
    sampling_session_seq_id: int | None = None
    ttl_seconds: int | None = None
    user_metadata: Mapping[str, Any] | None = None


@frozen
class SaveWeightsExternal:
    model_id: str
    seq_id: int
    path: str
    ttl_seconds: int | None = None
    age_encryption_recipients: Sequence[str] | None = None


@frozen
class LoadWeights:
    path: str
    optimizer: bool = True
    model_id: str | None = None
    seq_id: int | None = None
    session_id: str | None = None
    model_seq_id: int | None = None
    base_model: str | None = None
    user_metadata: Mapping[str, Any] | None = None


@frozen
class CreateSamplingSession:
    session_id: str
    sampling_session_seq_id: int
    base_model: str | None = None
    model_path: str | None = None


@frozen
class Chunk:
    type: str = "encoded_text"
    tokens: Sequence[int] = ()


@frozen
class Prompt:
    chunks: Sequence[Chunk] = ()


@frozen
class SampleSettings:
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | Sequence[int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0


@frozen
class Sample:
    prompt: Prompt
    sampling_params: SampleSettings
    num_samples: int = 1
    sampling_session_id: str | None = None
    seq_id: int | None = None
    base_model: str | None = None
    model_path: str | None = None
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: Mapping[str, Any] | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None


@frozen
class RetrieveFuture:
    request_id: str
    allow_metadata_only: bool = False


@frozen
class SessionOnly:
    session_id: str


@frozen
class ModelOnly:
    model_id: str


@frozen
class PathOnly:
    tinker_path: str = field()


@frozen
class Finish:
    reason: Mapping[str, Any] = field(factory=dict)
    detail: str | None = None


@frozen
class Ttl:
    ttl_seconds: int | None = None


def parse(kind: type[T], body: bytes) -> T:
    """The body as a value of `kind`. Raises ConfigError naming the field.

    What Python reads beyond JSON is refused here, where a client can be told: what is kept (NaN, half a surrogate pair)
    could not be sent to anybody later.
    """
    try:
        text = body.decode() or "{}"
        value = json.loads(text, parse_constant=_no_number, parse_float=_number)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the body is no JSON: {error}") from error
    result: T = _structure(value, kind, "")
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    value = float(text)
    if value in (math.inf, -math.inf):
        raise ValueError(f"{text[:40]} is beyond a float64")
    return value


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """(type, required) of each field."""
    resolve_types(kind)
    return {a.name: (a.type, a.default is _NOTHING) for a in fields(kind)}


_NOTHING = fields(CreateModel).session_id.default


def _structure(value: Any, kind: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        options = [k for k in get_args(kind) if k is not type(None)]
        errors = []
        for option in options:
            try:
                return _structure(value, option, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{where}: one of {', '.join(map(str, get_args(kind)))}")
        return value
    if isinstance(kind, type) and has(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where or 'the body'}: an object, not {_said(value)}")
        found = {}
        for name, (inner, required) in _fields(kind).items():
            path = f"{where}.{name}" if where else name
            # null stands for a default, but not of a number: a client that computed NaN may send it so.
            if name in value and not (value[name] is None and not required and inner is not float):
                found[name] = _structure(value[name], inner, path)
            elif required:
                raise ConfigError(f"{path} is missing")
        return kind(**found)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: an object, not {_said(value)}")
        return value
    if origin is not None and issubclass(origin, Sequence):
        (inner,) = get_args(kind)
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list, not {_said(value)}")
        if inner is int:  # a prompt: one look at each, no call
            for i, item in enumerate(value):
                if type(item) is not int:
                    raise ConfigError(f"{where}[{i}]: a whole number, not {_said(item)}")
            return value
        return [_structure(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
    if kind is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: a number that fits") from None
    if type(value) is kind:
        if kind is int and not -(2**64) < value < 2**64:
            raise ConfigError(f"{where}: a whole number of at most 64 bits")
        return value
    raise ConfigError(f"{where}: {_NAMES.get(kind, kind)}, not {_said(value)}")


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
