"""Benchmarks that a training run measures its weights on: `evals=`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinsmith import cli
from tinsmith.domain.errors import WorldError
from tinsmith.envs.problem import ProblemEnv
from tinsmith.ui import Terminal

RL = ["rl-basic", "max_steps=3", "groups_per_batch=4", "group_size=2", "test_size=0", "export=none", "lora.rank=4"]
SL = ["sl-basic", "data=chats.jsonl", "batch_size=2", "max_steps=3", "export=none", "lora.rank=4"]
EVALS = ["evals=arithmetic", "evaluation.size=6", "evaluation.n=2", "eval_every=2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chat = {"messages": [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red!"}]}
    Path("chats.jsonl").write_text(f"{json.dumps(chat)}\n" * 6)


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]


def results(path: str) -> dict[str, Any]:
    return {
        str(file.parent.relative_to(path)): json.loads(file.read_text())["outcomes"]
        for file in sorted(Path(path).glob("evals/*/*/results.json"))
    }


def without_evaluations(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in line.items()
        if not name.startswith(("test/", "final/", "time/", "tokens/", "cost/"))
    }


@pytest.mark.parametrize("recipe", [RL, SL], ids=["rl", "sl"])
def test_weights_are_measured_at_intervals_and_at_the_end_and_training_stays_what_it_was(
    recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*recipe, *EVALS, "log_path=with", "prices=1,1,1"]) == 0
    said = capsys.readouterr().out
    assert cli.main([*recipe, "log_path=without", "prices=1,1,1", "eval_every=2"]) == 0
    found = lines("with")
    scored = ["test/arithmetic/score" in line for line in found]
    assert scored == [True, False, True]
    assert list(results("with")) == [f"evals/arithmetic/{steps:06d}" for steps in (0, 2, 3)]
    last = found[-1]
    for where, steps in (("test", 2), ("final/test", 3)):
        outcomes = results("with")[f"evals/arithmetic/{steps:06d}"]
        right = [share for outcome in outcomes for share in outcome["right"]]
        assert last[f"{where}/arithmetic/score"] == pytest.approx(sum(right) / 12)
        assert (last[f"{where}/arithmetic/problems"], last[f"{where}/arithmetic/failed"]) == (6, 0)
        assert f"{where}/arithmetic/pass@2" in last
    assert "evaluations" in said
    assert "arithmetic" in said.rpartition("evaluations")[2]
    bare = lines("without")
    assert [without_evaluations(line) for line in found] == [without_evaluations(line) for line in bare]
    for i, (line, other) in enumerate(zip(found, bare, strict=True)):
        more = line["tokens/sample"] - other["tokens/sample"]
        assert (more > 0) == scored[i] or i == 2, "what an evaluation samples is counted in its step"
        assert line["cost/total"] == pytest.approx(sum(other["cost/step"] for other in found[: i + 1]))


def test_names_and_files_are_found_wrong_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (
        (["evals=gsm9k"], "gsm8k"),
        (["evals=arithmetic,arithmetic"], "twice"),
        (["evals=gsm8k", "evaluation.data.gsm8k=nowhere.jsonl"], "nowhere.jsonl"),
        (["evals=arithmetic", "evaluation.data.gsm8k=chats.jsonl"], "does not name it"),
        (["evals=gsm8k", "evaluation.data.gsm8k=chats.jsonl"], "chats.jsonl"),
        (["evals=arithmetic", "evaluation.max_tokens=100000"], "evaluation.max_tokens"),
    ):
        for recipe in (RL, SL):
            assert cli.main([*recipe, *wrong, "log_path=none"]) == 2, wrong
            assert said in capsys.readouterr().err
            assert not Path("none").exists(), "nothing was begun"


@pytest.mark.parametrize("recipe", [RL, SL], ids=["rl", "sl"])
def test_a_run_that_was_stopped_in_an_evaluation_goes_on_there(
    recipe: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main([*recipe, *EVALS, "log_path=whole"]) == 0
    judged, left, broken = ProblemEnv.step, 0, 0

    async def step(self: ProblemEnv, action: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("the machine is gone")
        return await judged(self, action)

    with monkeypatch.context() as patched:
        patched.setattr(ProblemEnv, "step", step)
        for limit in range(5, 100, 10):
            left = limit
            if cli.main([*recipe, *EVALS, "log_path=broken", "evaluation.concurrency=1"]) == 0:
                break
            broken += 1
    assert broken > 1
    assert results("broken") == results("whole")
    assert [without_evaluations(line) for line in lines("broken")] == [
        without_evaluations(line) for line in lines("whole")
    ]


def test_what_is_measured_is_not_sampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main([*SL, *EVALS, "log_path=r"]) == 0
    before = {file: file.read_bytes() for file in Path("r").glob("evals/*/*/trajectories.jsonl")}

    async def step(self: ProblemEnv, action: Any) -> Any:
        if action is not None:
            raise AssertionError("sampled again")

    for file in Path("r/checkpoints").iterdir():  # as after a crash before its first checkpoint: all is trained again
        file.unlink()
    journal = Path("r/journal.jsonl")
    kept = [line for line in journal.read_text().splitlines() if '"started"' in line]
    journal.write_text("".join(f"{line}\n" for line in kept))
    monkeypatch.setattr(ProblemEnv, "step", step)
    assert cli.main([*SL, *EVALS, "log_path=r"]) == 0
    assert {file: file.read_bytes() for file in before} == before
    assert "final/test/arithmetic/score" in lines("r")[-1]


@pytest.mark.parametrize(("recipe", "other"), [(RL, "groups_per_batch=5"), (SL, "batch_size=1")], ids=["rl", "sl"])
def test_other_weights_after_as_many_steps_are_measured_anew(recipe: list[str], other: str) -> None:
    """A run that goes back may take other steps then: what was measured was of weights that are no more."""
    chats = [[{"role": "user", "content": str(i)}, {"role": "assistant", "content": "ab" * i}] for i in range(1, 7)]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    assert cli.main([*recipe, *EVALS, "learning_rate=0.01", "log_path=r"]) == 0
    for file in Path("r/checkpoints").iterdir():
        file.unlink()
    journal = Path("r/journal.jsonl")
    kept = [line for line in journal.read_text().splitlines() if '"started"' in line]
    journal.write_text("".join(f"{line}\n" for line in kept))
    assert cli.main([*recipe, *EVALS, "learning_rate=0.01", "log_path=r", other]) == 0
    assert cli.main([*recipe, *EVALS, "learning_rate=0.01", "log_path=fresh", other]) == 0

    def said(path: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for log in Path(path).glob("evals/*/*/trajectories.jsonl"):
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            found[log.parent.name] = sorted((row["group"], row["episode"], row["turns"][0]["text"]) for row in rows)
        return found

    assert said("r") == said("fresh")
    assert results("r") == results("fresh")


def test_what_the_world_fails_is_no_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged, failing = ProblemEnv.step, set()

    async def step(self: ProblemEnv, action: Any) -> Any:
        failing.add(next(iter(failing), self.problem.id))
        if self.problem.id in failing:
            raise WorldError("gone")
        return await judged(self, action)

    assert cli.main([*SL, *EVALS, "log_path=calm"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(ProblemEnv, "step", step)
    assert cli.main([*SL, *EVALS, "log_path=r", "evaluation.retries=1"]) == 0
    last = lines("r")[-1]
    assert "1 failed" in capsys.readouterr().out
    assert [last[f"final/test/arithmetic/{name}"] for name in ("problems", "failed", "errors")] == [5, 1, 3]
    calm = results("calm")["evals/arithmetic/000003"]
    right = [r for outcome in calm if outcome["problem"] not in failing for r in outcome["right"]]
    assert len(right) == 10
    assert last["final/test/arithmetic/score"] == pytest.approx(sum(right) / len(right))


def test_an_evaluation_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def doing(self: Terminal, what: str, done: int = 0, total: int | None = None) -> None:
        seen.append((what, done, total))

    monkeypatch.setattr(Terminal, "doing", doing)
    assert cli.main([*RL, *EVALS, "log_path=r"]) == 0
    assert ("loading the problems of arithmetic", 0, None) in seen
    assert [done for what, done, total in seen if (what, total) == ("evaluating arithmetic", 6)] == [*range(1, 7)] * 3


@pytest.mark.parametrize("recipe", [RL, SL], ids=["rl", "sl"])
def test_check_says_what_they_take_and_what_is_wrong_with_them(
    recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evals=arithmetic", "evaluation.size=1000", "evaluation.n=2", "eval_every=1", "prices=0,1,0"]
    assert cli.main(["check", *recipe, *words]) == 0
    said = capsys.readouterr().out
    times = 4
    assert f"arithmetic: 1000 problems, 2 attempts each of at most 8 tokens, measured {times} times" in said
    cost = float(said.partition("it would cost about ")[2].split(" ")[0])
    assert times * 1000 * 2 * 8 / 1e6 <= cost < times * 1000 * 2 * 8 / 1e6 + 0.001
    assert cli.main(["check", *recipe, "evals=gsm8k", "evaluation.data.gsm8k=nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
