"""A connection to a server: who answers, what it serves, and the session that trainers and samplers share."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

from attrs import frozen

from tinsmith.adapters.tinker.errors import translated
from tinsmith.adapters.tinker.work import driver, in_thread
from tinsmith.domain.errors import (
    CancelledWorkError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    ModelNotFoundError,
    WorldError,
)
from tinsmith.ports.pending import DEADLINE_S

T = TypeVar("T")

HELLO_S = 10.0
"""Seconds that a server may take for its first answer, whatever it is."""

START_S = 30.0
"""Seconds for the SDK's own first requests; it would try for minutes."""

FINISH_S = 5.0
"""Seconds that closing waits for the server to hear of it."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOOPBACK_KEY = "tml-loopback"
"""What the SDK is given as key, where there is none, for a server on this machine: the SDK insists on one."""


@frozen
class Served:
    """A model that a server offers."""

    name: str
    context: int | None
    """Longest sequence in tokens, where the server says it."""
    trainable: bool
    sampleable: bool


class Service:
    """One server. Its session begins with the first user (trainer or sampler) and is finished with the last."""

    def __init__(self, base_url: str | None, *, timeout: float = DEADLINE_S) -> None:
        """Raises, before anything else is done: MissingExtraError, ConfigError (no key, or a refused one), BudgetError,
        WorldError (no server answers). timeout: seconds that creating or loading a model may take."""
        if importlib.util.find_spec("tinker") is None:
            raise MissingExtraError("tinker", "tinker")
        import tinker
        from tinker.lib.base_url import resolve_base_url

        self.url = resolve_base_url(base_url)
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"base_url={self.url!r}: an address that begins with http:// or https://")
        self.timeout = timeout
        self._key = _key(self.url)
        self.driver = driver()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._session: Any = None
        self._users = 0
        _quiet()
        hello(self.url)
        self.rest = self._within(
            lambda: tinker.RestClient(base_url=self.url, api_key=self._key),
            START_S,
            f"{self.url} gave no configuration",
        )
        _raise_for_money(self.rest.holder)
        answer = self._within(
            lambda: self.rest.get_server_capabilities().result(), START_S, f"{self.url} did not say what it serves"
        )
        self.models = tuple(
            Served(m.model_name, m.max_context_length, m.trainable is not False, m.sampleable is not False)
            for m in answer.supported_models
            if m.model_name
        )

    def served(self, name: str) -> Served:
        """The model of that name. ModelNotFoundError, with the nearest names, when there is none."""
        for model in self.models:
            if model.name == name:
                return model
        names = [model.name for model in self.models]
        folded = {n.lower(): n for n in names} | {n.lower().rpartition("/")[2]: n for n in names}
        near = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, 3, 0.5)] or names[:3]
        meant = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        raise ModelNotFoundError(f"{self.url} does not serve {name!r}: it has {len(names)} models{meant}")

    @property
    def key(self) -> str | None:
        """The API key, for requests that the SDK has no method for; None where it is had from a command."""
        key: str | None = self._key or self.rest.holder._api_key
        return key

    def tokenizer_of(self, name: str) -> str | None:
        """What the server says of a model's tokenizer: a path or a name of the hub. A model is made to ask for it."""
        self.acquire()
        try:
            client = self._within(
                lambda: self.session().create_lora_training_client(name, rank=1).result(),
                self.timeout,
                "no model was made",
            )
            found = client.get_info().model_data
            where: str | None = found.tokenizer_id or found.model_name
            return where
        finally:
            self.release()

    def session(self) -> Any:
        """The SDK's client of the session. Blocks while it begins; call `acquire` before."""
        import tinker

        with self._beginning:  # and not the lock that closing needs: a server may keep us waiting here
            if self._session is not None:
                return self._session
            session = tinker.ServiceClient(base_url=self.url, api_key=self._key, user_metadata={"client": "tinsmith"})
            session.holder.get_session_id()
            _raise_for_money(session.holder)
            with self._lock:
                wanted = self._users > 0
                if wanted:
                    self._session = session
            if not wanted:
                session.close("interrupted")
                raise CancelledWorkError("closed before the session with the server began")
            return session

    def acquire(self) -> None:
        """One more user of the session."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One user less. The last one finishes the session; the server hears of it within FINISH_S seconds, or not."""
        with self._lock:
            self._users -= 1
            if self._users > 0 or self._session is None:
                return
            session, self._session = self._session, None
        error = sys.exc_info()[0]
        status = "success" if error is None else "errored" if issubclass(error, Exception) else "interrupted"
        try:
            session.close(status).future().result(FINISH_S)
        except Exception as error:  # noqa: BLE001 - a session that ends is not worth a failed run
            logging.getLogger(__name__).debug("the session could not be finished: %s", error)

    def _within(self, call: Callable[[], T], seconds: float, otherwise: str) -> T:
        """The result of a call into the SDK that may block far longer."""
        future = in_thread(call)
        try:
            return future.result(seconds)
        except BaseException as error:
            if isinstance(error, TimeoutError) and not future.done():
                raise DeadlineError(f"{otherwise} within {seconds:g} s") from error
            raise translated(error) from error


def hello(url: str) -> None:
    """WorldError unless something answers HTTP at the address, and has a route of the protocol: of another server the
    SDK would ask again and again."""
    import httpx

    try:
        for route in ("healthz", "get_server_capabilities"):
            if httpx.get(f"{url}/api/v1/{route}", timeout=HELLO_S).status_code != HTTPStatus.NOT_FOUND:
                return
    except httpx.TimeoutException as error:
        raise DeadlineError(f"the server at {url} did not answer within {HELLO_S:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WorldError(f"no server answers at {url}: {error}") from error
    raise WorldError(f"{url} is no server of the Tinker protocol: it has no /api/v1/get_server_capabilities (HTTP 404)")


def _key(url: str) -> str | None:
    """The key, where it is not the SDK's to find it. ConfigError when there is none."""
    key = os.environ.get("TINKER_API_KEY")
    if key:
        if not key.startswith(("tml-", "eyJ")):
            raise ConfigError("TINKER_API_KEY is no key of a Tinker server: those begin with tml-")
        return key
    from tinker.lib.credentials import JsonCredentialStore, default_credentials_path

    if os.environ.get("TINKER_CREDENTIAL_CMD"):
        return None
    stored = JsonCredentialStore(default_credentials_path()).get_default_key()
    if stored is not None:
        return None
    if urlsplit(url).hostname in _LOOPBACK:
        return _LOOPBACK_KEY
    raise ConfigError(f"TINKER_API_KEY is not set: {url} needs a key")


def _raise_for_money(holder: Any) -> None:
    """The SDK waits up to an hour when the account has no money; a run that says so and stops is worth more."""
    now = {"billing_exception_max_pause_duration_sec": 0}
    holder._client_config = holder.get_client_config().model_copy(update=now)


def _quiet() -> None:
    """The SDK logs each retry, and what does not pass comes as an error: a person is shown only that the server lets
    them wait. A logger that somebody set up is left alone."""
    logger = logging.getLogger("tinker")
    if logger.level == logging.NOTSET and not logger.handlers and not logging.getLogger().handlers:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("tinker: %(message)s"))
        shown.addFilter(lambda record: "paused" in record.getMessage() and "billing" not in record.getMessage())
        logger.addHandler(shown)
