"""Rows of programming problems, in the layouts of the field's sets.

* LiveCodeBench (livecodebench/code_generation_lite): `question_content`, `starter_code`, `public_test_cases` and
  `private_test_cases` (JSON, the latter also compressed), `metadata` with a `func_name`.
* DeepCoder (agentica-org/DeepCoder-Preview-Dataset): `problem` (or `question`, `prompt`) and `tests`, JSON or not: a
  list of `{input, output, testtype | type, metadata.func_name | fn_name}`, or `{inputs, outputs, fn_name}`.
* HumanEval (openai/human-eval): `prompt`, `entry_point`, `test`, `canonical_solution`.
* MBPP (google-research-datasets/mbpp): `text` or `prompt`, `test_list`, `test_setup_code` or `test_imports`, `code`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinsmith.domain.code import CodeProblem, CodeTest, TestKind, shown_text
from tinsmith.domain.errors import DataError
from tinsmith.domain.rows import parse_json

SHOWN = 2
"""Tests that may be tried where the row does not say which."""
MAX_TESTS_BYTES = 1 << 28
"""Compressed tests may not become more than this."""

NEEDS = (
    'row needs "question_content" with "public_test_cases" (LiveCodeBench), "problem" with "tests" (DeepCoder), '
    '"prompt" with "entry_point" and "test" (HumanEval), or "prompt" with "test_list" (MBPP)'
)


class _Wrong(Exception):
    """What is wrong with a row."""


def code_problem(row: Mapping[str, Any], *, source: str, line: int, tag: str = "code") -> CodeProblem:
    """The problem of a row. Raises DataError with its line."""
    try:
        made = _read(row)
    except _Wrong as error:
        raise DataError(str(error), source=source, line=line) from None
    known = row.get("task_id") or row.get("question_id") or row.get("id")
    made["id"] = f"{tag}/{known if known is not None else line - 1}"
    solution = row.get("solution")
    if isinstance(solution, str) and solution.strip():
        made["solution"] = solution
    return CodeProblem(tag=tag, **made)


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    if "public_test_cases" in row:
        return _live_code_bench(row)
    if "entry_point" in row and "test" in row:
        return _human_eval(row)
    if "test_list" in row:
        return _mbpp(row)
    if "tests" in row:
        return _deep_coder(row)
    raise _Wrong(NEEDS)


def _text(row: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name])
    raise _Wrong(f'row needs "{names[0]}", a text')


def _json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise _Wrong(f'"{what}" is not JSON: {error}') from None


def _live_code_bench(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = _json(row.get("metadata") or "{}", "metadata")
    function = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    shown = _tests(_json(row["public_test_cases"] or "[]", "public_test_cases"), function)
    hidden = _tests(_private(row.get("private_test_cases") or "[]"), function)
    if not shown + hidden:
        raise _Wrong("row has no tests")
    return {
        "question": _text(row, "question_content"),
        "starter": row.get("starter_code") or "",
        "tests": shown + hidden,
        "shown": shown,
    }


class _TextsOnly(pickle.Unpickler):
    """Reads a text that was pickled, and makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")


def _private(value: Any) -> Any:
    """JSON, or JSON that was pickled as a text, compressed and written in base64."""
    if not isinstance(value, str) or value.lstrip()[:1] in ("[", "{"):
        return _json(value, "private_test_cases")
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(value, validate=True), MAX_TESTS_BYTES)
        if stream.unconsumed_tail:
            raise _Wrong(f'"private_test_cases" are more than {MAX_TESTS_BYTES} bytes')
        text = _TextsOnly(io.BytesIO(data)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError) as error:
        raise _Wrong(f'"private_test_cases" cannot be read: {error}') from None
    return _json(text, "private_test_cases")


