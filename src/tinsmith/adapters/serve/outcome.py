"""What a request came to: a result in the form that the wire wants, or an error and whose it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from tinsmith.domain.errors import (
    CancelledWorkError,
    CapabilityError,
    ConfigError,
    DataError,
    NonFiniteError,
    ShapeError,
    TrainingError,
)

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
USER_ERRORS = (ConfigError, ShapeError, CapabilityError, DataError, NonFiniteError, TrainingError)


class HttpError(Exception):
    """Said with an HTTP status, at once."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BusyError(HttpError):
    """Too much waits already: the client comes again later."""

    def __init__(self, message: str) -> None:
        super().__init__(429, message)


@frozen
class Outcome:
    body: bytes
    content_type: str = JSON

    @property
    def failed(self) -> bool:
        return self.content_type == JSON and self.body.startswith(b'{"error"')


def ok(value: Mapping[str, Any]) -> Outcome:
    return Outcome(json.dumps(value).encode())


def failure(error: BaseException) -> Outcome:
    """The error for whoever retrieves the result: the user's, or the server's."""
    users = isinstance(error, USER_ERRORS) or (isinstance(error, HttpError) and error.status < 500)
    category = "user" if users else "server"
    if isinstance(error, CancelledWorkError):
        message = "the request was cancelled"
    else:
        message = str(error) or type(error).__name__
    return Outcome(json.dumps({"error": message, "category": category}).encode())
