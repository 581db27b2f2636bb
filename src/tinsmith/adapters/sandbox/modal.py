"""Programs in sandboxes of Modal (extra `modal`): containers under gVisor that Modal bills by the second.

One container a program, without a network, terminated when the program ends. One that is lost on the way (a create
that answers too late, a terminate that fails) ends by itself after LIFETIME_S.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from tinsmith.adapters.sandbox.pool import Stop, encoded
from tinsmith.domain.errors import ConfigError, MissingExtraError
from tinsmith.ports.sandbox import MAIN, End, Isolation, Limits, Program, Ran, SandboxError

T = TypeVar("T")

CREATE_S = 120.0
CALL_S = 30.0
LIFETIME_S = 3600
"""Of a container; a program has a minute less at most."""
APP = "tinsmith"
_LOADER = f"""
import base64, json, os, resource, sys
order = json.loads(sys.stdin.buffer.read())
os.makedirs("/tmp/program")
os.chdir("/tmp/program")
for name, data in order["files"].items():
    with open(name, "wb") as file:
        file.write(base64.b64decode(data))
with open("/tmp/stdin", "wb") as file:
    file.write(base64.b64decode(order["stdin"]))
os.dup2(os.open("/tmp/stdin", os.O_RDONLY), 0)
os.unlink("/tmp/stdin")
for kind, value in ((resource.RLIMIT_AS, order["memory"]), (resource.RLIMIT_FSIZE, order["disk"])):
    resource.setrlimit(kind, (value, value))
os.execv(sys.executable, [sys.executable, "-B", "{MAIN}"])
"""


class ModalBackend:
    name = "modal"
    isolation = Isolation(network=True, files=True, memory=False, disk=False, processes=False)

    def __init__(self, limits: Limits, *, api: Any = None) -> None:
        """api: the module `modal`, or a stand-in for it."""
        self.limits = limits
        if api is None:
            try:
                api = import_module("modal")
            except ImportError:
                raise MissingExtraError("modal", "modal") from None
        self._api = api
        try:
            self._app = api.App.lookup(APP, create_if_missing=True)
        except api.exception.Error as error:
            raise ConfigError(f"sandbox.kind=modal: {error}. `modal setup` stores a token") from error
        self._image = api.Image.debian_slim()

    def create(self, stop: Stop) -> Any:
        def make() -> Any:
            return self._api.Sandbox.create(
                "sleep",
                "infinity",
                app=self._app,
                image=self._image,
                timeout=LIFETIME_S,
                block_network=True,
                memory=(128, max(128, self.limits.memory_bytes >> 20)),
            )

        return self._bounded(make, CREATE_S, "creating a sandbox", late=lambda sandbox: sandbox.terminate())

    def run(self, sandbox: Any, program: Program, stop: Stop) -> Ran:
        files = {**program.files, MAIN: encoded(program.source)}
        order = {
            "files": {name: base64.b64encode(data).decode() for name, data in files.items()},
            "stdin": base64.b64encode(encoded(program.stdin)).decode(),
            "memory": self.limits.memory_bytes,
            "disk": self.limits.disk_bytes,
        }

        def start() -> Any:
            process = sandbox.exec("python", "-I", "-c", _LOADER, text=False)
            process.stdin.write(json.dumps(order).encode())
            process.stdin.write_eof()
            process.stdin.drain()
            return process

        process = self._bounded(start, CALL_S, "starting the program")
        return self._watched(process, min(program.timeout_s, LIFETIME_S - 60.0), stop)

    def _watched(self, process: Any, timeout_s: float, stop: Stop) -> Ran:
        began = time.monotonic()
        parts: queue.SimpleQueue[tuple[str, bytes | BaseException | None]] = queue.SimpleQueue()

        def read(name: str, stream: Any) -> None:
            try:
                for chunk in stream:
                    parts.put((name, bytes(chunk)))
                parts.put((name, None))
            except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                parts.put((name, error))

        for name in ("stdout", "stderr"):
            threading.Thread(target=read, args=(name, getattr(process, name)), daemon=True).start()
        written = {"stdout": bytearray(), "stderr": bytearray()}
        open_, left = 2, self.limits.output_bytes
        end = End.EXITED
        with stop.calling(lambda: parts.put(("stop", None))):
            while open_ and end is End.EXITED:
                try:
                    name, part = parts.get(timeout=max(began + timeout_s - time.monotonic(), 0.001))
                except queue.Empty:
                    end = End.TIMEOUT
                    break
                if name == "stop":
                    raise SandboxError("nobody waits for the program any more")
                if isinstance(part, BaseException):
                    raise SandboxError(f"modal: {type(part).__name__}: {part}") from part
                if part is None:
                    open_ -= 1
                    continue
                written[name] += part[:left]
                left -= len(part)
                if left < 0:
                    end = End.OUTPUT
        code = self._bounded(process.wait, CALL_S, "the program's exit code") if end is End.EXITED else None
        return Ran(
            end=end,
            exit_code=code,
            stdout=bytes(written["stdout"]),
            stderr=bytes(written["stderr"]),
            seconds=time.monotonic() - began,
        )

    def release(self, sandbox: Any) -> None:
        self._bounded(sandbox.terminate, CALL_S, "terminating a sandbox")

    def _bounded(
        self, call: Callable[[], T], seconds: float, what: str, late: Callable[[T], object] | None = None
    ) -> T:
        """The call's result, waited for no longer than this. late: what becomes of one that comes after."""
        done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        lock, gone = threading.Lock(), threading.Event()

        def work() -> None:
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                done.put((None, error))
                return
            with lock:
                if not gone.is_set():
                    done.put((value, None))
                    return
            if late is not None:
                late(value)

        threading.Thread(target=work, daemon=True, name="modal").start()
        try:
            value, error = done.get(timeout=seconds)
        except queue.Empty:
            with lock:
                gone.set()
                if done.empty():
                    raise SandboxError(f"modal: {what} took longer than {seconds:g} s") from None
            value, error = done.get()
        if error is not None:
            if isinstance(error, (self._api.exception.Error, OSError)):
                raise SandboxError(f"modal: {what}: {type(error).__name__}: {error}") from error
            raise error
        return value  # type: ignore[return-value]
