"""Rows of JSON lines: bytes to objects, with the line named when one is broken.

Shared by everything that reads JSON lines, wherever the bytes come from. Memory is one line and one chunk.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from gzip import BadGzipFile
from typing import Any

from tinsmith.domain.errors import DataError

MAX_LINE_BYTES = 1 << 28
"""A longer line is no row: it is a file of another kind, and is refused before memory is spent on it."""

DAMAGED = (EOFError, zlib.error, BadGzipFile)
"""What reading a cut or damaged gzip stream raises."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str) -> Any:
    """The JSON value of `text`. Raises ValueError for what is not strict JSON: NaN, lone surrogates, absurd nesting."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:  # surrogates come only from escapes; a lone one is not Unicode text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a string holds half of a surrogate pair, which is not Unicode text") from None
    return value


def decode_utf8(data: bytes, *, source: str, line: int) -> str:
    """`data` as text; DataError names the line (from 1) and the byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte {data[error.start]:#04x} at {error.start}); save the file as UTF-8",
            source=source,
            line=line,
        ) from None


def check_row(value: Any, *, source: str, line: int | None, where: str = "") -> dict[str, Any]:
    """`value`, if it is an object."""
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        way = "; a file that is one list of rows is named .json" if kind == "a list" and line == 1 and not where else ""
        raise DataError(f"{where}{kind}, but a row is a JSON object{way}", source=source, line=line)
    return value


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a byte stream that comes in chunks of any size, without their newline."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line]) if parts else line
            parts, size = [], 0
        if rest:
            parts.append(rest)
            size += len(rest)
        if size > MAX_LINE_BYTES:
            break
    if parts:
        yield b"".join(parts)


def parse_rows(lines: Iterable[bytes], source: str) -> Iterator[dict[str, Any]]:
    """Rows of JSON lines. A byte-order mark and blank lines are passed over; anything else that is not an object
    raises DataError with `source` and the line (from 1), and so does a compressed stream that is cut or damaged."""
    number = 0
    stream = iter(lines)
    while True:
        try:
            line = next(stream, None)
        except DAMAGED as error:
            raise DataError(f"the compressed file is damaged or cut: {error}", source=source, line=number + 1) from None
        if line is None:
            return
        number += 1
        if number == 1:
            if line[:2] in _UTF16:
                raise DataError("UTF-16, but rows are read as UTF-8; save the file as UTF-8", source=source, line=1)
            line = line.removeprefix(_BOM)
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"longer than {MAX_LINE_BYTES} bytes: not JSON lines", source=source, line=number)
        if not line.strip():
            continue
        text = decode_utf8(line, source=source, line=number)
        try:
            value = parse_json(text)
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg} at column {error.colno}; each line holds one JSON object"
            raise DataError(message, source=source, line=number) from None
        except ValueError as error:
            raise DataError(str(error), source=source, line=number) from None
        yield check_row(value, source=source, line=number)
