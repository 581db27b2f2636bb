"""Programming problems: the policy may try a program on some tests, then gives one that all tests decide on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from attrs import evolve, frozen

from tinsmith.domain.code import CodeProblem, CodeTest, TestKind, code_in, passes, whole_program
from tinsmith.domain.code_rows import code_problem
from tinsmith.domain.episodes import Episode
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.domain.mixtures import row_at
from tinsmith.envs.base import Env, GroupBuilder, Speaker
from tinsmith.envs.message import ParseErrors, RenderedEnv
from tinsmith.envs.tools import Graded, ToolBox, ToolEnv, ToolFunction, tool
from tinsmith.ports.data import DatasetSource
from tinsmith.ports.sandbox import End, Limits, Program, Sandbox
from tinsmith.rendering import Renderer

LIMITS = Limits(output_bytes=16 << 20, disk_bytes=256 << 20)
"""Of a sandbox in which all tests of a problem run: inputs and outputs of competitions are long."""
MAX_OUTPUT = 4 << 20
"""Bytes that a test may make a program write."""
MAX_INPUT = 48 << 20
"""Characters of all inputs of a problem's tests."""
MAX_OUTPUTS = LIMITS.output_bytes // 2
"""Bytes of all right outputs of a problem's tests, as the driver says them."""
WALL = 3
"""Seconds of wall clock to a second of processor time: what a busy machine may cost."""
SPARE_S = 5.0
TOLD = 600
"""Characters of a text that the tool shows."""

_END = " End with the whole code between ```python and ```."
PROGRAM = "Solve the problem with a Python program that reads standard input and writes standard output." + _END
FUNCTION = "Solve the problem in Python." + _END
TRY = " Before that you can try code on examples: check_solution."


@frozen(kw_only=True)
class Verdict:
    """What came of a program."""

    passed: int
    """Tests passed before the first that failed."""
    tests: int
    failure: str | None = None
    """None: it passed all. `wrong`, or why a test did not come to an answer: `error`, `timeout`, `output`, `memory`,
    `disk`."""
    text: str = ""
    """What there is to say of the first failure."""

    @property
    def correct(self) -> bool:
        return self.failure is None


async def judge(
    sandbox: Sandbox,
    problem: CodeProblem,
    code: str,
    tests: Sequence[CodeTest],
    *,
    seconds: float,
    most_s: float = float("inf"),
) -> Verdict:
    """Run a program on tests in one sandbox; the first failure settles it. seconds: of processor time a test. most_s:
    of wall clock for all of them.

    Raises SandboxError for the world's failures.
    """
    order = {
        "tests": [{"kind": t.kind.value, "input": t.input, "function": t.function} for t in tests],
        "seconds": seconds,
        "wall": WALL * seconds,
        "most": MAX_OUTPUT,
    }
    files = {
        "solution.py": whole_program(problem, code).encode("utf-8", "replace"),
        "tests.json": json.dumps(order, ensure_ascii=False).encode("utf-8", "replace"),
    }
    program = Program(
        source=_driver(),
        files=files,
        timeout_s=min(WALL * ((seconds + 1) * len(tests) + SPARE_S), most_s),
    )
    ran = await sandbox.run(program)
    return read_verdict(tests, ran.stdout.decode("utf-8", "replace"), ran.end)


def read_verdict(tests: Sequence[CodeTest], stdout: str, end: End) -> Verdict:
    """What the driver said. It runs beside the program, which may have spoiled that: then the program failed."""
    lines = stdout.splitlines()
    for number, test in enumerate(tests):
        said = _line(lines[number]) if number < len(lines) else None
        if said is None:
            if end is End.EXITED:
                return _failed(tests, number, "error", "the program ended its own tests")
            return _failed(tests, number, end.value, f"stopped: too much {end.value}")
        if said["end"] != "ok":
            text = said["error"] if said["end"] == "error" else f"stopped: {said['end']}"
            return _failed(tests, number, said["end"], text)
        if not passes(test, said["given"]):
            gave = said["error"] if test.kind is TestKind.ASSERT else f"it gave: {_cut(said['given'])}"
            return _failed(tests, number, "wrong", gave)
    return Verdict(passed=len(tests), tests=len(tests))


