"""Programs at a SandboxFusion server (bytedance/SandboxFusion), by its HTTP interface `/run_code`.

The server makes and releases its sandboxes; a lease here is one request. What they keep a program from is the
server's own setting, and so are the limits but for time and output.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx

from tinsmith.adapters.sandbox.pool import Stop, encoded
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.sandbox import End, Isolation, Limits, Program, Ran, SandboxError

CONNECT_S = 10.0
GRACE_S = 20.0
"""Seconds that an answer may take beyond the program's own time: a queue at the server, and the way."""
ESCAPED = 6
"""Bytes of JSON that a byte of output takes at most."""


class FusionBackend:
    name = "sandboxfusion"
    isolation = Isolation(network=False, files=True, memory=False, disk=False, processes=False, cancel=False)

    def __init__(self, limits: Limits, *, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"sandbox.url={url!r}: http://HOST:PORT of a SandboxFusion server")
        self.limits = limits
        self._url = url.rstrip("/").removesuffix("/run_code") + "/run_code"

    def create(self, stop: Stop) -> object:
        return object()

    def run(self, sandbox: object, program: Program, stop: Stop) -> Ran:
        began = time.monotonic()
        try:
            answer = json.loads(asyncio.run(self._stoppable(program, stop)))
            return self._read(answer, time.monotonic() - began)
        except asyncio.CancelledError:
            raise SandboxError("nobody waits for the program any more") from None
        except TimeoutError:
            raise SandboxError(f"{self._url} gave no answer in time") from None
        except _TooMuch:
            return Ran(end=End.OUTPUT, exit_code=None, stdout=b"", stderr=b"", seconds=time.monotonic() - began)
        except httpx.HTTPError as error:
            raise SandboxError(f"{self._url}: {type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"{self._url} gave no answer of SandboxFusion ({error!r})") from error

    async def _stoppable(self, program: Program, stop: Stop) -> bytes:
        loop, asking = asyncio.get_running_loop(), asyncio.ensure_future(self._asked(program))
        with stop.calling(lambda: loop.call_soon_threadsafe(asking.cancel)):
            async with asyncio.timeout(program.timeout_s + GRACE_S):
                return await asking

    async def _asked(self, program: Program) -> bytes:
        body = {
            "code": _sound(program.source),
            "language": "python",
            "stdin": _sound(program.stdin),
            "files": {name: base64.b64encode(data).decode() for name, data in program.files.items()},
            "compile_timeout": program.timeout_s,
            "run_timeout": program.timeout_s,
        }
        most = ESCAPED * self.limits.output_bytes + (1 << 16)
        received = bytearray()
        content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(None, connect=CONNECT_S)) as client,
            client.stream("POST", self._url, content=content, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise SandboxError(f"{self._url} answered {response.status_code}")
            async for chunk in response.aiter_bytes(1 << 16):
                received += chunk
                if len(received) > most:
                    raise _TooMuch
        return bytes(received)

    def _read(self, answer: Any, seconds: float) -> Ran:
        result = answer["run_result"]
        if answer["status"] == "SandboxError" or result is None or result["status"] == "Error":
            raise SandboxError(f"{self._url}: {answer.get('message') or 'an error of its sandbox'}")
        stdout, stderr = (encoded(result.get(name) or "") for name in ("stdout", "stderr"))
        code = result.get("return_code")
        end = End.TIMEOUT if result["status"] == "TimeLimitExceeded" else End.EXITED
        most = self.limits.output_bytes
        if len(stdout) + len(stderr) > most:
            end, stdout, stderr = End.OUTPUT, stdout[:most], stderr[: max(0, most - len(stdout))]
        return Ran(
            end=end,
            exit_code=int(code) if end is End.EXITED else None,
            stdout=stdout,
            stderr=stderr,
            seconds=seconds,
        )

    def release(self, sandbox: object) -> None:
        """The server has done it."""


def _sound(text: str) -> str:
    """Without halves of surrogate pairs, which a server need not take: that is the program's fault, not the world's."""
    return text.encode("utf-8", "replace").decode()


class _TooMuch(Exception):
    """An answer is longer than any that is allowed."""
