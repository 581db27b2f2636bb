"""The server on a socket, by uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from starlette.types import ASGIApp

from tinsmith.adapters.serve.app import make_app
from tinsmith.adapters.serve.hub import Hub
from tinsmith.domain.errors import ConfigError, MissingExtraError, WorldError
from tinsmith.ports.engine import Engine

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LINGER_S = 2
"""How long a stop waits for answers on their way."""


class Server:
    """`run` serves until SIGINT or SIGTERM; `running` does it on a thread of its own, for tests and notebooks."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        directory: Path,
        *,
        host: str,
        port: int,
        key: str | None,
        log: Callable[[str], object] | None,
        note: Callable[[str], object],
    ) -> None:
        try:
            import uvicorn
        except ImportError:
            raise MissingExtraError("uvicorn", "serve") from None
        loopback = host in LOOPBACK
        if not loopback and not key:
            raise ConfigError(
                f"host={host} is open to others, so it needs key=..., which clients give as their API key"
            )
        if key is not None and not key.startswith("tml-"):
            raise ConfigError("key=...: it begins with tml-; clients of the protocol refuse any other")
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        name = "localhost" if loopback and host != "::1" else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}"
        self._host = host
        try:
            self._hub = Hub(engines, directory, note)
        except BaseException:
            self._socket.close()
            raise
        self._app = make_app(self._hub, key=key, loopback=loopback, log=log)
        config = uvicorn.Config(
            self._app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=LINGER_S, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None

    def wrap(self, around: Callable[[ASGIApp], ASGIApp]) -> None:
        """Put an ASGI app around the server's, before it runs."""
        self._server.config.app = around(self._app)

    def run(self) -> None:
        """Returns after SIGINT or SIGTERM, with everything written."""
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stop = self._stop
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):  # no such handlers on Windows
                    loop.add_signal_handler(number, stop)
        await self._server._serve([self._socket])

    def _stop(self) -> None:
        self._hub.futures.close()  # questions that are held open are answered now: come again
        self._server.should_exit = True

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a thread; gives the address."""
        thread = threading.Thread(target=self.run, name="serve", daemon=True)
        thread.start()
        deadline = threading.Event()
        for _ in range(600):
            if self._server.started or not thread.is_alive():
                break
            deadline.wait(0.05)
        try:
            if not self._server.started:
                raise WorldError("the server did not start")
            yield self.url
        finally:
            if self._loop is not None and thread.is_alive():
                self._loop.call_soon_threadsafe(self._stop)
            thread.join(30.0)


def _listen(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # named, else asyncio leaves Nagle on: 40 ms a reply
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        said = error.strerror or error
        raise ConfigError(f"{host}:{port} cannot be listened on: {said}; try another port=") from error
    return listener