def _line(text: str) -> dict[str, str] | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not all(isinstance(said.get(k), str) for k in ("end", "given", "error")):
        return None
    return said if said["end"] in ("ok", "error", "timeout", "output") else None


def _failed(tests: Sequence[CodeTest], number: int, failure: str, text: str) -> Verdict:
    return Verdict(passed=number, tests=len(tests), failure=failure, text=text)


def _cut(text: str) -> str:
    return text if len(text) <= TOLD else f"{text[:TOLD]} ... ({len(text)} characters)"


def told(tests: Sequence[CodeTest], verdict: Verdict) -> str:
    """What the tool answers: tests that are shown may be told whole."""
    if verdict.correct:
        return f"all {verdict.tests} examples are right" if verdict.tests else "it runs"
    test = tests[verdict.passed]
    lines = [f"example {verdict.passed + 1} of {verdict.tests}: {verdict.failure}"]
    if test.kind is not TestKind.ASSERT or test.input.strip():
        lines.append(f"given: {_cut(test.input.strip())}")
    if test.outputs:
        lines.append(f"right: {_cut(test.outputs[0].strip())}")
    return "\n".join([*lines, verdict.text if len(verdict.text) < 2 * TOLD else f"... {verdict.text[-TOLD:]}"])


def check_tool(sandbox: Sandbox, problem: CodeProblem, seconds: float, most_s: float = float("inf")) -> ToolFunction:
    """The tool `check_solution(code)`, which runs code on the tests that the problem shows."""
    tests = problem.shown or (CodeTest(TestKind.ASSERT, ""),)

    @tool
    async def check_solution(code: str) -> str:
        """Run Python code on the examples of the problem."""
        verdict = await judge(sandbox, problem, code_in(code) or code, tests, seconds=seconds, most_s=most_s)
        if not problem.shown and verdict.correct:
            return "it runs; there are no examples to try it on"
        return told(tests, verdict)

    made: ToolFunction = check_solution
    return made


@frozen(kw_only=True)
class CodeTask:
    """What is asked of the policy for every problem, and how it is paid.

    reward = correct + format_coef * (format - 1); `format` holds when the last message of the policy has a block of
    Python that ends, `correct` when that passes all tests. A sandbox that fails is no reward: it is raised.
    """

    renderer: Renderer
    sandbox: Sandbox
    tool: bool = True
    """Whether there is `check_solution`."""
    seconds: float = 6.0
    """Of processor time, for each test."""
    format_coef: float = 0.1
    tool_timeout_s: float = 3600.0
    """Of a call of the tool and of a judgement. A program has half of it: one that idles through many tests has failed,
    and is not the world's failure, which would stop the run."""

    def box(self, problem: CodeProblem) -> ToolBox:
        tools = [check_tool(self.sandbox, problem, self.seconds, self.tool_timeout_s / 2)] if self.tool else []
        return ToolBox(tools, timeout_s=self.tool_timeout_s)

    def messages(self, problem: CodeProblem) -> tuple[Message, ...]:
        asked = PROGRAM if problem.tests[0].kind is TestKind.STDIN else FUNCTION
        starter = (
            f"\n\nBegin with this:\n\n```python\n{problem.starter.rstrip()}\n```" if problem.starter.strip() else ""
        )
        return (Message.system(asked + TRY * self.tool), Message.user(problem.question.strip() + starter))

    async def grade(self, problem: CodeProblem, conversation: Sequence[Message]) -> Graded:
        last = next((m for m in reversed(conversation) if m.role == "assistant"), None)
        code = None if last is None else code_in(last.text)
        verdict = Verdict(passed=0, tests=len(problem.tests), failure="no code")
        if code is not None:
            most_s = self.tool_timeout_s / 2
            verdict = await judge(self.sandbox, problem, code, problem.tests, seconds=self.seconds, most_s=most_s)
        correct, well_formed = float(verdict.correct), float(code is not None)
        metrics = {
            "correct": correct,
            "format": well_formed,
            "tests_passed": verdict.passed / verdict.tests,
            "wrong": float(verdict.failure == "wrong"),
            "crashed": float(verdict.failure == "error"),
            "timed_out": float(verdict.failure == "timeout"),
            "over_limit": float(verdict.failure in ("output", "memory", "disk")),
        }
        return Graded(reward=correct + self.format_coef * (well_formed - 1.0), metrics=metrics)

    def env(self, problem: CodeProblem) -> Env:
        async def grade(conversation: Sequence[Message]) -> Graded:
            return await self.grade(problem, conversation)

        env = ToolEnv(start=self.messages(problem), box=self.box(problem), grade=grade)
        unread = ParseErrors(reward=-self.format_coef)
        return RenderedEnv(env=env, renderer=self.renderer, parse_errors=unread, length_reward=-self.format_coef)


