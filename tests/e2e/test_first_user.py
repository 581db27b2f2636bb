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
from tinsmith.recipes import sl_loop

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
