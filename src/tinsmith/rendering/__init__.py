"""Messages to tokens and back: one file per chat format, none knowing another."""

from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import (
    Examples,
    Failure,
    FailureKind,
    NothingToTrain,
    Origin,
    Overlong,
    Parsed,
    Rendered,
    Stop,
    Termination,
    TooLong,
    TrainOn,
)
from tinsmith.rendering.registry import for_model, get, names, recommended, register, tokenizers_from, unregister
from tinsmith.rendering.streaming import Delta, DeltaKind, Stream

__all__ = [
    "Delta",
    "DeltaKind",
    "Examples",
    "Failure",
    "FailureKind",
    "NothingToTrain",
    "Origin",
    "Overlong",
    "Parsed",
    "Rendered",
    "Renderer",
    "Stop",
    "Stream",
    "Termination",
    "TooLong",
    "TrainOn",
    "for_model",
    "get",
    "names",
    "recommended",
    "register",
    "tokenizers_from",
    "unregister",
]
