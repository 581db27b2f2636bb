"""What a person sees while they wait."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tinsmith import cli, ui
from tinsmith.ui import Terminal


def test_a_file_gets_a_line_of_what_takes_long_and_none_of_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    terminal = Terminal(Console(file=out, width=80))
    for done in range(30):
        terminal.doing("evaluating gsm8k", done, 1319)
        now[0] += 1.0
    terminal.doing("loading")
    now[0] += 60.0
    terminal.doing("loading")
    said = out.getvalue().splitlines()
    assert said[0] == "evaluating gsm8k  5/1,319"
    assert len(said) == 5
    terminal.update(1, 2, {"train_mean_nll": 1.0})
    terminal.doing("evaluating gsm8k", 0, 1319)
    assert len(out.getvalue().splitlines()) == 6, "another evaluation begins with a new wait"


def test_a_terminal_shows_what_is_done_beside_the_steps_and_leaves_no_line_of_it() -> None:
    out = io.StringIO()
    with Terminal(Console(file=out, width=100, force_terminal=True)) as terminal:
        terminal.doing("loading data")
        assert [task.fields["shown"] for task in terminal._bar.tasks] == ["loading data"]
        terminal.doing("rendering", 3, 7)
        assert [(task.fields["shown"], task.completed, task.total) for task in terminal._bar.tasks] == [
            ("rendering", 3, 7)
        ]
        terminal.doing("training")
        assert [(task.fields["shown"], task.total) for task in terminal._bar.tasks] == [("training", None)]
        terminal.table("of something", ["a"], [["b"]])
        assert terminal._bar is None
        terminal.update(1, 3, {"train_mean_nll": 1.0})
        terminal.doing("evaluating", 1, 2)
        assert [task.completed for task in terminal._bar.tasks] == [1, 1]
        terminal.update(2, 3, {"train_mean_nll": 1.0})
        assert [task.completed for task in terminal._bar.tasks] == [2]
        terminal.doing("evaluating", 2, 2)
    assert terminal._bar is None
    assert "evaluating" not in out.getvalue().rpartition("\x1b[2K")[2]
    out = io.StringIO()
    with Terminal(Console(file=out, width=100, force_terminal=True)) as terminal:
        terminal.doing("loading data")
    assert "\n" not in out.getvalue(), "not even an empty one"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            ["chat-sl", "max_steps=1", "batch_size=4", "max_rows=300", "test_size=8"],
            [
                "loading",
                "reading small",
                "rendering test data of small",
                "the first step",
                "writing final/",
            ],
        ),
        (
            ["rl-basic", "max_steps=1", "groups_per_batch=2", "group_size=2", "test_size=3"],
            ["loading", "evaluating", "rollouts", "training", "evaluating", "writing final/"],
        ),
        (["eval", "arithmetic", "size=3"], ["loading arithmetic", "evaluating"]),
    ],
    ids=["chat-sl", "rl-basic", "eval"],
)
def test_what_is_waited_for_before_and_between_steps_is_shown(
    words: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    def doing(self: Terminal, what: str, done: int = 0, total: int | None = None) -> None:
        assert total is None or 0 <= done <= total
        if seen[-1:] != [what]:
            seen.append(what)

    monkeypatch.setattr(Terminal, "doing", doing)
    assert cli.main([*words, "log_path=r"]) == 0
    assert seen == shown
