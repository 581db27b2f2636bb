"""Stand-ins for a SandboxFusion server and for Modal's client: what they are asked to run, they run in namespaces."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from attrs import evolve

from tinsmith.adapters.sandbox.local import LocalBackend
from tinsmith.adapters.sandbox.pool import SandboxPool
from tinsmith.domain.errors import TinsmithError
from tinsmith.ports.sandbox import End, Program
from tinsmith.testing.contracts.sandbox import LIMITS

GENEROUS = evolve(LIMITS, output_bytes=8 * LIMITS.output_bytes)
"""These have limits of their own."""


@contextlib.contextmanager
def fusion_server(answer=None):
    """The address of a server. answer: (status, body) that it gives to everything."""
    pool = SandboxPool(LocalBackend(GENEROUS), max_concurrent=8)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, body = answer or (200, json.dumps(run(asked)).encode())
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

    def run(asked):
        assert asked["language"] == "python"
        files = {name: base64.b64decode(data) for name, data in asked["files"].items()}
        program = Program(source=asked["code"], files=files, stdin=asked["stdin"], timeout_s=asked["run_timeout"])
        try:
            ran = pool.run(program).result(120)
        except TinsmithError as error:
            return {"status": "SandboxError", "message": str(error), "compile_result": None, "run_result": None}
        result = {
            "status": "TimeLimitExceeded" if ran.end is End.TIMEOUT else "Finished",
            "execution_time": ran.seconds,
            "return_code": ran.exit_code,
            "stdout": ran.stdout.decode(errors="replace"),
            "stderr": ran.stderr.decode(errors="replace"),
        }
        status = "Success" if ran.ok else "Failed"
        return {"status": status, "message": "", "compile_result": None, "run_result": result}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        pool.close()
        server.shutdown()
        thread.join()
        server.server_close()


class ModalError(Exception):
    pass


class FakeModal:
    """The part of `modal` that the adapter uses. create_fails: whether creating does."""

    def __init__(self, *, create_fails=False, exec_fails=False):
        self.terminated = []
        self.created = []
        self.options = {}
        self.exception = types.SimpleNamespace(Error=ModalError)
        self.App = types.SimpleNamespace(lookup=lambda name, create_if_missing: name)
        self.Image = types.SimpleNamespace(debian_slim=lambda: "image")
        self.Sandbox = types.SimpleNamespace(create=self._create)
        self._create_fails, self._exec_fails = create_fails, exec_fails

    def _create(self, *words, app, image, timeout, block_network, memory):
        if self._create_fails:
            raise ModalError("no container")
        self.options = {"timeout": timeout, "block_network": block_network, "memory": memory}
        made = _Container(self)
        self.created.append(made)
        return made

    def fails(self):
        return self._exec_fails


class _Container:
    def __init__(self, modal):
        self._modal = modal
        self._pool = SandboxPool(LocalBackend(GENEROUS), max_concurrent=1)

    def exec(self, *words, text):
        assert words[:3] == ("python", "-I", "-c")
        assert text is False
        if self._modal.fails():
            raise ModalError("the container is gone")
        return _Process(self._pool, words[3])

    def terminate(self):
        self._pool.close()
        self._modal.terminated.append(self)


class _Process:
    def __init__(self, pool, source):
        self._pool, self._source, self._given = pool, source, b""
        self._ended = threading.Event()
        self.ran = None
        self.stdin = self
        self.stdout, self.stderr = self._stream("stdout"), self._stream("stderr")

    def write(self, data):
        self._given += data

    def write_eof(self):
        program = Program(source=self._source, stdin=self._given.decode(), timeout_s=300.0)
        self._pending = self._pool.run(program)

    def drain(self):
        threading.Thread(target=self._finish).start()

    def _finish(self):
        with contextlib.suppress(TinsmithError):
            self.ran = self._pending.result(300)
        self._ended.set()

    def _stream(self, name):
        self._ended.wait()
        data = b"" if self.ran is None else getattr(self.ran, name)
        for i in range(0, len(data), 10_000):
            yield data[i : i + 10_000]

    def wait(self):
        self._ended.wait()
        return self.ran.exit_code
