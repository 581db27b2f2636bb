"""The server keeps every law of its protocol; and docs/conformance.md tells them all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tinsmith import bootstrap
from tinsmith.testing import conformance
from tinsmith.testing.conformance import LAWS, Verdict, Wire, World, check_law

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path_factory.mktemp("serve"), note=lambda text: None)
    with server.running() as url, World(lambda: Wire(url, deadline=20.0)) as world:
        yield world


@pytest.mark.parametrize("name", LAWS)
def test_the_server_keeps(name: str, world: World) -> None:
    finding = check_law(LAWS[name], world, examples=2)
    assert finding.verdict is Verdict.HOLDS, f"{finding.message}\n{finding.example}"


def test_the_document_tells_every_law() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import conformance_table
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "conformance.md").read_text() == conformance_table.document(), "run `make conformance`"


def conform(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinsmith", "conform", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_a_table_and_json() -> None:
    done = conform("law=telemetry,capabilities")
    assert done.returncode == 0, done.stderr
    assert "protocol.telemetry     holds" in done.stdout
    assert "2 holds" in done.stdout
    done = conform("--json", "law=telemetry", "examples=1")
    report = json.loads(done.stdout)
    assert report["counts"] == {"holds": 1, "broken": 0, "not supported": 0}
    assert report["laws"][0]["law"] == "telemetry"


class Elsewhere(BaseHTTPRequestHandler):
    """A web server that knows nothing of the protocol, or (`said`) next to nothing."""

    said: ClassVar[bytes | None] = None

    def do_GET(self) -> None:
        self.send_response(404 if self.said is None else 200)
        self.end_headers()
        self.wfile.write(b"<html>nothing here</html>" if self.said is None else self.said)

    def log_message(self, *words: object) -> None: ...


@pytest.mark.parametrize(("said", "why"), [(None, "is no server of the Tinker protocol"), (b"{}", "name one, model=")])
def test_a_server_of_something_else_is_said_in_one_line(
    said: bytes | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "said", said)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = conform(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert why in done.stderr


def test_a_server_that_is_not_there_is_said_in_one_line() -> None:
    done = conform("http://127.0.0.1:9")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "127.0.0.1:9" in done.stderr
    wrong = conform("law=no_such_law")
    assert (wrong.returncode, "no_such_law" in wrong.stderr) == (2, True)


def test_the_kit_needs_no_engine_and_no_sdk() -> None:
    program = (
        "import sys, tinsmith.testing.conformance\n"
        "taken = {'tinker', 'torch', 'starlette', 'uvicorn', 'transformers'} & set(sys.modules)\n"
        "taken |= {m for m in sys.modules if m.startswith('tinsmith.adapters')}\n"
        "assert not taken, taken"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_chapter_has_laws() -> None:
    assert {law.chapter for law in LAWS.values()} == set(conformance.CHAPTERS)
