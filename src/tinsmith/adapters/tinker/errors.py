"""What the SDK raises, as the errors of this library: the user's mistake, the budget's limit, or the world's failure.

| the SDK or its server says | it becomes |
|---|---|
| no key, 401, 403 | ConfigError |
| 402 | BudgetError: the account's money, not the run's |
| 400, 404, 413, 422; a request that failed as the *user's* | ConfigError, or the error it names |
| a request that failed as the *server's*, or as nobody's | WorldError, or NonFiniteError if it says so |
| 408, 409, 410, 429, 5xx, a lost connection, an answer that cannot be read | WorldError |
| a wait that was too long | DeadlineError |

The SDK retries by itself what may pass (408, 429, 5xx, lost connections), for minutes; what arrives here did not pass.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
from collections.abc import Iterator
from typing import Any

from tinsmith.domain import errors
from tinsmith.domain.errors import (
    BudgetError,
    CancelledWorkError,
    ConfigError,
    DeadlineError,
    NonFiniteError,
    TinsmithError,
    WorldError,
)

_OF_USER = (400, 404, 413, 415, 422)
_NAMED = re.compile(r"\b([A-Z]\w*Error): ")
_NOT_FINITE = re.compile(r"not finite|non-finite|\bnan\b|infinit", re.IGNORECASE)


def translated(error: BaseException) -> BaseException:
    """The error as one of this library; what is not from the SDK comes back as it is."""
    if isinstance(error, TinsmithError | KeyboardInterrupt | SystemExit):
        return error
    if isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError):
        return CancelledWorkError("the work was cancelled before it finished")
    found = _known(error)
    if found is None:
        return error
    found.__cause__ = error
    return found


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if there is one."""
    for link in _chain(error):
        status = getattr(link, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def was_lost(error: BaseException) -> bool:
    """Whether the server may never have taken the request: sending it failed. What fails once a request was taken comes
    as another error of the SDK, which may wrap the same."""
    import tinker

    for link in _chain(error):
        if not isinstance(link, TinsmithError):
            return isinstance(link, tinker.APIError)
    return False


def _known(error: BaseException) -> TinsmithError | None:
    import tinker
    from tinker.lib.retryable_exception import RetryableException

    for link in _chain(error):
        if isinstance(link, tinker.RequestFailedError):
            return _failed(link)
        if isinstance(link, tinker.APIStatusError):
            return _status(link)
        if isinstance(link, tinker.APITimeoutError):
            return DeadlineError("the server did not answer in time")
        if isinstance(link, tinker.APIConnectionError):
            return WorldError(f"the connection to the server was lost: {_reason(link)}")
        if isinstance(link, RetryableException):
            return WorldError(f"the server no longer has what was asked for: {link}")
        if isinstance(link, tinker.APIResponseValidationError):
            return WorldError(f"the server's answer cannot be read: {link}")
        if isinstance(link, tinker.TinkerError):
            return _sdk(link)
    if isinstance(error, TimeoutError):
        return DeadlineError(str(error) or "the server did not answer in time")
    if isinstance(error, ValueError | AssertionError | KeyError | TypeError) and _from_sdk(error):
        return WorldError(f"the server's answer cannot be read: {type(error).__name__}: {error}")
    if isinstance(error, RuntimeError) and "poisoned" in str(error):
        return WorldError(f"the SDK sends nothing more for this model: {error}")
    if isinstance(error, RuntimeError) and "closed" in str(error) and _from_sdk(error):
        return CancelledWorkError("this backend was closed")
    return None


def _sdk(error: Exception) -> TinsmithError:
    if "api_key" in str(error):
        return ConfigError(f"no usable key: {error}")
    return WorldError(f"{type(error).__name__}: {error}")


def _failed(error: Any) -> TinsmithError:
    """A request that the server took and that failed."""
    message = re.sub(r" for self\.request_id=.*", "", str(error.message), flags=re.DOTALL)
    message = message.removeprefix("Request failed: ")
    user = getattr(error.category, "value", error.category) == "user"
    named = _by_name(message)
    if named is not None:
        return named
    if _NOT_FINITE.search(message):
        return NonFiniteError(message)
    return ConfigError(f"the server refuses: {message}") if user else WorldError(f"the server failed: {message}")


def _by_name(message: str) -> TinsmithError | None:
    """The error that a server of this library names."""
    match = _NAMED.match(message)
    cls = getattr(errors, match[1], None) if match else None
    if match is None or not (isinstance(cls, type) and issubclass(cls, TinsmithError)):
        return None
    try:
        made: TinsmithError = cls(message[match.end() :])
    except TypeError:  # made of something else than a message
        return None
    return made


def _status(error: Any) -> TinsmithError:
    status, said = int(error.status_code), _said(error)
    if status in (401, 403):
        return ConfigError(f"the server refuses the key ({status}: {said}); set TINKER_API_KEY to a key of this server")
    if status == 402:
        return BudgetError(f"the server stops for money (402: {said}); the run goes on once the account has some")
    if status in _OF_USER:
        named = _by_name(said)
        return named if named is not None else ConfigError(f"the server refuses ({status}): {said}")
    return WorldError(f"the server failed ({status}): {said}")


def _said(error: Any) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        for key in ("detail", "error", "message"):
            value = body.get(key)
            if isinstance(value, dict):
                value = value.get("message") or value.get("detail")
            if value:
                return str(value)[:500]
    return str(getattr(error, "message", error))[:500]


def _reason(error: BaseException) -> str:
    """What lies at the bottom of a lost connection, in a line."""
    links = [str(link).splitlines()[0] for link in _chain(error) if str(link)]
    return links[-1] if links else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _from_sdk(error: BaseException) -> bool:
    """Whether it was raised inside the SDK, where the server's answer is read."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        last = trace.tb_frame.f_globals.get("__name__", "")
        if last.split(".")[0] == "tinker":
            return True
        trace = trace.tb_next
    return False
