"""Local files of rows: what is read, and what a broken one says."""

import gzip
import json

import pytest

from tinsmith.adapters.local.jsonl import JsonlSource
from tinsmith.domain.errors import DataError, DataNotFoundError

ROWS = [{"text": "eins"}, {"text": "zwei é\u2028"}, {"n": [1, 2]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", LINES.rstrip(b"\n")),
        ("a.ndjson", LINES.replace(b"\n", b"\r\n\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.json", LINES),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.txt", LINES),
    ],
)
def test_rows_are_read_again_and_again(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    source = JsonlSource(path)
    assert list(source) == ROWS
    assert list(source) == ROWS
    assert source.name == str(path)


@pytest.mark.parametrize(
    ("name", "data", "line", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n{"a": 2}\n', 3, "not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', 2, "a list"),
        ("a.jsonl", b'{"a": 1}\n7\n', 2, "a number"),
        ("a.jsonl", b'{"a": NaN}\n', 1, "NaN"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', 1, "surrogate"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', 2, "UTF-8"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), 1, "UTF-16"),
        ("a.jsonl", b'{"a":' * 100_000 + b"\n", 1, "nested"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", 1, "digits"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-12], 3, "damaged or cut"),
        ("a.jsonl.gz", LINES, 1, "damaged or cut"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', 2, "not JSON"),
        ("a.json", b'[{"a": 1}, 3]', None, "item 1 of the list"),
        ("a.json.gz", gzip.compress(b'[{"a": 1}]', mtime=0)[:-9], None, "damaged or cut"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, name, data, line, says):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(JsonlSource(path))
    assert caught.value.line == line
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_rows_before_the_broken_one_are_given(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\nbroken\n')
    rows = iter(JsonlSource(path))
    assert next(rows) == {"a": 1}
    with pytest.raises(DataError, match="line 2"):
        next(rows)


def test_a_missing_file_and_a_directory_are_refused_before_any_work(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"nowhere\.jsonl"):
        JsonlSource(tmp_path / "nowhere.jsonl")
    (tmp_path / "train.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match=r"a directory.*train\.jsonl"):
        JsonlSource(tmp_path)
