"""Programming problems with tests, and whether what a program gave is what a test asks for.

A test says what a program is given and what it must give. The second part never goes where the program runs: there it
is only run, and what it gave is compared here. Tests that are Python of their own (asserts) are the exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

from attrs import frozen

# Nothing is tried twice: what is searched was written by a model, which may write spaces without end.
_OPENS = re.compile(r"```[^\S\n]*+(?:python3?|py)?[^\S\n]*+\n", re.IGNORECASE)
_CLOSES = re.compile(r"^[^\S\n]*+```", re.MULTILINE)
_DEFINED = r"^(?:async\s+)?(?:def|class)\s+{name}\b|^{name}\s*="


DONE = "done"


class TestKind(Enum):
    __test__ = False

    STDIN = "stdin"
    """A whole program: reads its input, writes its output."""
    CALL = "call"
    """A function, or a method of `Solution`, called with arguments."""
    ASSERT = "assert"
    """Python that is run after the program, and raises where that is wrong."""


@frozen
class CodeTest:
    kind: TestKind
    input: str
    """Standard input; a JSON list of arguments; Python."""
    outputs: tuple[str, ...] = ()
    """Each of them is right: standard output; JSON. None for asserts."""
    function: str = ""
    """Of CALL, which one."""


@frozen(kw_only=True)
class CodeProblem:
    id: str
    question: str
    tests: tuple[CodeTest, ...]
    """All of them decide."""
    shown: tuple[CodeTest, ...] = ()
    """Those that a policy may try a program on before it answers."""
    starter: str = ""
    """Code that the program must fill in."""
    before: str = ""
    """Code that is run before the program's, for what that leaves out."""
    solution: str | None = None
    tag: str = "code"


def code_in(text: str) -> str | None:
    """The last fenced block of a text that is Python or says no language; None where there is none that ends."""
    last, at = "", 0
    while (opens := _OPENS.search(text, at)) and (closes := _CLOSES.search(text, opens.end())):
        last, at = text[opens.end() : closes.start()], closes.end()
    return last if last.strip() else None


def whole_program(problem: CodeProblem, code: str) -> str:
    """What is run: the problem's own code, then the policy's, which may also be the rest of what was begun there."""
    if not problem.before:
        return code
    begun = re.findall(r"^def\s+(\w+)", problem.before, re.MULTILINE)
    whole = not begun or re.search(_DEFINED.format(name=begun[-1]), code, re.MULTILINE)
    return f"{problem.before}\n\n{code}" if whole else f"{problem.before}{code}"


def passes(test: CodeTest, given: str) -> bool:
    """Whether what a program gave (its output; JSON; of asserts that they are DONE) is right."""
    if test.kind is TestKind.ASSERT:
        return given == DONE
    same = _same_text if test.kind is TestKind.STDIN else _same_value
    return any(same(given, right) for right in test.outputs)


def _same_text(given: str, right: str) -> bool:
    """Line by line but for space at its ends; numbers by value, as LiveCodeBench compares."""
    ours, theirs = given.strip().splitlines(), right.strip().splitlines()
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(given: str, right: str) -> bool:
    if given.strip() == right.strip():
        return True
    ours, theirs = given.split(), right.split()
    return len(ours) == len(theirs) and all(a == b or _same_number(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_number(given: str, right: str) -> bool:
    if max(len(given), len(right)) > 1000:
        return False
    try:
        return Decimal(given) == Decimal(right)
    except InvalidOperation:
        return False


def _same_value(given: str, right: str) -> bool:
    try:
        return bool(_parsed(given) == _parsed(right))
    except (ValueError, RecursionError):
        return False


def _parsed(text: str) -> Any:
    return json.loads(text)


def shown_text(tests: Sequence[CodeTest]) -> str:
    """Tests as a policy reads them."""
    return "\n\n".join(_shown(test) for test in tests)


def _shown(test: CodeTest) -> str:
    if test.kind is TestKind.ASSERT:
        return test.input.strip()
    right = test.outputs[0] if test.outputs else ""
    if test.kind is TestKind.STDIN:
        return f"Input:\n{test.input.rstrip()}\nOutput:\n{right.rstrip()}"
    arguments = ", ".join(json.dumps(value, ensure_ascii=False) for value in json.loads(test.input))
    return f"{test.function}({arguments}) gives {right}"
