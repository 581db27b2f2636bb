"""Rows of any source, to be had in any order: kept as JSON in a temporary file, not in memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from threading import Lock
from typing import Any

from tinsmith.domain.errors import DataError
from tinsmith.ports.data import DatasetSource, Row

Keep = Callable[[Row, int], str | None]
"""Of a row and its line: why it is left out, None to keep it. Raises DataError for a row that is malformed."""


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("holds bytes, which are no text")
    return str(value)  # dates and the like


class SpooledRows:
    """The rows of a source, read once. 16 bytes of memory a row; the file is gone when this is."""

    def __init__(self, source: DatasetSource, *, keep: Keep | None = None, limit: int | None = None) -> None:
        """keep: is asked about each row as it is read. limit: rows to read at most."""
        self.name = source.name
        self._file = tempfile.TemporaryFile(prefix="tinsmith-rows-")  # noqa: SIM115 - held as long as the rows are
        weakref.finalize(self, self._file.close)
        self._starts = array("q", [0])
        self._lines = array("q")
        self._lock = Lock()
        left_out: Counter[str] = Counter()
        digest = hashlib.blake2b(digest_size=16)
        for line, row in enumerate(islice(source, limit), 1):
            if keep is not None and (why := keep(row, line)) is not None:
                left_out[why] += 1
                continue
            try:
                text = json.dumps(row, ensure_ascii=False, default=_to_json).encode()
            except (TypeError, ValueError) as error:
                raise DataError(f"the row {error}", source=self.name, line=line) from None
            digest.update(len(text).to_bytes(8, "big") + text)
            self._file.write(text)
            self._starts.append(self._starts[-1] + len(text))
            self._lines.append(line)
        self._file.flush()
        self.fingerprint = digest.hexdigest()
        self.left_out: Mapping[str, int] = left_out

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> tuple[int, Row]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, end = self._starts[index], self._starts[index + 1]
        with self._lock:
            self._file.seek(start)
            text = self._file.read(end - start)
        return self._lines[index], json.loads(text)
