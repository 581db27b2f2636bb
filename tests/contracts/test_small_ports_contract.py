"""The contracts of blobs, rows, metrics and time, kept by the fakes and by the adapters."""

import contextlib
import gzip
import json
import logging
import tempfile
from pathlib import Path

import pytest
from s3_on_loopback import s3_on_loopback

from tinsmith.adapters.huggingface.datasets import HubSource
from tinsmith.adapters.local.blob import FileBlobStore
from tinsmith.adapters.local.clock import SystemClock
from tinsmith.adapters.local.jsonl import JsonlSource
from tinsmith.adapters.objectstore.rows import BlobRows
from tinsmith.adapters.objectstore.store import ObjectStore
from tinsmith.adapters.tracking.console import ConsoleRunLog
from tinsmith.testing import FakeClock, MemoryBlobStore, MemoryRunLog, MemorySource
from tinsmith.testing.contracts import (
    BlobStoreContract,
    ClockContract,
    DatasetSourceContract,
    RunLogContract,
)


class TestMemoryBlobStore(BlobStoreContract):
    def make(self):
        return contextlib.nullcontext(MemoryBlobStore())


class TestFileBlobStore(BlobStoreContract):
    @contextlib.contextmanager
    def make(self):
        with tempfile.TemporaryDirectory() as folder:
            yield FileBlobStore(Path(folder) / "not yet there")


class TestObjectStoreInMemory(BlobStoreContract):
    def make(self):
        pytest.importorskip("obstore")
        return contextlib.nullcontext(ObjectStore("memory:///"))


class TestObjectStoreOnDisk(BlobStoreContract):
    @contextlib.contextmanager
    def make(self):
        pytest.importorskip("obstore")
        with tempfile.TemporaryDirectory() as folder:
            yield ObjectStore(f"file://{folder}/blobs")


class TestObjectStoreByS3(BlobStoreContract):
    @contextlib.contextmanager
    def make(self):
        pytest.importorskip("obstore")
        with s3_on_loopback() as options:
            yield ObjectStore("s3://bucket/below/here", **options)


class TestMemorySource(DatasetSourceContract):
    def make(self, rows):
        return contextlib.nullcontext(MemorySource(rows))


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


class TestJsonlSource(DatasetSourceContract):
    file, data = "rows.jsonl", staticmethod(_lines)

    @contextlib.contextmanager
    def make(self, rows):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.file
            path.write_bytes(self.data(rows))
            yield JsonlSource(path)


class TestGzippedJsonlSource(TestJsonlSource):
    file, data = "rows.jsonl.gz", staticmethod(lambda rows: gzip.compress(_lines(rows)))


class TestJsonListSource(TestJsonlSource):
    file, data = "rows.json", staticmethod(lambda rows: json.dumps(rows).encode())


class _SmallChunks(MemoryBlobStore):
    def stream(self, key, chunk_bytes=7):
        return super().stream(key, 7)


class TestBlobRows(DatasetSourceContract):
    def make(self, rows):
        return contextlib.nullcontext(BlobRows(_SmallChunks({"rows.jsonl": _lines(rows)}), "rows.jsonl"))


class TestGzippedBlobRows(DatasetSourceContract):
    def make(self, rows):
        half = len(rows) // 2
        members = gzip.compress(_lines(rows[:half])) + gzip.compress(_lines(rows[half:]))
        return contextlib.nullcontext(BlobRows(_SmallChunks({"rows.jsonl.gz": members}), "rows.jsonl.gz"))


class TestParquetSource(DatasetSourceContract):
    @contextlib.contextmanager
    def make(self, rows):
        datasets = pytest.importorskip("datasets", reason="needs the extra: data")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            datasets.Dataset.from_list(rows).to_parquet(path)
            yield HubSource.local(path)


class _BrokenLog(MemoryRunLog):
    def log(self, step, metrics):
        if not self.closed:
            logging.getLogger("tinsmith").warning("broken")
            self.closed = True


class TestMemoryRunLog(RunLogContract):
    def make(self):
        return MemoryRunLog()

    def make_broken(self):
        return _BrokenLog()

    def read(self, log):
        return log.lines


class _FullStream:
    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        pass


class TestConsoleRunLog(RunLogContract):
    def make(self):
        return ConsoleRunLog()

    def make_broken(self):
        return ConsoleRunLog(_FullStream())

    def read(self, log):
        return None


class TestSystemClock(ClockContract):
    def make(self):
        return SystemClock()


class TestFakeClock(ClockContract):
    def make(self):
        return FakeClock()
