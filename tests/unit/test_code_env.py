"""Programs tried and judged in a sandbox: what they earn, and what a sandbox that fails never does."""

import asyncio
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinsmith import bootstrap, rendering
from tinsmith.domain.code import CodeProblem, CodeTest, TestKind
from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import ConfigError, WorldError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.envs import code
from tinsmith.envs.code import CodeSet, CodeTask, check_tool, judge, read_code
from tinsmith.envs.tools import ToolBox
from tinsmith.ports.sandbox import End, SandboxError
from tinsmith.recipes import small_code
from tinsmith.testing import FakeTokenizer, ScriptedSampler, ScriptedSandbox
from tinsmith.testing.sandbox import says
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()
QWEN3 = rendering.get("qwen3", TOKENIZER)
ADDS = CodeProblem(
    id="adds",
    question="Add the numbers.",
    tests=tuple(CodeTest(TestKind.STDIN, f"{a} {b}\n", (f"{a + b}\n",)) for a, b in ((1, 2), (5, 70), (-3, 3))),
)
LETTERS = CodeProblem(
    id="letters", question="Turn it round.", tests=(CodeTest(TestKind.STDIN, "äß語😀\n", ("😀語ßä",)),)
)
DOUBLES = CodeProblem(
    id="doubles",
    question="Double it.",
    tests=tuple(CodeTest(TestKind.CALL, json.dumps([x]), (json.dumps([x, x]),), "twice") for x in (1, "a")),
)
POWER = CodeProblem(id="power", question="a^b mod m.", tests=(CodeTest(TestKind.STDIN, "3 -1 7\n", ("5\n",)),))
"""What is imported for a program hides none of its builtins: math has a pow of its own."""
LONG = CodeProblem(id="long", question="10^5000", tests=(CodeTest(TestKind.STDIN, "", ("1" + "0" * 5000,)),))
ASSERTS = CodeProblem(
    id="asserts", question="Square.", tests=(CodeTest(TestKind.ASSERT, "assert square(3) == 9\nassert square(2) == 4"),)
)
SOLVES = "print(sum(map(int, input().split())))"


@pytest.fixture(scope="module")
def sandbox():
    try:
        opened = bootstrap.open_sandbox("local", limits=code.LIMITS)
    except ConfigError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def judged(sandbox, problem, program, seconds=5.0):
    async def once():
        return await judge(sandbox, problem, program, problem.tests, seconds=seconds)

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("problem", "program"),
    [
        (ADDS, SOLVES),
        (ADDS, "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()))); sys.exit(0)"),
        (ADDS, "def main():\n    print(sum(map(int, open(0).read().split())))\nif __name__ == '__main__': main()"),
        (ADDS, f"import threading\nthreading.Thread(target=lambda: {SOLVES}).start()"),
        (ADDS, "print(sum(map(int, input().split())), end='.0')"),
        (POWER, "print(pow(*map(int, input().split())))"),
        (LONG, "print(10**5000)"),
        (LETTERS, "print(input()[::-1])"),
        (DOUBLES, "def twice(x): return (x, x)"),
        (
            DOUBLES,
            "class Solution:\n    def twice(self, x: int) -> List[int]:\n        print('noise')\n        return [x, x]",
        ),
        (ASSERTS, "square = lambda x: x * x"),
    ],
)
def test_right_programs_of_every_kind(sandbox, problem, program):
    verdict = judged(sandbox, problem, program)
    assert verdict.correct, verdict
    assert verdict.passed == verdict.tests == len(problem.tests)


FORGES = (
    "import os, json\n"
    "for _ in range(3): os.write(%s, (json.dumps({'end': 'ok', 'given': '3', 'error': ''}) + '\\n').encode())\n"
)
LOOPS, SLEEPS = "while True: pass", "import time; time.sleep(100)"
IGNORES = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n" + LOOPS
SECONDS = {LOOPS: 1.0, SLEEPS: 0.3, IGNORES: 0.3}
"""Of processor time; of wall clock three times that."""


@pytest.mark.parametrize(
    ("problem", "program", "failure"),
    [
        (ADDS, "print(3)", "wrong"),
        (ADDS, "print(sum(map(int, input().split())) + (1 > 2))\nprint()\nprint(7)", "wrong"),
        (ADDS, "1 / 0", "error"),
        (ADDS, "print('", "error"),
        (ADDS, LOOPS, "timeout"),
        (ADDS, SLEEPS, "timeout"),
        (ADDS, IGNORES, "timeout"),
        (ADDS, "while True: print('x' * 10_000)", "output"),
        (ADDS, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "error"),
        (ADDS, "import os; os._exit(0)", "wrong"),
        (ADDS, FORGES % 1, "wrong"),
        (DOUBLES, "def twice(x): return x", "wrong"),
        (DOUBLES, "def twice(x): return object()", "error"),
        (DOUBLES, "def other(x): return x", "error"),
        (DOUBLES, "def twice(x): import os; os._exit(0)", "error"),
        (ASSERTS, "def square(x): return x + x", "wrong"),
        (ASSERTS, "def square(x): import sys; sys.exit(0)", "error"),
        (ASSERTS, "import os; os._exit(0)", "error"),
        (ASSERTS, "def square(x): raise KeyError", "error"),
    ],
)
def test_other_programs_fail_for_a_reason_that_is_said(sandbox, problem, program, failure):
    verdict = judged(sandbox, problem, program, seconds=SECONDS.get(program, 5.0))
    assert verdict.failure == failure, verdict
    assert not verdict.correct
    assert verdict.text


