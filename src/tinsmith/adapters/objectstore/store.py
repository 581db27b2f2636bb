"""A BlobStore by URL (extra `blob`): s3://, gs://, az://, abfss://, http(s)://, file://, memory://.

URLs are split as text and never become file paths: `s3://bucket/a` stays what it is. Credentials come from the
environment, as each cloud's own tools read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from tinsmith.domain.errors import ConfigError, DataNotFoundError, MissingExtraError, WorldError
from tinsmith.ports.blob import check_key

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "abfs", "abfss", "http", "https", "file", "memory")

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION; AWS_ENDPOINT_URL for a store that is not "
    "Amazon's), or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_SERVICE_ACCOUNT to the path of a service account's key, or GOOGLE_SKIP_SIGNATURE=true for a "
    "public bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a public "
    "container",
}
_CREDENTIALS["abfs"] = _CREDENTIALS["abfss"] = _CREDENTIALS["az"]

# Without credentials, obstore asks the metadata service of the cloud it would run in: at this address, for a token.
_UNKNOWN_CALLER = ("169.254.169.254", "token", "credential", "Account must be specified", "401", "403", "authenticat")

_RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}


def split_url(url: str) -> tuple[str, str]:
    """The store and the key of an object's URL: `s3://bucket/a/b.jsonl` gives (`s3://bucket`, `a/b.jsonl`)."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigError(f"{url!r}: not the URL of an object store ({', '.join(SCHEMES)})")
    if scheme in ("file", "memory"):
        folder, _, key = rest.rpartition("/")
        return f"{scheme}://{folder or '/'}", key
    bucket, _, key = rest.partition("/")
    if not bucket or not key:
        raise ConfigError(f"{url!r}: names no object; write {scheme}://BUCKET/PATH/FILE")
    return f"{scheme}://{bucket}", key


class ObjectStore:
    """The blobs below a URL. Writes are whole or not at all, as object stores have it (and a disk: see FileBlobStore).

    `options` go to obstore's store for the scheme, and take precedence over the environment.
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise MissingExtraError("obstore", "blob") from None
        self._obstore = obstore
        self._failures = (obstore.exceptions.BaseError,)
        self._url = url.rstrip("/") if url.partition("://")[2].strip("/") else url
        self._scheme = url.partition("://")[0]
        if self._scheme not in SCHEMES:
            raise ConfigError(f"{url!r}: not the URL of an object store ({', '.join(SCHEMES)})")
        if self._scheme in ("s3", "gs", "az", "abfs", "abfss", "http", "https"):
            options.setdefault("retry_config", _RETRY)
        if self._scheme == "http":  # asked for by name; obstore refuses what is not encrypted
            options["client_options"] = {"allow_http": True, **options.get("client_options", {})}
        if self._scheme == "file":
            options.setdefault("mkdir", True)
        self._store = self._attempt(lambda: obstore.store.from_url(url, **options), "")

    @property
    def url(self) -> str:
        return self._url

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        self._attempt(lambda: self._obstore.put(self._store, key, data), key)

    def get(self, key: str) -> bytes:
        check_key(key)
        return self._attempt(lambda: bytes(self._obstore.get(self._store, key).bytes()), key)

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        check_key(key)
        chunks = self._attempt(
            lambda: iter(self._obstore.get(self._store, key).stream(min_chunk_size=chunk_bytes)), key
        )
        while (chunk := self._attempt(lambda: next(chunks, None), key)) is not None:
            view = memoryview(chunk)
            for start in range(0, len(view), chunk_bytes):
                yield bytes(view[start : start + chunk_bytes])

    def exists(self, key: str) -> bool:
        check_key(key)
        try:
            self._attempt(lambda: self._obstore.head(self._store, key), key)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        # Stores list by whole names between slashes; the rest of the prefix is compared here.
        folder = prefix.rpartition("/")[0] or None
        pages = self._attempt(lambda: [m["path"] for p in self._obstore.list(self._store, folder) for m in p], prefix)
        return sorted(key for key in pages if key.startswith(prefix))

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            self._attempt(lambda: self._obstore.delete(self._store, key), key)
        except FileNotFoundError:
            return

    def _attempt(self, work: Callable[[], T], key: str) -> T:
        where = self._url if not key else self._url + ("" if self._url.endswith("/") else "/") + key
        try:
            return work()
        except FileNotFoundError:
            raise DataNotFoundError(f"{where}: no such blob") from None
        except (*self._failures, OSError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0]
            hint = _CREDENTIALS.get(self._scheme) if any(sign in first for sign in _UNKNOWN_CALLER) else None
            raise WorldError(f"{where}: {first}" + (f". Credentials: {hint}" if hint else "")) from None
