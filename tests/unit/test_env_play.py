"""A person plays an environment at the terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tinsmith as ts
from tinsmith import rendering
from tinsmith.cli import main
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.envs.game import SelfPlay
from tinsmith.envs.games import GuessNumber
from tinsmith.envs.search import search_tool
from tinsmith.envs.tools import tool
from tinsmith.recipes.env import plain
from tinsmith.testing import FakeTokenizer, MemorySearch
from tinsmith.workflows.env_play import read

SRC = Path(__file__).parents[2] / "src"


def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, *words: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["env", "play", *words]) == 0
    return capsys.readouterr().out


def test_a_number_is_found_and_its_reward_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guesses = "".join(f"{i}\n" for i in range(64))
    out = play(monkeypatch, capsys, guesses, "multiplayer", "most=3", "turns=6", "problem=2")
    assert "from 0 to 3" in out
    assert out.count("Too low.") + 1 == int(out.partition(" turns\n")[0].split()[-1])
    assert "reward 1, ended by completed" in out
    assert "found 1" in out


def test_leaving_early_is_no_failure_and_nothing_more_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = play(monkeypatch, capsys, "-1\n", "multiplayer")
    assert "Too low." in out
    assert out.endswith("left before the end\n")


def test_tools_are_called_by_a_slash_and_a_repeated_prompt_is_shown_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s", reason="needs the extra: search")
    lines = '/search {"query_list": 3}\n/search town\nAnswer: x\n'
    out = play(monkeypatch, capsys, lines, "search-tool")
    assert "error: query_list must be array, not 3" in out
    assert "Query: town\nDocument 1: " in out
    assert out.count("# Tools") == 1
    assert "reward 0, ended by completed after 3 turns" in out


def test_a_text_of_several_lines_and_one_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = play(monkeypatch, capsys, '"""\none\n\ntwo\n"""\n', "shorter", "max_tokens=48")
    assert "answer_chars 8" in out
    out = play(monkeypatch, capsys, f"{'one ' * 60}\n", "shorter", "max_tokens=48")
    assert "what is beyond 48 is cut" in out
    assert "ended by max_tokens" in out


def test_both_players_of_self_play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = play(monkeypatch, capsys, "1\n4\n2\n5\n3\n", "multiplayer", "game=tic_tac_toe", "opponent=self")
    assert "[player 1, turn 3" in out
    assert "player 1: reward 1," in out
    assert "player 2: reward -1," in out


@contextmanager
def at_a_terminal(*words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "tinsmith", "env", "play", *words]
    env = {**os.environ, "PYTHONPATH": str(SRC), "TERM": "dumb"}
    # Its controlling terminal, in a session of its own: so Ctrl-C reaches it as it does a person's program.
    process = subprocess.Popen(
        [sys.executable, "-c", _CONTROLLED, *command], stdin=slave, stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    try:
        yield master, process
    finally:
        process.kill()
        process.wait()
        os.close(master)


_CONTROLLED = """
import os, sys, fcntl, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def read_until(master: int, text: str, seconds: float = 60.0) -> str:
    seen, end = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen
        if select.select([master], [], [], 0.5)[0]:
            try:
                seen += os.read(master, 4096).decode()
            except OSError:  # the other side is gone
                break
    assert text in seen, seen
    return seen


@pytest.mark.parametrize("key", [b"\x04", b"\x03"], ids=["ctrl-d", "ctrl-c"])
def test_ctrl_d_and_ctrl_c_end_it_cleanly(key: bytes) -> None:
    with at_a_terminal("multiplayer") as (master, process):
        read_until(master, "[turn 1, ")
        os.write(master, b"-1\n")
        read_until(master, "[turn 2, ")
        os.write(master, key)
        assert "Traceback" not in read_until(master, "left before the end")
        assert process.wait(20) == 0


def test_an_environment_of_ones_own_is_played_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    renderer = rendering.get("chatml", FakeTokenizer())
    game = SelfPlay(problem="p", tags=(), game=lambda: GuessNumber(3, most=9), renderer=renderer)
    monkeypatch.setattr(sys, "stdin", io.StringIO("5\n3\n2\n"))
    group = ts.play_env(game, renderer)
    assert group is not None
    assert group.rewards.tolist() == [1.0]
    assert "Too high." in capsys.readouterr().out
    assert ts.play_env(game, renderer) is None, "the person left after a move"


def test_what_a_person_writes_is_text_or_a_call() -> None:
    search = search_tool(MemorySearch([])).tool

    @tool
    def add(x: int, y: int) -> int:
        """Adds."""
        return x + y

    @tool
    def square(x: int) -> int:
        """Squares."""
        return x * x

    tools = (search, add.tool, square.tool)

    def call(name: str, arguments: str) -> Message:
        return Message("assistant", tool_calls=(ToolCall(name, arguments),))

    assert read("hello /search x", tools) == Message.assistant("hello /search x")
    assert read("/home/me", tools) == Message.assistant("/home/me")
    assert read("/search the moon", tools) == call("search", '{"query_list": ["the moon"]}')
    assert read("/square 3", tools) == call("square", '{"x": 3}')
    assert read('/add {"x": 1, "y": 2}', tools) == call("add", '{"x": 1, "y": 2}')
    with pytest.raises(ConfigError, match="x, y"):
        read("/add 3", tools)


def test_no_character_acts_on_the_terminal() -> None:
    assert plain("a\x1b[2Jb\tc\nd\x07") == "a\\x1b[2Jb\tc\nd\\x07"