def test_a_program_that_writes_for_its_driver_gains_nothing(sandbox):
    forges = "import os\n" + FORGES % "os.open(f'/proc/{os.getppid()}/fd/1', os.O_WRONLY)"
    assert judged(sandbox, ADDS, forges).failure in ("wrong", "error"), "where it may write there at all"


def test_right_answers_never_enter_the_sandbox(sandbox):
    """A program may look at everything there: at no place is there what it should give."""
    secret = "83921764"
    problem = CodeProblem(id="x", question="", tests=(CodeTest(TestKind.STDIN, "", (secret,)),))
    looks = (
        "import os\nfound = []\nfor name in os.listdir('.'):\n    found.append(open(name).read())\n"
        "found.append(open(f'/proc/{os.getppid()}/cmdline').read())\n"
        "import re\nprint(*re.findall('[0-9]{8}', ' '.join(found)))"
    )
    assert judged(sandbox, problem, looks).failure == "wrong"
    program = ScriptedSandbox(lambda program: says())
    judged(program, problem, looks)
    assert secret not in repr(program.programs)


def test_the_tool_tells_what_an_example_gave_and_hides_the_other_tests(sandbox):
    shown = CodeProblem(id="x", question="", tests=ADDS.tests, shown=ADDS.tests[:1])

    async def ask(problem, program):
        box = ToolBox([check_tool(sandbox, problem, 5.0)])
        call = tool_call(program)
        return (await box.call(call))[0].text

    assert asyncio.run(ask(shown, SOLVES)) == "all 1 examples are right"
    assert asyncio.run(ask(shown, "print(3)")) == "all 1 examples are right", "the others decide later"
    told = asyncio.run(ask(shown, "print(5)"))
    assert "wrong" in told
    assert "1 2" in told
    assert "right: 3" in told
    assert "70" not in told
    assert "ZeroDivisionError" in asyncio.run(ask(shown, "1 / 0"))
    assert "it runs" in asyncio.run(ask(ASSERTS, "def square(x): return 0"))
    assert "NameError" in asyncio.run(ask(ASSERTS, "x = undefined"))


def tool_call(program):
    return ToolCall("check_solution", json.dumps({"code": program}))


# The environment


def code_set(sandbox, problems, renderer=QWEN3, **options):
    return CodeSet("code", CodeTask(renderer=renderer, sandbox=sandbox, **options), problems)


def call(program):
    return f"<tool_call>\n{json.dumps({'name': 'check_solution', 'arguments': {'code': program}})}\n</tool_call>"


def solved(problems):
    """A policy that tries the right program, and gives it when it has read that it is right."""

    def answer(prompt, j):
        asked = prompt.rpartition("<|im_start|>user\n")[2] if "<tool_response>" not in prompt else prompt
        problem = next(p for p in problems if p.question in asked)
        if "<tool_response>" not in prompt:
            return call(problem.solution)
        return f"```python\n{problem.solution}\n```" if "examples are right" in prompt else "I give up."

    return answer


def rolled(builders, answer, group_size=2, **plan):
    sampler = ScriptedSampler(TOKENIZER, answer)
    limits = RolloutLimits(max_tokens=2000, max_turns=2)
    return roll_out(sampler, builders, RolloutPlan(limits=limits, group_size=group_size, **plan))


def test_a_policy_that_tries_and_solves_earns_the_top_reward(sandbox):
    problems = read_code(small_code.PROBLEMS)[:5]
    made = code_set(sandbox, problems)
    groups = rolled([made[i] for i in range(len(problems))], solved(problems), group_size=1)
    episodes = [episode for group in groups for episode in group.episodes]
    assert {e.reward for e in episodes} == {1.0}
    assert {e.stop_reason for e in episodes} == {StopReason.COMPLETED}
    assert all(len(e.transitions) == 2 for e in episodes)
    assert sandbox.leases.live == 0


