"""The contract of a BlobStore. Subclass it and supply `make`."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.errors import TinsmithError
from tinsmith.ports.blob import BlobStore
from tinsmith.testing.contracts._common import LAW

# Folders and leaves have different first letters: on a disk, a file cannot be a folder as well.
keys = st.builds(
    lambda folders, leaf: "/".join([*folders, leaf]),
    st.lists(st.sampled_from(["A", "Ab", "B é"]), max_size=2),
    st.sampled_from(["x", "xy", "x y", "z.json", "100%", "q?a=b&c", "ü"]),
)
blobs = st.binary(max_size=40)
operations = st.one_of(
    st.tuples(st.just("put"), keys, blobs),
    st.tuples(st.just("delete"), keys, st.none()),
    st.tuples(st.just("list"), st.sampled_from(["", "A", "A/", "Ab/x", "B"]), st.none()),
)


class BlobStoreContract:
    """Laws of every BlobStore."""

    def make(self) -> AbstractContextManager[BlobStore]:
        """An empty store, while the context lasts."""
        raise NotImplementedError

    @LAW
    @given(steps=st.lists(operations, max_size=12))
    def test_a_store_is_a_dictionary(self, steps: list[tuple[str, str, bytes | None]]) -> None:
        model: dict[str, bytes] = {}
        with self.make() as store:
            for operation, key, data in steps:
                if operation == "put":
                    assert data is not None
                    store.put(key, data)
                    model[key] = data
                elif operation == "delete":
                    store.delete(key)
                    model.pop(key, None)
                else:
                    assert store.list(key) == sorted(k for k in model if k.startswith(key))
            assert store.list() == sorted(model)
            for key in {key for operation, key, _ in steps if operation != "list"} | {"never"}:
                assert store.exists(key) == (key in model)
                if key in model:
                    assert store.get(key) == model[key]
                    assert b"".join(store.stream(key, 7)) == model[key]
                else:
                    with pytest.raises(FileNotFoundError, match=r"no such"):
                        store.get(key)
                    with pytest.raises(FileNotFoundError, match=r"no such"):
                        list(store.stream(key))

    def test_a_large_blob_comes_in_chunks(self) -> None:
        data = bytes(range(256)) * 9000
        with self.make() as store:
            store.put("A/large", data)
            chunks = list(store.stream("A/large", 100_000))
            assert b"".join(chunks) == data
            assert max(map(len, chunks)) <= 100_000

    @pytest.mark.parametrize("key", ["", "/x", "x/", "a//b", "../x", "a/../b", "./x", "a\x00b"])
    def test_a_key_that_leads_elsewhere_is_refused(self, key: str) -> None:
        with self.make() as store:
            with pytest.raises(TinsmithError):
                store.put(key, b"1")
            with pytest.raises(TinsmithError):
                store.get(key)
            assert store.list() == []

    def test_writers_of_one_key_never_mix(self) -> None:
        values = [bytes([i]) * 100_000 for i in range(4)]
        with self.make() as store:
            store.put("x", values[0])
            stop = threading.Event()
            torn: list[bytes] = []

            def read() -> None:
                while not stop.is_set():
                    data = store.get("x")
                    if data not in values:
                        torn.append(data)

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            try:
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda value: store.put("x", value), values * 3))
            finally:
                stop.set()
                reader.join(60)
            assert not torn
            assert store.get("x") in values
            assert store.list() == ["x"]

    def test_the_url_names_the_store(self) -> None:
        with self.make() as store, contextlib.suppress(StopIteration):
            assert "://" in store.url
