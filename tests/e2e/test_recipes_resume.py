"""Recipes on the tiny model, killed at random moments and run again: every bit is that of a calm run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill_helper import compare_runs, run_killed

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def command(where: Path, *words: str) -> list[str]:
    """Run in `where`, so that two runs can have the same options, `log_path` too. `env -C` keeps the process."""
    where.mkdir(exist_ok=True)
    return ["env", "-C", str(where), sys.executable, "-m", "tinsmith", *words, "log_path=run", "lora.rank=4"]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i} is {i % 7}"}]}
        for i in range(50)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def options(recipe: str, chats: str) -> list[str]:
    if recipe == "sl-basic":
        return [
            *("sl-basic", f"data={chats}", "batch_size=8", "num_epochs=3", "test_size=4", "eval_every=5"),
            *("checkpoints.every=4", "checkpoints.rolling_every=1", "export=adapter"),
        ]
    if recipe == "chat-sl":
        return [
            *("chat-sl", f"data={chats},small", "weights=1,2", "max_rows=40", "test_size=4", "batch_size=8"),
            *("num_epochs=2", "eval_every=5", "checkpoints.every=4", "checkpoints.rolling_every=1", "export=adapter"),
        ]
    if recipe == "dpo":  # a reference made of the weights that were resumed would differ
        return [
            *("dpo", "max_rows=60", "test_size=6", "batch_size=12", "num_epochs=3", "eval_every=4"),
            *("checkpoints.every=4", "checkpoints.rolling_every=1", "export=adapter"),
        ]
    substeps = ["num_substeps=3", "loss.name=ppo", "remove_constant_groups=false"] if "substeps" in recipe else []
    return [
        *("rl-basic", *substeps, "max_steps=8", "groups_per_batch=6", "group_size=4", "test_size=8", "eval_every=3"),
        *("checkpoints.every=3", "checkpoints.rolling_every=1", "export=adapter", "kl_penalty_coef=0.01"),
    ]


@pytest.mark.parametrize("recipe", ["sl-basic", "chat-sl", "dpo", "rl-basic", "rl-basic with substeps"])
def test_a_killed_run_equals_the_one_that_was_not(recipe: str, chats: str, tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run_killed(command(calm, *options(recipe, chats)), calm / "run", kills=0, seed=0, env=ENV)
    story = run_killed(command(killed, *options(recipe, chats)), killed / "run", kills=4, seed=7, records=6, env=ENV)
    assert any(s.killed for s in story), story
    # What the reference said is kept in memory alone: a run that was killed asks it again.
    but = ("tokens/prefill",) if recipe == "dpo" else ()
    assert compare_runs(calm / "run", killed / "run", but) == []


def test_ctrl_c_saves_and_the_same_command_goes_on(chats: str, tmp_path: Path) -> None:
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    words = options("sl-basic", chats)
    run_killed(command(calm, *words), calm / "run", kills=0, seed=0, env=ENV)
    process = subprocess.Popen(
        command(stopped, *words), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal, deadline = stopped / "run" / "journal.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130), errors
    if process.returncode == 130:
        assert "tinsmith sl-basic" in errors, "it says how to go on"
    run_killed(command(stopped, *words), stopped / "run", kills=0, seed=0, env=ENV)
    differences = [d for d in compare_runs(calm / "run", stopped / "run") if "-rolling" not in d]
    assert differences == []
