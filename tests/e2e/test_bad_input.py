"""Bad input at the prompt: one clear line, exit code 2, nothing begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tinsmith.bootstrap import model_path
from tinsmith.cli import main

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *words: str, expected: int = 2) -> str:
    code = main(list(words))
    out = capsys.readouterr()
    assert code == expected, out
    assert "Traceback" not in out.err
    return " ".join(out.err.split())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"messages": [', "line 2"),
        ({"text": "no messages"}, "line 2"),
        ({"messages": []}, "line 2"),
        ({"messages": [{"role": "user", "content": None}]}, "line 2"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "wizard"),
    ],
    ids=["broken JSON", "no messages", "empty messages", "no content", "unknown role"],
)
def test_a_bad_row_is_named_by_file_and_line(
    row: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "chats.jsonl", GOOD, row, GOOD)
    said = refused(capsys, "sl-basic", f"data={data}", "log_path=run")
    assert "chats.jsonl" in said
    assert says in said
    assert not (tmp_path / "run").exists()


def test_a_list_in_a_file_of_lines_says_what_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps([GOOD, GOOD]))
    assert "named .json" in refused(capsys, "sl-basic", f"data={data}")


def test_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "chats.jsonl", {"messages": [{"role": "user", "content": "hi"}]})
    assert "anything to train on" in refused(capsys, "sl-basic", f"data={data}")


def test_an_answer_that_the_cut_takes_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question, answer = {"role": "user", "content": "ab " * 3000}, {"role": "assistant", "content": "c"}
    data = write(tmp_path / "chats.jsonl", {"messages": [question, answer]})
    assert "the cut at 1024 tokens left none that is trained" in refused(capsys, "sl-basic", f"data={data}")


@pytest.mark.parametrize("recipe", ["sl-basic", "chat-sl", "dpo"])
def test_data_without_a_name(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a file" in refused(capsys, recipe, "data=").partition("hf://")[0]


def test_an_example_longer_than_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {
        "messages": [*GOOD["messages"], {"role": "user", "content": "x"}, {"role": "assistant", "content": "yz" * 3000}]
    }
    data = write(tmp_path / "chats.jsonl", GOOD, long)
    said = refused(capsys, "sl-basic", f"data={data}", "too_long=raise")
    assert "line 2" in said
    assert "too_long=truncate" in said
    assert main(["sl-basic", f"data={data}", "too_long=skip", "log_path=skip", "export=none"]) == 0
    assert "1 of 2 examples" in capsys.readouterr().out.replace("\n", " ")


def test_a_model_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "chats.jsonl", GOOD)
    assert "no model 'nowhere'" in refused(capsys, "sl-basic", f"data={data}", "model=nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "config.json" in refused(capsys, "sl-basic", f"data={data}", f"model={empty}")
    other = tmp_path / "other"
    shutil.copytree(model_path("tiny"), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["MixtralForCausalLM"]}))
    said = refused(capsys, "sl-basic", f"data={data}", f"model={other}")
    assert "MixtralForCausalLM" in said
    assert "LlamaForCausalLM" in said
    (other / "config.json").write_text(json.dumps(config))
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors" in refused(capsys, "sl-basic", f"data={data}", f"model={other}")


def test_options_that_are_unknown_out_of_range_or_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "rl-basic", "learning_rat=1", "group_size=0", "adam.beta1=2")
    assert "learning_rate" in said
    assert "group_size" in said
    assert "adam.beta1" in said
    assert "threads" in refused(capsys, "rl-basic", "threads=9999")
    assert "gsm8k" in refused(capsys, "rl-basic", "env=gsm9k")
    assert "clip_high_threshold" in refused(capsys, "rl-basic", "loss.name=ppo", "loss.options.clip_high_treshold=1.2")


def test_a_run_directory_of_another_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "chats.jsonl", GOOD)
    words = ["sl-basic", f"data={data}", "log_path=run", "export=none"]
    assert main(words) == 0
    said = refused(capsys, *words, "learning_rate=0.5")
    assert "learning_rate" in said
    assert "0.5" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    said = refused(capsys, "sl-basic", f"data={data}", "log_path=full", "if_exists=delete")
    assert "other files" in said
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_a_directory_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    assert "holds other files" in refused(capsys, "sl-basic", "log_path=letters")
    assert "Not a directory" in refused(capsys, "sl-basic", "log_path=letters/a.txt")
    assert main(["sl-basic", "max_steps=1", "export=none", "log_path=run"]) == 0
    assert "the directory of a training run" in refused(capsys, "eval", "arithmetic", "log_path=run")
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


def test_problems_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "train.jsonl", {"question": "How many?", "answer": "many"})
    said = refused(capsys, "rl-basic", "env=gsm8k", f"data={data}")
    assert "line 1" in said
    assert "####" in said
    right = write(tmp_path / "right.jsonl", {"question": "How many?", "answer": "#### 3"})
    said = refused(capsys, "rl-basic", "env=gsm8k", f"data={right}", "max_tokens=1020")
    assert "context" in said


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "chats.jsonl", GOOD, GOOD)
    words = ["sl-basic", f"data={data}", "batch_size=1", "log_path=run", "export=none"]
    assert main([*words, "max_steps=1"]) == 0
    changed = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "goodbye"}]}
    write(tmp_path / "chats.jsonl", GOOD, changed)
    assert "the data changed" in refused(capsys, *words)
    write(tmp_path / "chats.jsonl", GOOD, GOOD)
    assert main(words) == 0
