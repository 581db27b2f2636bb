"""`tinsmith grade`: a line of output for each line of input, whatever that holds."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.cli import main

GOOD = [
    ({"id": "a", "gold": "1/2", "pred": "0.5"}, True),
    ({"gold": "1/2", "pred": "0.6"}, False),
    ({"id": 3, "gold": "1/2", "pred": None}, False),
    ({"id": [1], "gold": None, "pred": "5"}, None),
    ({"id": None, "gold": "{{", "pred": "5"}, None),
    ({"gold": "5", "pred": "\x00"}, False),
    ({"gold": "5", "pred": "\ud800"}, False),
    ({"gold": 5, "pred": 5.0}, True),
    ({"gold": "5", "pred": "{" * 100_000}, None),
]
BAD = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b"[1]",
    b'{"gold": "5"}',
    b'{"pred": "5"}',
    b'{"gold": {}, "pred": "5"}',
    b'{"gold": true, "pred": "5"}',
    b'{"gold": ' + b"9" * 10_000 + b', "pred": "5"}',
]


def graded(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, object]], str]:
    code = main(["grade", *words])
    out = capsys.readouterr()
    return code, [json.loads(line) for line in out.out.splitlines()], out.err


def test_each_line_is_answered_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row, _ in GOOD))
    code, rows, err = graded(capsys, str(file))
    assert code == 0, err
    assert [list(row) for row in rows] == [["id", "verdict", "reason", "tier", "seconds"]] * len(GOOD)
    assert [row["id"] for row in rows] == [row.get("id") for row, _ in GOOD]
    for row, (given, verdict) in zip(rows, GOOD, strict=True):
        assert row["verdict"] is verdict or (verdict is False and row["verdict"] is not True), (given, row)
    assert str(rows[3]["reason"]).startswith("gold_")
    assert str(rows[4]["reason"]).startswith("gold_")
    assert f"{len(GOOD)} graded" in err


def test_a_line_that_cannot_be_read_is_named_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [line for bad in BAD for line in (b'{"gold": "5", "pred": "5"}', bad)] + [b'{"gold": "5", "pred": "5"}']
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    code, rows, err = graded(capsys, str(file))
    assert code == 1
    assert [row["verdict"] for row in rows] == [True, None] * len(BAD) + [True]
    assert {row["reason"] for row in rows[1::2]} == {"unreadable_line"}
    for i in range(len(BAD)):
        assert f"line {2 * i + 2}: " in err
    assert f"{len(BAD)} lines unreadable" in err


def test_responses_and_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"gold": "5", "pred": r"so \boxed{5}"},
        {"gold": "5", "pred": "nothing"},
        {"gold": "5", "pred": "}" * 9 + r"\boxed{6}"},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, graded_rows, _ = graded(capsys, "-", "--mode", "response")
    assert code == 0
    assert [row["verdict"] for row in graded_rows] == [True, False, False]
    assert graded_rows[1]["reason"] == "not_found"


def test_order_holds_over_many_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"id": i, "gold": str(i % 7), "pred": "3"}) + "\n" for i in range(10_000)))
    code, rows, _ = graded(capsys, str(file), "--policy=strict")
    assert code == 0
    assert [(row["id"], row["verdict"]) for row in rows] == [(i, i % 7 == 3) for i in range(10_000)]


def test_a_file_of_verdicts_is_complete_or_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "pairs.jsonl", tmp_path / "verdicts.jsonl"
    file.write_text('{"gold": "5", "pred": "5"}\n')
    out.write_text("earlier")
    assert graded(capsys, str(tmp_path / "nowhere"), "--out", str(out))[0] == 2
    assert out.read_text() == "earlier"
    assert graded(capsys, str(file), "--out", str(out))[:2] == (0, [])
    assert json.loads(out.read_text())["verdict"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs.jsonl", "verdicts.jsonl"]
    assert graded(capsys, str(file), f"out={tmp_path}/no/where")[0] == 2
    assert graded(capsys, str(file), "--grader", "magic")[0] == 2


@pytest.mark.parametrize("grader", ["sympy", "math_verify"])
def test_another_grader_is_asked_where_native_cannot_decide(
    grader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(grader, reason="needs the extra: math")
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"gold": "5", "pred": "5"}\n{"gold": "5", "pred": "6"}\n')
    code, rows, _ = graded(capsys, str(file), "--grader", grader)
    assert code == 0
    assert [row["verdict"] for row in rows] == [True, False]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"gold": "5", "pred": "5"}\n' * 20_000)
    command = f"{sys.executable} -m tinsmith grade {file} 2>{tmp_path}/err | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["verdict"] is True
    assert "Traceback" not in (tmp_path / "err").read_text()
