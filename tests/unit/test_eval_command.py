"""`tinsmith eval`: a score with its interval, resumed, compared, graded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinsmith import bootstrap, cli
from tinsmith.adapters.graders.native import NativeGrader
from tinsmith.domain.errors import WorldError
from tinsmith.envs.problem import ProblemEnv

SUMS = ["eval", "arithmetic", "size=12", "n=2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path, "results.json").read_text())
    return found


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "trajectories.jsonl").read_text().splitlines()]


def test_a_score_with_its_interval_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SUMS, "log_path=e"]) == 0
    found, said = results("e"), capsys.readouterr().out
    assert (found["benchmark"], found["samples"], found["done"], found["problems"]) == ("arithmetic", 2, 12, 12)
    assert found["score"]["low"] < found["score"]["value"] < found["score"]["high"]
    assert set(found["pass_at_k"]) == {"1", "2"}
    assert found["sampled_tokens"] == sum(len(t["action"]) for row in rows("e") for t in row["turns"])
    right = [sum(t["metrics"]["correct"] for t in row["turns"]) for row in rows("e")]
    assert len(right) == 24
    assert found["score"]["value"] == pytest.approx(sum(right) / 24)
    for word in ("score", "pass@2", "truncated", "failed problems", "errors", "tokens sampled", "time, s", "12 of 12"):
        assert word in said


def test_more_problems_later_and_none_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main([*SUMS, "log_path=e"]) == 0
    first = rows("e")
    assert cli.main(["eval", "size=15", "n=2", "log_path=e"]) == 0
    assert "12 problems are done already" in capsys.readouterr().out
    assert rows("e")[: len(first)] == first
    assert sorted(row["group"] for row in rows("e")) == sorted([*range(15)] * 2)
    assert cli.main(["eval", "size=15", "n=2", "log_path=whole"]) == 0
    assert results("whole")["outcomes"] == results("e")["outcomes"]


def test_failures_are_told_apart_and_tried_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = ProblemEnv.step
    broken: set[str] = set()

    async def step(self: ProblemEnv, action: Any) -> Any:
        if len(broken) < 2 or self.problem.id in broken:
            broken.add(self.problem.id)
            raise WorldError("gone")
        return await judged(self, action)

    monkeypatch.setattr(ProblemEnv, "step", step)
    assert cli.main([*SUMS, "log_path=e", "retries=0"]) == 1
    said = capsys.readouterr().out
    assert "2 of 12 problems failed for the world's fault (WorldError). The same command tries them again" in said
    assert "score, failed problems as wrong" in said
    found = results("e")
    assert (found["done"], len(found["failed"])) == (10, 2)
    assert found["score_of_all"] == pytest.approx(found["score"]["value"] * 10 / 12)
    monkeypatch.setattr(ProblemEnv, "step", judged)
    assert cli.main([*SUMS, "log_path=e", "retries=0"]) == 0
    assert cli.main([*SUMS, "log_path=unbroken"]) == 0
    assert results("e")["outcomes"] == results("unbroken")["outcomes"]


def test_compared_in_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SUMS, "log_path=a"]) == 0
    assert cli.main([*SUMS, "temperature=0", "log_path=b", "compare=a"]) == 0
    said = capsys.readouterr().out
    assert "against a" in said
    assert "p-value" in said
    assert "problems in both  12" in said
    assert cli.main([*SUMS, "seed=1", "log_path=c", "compare=a"]) == 2
    assert "not the same problems: number 0 is arithmetic/" in capsys.readouterr().err
    assert cli.main([*SUMS, "log_path=d", "compare=nowhere"]) == 2
    assert not Path("d").exists()  # said before anything is sampled


def test_graded_again_without_sampling(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main([*SUMS, "log_path=e"]) == 0
    monkeypatch.setattr(bootstrap, "open_model", lambda *a, **k: pytest.fail("no model is needed"))
    assert cli.main(["eval", "regrade=e"]) == 0
    assert results("e-native")["outcomes"] == results("e")["outcomes"]
    graded = NativeGrader.grade
    monkeypatch.setattr(NativeGrader, "grade", lambda self, golds, preds, **k: graded(self, golds, golds, **k))
    assert cli.main(["eval", "regrade=e", "compare=e"]) == 0  # again, though it was done before
    assert results("e-native")["score"]["value"] == 1
    assert results("e")["score"]["value"] < 1
    assert "against e" in capsys.readouterr().out


def test_the_config_of_an_evaluation_is_a_config() -> None:
    assert cli.main([*SUMS, "log_path=e"]) == 0
    assert cli.main(["eval", "config=e", "temperature=0", "log_path=f", "compare=e"]) == 0
    assert (results("f")["samples"], results("f")["problems"]) == (2, 12)


def test_graded_again_into_itself_or_as_another_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SUMS, "log_path=e"]) == 0
    for words in (["log_path=e", "if_exists=delete"], ["log_path=e"]):
        assert cli.main(["eval", "regrade=e", *words]) == 2
        assert "give it another directory" in capsys.readouterr().err
    assert cli.main(["eval", "gsm8k", "regrade=e"]) == 2
    assert "tinsmith eval arithmetic regrade=e" in capsys.readouterr().err
    assert cli.main(["eval", "regrade=nowhere"]) == 2
    assert len(rows("e")) == 24


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "aime"], "arithmetic"),
        (["eval", "arithmetic", "data=x.jsonl"], "takes no data="),
        (["eval", "gsm8k", "data=x.jsonl"], "x.jsonl"),
        (["eval", "max_tokens=100000"], "leaves no room"),
        (["eval", "n=0"], "expected >= 1"),
    ],
)
def test_mistakes_are_said_before_anything_is_sampled(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_test_sets_are_read_from_files(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file in (("gsm8k", "gsm8k/test.jsonl"), ("math500", "math/math500_test.jsonl")):
        options = ["size=3", "max_tokens=8", "fewshot=false", f"log_path={name}"]
        assert cli.main(["eval", name, f"data={shared}/data/{file}", *options]) == 0
        found = results(name)
        assert (found["benchmark"], found["done"], found["problems"]) == (name, 3, 3)
        assert [row["problem"] for row in found["outcomes"]] == [f"{name}/{i}" for i in range(3)]
        assert cli.main(["eval", name, f"regrade={name}"]) == 0
        assert results(f"{name}-native")["outcomes"] == found["outcomes"]


def test_aime_has_whole_numbers_for_answers() -> None:
    with open("aime.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps({"problem_idx": 1, "problem": "Find $1+1$.", "answer": 2}) + "\n")
    words = ["data=aime.jsonl", "n=5", "max_tokens=8", "fewshot=false", "log_path=e"]
    assert cli.main(["eval", "aime2025", *words]) == 0
    assert set(results("e")["pass_at_k"]) == {"1", "5"}
    assert results("e")["outcomes"][0]["problem"] == "aime2025/0"


def test_a_file_that_changed_since_is_neither_gone_on_with_nor_graded_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(answer: int) -> None:
        row = {"question": "What is 1 + 1?", "answer": f"#### {answer}"}
        Path("p.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")

    words = ["eval", "gsm8k", "data=p.jsonl", "max_tokens=4", "fewshot=false"]
    write(2)
    assert cli.main([*words, "log_path=e"]) == 0
    write(3)
    assert cli.main([*words, "log_path=e"]) == 2
    assert "other problems" in capsys.readouterr().err
    assert cli.main([*words, "log_path=f", "compare=e"]) == 2
    assert "compare=e is an evaluation of other problems (gsm8k)" in capsys.readouterr().err
    assert not Path("f").exists()
    assert cli.main(["eval", "gsm8k", "regrade=e"]) == 2
    assert "the problems have changed since e" in capsys.readouterr().err


def test_questions_with_options() -> None:
    with open("mmlu.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps({"question": "Prime?", "options": ["4", "5"], "answer": "B"}) + "\n")
    assert cli.main(["eval", "mmlu_pro", "data=mmlu.jsonl", "max_tokens=8", "log_path=e"]) == 0
    assert (results("e")["benchmark"], results("e")["outcomes"][0]["problem"]) == ("mmlu_pro", "mmlu_pro/0")
    assert "A. 4\nB. 5" in rows("e")[0]["turns"][0]["prompt"]


def test_a_prompt_longer_than_the_context_is_an_attempt_that_a_limit_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with open("long.jsonl", "w", encoding="utf-8") as file:
        for text in ("short?", "long " * 4000):
            file.write(json.dumps({"question": text, "answer": "#### 4"}) + "\n")
    assert cli.main(["eval", "gsm8k", "data=long.jsonl", "max_tokens=4", "fewshot=false", "log_path=e"]) == 0
    assert results("e")["outcomes"][1]["stops"] == ["context_overflow"]
    assert results("e")["truncated"] >= 1
    assert cli.main(["eval", "gsm8k", "regrade=e"]) == 0
    assert results("e-native")["outcomes"] == results("e")["outcomes"]


PRICED = ["eval", "arithmetic", "size=12", "n=2", "prices=1,2,100"]


def test_what_it_costs_and_a_budget_that_stops_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PRICED, "log_path=whole"]) == 0
    assert "cost" in capsys.readouterr().out
    whole = results("whole")
    prompts = {row["group"]: len(row["turns"][0]["observation"]) for row in rows("whole")}
    assert whole["used"] == {
        "tokens/prefill": sum(prompts.values()),
        "tokens/sample": whole["sampled_tokens"],
        "tokens/train": 0,
    }
    assert whole["cost"] == pytest.approx((sum(prompts.values()) + 2 * whole["sampled_tokens"]) / 1e6)
    each = whole["cost"] / 12
    for budget, concurrency in ((4.5 * each, 1), (8.5 * each, 64)):
        command = [*PRICED, "log_path=e", f"concurrency={concurrency}"]
        assert cli.main([*command, f"budget={budget:.12g}"]) == 3
        said = capsys.readouterr()
        assert "stopped by its budget" in said.err
        assert "larger budget= goes on" in said.err
        assert "score" in said.out, "what came off is shown"
        found = results("e")
        assert 0 < found["done"] < 12
        assert budget / 2 < found["cost"] <= budget + each
    assert cli.main([*PRICED, "log_path=e", "budget=1"]) == 0
    assert results("e")["outcomes"] == whole["outcomes"]
    assert results("e")["cost"] == pytest.approx(whole["cost"]), "what was spent before counts, and no more"


def test_a_budget_holds_before_anything_tells_what_a_problem_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Reading a prompt is all that is paid: how long it is shows when the first problem is done."""
    command = ["eval", "arithmetic", "size=32", "prices=1e6,0,0", "log_path=e", "concurrency=32"]
    assert cli.main([*command, "budget=100"]) == 3
    assert "stopped by its budget" in capsys.readouterr().err
    found = results("e")
    assert 50 < found["cost"] <= 100 + found["cost"] / len(found["outcomes"])


def test_a_budget_counts_what_failures_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def step(self: ProblemEnv, action: Any) -> Any:
        raise WorldError("gone")

    monkeypatch.setattr(ProblemEnv, "step", step)
    assert cli.main([*PRICED, "log_path=e", "retries=0"]) == 1
    first = results("e")
    assert first["lost"] == first["used"]
    assert first["cost"] > 0
    assert cli.main([*PRICED, "log_path=e", "retries=0"]) == 1
    assert results("e")["cost"] == pytest.approx(2 * first["cost"])


def test_prices_that_are_none_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (("prices=cheap", "PREFILL,SAMPLE,TRAIN"), ("budget=3", "prices=")):
        assert cli.main([*SUMS, wrong, "log_path=e"]) == 2
        assert said in capsys.readouterr().err
        assert not Path("e").exists()
