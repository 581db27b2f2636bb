"""Object stores by URL: URLs stay URLs, and an error is one line that says what to set. Only loopback is used."""

import functools
import gzip
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tinsmith.adapters.objectstore.rows import BlobRows, object_rows
from tinsmith.adapters.objectstore.store import ObjectStore, split_url
from tinsmith.domain.errors import ConfigError, DataError, DataNotFoundError, MissingExtraError, WorldError
from tinsmith.testing import MemoryBlobStore
from tinsmith.testing.faulty import Raise, faulty


@pytest.mark.parametrize(
    ("url", "store", "key"),
    [
        ("s3://bucket/a/b.jsonl", "s3://bucket", "a/b.jsonl"),
        ("gs://bucket/a b%20?x#y.jsonl", "gs://bucket", "a b%20?x#y.jsonl"),
        ("az://container/x", "az://container", "x"),
        ("memory:///a/x", "memory:///a", "x"),
        ("file:///a/x", "file:///a", "x"),
        ("file:///x", "file:///", "x"),
    ],
)
def test_an_url_is_split_as_text(url, store, key):
    assert split_url(url) == (store, key)


@pytest.mark.parametrize("url", ["s3://bucket", "s3:///x", "s3://bucket/", "ftp://host/x", "s3:/bucket/x", "plain"])
def test_an_url_that_names_no_object_is_refused(url):
    with pytest.raises(ConfigError, match=r"URL of an object store|names no object"):
        split_url(url)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinsmith\[blob\]"'):
        ObjectStore("s3://bucket")


@pytest.fixture
def obstore(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return pytest.importorskip("obstore", reason="needs the extra: blob")


def test_stores_of_each_cloud_are_made_without_a_request(obstore):
    assert ObjectStore("s3://bucket/a", region="eu-west-1").url == "s3://bucket/a"
    assert ObjectStore("gs://bucket/a/").url == "gs://bucket/a"
    assert ObjectStore("az://container", account_name="account", account_key="a2V5").url == "az://container"


def test_a_file_of_a_server_without_encryption_is_read_where_it_is_asked_for(obstore, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = list(object_rows(f"http://127.0.0.1:{server.server_address[1]}/rows.jsonl"))
        server.shutdown()
    assert rows == [{"a": 1}]


def test_missing_credentials_are_named_in_one_line(obstore):
    with pytest.raises(WorldError, match="AZURE_STORAGE_ACCOUNT_NAME") as azure:
        ObjectStore("az://container")
    # A metadata service that does not answer is what a machine outside of the cloud has.
    nowhere = {"metadata_endpoint": "http://127.0.0.1:1", "client_options": {"allow_http": True}}
    with pytest.raises(WorldError, match="AWS_ACCESS_KEY_ID") as amazon:
        ObjectStore("s3://bucket", **nowhere).get("x")
    for caught in (azure, amazon):
        assert len(str(caught.value).splitlines()) == 1


def test_a_store_that_does_not_answer_gives_up_and_is_named(obstore):
    store = ObjectStore(
        "s3://bucket/a",
        endpoint="http://127.0.0.1:1",
        access_key_id="none",
        secret_access_key="none",
        client_options={"allow_http": True},
    )
    started = time.monotonic()
    with pytest.raises(WorldError, match=r"s3://bucket/a/b\.json: .*127\.0\.0\.1:1") as caught:
        store.get("b.json")
    assert time.monotonic() - started < 60
    assert len(str(caught.value).splitlines()) == 1


def test_rows_of_an_url_are_streamed_and_a_missing_one_is_named(obstore, tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 3))
    rows = object_rows(f"file://{tmp_path}/rows.jsonl.gz")
    assert list(rows) == [{"a": 1}] * 3
    assert rows.name == f"file://{tmp_path}/rows.jsonl.gz"
    with pytest.raises(DataNotFoundError, match=r"nowhere\.jsonl"):
        object_rows(f"file://{tmp_path}/nowhere.jsonl")


@pytest.mark.parametrize(
    ("key", "data", "line"),
    [
        ("a.jsonl", b'{"a": 1}\nbroken\n', 2),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 2, mtime=0)[:-4], 3),
        ("a.jsonl.gz", b'{"a": 1}\n', 1),
    ],
)
def test_a_broken_row_is_named_by_url_and_line(key, data, line):
    with pytest.raises(DataError) as caught:
        list(BlobRows(MemoryBlobStore({key: data}), key))
    assert caught.value.line == line
    assert f"memory:///{key}" in str(caught.value)


def test_a_world_that_fails_in_the_middle_is_no_fault_of_the_data():
    store = faulty(MemoryBlobStore({"a.jsonl": b"{}\n"}), {("stream", 1): Raise(WorldError("reset"))})
    with pytest.raises(WorldError, match="reset"):
        list(BlobRows(store, "a.jsonl"))
