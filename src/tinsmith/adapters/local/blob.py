"""A BlobStore in a directory of this machine's disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tinsmith.domain.errors import DataNotFoundError
from tinsmith.ports.blob import check_key

_UNFINISHED = ".tinsmith-unfinished"


class FileBlobStore:
    """Each blob is a file below `root`. It is written beside, synced and renamed, so a crash leaves the old or the new.

    Needs no extra, and unlike object stores on a disk it syncs: a blob that was put outlives a power cut.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).expanduser().absolute()

    @property
    def url(self) -> str:
        return f"file://{self._root.as_posix()}"

    def put(self, key: str, data: bytes) -> None:
        path = self._root / check_key(key)
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._root / _UNFINISHED
        unfinished.mkdir(exist_ok=True)
        temporary = unfinished / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, *(folder.parent for folder in missing)):
            _sync_names(folder)

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        path = self._root / check_key(key)
        try:
            file = path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise DataNotFoundError(f"{self.url}/{key}: no such blob") from None
        with file:
            while chunk := file.read(chunk_bytes):
                yield chunk

    def exists(self, key: str) -> bool:
        return (self._root / check_key(key)).is_file()

    def list(self, prefix: str = "") -> list[str]:
        found = []
        for folder, names, files in os.walk(self._root / prefix.rpartition("/")[0]):
            if _UNFINISHED in names:
                names.remove(_UNFINISHED)
            found += [(Path(folder) / file).relative_to(self._root).as_posix() for file in files]
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._root / check_key(key)
        if path.is_file():
            path.unlink(missing_ok=True)
            _sync_names(path.parent)


def _sync_names(folder: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
