"""A client that treats a server as SDK 0.38.0 does, on raw HTTP, so that what the SDK hides can be asked for."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from tinsmith.domain.errors import ConfigError, DeadlineError, MissingExtraError, WorldError
from tinsmith.testing.conformance.law import Broken

VERSION = "0.38.0"
PROTOBUF = "application/x-protobuf"
POLL_S = 45.0
"""How long the SDK waits for an answer to a question for a result."""
ATTEMPTS = 3
"""A server's failure (5xx) is tried again as the SDK does, but not for minutes."""


class Refused(Exception):
    """The server refused: by HTTP status (`status`), or as the result of a request (`category`)."""

    def __init__(self, message: str, *, status: int | None = None, category: str = "user") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.category = category

    def __str__(self) -> str:
        return f"{self.category} error{f' (HTTP {self.status})' if self.status else ''}: {self.message}"


@frozen
class Answer:
    """A result: JSON or protobuf."""

    content_type: str
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        if self.content_type == PROTOBUF:
            raise Broken("protobuf came where the client reads JSON")
        value = json.loads(self.body)
        if not isinstance(value, dict):
            raise Broken(f"the result is no JSON object: {self.body[:80]!r}")
        return value

    @property
    def protobuf(self) -> bytes:
        if self.content_type != PROTOBUF:
            raise Broken(f"the result came as {self.content_type}; the client reads {PROTOBUF} alone")
        return self.body


class Wire:
    """`deadline`: seconds after which a request that has no result has failed."""

    def __init__(self, base_url: str, *, key: str = "tml-conform", deadline: float = 60.0) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "conform") from None
        from tinsmith.wire.messages import types

        types()  # without protobuf nothing below works
        self._httpx = httpx
        self.base_url = base_url.rstrip("/")
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url={base_url}: an address that begins with http:// or https://")
        self.deadline = deadline
        self.key = key
        self.requests = 0
        headers = {
            "X-API-Key": key,
            "Accept": "application/json",
            "User-Agent": f"AsyncTinker/Python {VERSION}",
            "x-sdk-version": VERSION,
        }
        self._client = httpx.Client(base_url=f"{self.base_url}/api/v1/", headers=headers, timeout=deadline)

    def close(self) -> None:
        self._client.close()

    def raw(
        self,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """One HTTP exchange, whatever comes of it. bytes go as protobuf, unless `headers` say else; a body is a POST.
        DeadlineError after `timeout`; WorldError without a connection."""
        self.requests += 1
        method = method or ("GET" if body is None else "POST")
        sent = {} if method == "GET" else {"X-Idempotency-Key": f"stainless-python-retry-{uuid.uuid4()}"}
        sent["x-stainless-retry-count"] = "0"
        if body is not None:
            sent["Content-Type"] = PROTOBUF if isinstance(body, bytes) else "application/json"
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            return self._client.request(
                method,
                path,
                content=content,
                headers={**sent, **(headers or {})},
                timeout=self.deadline if timeout is None else timeout,
            )
        except self._httpx.TimeoutException as error:
            raise DeadlineError(f"{self.base_url}: no answer to {path}") from error
        except self._httpx.HTTPError as error:
            raise WorldError(f"{self.base_url}: {type(error).__name__}: {error}") from error

    def call(self, path: str, body: Mapping[str, Any] | bytes | None = None, **how: Any) -> Any:
        """The JSON answer; Refused for a 4xx, Broken for a 5xx that stays. 408, 409, 429 and 5xx are tried again."""
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                response = self.raw(path, body, **how)
            except DeadlineError:
                raise Broken(f"{path}: no answer within {self.deadline:.0f} s") from None
            status = response.status_code
            if 200 <= status < 300:
                return _json(path, response)
            again = status in (408, 409, 429) and time.monotonic() - began < self.deadline
            if again or (status >= 500 and attempt < ATTEMPTS):
                time.sleep(min(0.1 * 2**attempt, 2.0))
            elif status >= 500:
                raise Broken(f"{path}: HTTP {status}: {_said(response)}")
            else:
                raise Refused(_said(response), status=status)

    def result(self, request_id: str, kind: str) -> Answer:
        """Ask for a result until there is one. `kind`: ForwardBackward, Sample, ... as the SDK names it."""
        until = time.monotonic() + self.deadline
        metadata_only, iteration, failures, bad = True, 0, 0, 0
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise Broken(f"{kind}: no result within {self.deadline:.0f} s")
            headers = {"X-Tinker-Request-Iteration": str(iteration), "X-Tinker-Request-Type": kind}
            iteration += 1
            asked = {"request_id": request_id, "allow_metadata_only": metadata_only}
            try:
                response = self.raw("retrieve_future", asked, headers=headers, timeout=min(POLL_S, left))
            except DeadlineError:
                continue
            status = response.status_code
            if status == 200:
                answer = Answer(response.headers.get("content-type", "").partition(";")[0].strip(), response.content)
                if answer.content_type == PROTOBUF:
                    return answer
                value = _json("retrieve_future", response)
                if value.get("type") == "try_again":
                    time.sleep(0.005)  # the SDK does not; the server is the one under test
                elif value.get("status") == "complete_metadata":
                    if not metadata_only:
                        raise Broken(f"{kind}: metadata came again where the result itself was asked for")
                    metadata_only = False
                elif "error" in value:
                    raise Refused(str(value["error"]), category=str(value.get("category", "unknown")))
                else:
                    return answer
            elif status == 408:
                time.sleep(0.005)
            elif status == 429:
                time.sleep(0.5)
            elif status >= 500:
                failures += 1
                if failures >= ATTEMPTS:
                    raise Broken(f"{kind}: HTTP {status} for a result: {_said(response)}")
                time.sleep(0.1)
            elif status == 400 and bad < 3:
                bad += 1
            else:
                raise Refused(_said(response), status=status)

    def refusal(self, work: Callable[[], Any]) -> Refused | None:
        """How the server refused this, or None where it did not."""
        try:
            work()
        except Refused as refused:
            return refused
        return None


def _json(path: str, response: Any) -> dict[str, Any]:
    if not response.content:
        return {}
    try:
        value = json.loads(response.content)
    except ValueError:
        raise Broken(f"{path}: answered with no JSON: {response.content[:80]!r}") from None
    if not isinstance(value, dict):
        raise Broken(f"{path}: answered with {type(value).__name__}, no JSON object")
    return value


def _said(response: Any) -> str:
    text: str = response.text
    try:
        value = json.loads(text)
        text = str(value.get("detail") or value.get("error") or value.get("message") or text)
    except (ValueError, AttributeError):
        pass
    return text[:300]
