"""Rows of local files: JSON lines, a JSON list, and both compressed with gzip.

Rows are read as a stream, so a file may be larger than memory; a `.json` file that holds one list is the exception,
since its rows are known only when the list is parsed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tinsmith.domain.errors import DataError, DataNotFoundError
from tinsmith.domain.rows import DAMAGED, MAX_LINE_BYTES, check_row, decode_utf8, parse_json, parse_rows

SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")


class JsonlSource:
    """A DatasetSource of a local `.jsonl`, `.ndjson` or `.json` file, `.gz` or not.

    Raises DataNotFoundError (a FileNotFoundError) when there is no such file, and DataError with file and line when a
    row is broken, at the row and not before.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if self._path.is_dir():
            names = sorted(p.name for p in self._path.iterdir() if p.name.endswith(SUFFIXES))
            hint = f"; it holds {', '.join(names[:5])}" if names else "; it holds no JSON file"
            raise DataError(f"a directory, not a file{hint}", source=str(path))
        if not self._path.exists():
            raise DataNotFoundError(f"{path}: no such data file (looked in {self._path.absolute().parent})")

    @property
    def name(self) -> str:
        return str(self._path)

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._open() as file:
            if self._path.name.removesuffix(".gz").endswith(".json"):
                try:
                    rows = self._list_rows(file)
                except DAMAGED as error:
                    raise DataError(f"the compressed file is damaged or cut: {error}", source=self.name) from None
                if rows is not None:
                    yield from rows
                    return
                file.seek(0)
            yield from parse_rows(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), self.name)

    def _open(self) -> IO[bytes]:
        if self._path.name.endswith(".gz"):
            return gzip.open(self._path, "rb")  # type: ignore[return-value]  # a GzipFile reads as one
        return self._path.open("rb")

    def _list_rows(self, file: IO[bytes]) -> list[dict[str, Any]] | None:
        """The rows of a file that holds one list; None when it holds something else (then: JSON lines)."""
        head = file.read(4096)
        if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
        text = decode_utf8((head + file.read()).removeprefix(b"\xef\xbb\xbf"), source=self.name, line=1)
        try:
            rows = parse_json(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"not JSON: {error.msg} at column {error.colno}", source=self.name, line=error.lineno
            ) from None
        except ValueError as error:
            raise DataError(str(error), source=self.name) from None
        return [
            check_row(row, source=self.name, line=None, where=f"item {index} of the list: ")
            for index, row in enumerate(rows)
        ]