def _deep_coder(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = _json(row.get("metadata") or "{}", "metadata")
    function = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    raw = _json(row["tests"], "tests")
    if isinstance(raw, Mapping) and "inputs" in raw and "outputs" in raw:
        inputs, outputs, name = raw["inputs"], raw["outputs"], raw.get("fn_name")
        if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
            raise _Wrong('"tests" needs as many "outputs" as "inputs"')
        raw = [{"input": i, "output": o, "fn_name": name} for i, o in zip(inputs, outputs, strict=True)]
    tests = _tests([raw] if isinstance(raw, Mapping) else raw, function)
    if not tests:
        raise _Wrong("row has no tests")
    question = _text(row, "problem", "question", "prompt")
    return {
        "question": question,
        "starter": row.get("starter_code") or "",
        "tests": tests,
        "shown": tests[:SHOWN] if len(tests) > 1 else (),
    }


def _tests(raw: Any, function: Any) -> tuple[CodeTest, ...]:
    if not isinstance(raw, Iterable) or isinstance(raw, (str, Mapping)):
        raise _Wrong("tests must be a list")
    made = []
    for number, test in enumerate(raw, 1):
        if not isinstance(test, Mapping) or "input" not in test or "output" not in test:
            raise _Wrong(f'test {number} needs "input" and "output"')
        made.append(_test(test, function, number))
    return tuple(made)


def _test(test: Mapping[str, Any], function: Any, number: int) -> CodeTest:
    metadata = _json(test.get("metadata") or {}, "metadata")
    named = test.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, Mapping) else None) or function
    kind = test.get("testtype") or test.get("type") or ("function_call" if test.get("fn_name") else "stdin")
    if kind in ("stdin", "stdin_stdout"):
        return CodeTest(TestKind.STDIN, _joined(test["input"]), (_joined(test["output"]),))
    if kind not in ("functional", "function_call"):
        raise _Wrong(f"test {number} is of the kind {kind!r}; known are stdin and functional")
    if not isinstance(named, str) or not named.isidentifier():
        raise _Wrong(f'test {number} calls a function and does not say which ("func_name", "fn_name")')
    given, right = test["input"], test["output"]
    if isinstance(given, str):  # LiveCodeBench: an argument a line
        arguments = [_json(line, f"input of test {number}") for line in given.split("\n") if line.strip()]
        outputs = (json.dumps(_json(right, f"output of test {number}")),)
        return CodeTest(TestKind.CALL, json.dumps(arguments), outputs, named)
    if not isinstance(given, Sequence):
        raise _Wrong(f"the input of test {number} must be a list of arguments")
    wrapped: tuple[str, ...] = ()
    if isinstance(right, Sequence) and not isinstance(right, str) and len(right) == 1:
        wrapped = (json.dumps(right[0]),)  # APPS and TACO wrap what is returned, but not always
    return CodeTest(TestKind.CALL, json.dumps(list(given)), (json.dumps(right), *wrapped), named)


def _joined(value: Any) -> str:
    """Text, or lines of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "\n".join(str(line) for line in value)
    return str(value)


def _human_eval(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, test, name = _text(row, "prompt"), _text(row, "test"), _text(row, "entry_point")
    if not name.isidentifier():
        raise _Wrong(f'"entry_point" {name!r} is no name of a function')
    solution = row.get("canonical_solution")
    return {
        "question": f"Complete this function.\n\n```python\n{prompt.rstrip()}\n```",
        "tests": (CodeTest(TestKind.ASSERT, f"{test}\n\ncheck({name})\n"),),
        "before": prompt,
        "solution": prompt + solution if isinstance(solution, str) else None,
    }


def _mbpp(row: Mapping[str, Any]) -> dict[str, Any]:
    asserts = row["test_list"]
    if not isinstance(asserts, Sequence) or not asserts or not all(isinstance(a, str) for a in asserts):
        raise _Wrong('"test_list" must be a list of asserts')
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    tests = tuple(CodeTest(TestKind.ASSERT, f"{setup}\n{text}\n".lstrip("\n")) for text in asserts)
    listed = shown_text([CodeTest(TestKind.ASSERT, text) for text in asserts]).replace("\n\n", "\n")
    code = row.get("code")
    return {
        "question": f"{_text(row, 'text', 'prompt').strip()}\n\nIt must hold that\n\n```python\n{listed}\n```",
        "tests": tests,
        "shown": tests,
        "solution": code if isinstance(code, str) else None,
    }
