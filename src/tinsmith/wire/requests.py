"""The JSON bodies of the wire as values. Fields that a newer client adds are let be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

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
        value = _JSON.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the body is no JSON: {error}") from error
    made: Any = kind
    result: T = _reader(made)(value, "")
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    value = float(text)
    if value in (math.inf, -math.inf):
        raise ValueError(f"{text[:40]} is beyond a float64")
    return value


_JSON = json.JSONDecoder(parse_constant=_no_number, parse_float=_number)
Reader: TypeAlias = Callable[[Any, str], Any]
"""(a JSON value, where it stands) -> what it is."""


@cache
def _reader(kind: Any) -> Reader:
    """Made once for a type: looking at types takes longer than reading the values of a request."""
    origin = get_origin(kind)
    if kind is Any:
        return lambda value, _: value
    if origin in (Union, UnionType):
        return _reader_of_union(kind)
    if origin is Literal:
        return _reader_of_choice(get_args(kind))
    if isinstance(kind, type) and has(kind):
        return _reader_of_object(kind)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping
    if origin is not None and issubclass(origin, Sequence):
        (inner,) = get_args(kind)
        return _ints if inner is int else _reader_of_list(_reader(inner))
    return {float: _float, int: _int}.get(kind) or _reader_of_one(kind)


def _reader_of_union(kind: Any) -> Reader:
    optional = type(None) in get_args(kind)
    readers = [_reader(option) for option in get_args(kind) if option is not type(None)]

    def read(value: Any, where: str) -> Any:
        if value is None and optional:
            return None
        errors = []
        for reader in readers:
            try:
                return reader(value, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]

    return read


def _reader_of_choice(choices: Sequence[Any]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if value not in choices:
            raise ConfigError(f"{where}: one of {', '.join(map(str, choices))}")
        return value

    return read


def _reader_of_object(kind: type[Any]) -> Reader:
    resolve_types(kind)
    readers = [(a.name, _reader(a.type), a.default is _NOTHING, a.type is float) for a in fields(kind)]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise ConfigError(f"{where or 'the body'}: an object, not {_said(value)}")
        found = {}
        for name, reader, required, is_float in readers:
            # null stands for a default, but not of a number: a client that computed NaN may send it so.
            if name in value and not (value[name] is None and not required and not is_float):
                found[name] = reader(value[name], f"{where}.{name}" if where else name)
            elif required:
                raise ConfigError(f"{where}.{name} is missing" if where else f"{name} is missing")
        return kind(**found)

    return read


_NOTHING = fields(CreateModel).session_id.default


def _mapping(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: an object, not {_said(value)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: a list, not {_said(value)}")
    return value


def _ints(value: Any, where: str) -> Any:
    for i, item in enumerate(_list(value, where)):  # a prompt: one look at each, no call
        if type(item) is not int:
            raise ConfigError(f"{where}[{i}]: a whole number, not {_said(item)}")
    return value


def _reader_of_list(inner: Reader) -> Reader:
    return lambda value, where: [inner(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where))]


def _float(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise _other(float, value, where)
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{where}: a number that fits") from None


def _int(value: Any, where: str) -> Any:
    if type(value) is not int:
        raise _other(int, value, where)
    if not -(2**64) < value < 2**64:
        raise ConfigError(f"{where}: a whole number of at most 64 bits")
    return value


def _reader_of_one(kind: type[Any]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise _other(kind, value, where)
        return value

    return read


def _other(kind: type[Any], value: Any, where: str) -> ConfigError:
    return ConfigError(f"{where}: {_NAMES.get(kind, kind)}, not {_said(value)}")


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
