"""The contract of a FileSystem, as far as one machine that stays up can tell. Subclass it and supply `make` and `root`.

What `sync` promises shows only in a crash: `tinsmith.testing.files` has a disk that crashes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.errors import RunLockedError
from tinsmith.ports.files import FileSystem, digest, exists, files_under, make_directories, read, write_atomic
from tinsmith.testing.contracts._common import LAW


class FileSystemContract:
    """Laws of every FileSystem."""

    def make(self) -> FileSystem:
        """The file system; each call sees the same files."""
        raise NotImplementedError

    def root(self) -> Path:
        """A new empty directory."""
        raise NotImplementedError

    @LAW
    @given(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 100), st.integers(1, 7))
    def test_a_file_is_what_was_appended_to_it_up_to_where_it_was_cut(
        self, parts: list[bytes], cut: int, chunk_bytes: int
    ) -> None:
        files, path = self.make(), self.root() / "file"
        files.append(path, b"")
        for part in parts:
            files.append(path, part)
        whole = b"".join(parts)
        assert (read(files, path), files.size(path)) == (whole, len(whole))
        cut = min(cut, len(whole))
        files.truncate(path, cut)
        assert read(self.make(), path) == whole[:cut]
        assert b"".join(files.stream(path, chunk_bytes)) == whole[:cut]
        assert b"".join(files.stream(path, chunk_bytes, start=cut // 2)) == whole[cut // 2 : cut]
        files.append(path, b"more")
        assert read(files, path) == whole[:cut] + b"more"

    def test_names(self) -> None:
        files, root = self.make(), self.root()
        make_directories(files, root / "b" / "c")
        make_directories(files, root / "b" / "c")
        files.append(root / "b" / "c" / "file", b"1")
        files.append(root / "a", b"2")
        assert files.list(root) == ["a", "b"]
        assert files.list(root / "b" / "c") == ["file"]
        assert files_under(files, root) == [root / "a", root / "b" / "c" / "file"]
        files.rename(root / "b" / "c" / "file", root / "b" / "c" / "other")
        assert files.list(root / "b" / "c") == ["other"]
        files.remove(root / "b")
        files.remove(root / "b")
        assert files.list(root) == ["a"]
        assert exists(files, root)
        assert exists(files, root / "a")
        assert not exists(files, root / "b")
        assert not exists(files, root / "a" / "below a file")

    def test_rename_and_write_atomic_replace(self) -> None:
        files, root = self.make(), self.root()
        files.append(root / "a", b"old")
        files.append(root / "b", b"new")
        files.rename(root / "b", root / "a")
        assert (files.list(root), read(files, root / "a")) == (["a"], b"new")
        files.append(root / ".a.tmp", b"left by a crash")
        write_atomic(files, root / "a", b"newer")
        assert (files.list(root), read(files, root / "a")) == (["a"], b"newer")

    def test_what_is_missing_or_of_another_kind_is_said_so(self) -> None:
        files, root = self.make(), self.root()
        missing = root / "missing"
        for work in (files.list, files.size, files.sync, lambda p: read(files, p), lambda p: files.truncate(p, 0)):
            with pytest.raises(FileNotFoundError):
                work(missing)
        with pytest.raises(FileNotFoundError):
            files.append(missing / "file", b"")
        with pytest.raises(FileNotFoundError):
            files.make_directory(missing / "directory")
        files.append(root / "file", b"")
        with pytest.raises(NotADirectoryError):
            files.list(root / "file")
        with pytest.raises(FileExistsError):
            files.make_directory(root / "file")

    def test_files_and_directories_sync(self) -> None:
        files, root = self.make(), self.root()
        files.append(root / "file", b"1")
        files.sync(root / "file")
        files.sync(root)
        assert read(files, root / "file") == b"1"

    def test_a_digest_tells_names_and_contents_apart(self) -> None:
        files, root = self.make(), self.root()
        for name, file, data in [("a", "x", b"12"), ("b", "x", b"12"), ("c", "y", b"12"), ("d", "x", b"13")]:
            make_directories(files, root / name)
            files.append(root / name / file, data)
        a, b, c, d = (digest(files, root / name) for name in "abcd")
        assert a == b
        assert a[0] == 2
        assert len({a, c, d}) == 3

    def test_a_lock_has_one_holder(self) -> None:
        files, path = self.make(), self.root() / "lock"
        assert files.holder(path) is None
        assert not exists(files, path)
        lock = files.lock(path)
        assert files.holder(path)
        assert self.make().holder(path)
        for other in (files, self.make()):
            with pytest.raises(RunLockedError, match="process"):
                other.lock(path)
        lock.release()
        lock.release()
        assert self.make().holder(path) is None
        self.make().lock(path).release()
        assert exists(files, path)
