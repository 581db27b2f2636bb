"""Checkpoints at the server: names that never collide, read back from its list, deleted, downloaded."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tinsmith.adapters.tinker.errors import status_of, translated
from tinsmith.adapters.tinker.service import Service
from tinsmith.adapters.tinker.work import Work, in_thread
from tinsmith.domain.errors import ConfigError, JournalError, WorldError

PATH = re.compile(r"tinker://(?P<run>[^/]+)/(?P<kind>weights|sampler_weights|external_weights)/(?P<name>[^/]+)")
_STEPS = re.compile(r"-s(\d+)-[0-9a-f]{8}$")

DOWNLOAD_TTL_S = 24 * 3600
"""How long the server keeps what was made to be downloaded, should deleting it fail."""

CHUNK = 1 << 20


def name_of(run: str, name: str, steps: int) -> str:
    """`<run>-<name>-s<optimizer steps>-<8 hex digits>`: no two are alike, in this run or another."""
    if not name or PurePosixPath(name).name != name:
        raise ConfigError(f"state name {name!r}: one file name, without directories")
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{run[-60:]}-{name}" if run else name).strip("-.")
    return f"{words}-s{steps}-{secrets.token_hex(4)}"


def steps_of(handle: str) -> int:
    """Optimizer steps taken by a saved state; 0 where its name does not say it."""
    match = _STEPS.search(handle)
    return int(match[1]) if match else 0


def check_handle(handle: str) -> None:
    """JournalError for what is no checkpoint of a server, e.g. that of a run on another backend."""
    if not PATH.fullmatch(handle):
        raise JournalError(f"{handle}: no checkpoint of a Tinker server (tinker://RUN/weights/NAME)")


def verify(service: Service, path: str) -> Work[str]:
    """The path, once the server lists it. WorldError if it does not: what is not listed is not there to go back to."""
    match = PATH.fullmatch(path)
    if match is None:
        raise WorldError(f"the server saved a state as {path!r}, which is no path of a checkpoint")
    listed = yield service.rest.list_checkpoints(match["run"]).future()
    if path not in {c.tinker_path for c in listed.checkpoints}:
        raise WorldError(f"the server says that it saved {path}, and does not list it")
    return path


def delete(service: Service, path: str) -> Work[None]:
    """Delete a checkpoint; one that is gone already is no failure."""
    check_handle(path)
    try:
        yield service.rest.delete_checkpoint_from_tinker_path(path).future()
    except Exception as error:
        if status_of(error) != 404:
            raise


def download_archive(service: Service, path: str, directory: Path) -> Sequence[Path] | None:
    """The archive of a checkpoint, unpacked into `directory`: an adapter in PEFT's files. None where the server has no
    archives. Blocks."""
    import httpx

    check_handle(path)
    run, kind, name = path.removeprefix("tinker://").split("/")
    url = f"{service.url}/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/archive"
    headers = {"X-API-Key": service.key} if service.key else {}
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / ".archive.part"
    try:
        with httpx.stream("GET", url, headers=headers, timeout=service.timeout) as first:
            if first.status_code in (404, 405, 501):
                return None
            if first.is_redirect:  # to where it is stored, which is not to see the key
                return _unpacked(_stream(first.headers["location"], archive, "the archive"), directory)
            return _unpacked(_written(first, archive, "the archive"), directory)
    except httpx.HTTPError as error:
        raise WorldError(f"downloading the archive: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def _unpacked(archive: Path, directory: Path) -> Sequence[Path]:
    try:
        with tarfile.open(archive) as tar:
            return [_replaced(directory, member.name, tar.extractfile(member)) for member in tar if member.isfile()]
    except tarfile.TarError as error:
        raise WorldError(f"the archive of the weights cannot be read: {error}") from error


def download(service: Service, path: str, directory: Path) -> Work[Sequence[Path]]:
    """The files of weights that were saved to be downloaded, each written to `directory` whole or not at all."""
    try:
        files = (yield service.rest.get_external_weights_urls(path).future()).urls
        directory.mkdir(parents=True, exist_ok=True)
        fetched: Sequence[Path] = yield in_thread(
            lambda: [_fetch(url, directory, name) for name, url in sorted(files.items())]
        )
        return fetched
    finally:
        service.rest.delete_checkpoint_from_tinker_path(path)  # not waited for: it goes by itself in a day


def _fetch(url: str, directory: Path, name: str) -> Path:
    half = _stream(url, directory / ".download.part", name)
    try:
        with half.open("rb") as file:
            return _replaced(directory, name, file)
    finally:
        half.unlink(missing_ok=True)


def _stream(url: str, path: Path, what: str) -> Path:
    import httpx

    try:
        with httpx.stream("GET", url, timeout=60.0, follow_redirects=True) as answer:
            return _written(answer, path, what)
    except httpx.HTTPError as error:
        raise WorldError(f"downloading {what}: {error}") from error


def _written(answer: Any, path: Path, what: str) -> Path:
    if answer.status_code != 200:
        raise WorldError(f"downloading {what}: the server answered {answer.status_code}")
    with path.open("wb") as file:
        for piece in answer.iter_bytes(CHUNK):
            file.write(piece)
    return path


def _replaced(directory: Path, name: str, source: IO[bytes] | None) -> Path:
    """`directory/name` with these bytes, whole or not at all."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or source is None:
        raise WorldError(f"the server names a file {name!r}, which would lie outside {directory}")
    path = directory / parts
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    with half.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)
    return path


def lost(handle: str, error: BaseException) -> BaseException:
    """The error of a state that could not be loaded: a JournalError, so that an older one is tried, unless the world is
    to blame, which says nothing about the state."""
    found = translated(error)
    if isinstance(found, ConfigError):
        return JournalError(f"{handle}: {found}")
    return found