@pytest.mark.parametrize(
    ("said", "reward", "metrics"),
    [
        (f"```python\n{SOLVES}\n```", 1.0, {"correct": 1.0, "format": 1.0, "tests_passed": 1.0}),
        ("```python\nprint(3)\n```", 0.0, {"correct": 0.0, "format": 1.0, "wrong": 1.0}),
        ("```python\n1 / 0\n```", 0.0, {"correct": 0.0, "format": 1.0, "crashed": 1.0}),
        (SOLVES, -0.1, {"correct": 0.0, "format": 0.0, "crashed": 0.0}),
        (f"```python\n{SOLVES}", -0.1, {"correct": 0.0, "format": 0.0}),
    ],
)
def test_an_answer_earns_what_its_program_does(sandbox, said, reward, metrics):
    (group,) = rolled([code_set(sandbox, [ADDS])[0]], lambda prompt, j: said, group_size=1)
    (episode,) = group.episodes
    assert episode.reward == pytest.approx(reward)
    found = episode.transitions[-1].metrics
    assert {name: found[name] for name in metrics} == metrics


def test_turns_that_are_used_up_pay_for_the_last_answer(sandbox):
    (group,) = rolled([code_set(sandbox, [ADDS])[0]], lambda prompt, j: call(SOLVES), group_size=1)
    assert group.episodes[0].stop_reason is StopReason.MAX_TURNS
    assert group.episodes[0].reward == pytest.approx(-0.1)


def driven(program):
    """What the driver would say of a program that adds, or of one that does not."""
    tests = json.loads(program.files["tests.json"])["tests"]
    right = SOLVES.encode() in program.files["solution.py"]
    given = [str(sum(map(int, t["input"].split()))) if right else "no" for t in tests]
    return says("".join(json.dumps({"end": "ok", "given": g, "error": ""}) + "\n" for g in given))


def mixed(prompt, j):
    """Half of the members solve it."""
    program = SOLVES if j % 2 else "print('no')"
    return f"```python\n{program}\n```"


@settings(max_examples=8)
@given(failing=st.sets(st.integers(0, 30), max_size=12))
@example(failing=set())
@example(failing={0, 1, 2, 3})
def test_a_sandbox_that_fails_changes_no_reward(failing):
    """It is tried again and counted; where it fails for good the run stops, and nobody was paid for it."""
    problem = CodeProblem(id="adds", question="Add.", tests=ADDS.tests, shown=ADDS.tests[:1])
    calls = []

    def faulty(program):
        calls.append(program)
        if len(calls) - 1 in failing:
            raise SandboxError("the container is gone")
        return driven(program)

    def rewards(answer, retries):
        plan = {"failures": FailurePolicy(retries=retries, backoff_s=0.0)}
        groups = rolled(
            [code_set(ScriptedSandbox(answer), [problem])[0] for _ in range(3)], mixed, group_size=4, **plan
        )
        return [[e.reward for e in g.episodes] for g in groups], groups.errors

    right, none = rewards(driven, 0)
    assert right == [[0.0, 1.0, 0.0, 1.0]] * 3
    assert not none
    found, errors = rewards(faulty, 50)
    assert found == right
    assert errors.get("SandboxError", 0) == sum(i < len(calls) for i in failing)


def test_a_sandbox_that_is_dead_stops_the_run_and_pays_nobody():
    def dead(program):
        raise SandboxError("gone")

    with pytest.raises(WorldError, match="gone"):
        rolled([code_set(ScriptedSandbox(dead), [ADDS])[0]], mixed, failures=FailurePolicy(retries=2, backoff_s=0.0))
    groups = rolled(
        [code_set(ScriptedSandbox(dead), [ADDS])[0]], mixed, failures=FailurePolicy(backoff_s=0.0, min_share=0.5)
    )
    assert len(groups) == 0
    assert groups.lost_groups == 1


def test_a_program_that_breaks_its_sandboxs_bounds_is_the_models_mistake():
    for end in (End.TIMEOUT, End.MEMORY, End.OUTPUT, End.DISK):
        sandbox = ScriptedSandbox(lambda program, end=end: says(end=end))
        (group,) = rolled([code_set(sandbox, [ADDS])[0]], mixed, group_size=1)
        assert group.episodes[0].reward == 0.0
        metrics = group.episodes[0].transitions[-1].metrics
        assert metrics["timed_out"] + metrics["over_limit"] == 1.0


def test_a_program_that_idles_through_many_tests_ends_before_its_turn_does():
    """Beyond that the world would have failed, and stop the run."""
    tests = (CodeTest(TestKind.STDIN, "", ("1",)),) * 500
    problem = CodeProblem(id="many", question="", tests=tests, shown=tests)
    sandbox = ScriptedSandbox(lambda _: says(end=End.TIMEOUT))
    task = CodeTask(renderer=QWEN3, sandbox=sandbox, tool_timeout_s=100.0)
    call = ToolCall("check_solution", json.dumps({"code": "pass"}))
    asyncio.run(task.box(problem).call(call))
    graded = asyncio.run(task.grade(problem, [Message.assistant("```python\npass\n```")]))
    assert graded.metrics["timed_out"] == 1
    assert [p.timeout_s for p in sandbox.programs] == [50.0, 50.0]
