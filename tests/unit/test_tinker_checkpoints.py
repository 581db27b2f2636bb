"""Names of checkpoints, and what is downloaded of them, from a server that is not to be trusted with file names."""

from __future__ import annotations

import concurrent.futures
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tinker", reason="needs the extra: tinker")

from tinsmith.adapters.tinker import checkpoints
from tinsmith.adapters.tinker.work import Task, driver
from tinsmith.domain.errors import ConfigError, JournalError, TinsmithError, WorldError

PATH = "tinker://run/weights/x-s3-00000000"


class Files:
    """An HTTP server of these answers by path: bytes, or where to look instead. `keys`: what it was shown as key."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | str] = {}
        self.keys: dict[str, str | None] = {}
        files = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                files.keys[self.path] = self.headers.get("X-API-Key")
                answer = files.answers.get(self.path)
                if isinstance(answer, str):
                    self.send_response(302)
                    self.send_header("Location", answer)
                    self.end_headers()
                    return
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Length", str(len(answer or b"")))
                self.end_headers()
                self.wfile.write(answer or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def files() -> Iterator[Files]:
    server = Files()
    yield server
    server.close()


def done(value: Any) -> Any:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_result(value)
    return SimpleNamespace(future=lambda: future)


def result(work: Callable[[], Any]) -> Any:
    task = Task(work)
    driver().start(task)
    return task.future.result(10)


def service(files: Files, urls: dict[str, str] | None = None) -> Any:
    deleted: list[str] = []
    rest = SimpleNamespace(
        get_external_weights_urls=lambda path: done(SimpleNamespace(urls=urls)),
        delete_checkpoint_from_tinker_path=lambda path: done(deleted.append(path)),
    )
    return SimpleNamespace(rest=rest, url=files.url, key="tml-secret", timeout=10.0, deleted=deleted)


def test_files_of_external_weights_are_fetched_and_let_go_at_the_server(files: Files, tmp_path: Path) -> None:
    files.answers = {"/a?signed=1": b"weights" * 1000, "/b": b"{}"}
    urls = {"adapter_model.safetensors": f"{files.url}/a?signed=1", "sub/adapter_config.json": f"{files.url}/b"}
    server = service(files, urls)
    got = result(lambda: checkpoints.download(server, PATH, tmp_path / "final"))
    assert [p.relative_to(tmp_path).as_posix() for p in got] == [
        "final/adapter_model.safetensors",
        "final/sub/adapter_config.json",
    ]
    assert got[0].read_bytes() == b"weights" * 1000
    assert not list((tmp_path / "final").rglob("*.part"))
    assert server.deleted == [PATH]
    assert files.keys == {"/a?signed=1": None, "/b": None}, "a signed address needs no key"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_file_name_that_leads_out_of_the_directory_is_refused(name: str, files: Files, tmp_path: Path) -> None:
    files.answers["/a"] = b"evil"
    with pytest.raises(WorldError, match="outside"):
        result(lambda: checkpoints.download(service(files, {name: f"{files.url}/a"}), PATH, tmp_path / "final"))
    files.answers["/api/v1/training_runs/run/checkpoints/weights/x-s3-00000000/archive"] = tar({name: b"evil"})
    with pytest.raises(WorldError, match="outside"):
        checkpoints.download_archive(service(files), PATH, tmp_path / "final")
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


ARCHIVE = "/api/v1/training_runs/run/checkpoints/weights/x-s3-00000000/archive"


def test_an_archive_is_unpacked_and_storage_does_not_see_the_key(files: Files, tmp_path: Path) -> None:
    files.answers = {ARCHIVE: f"{files.url}/storage", "/storage": tar({"adapter_config.json": b"{}", "w": b"123"})}
    got = checkpoints.download_archive(service(files), PATH, tmp_path)
    assert got is not None
    assert {p.name: p.read_bytes() for p in got} == {"adapter_config.json": b"{}", "w": b"123"}
    assert files.keys == {ARCHIVE: "tml-secret", "/storage": None}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "w"], "no link, nothing half"


def test_a_server_without_archives_and_one_with_a_broken_one(files: Files, tmp_path: Path) -> None:
    assert checkpoints.download_archive(service(files), PATH, tmp_path) is None
    files.answers[ARCHIVE] = b"this is no tar file" * 100
    with pytest.raises(WorldError, match="cannot be read"):
        checkpoints.download_archive(service(files), PATH, tmp_path)
    files.answers[ARCHIVE] = f"{files.url}/nowhere"
    with pytest.raises(WorldError, match="404"):
        checkpoints.download_archive(service(files), PATH, tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(run=st.text(max_size=90), name=st.from_regex(r"[0-9]{6}-(periodic|rolling|final)(-r[0-9])?", fullmatch=True))
def test_a_name_tells_its_steps_and_is_never_given_twice(run: str, name: str) -> None:
    names = {checkpoints.name_of(run, name, 17) for _ in range(20)}
    assert len(names) == 20
    for found in names:
        checkpoints.check_handle(f"tinker://a:train:0/weights/{found}")
        assert checkpoints.steps_of(f"tinker://a:train:0/weights/{found}") == 17
        assert found.isascii()
        assert len(found) <= 128
        assert name in found


def test_what_is_no_name_or_no_checkpoint() -> None:
    with pytest.raises(ConfigError):
        checkpoints.name_of("run", "a/b", 1)
    for handle in ("/here/000020-final.safetensors", "tinker://run", "tinker://run/weights/a/b"):
        with pytest.raises(JournalError):
            checkpoints.check_handle(handle)
    assert checkpoints.steps_of("tinker://run/weights/of-another-program") == 0


def test_a_checkpoint_that_is_gone_is_deleted_already() -> None:
    import httpx
    import tinker

    def refusing(status: int) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        answer = httpx.Response(status, request=httpx.Request("DELETE", "http://localhost"))
        future.set_exception(tinker.APIStatusError("no", response=answer, body=None))
        rest = SimpleNamespace(delete_checkpoint_from_tinker_path=lambda _: SimpleNamespace(future=lambda: future))
        return SimpleNamespace(rest=rest)

    assert result(lambda: checkpoints.delete(refusing(404), PATH)) is None
    with pytest.raises(TinsmithError):
        result(lambda: checkpoints.delete(refusing(500), PATH))
