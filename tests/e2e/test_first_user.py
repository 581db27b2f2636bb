"""What a first user ran into, each once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinsmith as ts
from tinsmith.cli import main
from tinsmith.domain.errors import CancelledWorkError, ModelNotFoundError
from tinsmith.recipes import common, sl_basic, sl_loop
from tinsmith.ui import Terminal

CHAT = {"messages": [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    return file


def config_of(run: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((run / "config.json").read_text())
    return config


def test_a_command_that_does_nothing_leaves_the_config_of_a_complete_run(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = [f"data={chats}", f"log_path={run}", "export=none"]
    assert main(["sl-basic", *options, "num_epochs=3"]) == 0
    trained = config_of(run)
    for _ in range(2):
        assert main(["sl-basic", *options, "num_epochs=1"]) == 0
        assert "this run is complete: 3 steps were taken" in capsys.readouterr().out
        assert config_of(run) == trained
    assert main(["sl-basic", *options, "num_epochs=4"]) == 0
    assert config_of(run)["num_epochs"] == 4
    assert "going on after step 3, from checkpoint" in capsys.readouterr().out


def test_what_cannot_be_had_is_said_before_a_run_is_touched(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["sl-basic", f"data={chats}", f"log_path={run}", "lora.rank=0", "export=adapter"]) == 2
    assert "use export=merged" in capsys.readouterr().err
    assert not run.exists()
    assert main(["rl-basic", f"log_path={run}", "temperature=0"]) == 2
    assert "nothing is trained" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["sl-loop", "sl-basic"])
def test_an_empty_file_trains_no_model(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert main([recipe, f"data={tmp_path / 'empty.jsonl'}", f"log_path={tmp_path / 'run'}"]) == 2
    assert "no conversation" in capsys.readouterr().err
    assert not (tmp_path / "run" / "final").exists()


def test_a_copy_of_the_loop_is_a_program(chats: Path, tmp_path: Path) -> None:
    shutil.copy(sl_loop.__file__, tmp_path / "mine.py")
    argv = [sys.executable, str(tmp_path / "mine.py"), f"data={chats}", f"log_path={tmp_path / 'run'}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()
    asked = subprocess.run([*argv[:2], "dat=x"], capture_output=True, text=True, timeout=120, check=False, env=env)
    assert asked.returncode == 2
    assert "data" in asked.stderr


def test_paths_are_texts_or_paths(tmp_path: Path) -> None:
    model = ts.load_model(Path(ts.bootstrap.model_path("tiny")))
    trainer = model.trainer()
    files = model.export(trainer, str(tmp_path / "out"))
    assert "tokenizer.json" in {f.name for f in files}
    trainer.close()


def test_one_stop_string_is_one() -> None:
    assert ts.SamplingParams(max_tokens=1, stop="42").stop == ("42",)
    assert ts.SamplingParams(max_tokens=1, stop=["4", "2"]).stop == ("4", "2")


def test_only_public_names_are_listed() -> None:
    assert "import_module" not in dir(ts)
    assert {"answers", "load_model", "run_program"} <= set(dir(ts))


def test_a_damaged_checkpoint_is_named_and_so_is_the_one_before(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = [f"data={chats}", f"log_path={run}", "export=none", "checkpoints.every=1"]
    assert main(["sl-basic", *options, "num_epochs=3"]) == 0
    newest = max((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    state = newest if newest.is_file() else max(newest.iterdir(), key=lambda path: path.stat().st_size)
    state.write_bytes(state.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["sl-basic", *options, "num_epochs=4"]) == 0
    said = capsys.readouterr().out
    assert f"checkpoint {newest.name.partition('.')[0]} cannot be used" in said
    assert "going on after step 2, from checkpoint" in said


def test_check_says_what_the_run_would_refuse_or_cut(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "sl-basic", f"data={chats}", "lora.rank=0", "export=adapter"]) == 2
    assert "use export=merged" in capsys.readouterr().err
    assert main(["check", "sl-basic", f"data={chats}", "max_steps=5"]) == 0
    said = capsys.readouterr().out
    assert "num_epochs=1 ends the run after 1 step, before max_steps=5" in said
    count = int(said.partition("1 examples, ")[2].split()[0])
    assert f"1 step, about {count} tokens trained" in said


def test_check_shows_what_rl_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "rl-basic", "max_steps=1", "groups_per_batch=2"]) == 0
    said = capsys.readouterr().out
    assert "the policy's own answers" in said
    assert "answers that differ in reward" in said
    assert main(["check", "rl-basic", "max_tokens=100000"]) == 2
    assert "leaves no room for a prompt" in capsys.readouterr().err


def test_a_run_directory_is_no_model_and_says_where_its_model_is(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["sl-basic", f"data={chats}", f"log_path={run}", "export=adapter"]) == 0
    base = json.loads((run / "final" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (Path(base) / "config.json").exists()
    capsys.readouterr()
    with pytest.raises(ModelNotFoundError, match="run directory"):
        ts.load_model(run)
    assert main(["sl-basic", f"data={chats}", f"model={run / 'final'}"]) == 2
    assert "is an adapter, not a model" in capsys.readouterr().err


def test_problems_that_are_refused_are_named_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.jsonl"
    file.touch()
    assert main(["rl-basic", "env=gsm8k", f"data={file}", f"log_path={tmp_path / 'run'}"]) == 2
    assert f"{file}: the file is empty" in capsys.readouterr().err
    file.write_text(json.dumps({"question": "How many? " * 2000, "answer": "#### 4"}) + "\n")
    assert main(["rl-basic", "env=gsm8k", f"data={file}", f"log_path={tmp_path / 'run'}"]) == 2
    assert f"{file}, line 1: " in capsys.readouterr().err


def test_a_broken_list_is_named_by_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"a": 1},\n {"b" 2}]')
    with pytest.raises(ts.DataError, match=r"line 2: .* at column 7"):
        list(ts.open_source(str(tmp_path / "rows.json")))


def test_values_of_the_wrong_type_are_refused_when_they_are_made() -> None:
    with pytest.raises(ts.ConfigError, match="rank=-1"):
        ts.Lora(rank=-1)
    with pytest.raises(ts.ConfigError, match="cross_entropy"):
        ts.LossSpec("crossentropy")
    with pytest.raises(ts.DataError, match="message 0 is a dict"):
        ts.Conversation(({"role": "user", "content": "Hi"},))  # type: ignore[arg-type]


def test_a_sampler_closes_itself() -> None:
    model = ts.load_model()
    prompt = model.renderer.generation_prompt([{"role": "user", "content": "Hi"}]).ids
    with model.sampler() as sampler:
        sampler.sample(prompt, ts.SamplingParams(max_tokens=1)).result()
    with pytest.raises(CancelledWorkError):
        sampler.sample(prompt, ts.SamplingParams(max_tokens=1))


@pytest.mark.parametrize("words", [["help"], ["help", "sl-basic"]])
def test_help_is_a_word_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert ("max_steps" in capsys.readouterr().out) == (len(words) == 2)


def test_a_run_stopped_at_once_says_from_where_it_goes_on(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = sl_basic.Config(data=str(chats))
    with pytest.raises(KeyboardInterrupt), common.open_run("sl-basic", config, tmp_path / "run", Terminal()):
        raise KeyboardInterrupt
    assert "the run goes on at its start" in capsys.readouterr().out
    options = [f"data={chats}", f"log_path={tmp_path / 'trained'}", "export=none"]
    assert main(["sl-basic", *options]) == 0
    config = sl_basic.Config(data=str(chats), log_path=tmp_path / "trained", export="none")
    with pytest.raises(KeyboardInterrupt), common.open_run("sl-basic", config, tmp_path / "trained", Terminal()):
        raise KeyboardInterrupt
    assert "the run goes on after step 1, from checkpoint" in capsys.readouterr().out
