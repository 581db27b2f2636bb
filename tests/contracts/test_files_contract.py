"""The local disk and the disk in memory keep the contract of file systems."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tinsmith.adapters.local.files import LocalFiles
from tinsmith.ports.files import make_directories
from tinsmith.testing.contracts import FileSystemContract
from tinsmith.testing.files import MemoryDisk


class TestLocalFiles(FileSystemContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.at = tmp_path

    def make(self):
        return LocalFiles()

    def root(self):
        return Path(tempfile.mkdtemp(dir=self.at))


class TestMemoryDisk(FileSystemContract):
    @pytest.fixture(autouse=True)
    def disk_of_the_test(self) -> None:
        self.disk, self.count = MemoryDisk(), 0

    def make(self):
        return self.disk.mount()

    def root(self):
        self.count += 1
        path = Path(f"/{self.count}")
        make_directories(self.make(), path)
        return path