@frozen(eq=False)
class CodeGroup:
    """G attempts at one problem."""

    task: CodeTask
    source: CodeProblem
    coupled: bool = False

    @property
    def problem(self) -> str:
        return self.source.id

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.source.tag,)

    @property
    def solution(self) -> Speaker | None:
        """Tries the right program where there is a tool for that, then gives it."""
        code = self.source.solution
        if code is None:
            return None

        def speak(text: str, turn: int) -> Message | str:
            if self.task.tool and turn == 0:
                return Message("assistant", tool_calls=(ToolCall("check_solution", json.dumps({"code": code})),))
            return f"```python\n{code}\n```"

        return speak

    @property
    def reward_range(self) -> tuple[float, float]:
        return -self.task.format_coef, 1.0

    def make(self, n: int) -> Sequence[Env]:
        return [self.task.env(self.source) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False)
class CodeSet:
    """Problems by index, in an order shuffled anew for each pass by (seed, pass)."""

    name: str
    task: CodeTask
    problems: Sequence[CodeProblem]
    seed: int | None = None
    """None keeps the order."""

    @property
    def fingerprint(self) -> str:
        said = repr([(p.question, p.starter, p.before, p.tests) for p in self.problems])
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> GroupBuilder:
        if index < 0:
            raise IndexError(f"problem {index}")
        place = row_at(index, len(self.problems), self.seed)
        return CodeGroup(self.task, self.problems[place])

    def first(self, count: int) -> CodeSet:
        """The first `count` problems, in their own order."""
        return evolve(self, problems=self.problems[:count], seed=None)


def read_code(
    rows: DatasetSource, *, tag: str = "code", note: Callable[[str], object] = lambda _: None
) -> list[CodeProblem]:
    """The problems of a source, whichever layout its rows have (`domain.code_rows`). One whose tests have more than
    MAX_INPUT characters of input, or ask for more output than a program may write, is left out, and that is noted.
    Raises DataError with the line of a row that is none.
    """
    problems = []
    large = 0
    for line, row in enumerate(rows, 1):
        problem = code_problem(row, source=rows.name, line=line, tag=tag)
        if _large(problem):
            large += 1
        else:
            problems.append(problem)
    if large:
        note(
            f"{rows.name}: {large} problems were left out: their tests have more than {MAX_INPUT:,} characters of "
            f"input, or right outputs of more than {MAX_OUTPUT:,} bytes, {MAX_OUTPUTS:,} together"
        )
    if not problems:
        raise DataError("there is no problem in it", source=rows.name)
    return problems


def _large(problem: CodeProblem) -> bool:
    given = [test.outputs[0] for test in problem.tests if test.outputs]
    return (
        sum(len(test.input) for test in problem.tests) > MAX_INPUT
        or any(len(output.encode("utf-8", "replace")) > MAX_OUTPUT for output in given)
        or sum(len(json.dumps(output)) - 2 for output in given) > MAX_OUTPUTS
    )


@lru_cache(maxsize=1)
def _driver() -> str:
    return Path(__file__).with_name("code_driver.py").read_text(encoding="utf-8")
