"""Every recipe does its job on the tiny model, and says what it would do when asked."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from tinsmith.bootstrap import load_model
from tinsmith.cli import main
from tinsmith.recipes import RECIPES, load_recipe

EXAMPLES = ("chat-sl", "dpo", "reward-model")
"""Recipes that learn from examples and make their own."""

LAST_STAGE = {
    "rlhf": "rl",
    "on-policy-distillation": "student",
    "multi-teacher-distillation": "student",
    "off-policy-distillation": "student",
    "prompt-distillation": "student",
    "sdft": "student",
    "rubric": "policy",
}
"""Of recipes of several stages, where the last one lies."""

ASKING = ("off-policy-distillation", "prompt-distillation")
"""Recipes that learn from examples which a teacher makes."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def chats(tmp_path: Path) -> str:
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {w}."}, {"role": "assistant", "content": f"{w}!"}]}
        for w in ("red", "green", "blue", "black", "white")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def metrics(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def small(recipe: str, chats: str) -> list[str]:
    if recipe.startswith("sl"):
        return [recipe, f"data={chats}", "batch_size=2", "max_steps=3"]
    if recipe in EXAMPLES:
        return [recipe, "batch_size=4", "max_steps=3", "max_rows=40", "test_size=8"]
    if recipe == "rlhf":
        stages = ["sft.max_steps=2", "judge.max_steps=2", "sft.batch_size=4", "judge.batch_size=4"]
        return [recipe, *stages, "groups_per_batch=4", "max_steps=3", "max_rows=60", "test_size=8"]
    if recipe == "search-tool":
        return [recipe, "groups_per_batch=2", "max_steps=3", "group_size=2", "max_tokens=16", "test_size=4"]
    if recipe in ASKING:
        return [recipe, "teacher.max_steps=1", "batch_size=4", "max_steps=3", "max_rows=20", "test_size=4"]
    if recipe == "code-rl":
        return [recipe, "groups_per_batch=2", "max_steps=3", "group_size=2", "max_tokens=16", "test_size=4"]
    if recipe == "rubric":
        return [recipe, "judge.max_steps=1", "groups_per_batch=2", "group_size=3", "max_steps=3", "test_size=2"]
    if recipe == "multi-teacher-distillation":
        return [recipe, "teachers=tiny", "groups_per_batch=4", "max_steps=3", "max_rows=60", "test_size=4"]
    if recipe == "sdft":
        return [recipe, "heed_steps=1", "groups_per_batch=4", "max_steps=3", "max_rows=60", "test_size=4"]
    if recipe in LAST_STAGE:
        return [recipe, "teacher.max_steps=1", "groups_per_batch=4", "max_steps=3", "max_rows=60", "test_size=4"]
    if recipe == "verifiers-rl":
        pytest.importorskip("verifiers", reason="needs the extra: verifiers")
    games = ["test_games=4", "turns=2", "group_size=2"] if recipe == "multiplayer" else []
    return [recipe, "groups_per_batch=4", "max_steps=3", *games]


def last_stage(recipe: str, run: str) -> str:
    """Where a run lies; of several stages the last one."""
    return f"{run}/{LAST_STAGE[recipe]}" if recipe in LAST_STAGE else run


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_checks_runs_and_leaves_a_model_to_start_from(
    recipe: str, chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small(recipe, chats)
    assert main(["check", *words]) == 0
    assert "<|im_start|>" in capsys.readouterr().out, "it shows a rendered example"
    assert not Path("runs").exists()
    assert main([*words, "log_path=run"]) == 0
    run = last_stage(recipe, "run")
    lines = metrics(run)
    assert [line["step"] for line in lines] == [0, 1, 2]
    names = ("train_mean_nll", "env/all/reward/total", "dpo_loss")
    assert all(any(name in line for name in names) for line in lines)
    trained = load_model(f"{run}/final")
    assert trained.renderer_name == ("qwen3" if recipe == "search-tool" else "chatml"), "the format it was trained in"
    assert trained.num_parameters == load_model("tiny").num_parameters


def test_reinforcement_learning_teaches_the_tiny_model_to_add() -> None:
    assert (
        main(["rl-basic", "max_steps=16", "groups_per_batch=64", "test_size=256", "log_path=run", "export=none"]) == 0
    )
    lines = metrics("run")
    before, after = lines[0]["test/env/all/correct"], lines[-1]["final/test/env/all/correct"]
    assert before < 0.5
    assert after > before + 0.25


def test_a_complete_run_says_so_and_is_left_as_it_is(chats: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*small("sl-basic", chats), "log_path=run", "export=none"]
    assert main(words) == 0
    before = Path("run/metrics.jsonl").read_bytes()
    table = capsys.readouterr().out.partition("result")[2]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "complete" in said
    assert said.partition("result")[2] == table
    shown = dict(
        line.split(maxsplit=1) for line in table.splitlines() if line.startswith(("tokens ", "train_mean_nll"))
    )
    steps = metrics("run")
    assert float(shown["tokens"]) == sum(line["num_tokens"] for line in steps)
    assert [float(v) for v in shown["train_mean_nll"].split()] == [
        pytest.approx(line["train_mean_nll"], rel=1e-2) for line in (steps[0], steps[-1])
    ]
    assert Path("run/metrics.jsonl").read_bytes() == before


def test_supervised_learning_on_real_chats(shared: Path) -> None:
    data = shared / "data" / "chat" / "v1_sft_demo.jsonl"
    words = [f"data={data}", "max_steps=4", "batch_size=8", "max_length=256", "log_path=run", "export=none"]
    assert main(["sl-basic", *words]) == 0
    lines = metrics("run")
    assert lines[-1]["train_mean_nll"] < lines[0]["train_mean_nll"]
    assert all(line["num_sequences"] >= 8 for line in lines)


CHATS = ("v1_sft_demo.jsonl", "reason_tool_use_demo_50.jsonl", "glaive_toolcall_en_demo.json")


def test_a_mixture_of_real_chats_in_all_layouts(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tool calls and thinking, which the tiny model's own format has no form for, as text that any tokenizer holds."""
    exchanges = tmp_path / "exchanges.json"
    exchanges.write_text(json.dumps([{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(9)]))
    data = [str(shared / "data" / "chat" / name) for name in CHATS] + [str(exchanges)]
    words = [
        *("chat-sl", f"data={','.join(data)}", "weights=1,2,1,4", "max_length=512", "max_rows=30", "test_size=2"),
        *("max_steps=4", "batch_size=8", "eval_every=2", "export=none", "renderer=qwen3"),
    ]
    assert main([*words, "log_path=run"]) == 0
    shown = capsys.readouterr().out
    assert f"{exchanges}: 9 rows, " in shown
    lines = metrics("run")
    assert lines[-1]["final/test/nll"] < lines[0]["test/nll"]
    assert "final/test/bpb" in lines[-1]
    assert sum(line["num_left_out"] for line in lines) > 0, "some have prompts that fill all of max_length"


def test_a_malformed_row_of_a_mixture_stops_before_anything_is_trained(
    chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": []}\n')
    assert main(["chat-sl", f"data={chats},bad.jsonl", "log_path=run"]) == 2
    assert "bad.jsonl, line 2" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(("env", "file"), [("gsm8k", "gsm8k/train.jsonl"), ("math", "math/test.jsonl")])
def test_reinforcement_learning_reads_real_problems(env: str, file: str, shared: Path) -> None:
    words = [
        *(f"env={env}", f"data={shared / 'data' / file}", "max_steps=1", "groups_per_batch=2", "group_size=2"),
        *("max_tokens=8", "too_long=skip", "remove_constant_groups=false", "log_path=run", "export=none"),
    ]
    assert main(["rl-basic", *words]) == 0
    assert metrics("run")[0]["env/all/total_episodes"] == 4


def test_preferences_are_learned_and_hold_for_pairs_that_were_not_seen() -> None:
    assert main(["dpo", "max_rows=400", "test_size=60", "num_epochs=2", "log_path=run", "export=none"]) == 0
    lines = metrics("run")
    assert lines[0]["dpo_loss"] == pytest.approx(0.6931, abs=1e-3), "at its start the policy is its own reference"
    assert abs(lines[0]["margin"]) < 1e-3
    assert lines[0]["test/likelier"] < 0.1
    last = lines[-1]
    assert last["final/test/accuracy"] > 0.95
    assert last["final/test/likelier"] > 0.6
    assert last["chosen_reward"] > 0 > last["rejected_reward"]


def test_answers_get_shorter_when_the_shorter_one_is_better() -> None:
    words = ["max_steps=8", "groups_per_batch=16", "test_size=32", "learning_rate=2e-3", "log_path=run", "export=none"]
    assert main(["shorter", *words]) == 0
    lines = metrics("run")
    before, after = lines[0]["test/env/all/answer_chars"], lines[-1]["final/test/env/all/answer_chars"]
    assert after < 0.6 * before
    assert all(abs(line["env/all/reward/total"] - line["env/all/format"] + 1) < 1e-9 for line in lines), (
        "wins are losses"
    )


def test_a_judge_learns_to_tell_answers_apart_in_both_orders() -> None:
    words = ["max_rows=300", "test_size=40", "num_epochs=2", "batch_size=16", "log_path=run", "export=none"]
    assert main(["reward-model", *words]) == 0
    lines = metrics("run")
    assert lines[0]["num_loss_tokens"] == lines[0]["num_sequences"] == 32, "the label alone is trained"
    assert lines[-1]["final/test/accuracy"] > 0.8
    assert lines[-1]["final/test/nll"] < 0.5 * lines[0]["test/nll"]


def test_the_third_stage_goes_on_from_the_first_ones_weights_and_against_them(chats: str) -> None:
    """The reference of its KL penalty is the fine-tuned model, also after a resume."""
    words = [*small("rlhf", chats), "lr_schedule=constant", "kl_penalty_coef=0.1", "export=none", "eval_every=1"]
    assert main([*words, "log_path=calm"]) == 0
    assert main([*words, "max_steps=1", "log_path=stopped"]) == 0
    assert main([*words, "log_path=stopped"]) == 0
    calm, stopped = metrics("calm/rl"), metrics("stopped/rl")
    assert abs(calm[0]["kl_policy_base"]) < 1e-3
    for one, other in zip(calm[1:], stopped[1:], strict=True):
        for name in ("kl_policy_base", "optim/grad_norm", "env/all/ac_tokens_per_turn", "test/env/all/reward/total"):
            assert one[name] == other[name], name


def test_one_budget_is_of_three_stages(chats: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What earlier stages spent is gone, what the judge reads is counted, and a larger budget goes on."""
    words = [*small("rlhf", chats), "export=none", "prices=1,1,1"]
    assert main([*words, "log_path=whole"]) == 0
    stages = ("sft", "judge", "rl")
    costs = [metrics(f"whole/{stage}")[-1]["cost/total"] for stage in stages]
    for line in metrics("whole/rl"):
        own = line["num_tokens"] + line["tokens/sample"]
        assert line["tokens/prefill"] > own / 2, "the judge reads every comparison"
    for done, stage in enumerate(stages):
        budget = sum(costs[:done]) + 0.7 * costs[done]
        assert main([*words, "log_path=run", f"budget={budget:.9g}"]) == 3
        assert "larger budget= goes on" in capsys.readouterr().err
        assert 0 < sum(metrics(f"run/{stage}")[-1]["cost/total"] for stage in stages[: done + 1]) <= budget
        assert not Path("run", *stages[done + 1 : done + 2], "journal.jsonl").exists() or stage == "rl"
    assert main([*words, "log_path=run", f"budget={2 * sum(costs)}"]) == 0
    for stage in stages:
        one, other = metrics(f"run/{stage}"), metrics(f"whole/{stage}")
        assert [line["optim/grad_norm"] for line in one] == [line["optim/grad_norm"] for line in other]


TAUGHT = ["teacher.max_steps=6", "export=none", "lr_schedule=constant"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and its teacher."""
    root = tmp_path_factory.mktemp("taught") / "run"
    words = ["groups_per_batch=32", "test_size=64", "max_steps=6", f"log_path={root}", "learning_rate=4e-3"]
    assert main(["on-policy-distillation", *TAUGHT, *words]) == 0
    return root


def test_a_student_gets_near_its_teacher_by_its_own_samples_and_goes_on_after_a_stop(taught: Path) -> None:
    """Its teacher is there already, and says the same of the same tokens."""
    calm = metrics(f"{taught}/student")
    assert calm[-1]["final/test/teacher_kl"] < 0.5 * calm[0]["test/teacher_kl"]
    assert calm[-1]["final/test/env/arithmetic/correct"] > calm[0]["test/env/arithmetic/correct"]
    shutil.copytree(taught / "teacher-arithmetic", "stopped/teacher-arithmetic")
    words = ["on-policy-distillation", *TAUGHT, "groups_per_batch=32", "test_size=64", "learning_rate=4e-3"]
    assert main([*words, "max_steps=1", "log_path=stopped"]) == 0
    assert main([*words, "max_steps=2", "log_path=stopped"]) == 0
    for name in ("teacher_kl", "optim/grad_norm", "env/all/correct"):
        assert metrics("stopped/student")[1][name] == calm[1][name], name


def test_a_student_learns_its_teachers_answers_and_its_likeliest_tokens(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["off-policy-distillation", *TAUGHT, "max_rows=96", "test_size=48"]
    shutil.copytree(taught / "teacher-arithmetic", "soft/teacher-arithmetic")
    assert main([*words, "log_path=soft"]) == 0
    lines = metrics("soft/student")
    assert lines[-1]["final/test/kl"] < 0.5 * lines[0]["test/kl"]
    assert lines[-1]["final/test/nll"] < lines[0]["test/nll"]
    assert "right answers to arithmetic" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("soft/answers-arithmetic.jsonl").read_text().splitlines()]
    assert 90 < len(rows) <= 96, "what is cut is left out"
    assert rows[0]["messages"][0]["content"].startswith("What is ")
    shutil.copytree("soft", "hard", ignore=shutil.ignore_patterns("student"))
    assert main([*words, "top_k=0", "num_epochs=1", "log_path=hard"]) == 0
    assert "train_kl" not in metrics("hard/student")[0]
    assert Path("hard/answers-arithmetic.jsonl").read_bytes() == Path("soft/answers-arithmetic.jsonl").read_bytes()


def test_one_budget_is_of_teacher_answers_and_student(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *(
            "off-policy-distillation",
            "max_rows=12",
            "test_size=4",
            "teacher.max_steps=1",
            "batch_size=4",
            "max_steps=3",
        ),
        *("export=none", "prices=1,1,1"),
    ]
    assert main([*words, "log_path=whole"]) == 0
    answers = [json.loads(path.read_text()) for path in sorted(Path("whole").glob("answers-*.json"))]
    costs = [
        metrics("whole/teacher-arithmetic")[-1]["cost/total"],
        sum(told["tokens/prefill"] + told["tokens/sample"] for told in answers) / 1e6,
        metrics("whole/student")[-1]["cost/total"],
    ]
    assert len(answers) == 2
    assert all(cost > 0 for cost in costs)
    for share in (costs[0] + 0.5 * costs[1], sum(costs[:2]) + 0.7 * costs[2]):
        assert main([*words, "log_path=run", f"budget={share:.9g}"]) == 3
        assert "larger budget= goes on" in capsys.readouterr().err
    assert not metrics("run/student") or metrics("run/student")[-1]["cost/total"] <= costs[2]
    assert main([*words, "log_path=run", f"budget={2 * sum(costs)}"]) == 0
    one, other = metrics("run/student"), metrics("whole/student")
    assert [line["train_kl"] for line in one] == [line["train_kl"] for line in other]


def test_a_teachers_likeliest_tokens_of_given_conversations(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["off-policy-distillation", "samples=data", "max_rows=40", "batch_size=8", "max_steps=2", "export=none"]
    said = {
        "is chat-sl": [*words, "data=small", "top_k=0", "teachers=tiny"],
        "teachers=MODEL": [*words, "data=small"],
        "give one for each": [*words, "data=small,recite", "teachers=tiny,other", "test_data=small"],
        "2 teachers for 1": [*words, "data=small", "teachers=tiny,other"],
    }
    for why, bad in said.items():
        assert main(bad) == 2
        assert why in " ".join(capsys.readouterr().err.split()), why
    words += ["data=small", "teachers=tiny", "test_size=8", "log_path=run"]
    assert main(["check", *words]) == 0
    assert main(words) == 0
    first = metrics("run/student")[0]
    assert first["train_kl"] == pytest.approx(first["test/kl"], abs=0.2)
    assert first["train_mean_nll"] > 5, "the answers are not the teacher's"
    row = {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "apple " * 1500}]}
    Path("long.jsonl").write_text(json.dumps(row) + "\n")
    words = ["off-policy-distillation", "samples=data", "data=long.jsonl", "teachers=tiny", "top_k=2", "test_size=0"]
    assert main([*words, "num_epochs=1", "export=none", "log_path=long"]) == 0
    assert metrics("long/student")[0]["num_tokens"] == load_model("tiny").context - 1


def test_each_source_has_the_likeliest_tokens_of_its_own_teacher() -> None:
    """One of two teachers is the student as it starts, from which it differs by what K tokens leave out; the other one
    differs more. What is said of a batch is the mean over its tokens, so that both orders add up to both alone."""
    assert main(["chat-sl", "data=small", "max_steps=3", "eval_every=0", "test_size=0", "log_path=far"]) == 0
    words = ["off-policy-distillation", "test_size=8", "max_rows=40", "max_steps=1", "batch_size=64", "export=none"]
    given = [*words, "samples=data", "data=small,recite", "eval_every=1", "max_length=64"]
    kl = {}
    for name in ("tiny", "far/final", "far/final,tiny", "tiny,far/final"):
        assert main([*given, f"teachers={name}", f"log_path={name.replace('/', '-')}"]) == 0
        kl[name] = metrics(f"{name.replace('/', '-')}/student")[0]
    for metric in ("train_kl", "test/kl"):
        first, second, both = (kl[name][metric] for name in ("far/final,tiny", "tiny,far/final", "far/final"))
        own = kl["tiny"][metric]
        assert first + second == pytest.approx(own + both, rel=1e-3), metric
        assert 1.05 * own < second < first < both, metric
    two = ["data=arithmetic,recite", "teacher.max_steps=1", "max_tokens=40", "log_path=made"]
    assert main([*words, *two]) == 0
    assert metrics("made/student")[0]["train_kl"] >= 0


def test_a_student_answers_without_the_long_prompt_as_its_teacher_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prompt-distillation", "max_rows=64", "test_size=16", "teachers=tiny", "num_epochs=6"]
    assert main([*words, "log_path=run", "export=none"]) == 0
    lines = metrics("run/student")
    assert lines[-1]["final/test/nll"] < 0.5 * lines[0]["train_mean_nll"]
    shown = capsys.readouterr().out.partition("sampled")[2]
    before, after = map(float, re.findall(r"the teacher's +([0-9.]+) +([0-9.]+)", shown)[0])
    assert before < after
    rows = Path("run/answers-sums.jsonl").read_text()
    assert "You work out sums" not in rows


def test_prompts_of_ones_own_and_what_is_learned_of_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A named teacher, a prompt around the input, the part of an answer that is learned; line ends in texts end no
    row."""
    asked = [{"prompt": f"What is {i} + 1?\u2028\x85"} for i in range(30)]
    Path("asked.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked))
    Path("long.txt").write_text("Count, then add.\n\n{input}")
    words = [
        *("prompt-distillation", "data=asked.jsonl", "teachers=tiny", "prompt_file=long.txt", "extract=([0-9])[0-9]*"),
        *(
            "temperature=1",
            "num_samples=3",
            "test_size=4",
            "max_steps=2",
            "batch_size=4",
            "export=none",
            "log_path=run",
        ),
    ]
    assert main(["check", *words]) == 0
    assert "Count, then add.\n\n..." in capsys.readouterr().out
    assert main(words) == 0
    rows = [json.loads(line) for line in Path("run/answers-asked.jsonl.jsonl").read_bytes().splitlines()]
    assert {len(row["messages"]) for row in rows} == {2}
    assert all(re.fullmatch("[0-9]", row["messages"][1]["content"]) for row in rows)
    assert all("Count" not in row["messages"][0]["content"] for row in rows)
    said = {
        "0 groups": [*words, "extract=x"],
        "give one": [*words, "prompt=a"],
        "prompt= or prompt_file=": [w for w in words if not w.startswith("prompt_file")],
        "missing.txt": [*words, "prompt_file=missing.txt"],
        "teachers=MODEL": [w for w in words if not w.startswith("teachers")],
    }
    for why, bad in said.items():
        assert main(bad) == 2
        assert why in " ".join(capsys.readouterr().err.split()), why


def test_a_model_gets_near_itself_with_a_demonstration_before_it_and_goes_on_after_a_stop(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of one's own demonstrations: the start model is the teacher, also after a resume."""
    rows = [{"prompt": f"What is {i} + {j}?", "completion": f"{i + j}."} for i in range(12) for j in range(9)]
    Path("shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["sdft", "data=shown.jsonl", "template={question} Say {demonstration}", "test_size=24", "export=none"]
    words += ["groups_per_batch=24", "lr_schedule=constant", "learning_rate=4e-3"]
    assert main(["check", *words]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\nWhat is \d+ \+ \d+\?<", shown)
    assert re.search(r"\nWhat is \d+ \+ \d+\? Say \d+\.<", shown)
    assert main([*words, "max_steps=8", "log_path=run"]) == 0
    calm = metrics("run/student")
    assert calm[-1]["final/test/teacher_kl"] < 0.6 * calm[0]["test/teacher_kl"]
    assert calm[0]["teacher_kl"] > 0.1, "with the demonstration it says something else"
    assert 0 <= calm[0]["test/env/sdft/as_given"] <= 1
    assert not Path("run/heeding").exists()
    assert main([*words, "max_steps=1", "log_path=stopped"]) == 0
    assert main([*words, "max_steps=2", "log_path=stopped"]) == 0
    for name in ("teacher_kl", "optim/grad_norm", "env/all/as_given"):
        assert metrics("stopped/student")[1][name] == calm[1][name], name
    assert main([*words, "max_steps=1", "skip_first_tokens=1", "log_path=later"]) == 0
    first, later = calm[0], metrics("later/student")[0]
    assert first["num_loss_tokens"] - later["num_loss_tokens"] == first["env/all/total_episodes"]
    Path("bare.jsonl").write_text('{"messages": [{"role": "user", "content": "Say a."}]}\n')
    long = {"prompt": "Say it.", "completion": "word " * 1500}
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows[0], long)))
    said = {
        "bare.jsonl, line 1": [*words, "data=bare.jsonl"],
        "{question} and {demonstration}": [*words, "template={question}"],
        "long.jsonl, line 2": [*words, "data=long.jsonl", "test_size=0"],
        "compares rewards": [*words, "remove_constant_groups=true"],
    }
    for why, bad in said.items():
        assert main([*bad, "log_path=bad"]) == 2
        assert why in " ".join(capsys.readouterr().err.split()), why
    assert not Path("bad").exists()


def test_rubrics_of_a_file_and_a_judge_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A judge that writes no score pays nothing: the run stops and says so. Its probabilities are always scores."""
    item = {"rubric_str": "It is short.", "extraction_regex": "<points>(.*)</points>", "max": 5}
    rows = [{"convo": [{"role": "user", "content": f"Say {i}."}], "rubric_items": [item]} for i in range(8)]
    Path("rubrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        *(
            "rubric",
            "data=rubrics.jsonl",
            "judge.model=tiny",
            "judge.max_tokens=8",
            "groups_per_batch=2",
            "group_size=2",
        ),
        *("max_steps=2", "test_size=2", "export=none", "failures.backoff_s=0"),
    ]
    assert main(["check", *words, "log_path=a"]) == 0
    assert "[rubric]\nIt is short." in capsys.readouterr().out
    assert main([*words, "log_path=a"]) == 1
    assert "the world failed every group of the evaluation" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "failures.min_share=none", "log_path=b"]) == 1
    assert "the judge gave no score for 'It is short.'" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "judge.reads=probability", "aggregate=sum", "log_path=c"]) == 0
    first = metrics("c/policy")[0]
    assert first["tokens/prefill"] > 2 * first["env/all/ob_tokens_per_turn"], "the judge reads every answer"
    assert 0 < first["env/all/score"] < 1
    assert first["env/all/reward/total"] == pytest.approx(
        first["env/all/score"] + first["env/all/format"] - 1, abs=1e-6
    )
    said = {
        "judge.model=MODEL": ["rubric", "data=rubrics.jsonl"],
        "judge.reads=text": ["rubric", "judge.reads=text"],
        "of a judge that is named": ["rubric", "judge.tokenizer=tiny"],
        "leaves nothing": [*words, "test_size=8"],
    }
    for why, bad in said.items():
        assert main(bad) == 2
        assert why in " ".join(capsys.readouterr().err.split()), why
    with Path("rubrics.jsonl").open("a") as file:
        file.write('{"convo": [], "rubric_items": []}\n')
    assert main([*words, "log_path=d"]) == 2
    assert "rubrics.jsonl, line 9" in capsys.readouterr().err
    assert not Path("d").exists()


def test_teachers_that_are_named_teach_the_sources_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    Path("asked.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(9)))
    assert main(["math-rl", "max_steps=1", "groups_per_batch=8", "learning_rate=0.05", "log_path=other"]) == 0
    words = [
        *("on-policy-distillation", "data=arithmetic,asked.jsonl", "weights=1,1", "groups_per_batch=8", "max_steps=1"),
        *("test_size=4", "export=none"),
    ]
    assert main([*words, "teachers=tiny,other/final", "log_path=run"]) == 0
    first = metrics("run/student")[0]
    assert abs(first["teacher_kl/arithmetic"]) < 1e-3, "the student is its own teacher"
    assert first["teacher_kl/asked.jsonl"] > 0.01
    assert not Path("run/teacher-arithmetic").exists()
    capsys.readouterr()
    assert main([*words, "log_path=none"]) == 2
    assert "teachers=MODEL" in capsys.readouterr().err
    assert main([*words, "teachers=tiny,tiny,tiny"]) == 2
    assert "3 teachers for 2 sources" in capsys.readouterr().err
    Path("asked.jsonl").write_text('{"prompt": "a"}\n{"other": 1}\n')
    assert main([*words, "teachers=tiny", "log_path=bad"]) == 2
    assert "asked.jsonl, line 2" in capsys.readouterr().err
    assert not Path("bad").exists()


def test_real_preferences(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [shared / "data" / name for name in ("hh_rlhf/harmless_base_test.jsonl.gz", "chat/dpo_en_demo.json")]
    words = [
        *("dpo", f"data={data[0]},{data[1]}", "weights=3,1", "max_rows=60", "test_size=4", "max_length=256"),
        *("max_steps=2", "batch_size=4", "loss=ipo", "log_path=run", "export=none"),
    ]
    assert main(words) == 0
    assert "of the " in capsys.readouterr().out
    assert metrics("run")[-1]["num_pairs"] <= 4


LAYOUTS = {
    "gsm8k": lambda x, y: {"question": f"{x} and {y}?", "answer": f"We add.\n#### {x + y}"},
    "math": lambda x, y: {"problem": f"{x} and {y}?", "solution": f"It is $\\boxed{{{x + y}}}$."},
    "polaris": lambda x, y: {"problem": f"{x} and {y}?", "answer": str(x + y), "difficulty": "7/8"},
    "deepmath": lambda x, y: {"question": f"{x} and {y}?", "final_answer": str(x + y), "topic": "Algebra"},
}


@pytest.mark.parametrize("env", LAYOUTS)
def test_problems_of_every_layout(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is tested is not trained on."""
    rows = [LAYOUTS[env](x, 2 * x) for x in range(12)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    words = [
        *("math-rl", f"env={env}", "data=train.jsonl", "test_data=test.jsonl", "max_steps=1", "groups_per_batch=9"),
        *("group_size=2", "max_tokens=4", "remove_constant_groups=false", "export=none", "log_path=run"),
    ]
    assert main(words) == 0
    assert f"{env}: 3 of 12 problems are tested, and not trained on" in capsys.readouterr().out
    rollouts = [json.loads(line) for line in Path("run/rollouts/train.jsonl").read_text().splitlines()]
    assert {r["problem"] for r in rollouts} == {f"{env}/{i}" for i in range(3, 12)}
    assert metrics("run")[0]["test/env/all/total_episodes"] == 3
    Path("train.jsonl").write_text('{"other": 1}\n')
    assert main(words) == 2
    assert "train.jsonl, line 1" in capsys.readouterr().err


def test_a_kl_penalty_keeps_the_policy_near_its_start() -> None:
    """From the command line, against the start model: the larger its weight, the smaller the distance."""
    distance = {}
    for coef in ("1e-9", "1"):
        words = ["groups_per_batch=16", "max_steps=6", "test_size=0", "export=none", "learning_rate=4e-3"]
        assert main(["math-rl", *words, f"kl_penalty_coef={coef}", f"log_path={coef}"]) == 0
        lines = metrics(coef)
        assert abs(lines[0]["kl_policy_base"]) < 1e-3, "before any step it is the start model"
        distance[coef] = sum(line["kl_policy_base"] for line in lines[-2:])
    assert distance["1"] < 0.7 * distance["1e-9"]


@pytest.mark.parametrize("recipe", ["sl-loop", "rl-loop"])
def test_a_loop_to_copy_is_short_and_stands_alone(recipe: str) -> None:
    source = inspect.getsource(load_recipe(RECIPES[recipe]))  # type: ignore[arg-type]
    assert len(source.splitlines()) < 200
    assert "tinsmith.workflows" not in source
    assert "tinsmith.recipes" not in source
