"""Programs are judged by what they gave: right answers stay here, and nothing that a program says makes it right."""

import contextlib
import json
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tinsmith.domain.code import CodeProblem, CodeTest, TestKind, code_in, passes, whole_program
from tinsmith.domain.code_rows import code_problem
from tinsmith.domain.errors import DataError
from tinsmith.envs.code import read_verdict, told
from tinsmith.ports.sandbox import End

values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
words = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
lines = st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=4)
spaces = st.sampled_from(["", " ", "  ", "\t"])
names = st.sampled_from(["f", "solve", "count_pairs"])


def text_of(rows):
    return "\n".join(" ".join(row) for row in rows)


@given(right=lines, before=spaces, after=spaces, end=st.sampled_from(["", "\n", "\n\n", "\r\n"]))
def test_space_at_the_ends_of_lines_makes_no_difference(right, before, after, end):
    test = CodeTest(TestKind.STDIN, "", (text_of(right),))
    given = "\n".join(f"{before}{' '.join(row)}{after}" for row in right) + end
    assert passes(test, given)


plain = st.lists(st.lists(st.text("abcß", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3)


@given(right=plain, other=plain)
@example(right=[["1"]], other=[["1"], ["1"]])
@example(right=[["a", "b"]], other=[["ab"]])
def test_other_words_are_wrong(right, other):
    assume(right != other)
    assert not passes(CodeTest(TestKind.STDIN, "", (text_of(right),)), text_of(other))


@given(number=st.integers(-(10**9), 10**9), zeros=st.integers(0, 3), more=st.integers(1, 9))
def test_numbers_are_compared_by_value(number, zeros, more):
    test = CodeTest(TestKind.STDIN, "", (f"{number}\n",))
    assert passes(test, f"{number}.{'0' * (zeros + 1)}")
    assert not passes(test, f"{number}.{'0' * zeros}{more}")
    assert not passes(test, str(number + more))


@given(right=values, other=values)
def test_what_a_function_gave_is_compared_as_json(right, other):
    test = CodeTest(TestKind.CALL, "[]", (json.dumps(right),), "f")
    assert passes(test, json.dumps(right))
    assert passes(test, json.dumps(other)) is (right == other)


@given(said=st.text(max_size=30) | st.sampled_from(["", "[" * 100_000, "NaN", "{", "nan", "1" * 10_000, "Infinity"]))
def test_no_answer_raises(said):
    for kind in TestKind:
        assert passes(CodeTest(kind, "[]", ("5",), "f"), said) in (True, False)


tests_of_a_problem = st.lists(
    st.one_of(
        st.builds(lambda rows: CodeTest(TestKind.STDIN, "", (text_of(rows),)), lines),
        st.builds(lambda value: CodeTest(TestKind.CALL, "[]", (json.dumps(value),), "f"), values),
        st.just(CodeTest(TestKind.ASSERT, "assert True")),
    ),
    min_size=1,
    max_size=4,
)
honest = st.fixed_dictionaries(
    {"end": st.sampled_from(["ok", "error", "timeout", "output"]), "given": st.text(max_size=5), "error": st.just("")}
)
forged = st.one_of(st.text(max_size=20), values.map(json.dumps), honest.map(json.dumps))


@given(tests=tests_of_a_problem, said=st.lists(forged, max_size=6), end=st.sampled_from(End))
@example(tests=[CodeTest(TestKind.STDIN, "", ("1",))], said=['{"end": "ok", "given": "", "error": ""}'], end=End.EXITED)
@example(tests=[CodeTest(TestKind.STDIN, "", ("1",))], said=[], end=End.EXITED)
@example(tests=[CodeTest(TestKind.STDIN, "", ("1",))], said=["[" * 100_000], end=End.EXITED)
def test_whatever_is_said_a_program_is_right_exactly_when_every_test_has_its_answer(tests, said, end):
    stdout = "".join(line.replace("\n", " ") + "\n" for line in said)
    verdict = read_verdict(tests, stdout, end)
    assert verdict.tests == len(tests)
    assert 0 <= verdict.passed <= len(tests)
    assert verdict.correct is (verdict.passed == len(tests))
    read = stdout.splitlines()
    for number, test in enumerate(tests[: verdict.passed]):
        answer = json.loads(read[number])
        assert answer["end"] == "ok"
        assert passes(test, answer["given"])
    assert verdict.correct or told(tests, verdict)


@given(tests=tests_of_a_problem, broken=st.none() | st.integers(0, 3))
def test_right_answers_pass_and_the_first_other_one_is_named(tests, broken):
    rows = []
    for number, test in enumerate(tests):
        right = "done" if test.kind is TestKind.ASSERT else test.outputs[0]
        rows.append({"end": "timeout" if number == broken else "ok", "given": right, "error": ""})
    verdict = read_verdict(tests, "".join(json.dumps(row) + "\n" for row in rows), End.EXITED)
    if broken is None or broken >= len(tests):
        assert verdict.correct
    else:
        assert (verdict.passed, verdict.failure) == (broken, "timeout")


code = st.sampled_from(["print(1)", "def f():\n    return '```'\n", "x = 1\n\n\ny = 2"])


@given(
    before=st.sampled_from(["", "I think ", "text\n\n"]), blocks=st.lists(code, min_size=1, max_size=3), tag=st.data()
)
def test_the_last_block_that_is_python_counts(before, blocks, tag):
    text = before
    for block in blocks:
        kind = tag.draw(st.sampled_from(["python", "", "py", "Python", "python3"]))
        text += f"\n```{kind}\n{block}\n```\nand "
    assert code_in(text).rstrip("\n") == blocks[-1].rstrip("\n")
    assert code_in(text.replace("```", "'''")) is None
    assert code_in(text + "\n```python\nprint(") == code_in(text), "one that does not end is none"


@pytest.mark.parametrize("text", ["```" + " " * 60_000, "a```python\n" * 20_000], ids=["spaces", "openings"])
def test_a_text_of_any_length_is_read_in_time_in_proportion(text):
    """It is read between the turns of all other episodes, which wait."""
    began = time.process_time()
    assert code_in(text) is None
    assert time.process_time() - began < 2


def test_what_a_problem_began_may_be_gone_on_with_or_written_whole():
    begun = 'import math\n\ndef area(r):\n    """Of a circle."""\n'
    problem = CodeProblem(id="x", question="", tests=(), before=begun)
    for written in ("    return math.pi * r * r\n", "def area(r):\n    return math.pi * r * r\n"):
        names = {}
        exec(whole_program(problem, written), names)
        assert names["area"](1) > 3


# Layouts

cases = st.lists(st.tuples(st.lists(values, min_size=1, max_size=3), values), min_size=1, max_size=4)


@given(cases=cases, name=names, as_text=st.booleans())
def test_calls_in_the_layout_of_livecodebench_and_deepcoder(cases, name, as_text):
    tests = [
        {
            "input": "\n".join(json.dumps(a) for a in arguments),
            "output": json.dumps(result),
            "testtype": "functional",
            "metadata": {"func_name": name},
        }
        for arguments, result in cases
    ]
    row = {"problem": "Do it.", "starter_code": "x", "tests": json.dumps(tests) if as_text else tests}
    made = code_problem(row, source="rows", line=3)
    assert made.id == "code/2"
    for test, (arguments, result) in zip(made.tests, cases, strict=True):
        assert (test.kind, test.function) == (TestKind.CALL, name)
        assert json.loads(test.input) == arguments
        assert passes(test, json.dumps(result))


@given(cases=cases, name=names, wrapped=st.booleans(), columns=st.booleans())
def test_calls_in_the_layout_of_apps(cases, name, wrapped, columns):
    inputs, outputs = [a for a, _ in cases], [[r] if wrapped else r for _, r in cases]
    if columns:
        tests = {"fn_name": name, "inputs": inputs, "outputs": outputs}
    else:
        tests = [
            {"type": "function_call", "fn_name": name, "input": i, "output": o}
            for i, o in zip(inputs, outputs, strict=True)
        ]
    made = code_problem({"problem": "Do it.", "tests": json.dumps(tests)}, source="rows", line=1)
    for test, (arguments, result) in zip(made.tests, cases, strict=True):
        assert json.loads(test.input) == arguments
        assert test.function == name
        assert passes(test, json.dumps(result))


@given(row=st.dictionaries(st.sampled_from(["problem", "tests", "prompt", "test_list", "entry_point", "test"]), values))
def test_a_row_that_is_none_is_named_with_its_line(row):
    with contextlib.suppress(DataError):
        made = code_problem(row, source="rows.jsonl", line=7)
        assert made.question.strip()
        assert made.tests
    if not row.keys() & {"tests", "test_list", "test"}:
        with pytest.raises(DataError, match=r"rows\.jsonl, line 7"):
            code_problem(row, source="rows.jsonl", line=7)
