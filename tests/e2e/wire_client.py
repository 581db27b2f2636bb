"""A small client of the wire for the tests of the server: it sees what goes over it, where the SDK would repair it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tinsmith.wire import training

DEADLINE_S = 60.0


class Wire:
    """`post` gives the status and the JSON; `result` waits for a result and gives (content type, bytes)."""

    def __init__(self, url: str, key: str = "tml-test") -> None:
        self.http = httpx.Client(
            base_url=f"{url}/api/v1/",
            headers={"X-API-Key": key},
            timeout=45.0,
            limits=httpx.Limits(max_keepalive_connections=0),  # a server that was killed closes what was kept
        )

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = self.http.post(path, **content)
        return answer.status_code, answer.json()

    def ok(self, path: str, body: Any) -> Any:
        status, answer = self.post(path, body)
        assert status == 200, (path, status, answer)
        return answer

    def result(self, request: str) -> tuple[str, bytes]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            answer = self.http.post("retrieve_future", json={"request_id": request})
            assert answer.status_code == 200, answer.text
            kind = answer.headers["content-type"]
            if kind != "application/json" or answer.json().get("type") != "try_again":
                return kind, answer.content
        raise AssertionError(f"no result of {request} in {DEADLINE_S} s")

    def json(self, request: str) -> Any:
        kind, body = self.result(request)
        assert kind == "application/json", kind
        return httpx.Response(200, content=body).json()

    def session(self) -> str:
        return str(self.ok("create_session", {"tags": [], "sdk_version": "0.38.0"})["session_id"])

    def model(self, session: str, number: int = 0, base: str = "tiny", **lora: Any) -> str:
        config = {"rank": 4, "seed": 0, **lora}
        body = {"session_id": session, "model_seq_id": number, "base_model": base, "lora_config": config}
        return str(self.json(self.ok("create_model", body)["request_id"])["model_id"])

    def logprobs(self, request: str) -> tuple[list[Any], dict[str, float]]:
        kind, body = self.result(request)
        assert kind == "application/x-protobuf", body
        return training.decode_result(body)


class Process:
    """`tinsmith serve` as a process that can be killed and started again at the same address."""

    def __init__(self, directory: Path, *words: str, snapshot_every_s: float | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = directory
        self.words = words
        self.program = ["-m", "tinsmith"]
        if snapshot_every_s is not None:
            code = "from tinsmith.adapters.serve import training; from tinsmith.cli import main; import sys; "
            self.program = ["-c", f"{code} training.SNAPSHOT_EVERY_S = {snapshot_every_s}; sys.exit(main())"]
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, *self.program, "serve", f"port={self.port}", f"dir={self.directory}", *self.words]
        with (self.directory.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/api/v1/healthz", timeout=1.0).status_code == 200:
                    return
            assert self.process.poll() is None, (self.directory.parent / "serve.log").read_text()
            time.sleep(0.02)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
