"""The command line, with this module as the recipe."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console
from rich.text import Text

from tinsmith import bootstrap, cli
from tinsmith.config import from_dict, option, options_of, resolve, to_dict
from tinsmith.domain import errors
from tinsmith.domain.metrics import key_metrics, number
from tinsmith.ports.progress import Progress
from tinsmith.recipes import RECIPES, Entry, load_recipe
from tinsmith.ui import Terminal, duration, fitted, fitting
from tinsmith.workflows.journal.reading import summarize


@attrs.frozen(kw_only=True)
class Adam:
    beta1: float = option(0.9, help="Decay of the first moment.", min=0, exclusive_max=1)


@attrs.frozen(kw_only=True)
class Config:
    batch_size: int = option(8, help="Datums a step.", min=1)
    loss: str = option("ppo", help="The token loss.", choices=("ppo", "cispo"))
    adam: Adam = option(factory=Adam, help="The optimizer.")
    log_path: str | None = option(None, help="The run directory.")


behaviour: Any = None
"""What `run` does in a test, beyond what it shows."""


def run(config: Config, ui: Progress) -> int | None:
    ui.run_directory(Path(config.log_path or "runs/the run"))
    ui.note(f"batch_size is {config.batch_size} [/INST]")
    return behaviour(ui) if callable(behaviour) else behaviour


def check(config: Config) -> Iterator[Any]:
    yield f"{config.batch_size} datums a step [/INST]"
    yield Text("an example", style="red")


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "toy-basic", Entry(__name__, "a toy"))
    monkeypatch.setattr(f"{__name__}.behaviour", None)
    monkeypatch.delenv("TINSMITH_DEBUG", raising=False)


def behave(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    monkeypatch.setattr(f"{__name__}.behaviour", what)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_alone_it_lists_recipes_and_commands_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    assert any(line.split(maxsplit=1) == ["toy-basic", "a toy"] for line in out.splitlines())
    assert any(line.split()[:1] == ["check"] for line in out.splitlines())


@pytest.mark.parametrize("name", ["toy-basic", "toy_basic"])
def test_a_recipe_runs_by_either_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert call(capsys, name, "batch_size=3") == (0, "batch_size is 3 [/INST]\n", "")


def test_options_may_wear_dashes_and_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("batch_size = 5\n")
    assert call(capsys, "toy-basic", f"--config={file}")[1].startswith("batch_size is 5")
    assert call(capsys, "toy-basic", f"config={file}", "--batch-size=7")[1].startswith("batch_size is 7")


def test_help_of_a_recipe_is_a_line_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "toy_basic", "--help")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert code == 0
    assert rows["batch_size"].split() == ["batch_size", "int", "8", "Datums", "a", "step.", "(>=", "1)"]
    assert rows["adam.beta1"].split()[1:3] == ["float", "0.9"]
    assert "ppo | cispo" in rows["loss"]
    assert "none" in rows["log_path"]


def test_help_fits_a_narrow_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    Terminal(console).grid(
        [("some.dotted_name", "ppo | cispo | importance_sampling", "word " * 20)], ("option", "", "")
    )
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("some.dotted_name ") for line in lines)


def test_a_narrow_terminal_shows_long_text_below_its_row_and_folds_no_number() -> None:
    def shown(rows: list[tuple[str, ...]], columns: tuple[str, ...], width: int) -> list[str]:
        console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
        Terminal(console).grid(rows, columns)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return [line.rstrip() for line in lines]

    runs = [("sums", "finished", "3/3", "env/all/correct 0.5  env/all/reward/total 0.5  optim/kl -2e-07", "12 s")]
    columns = ("run", "state", "steps", "last numbers", "age")
    assert shown(runs, columns, 45) == [
        "run   state     steps  age",
        "sums  finished  3/3    12 s",
        "    env/all/correct 0.5  env/all/reward/total",
        "    0.5  optim/kl -2e-07",
    ]
    assert len(shown(runs, columns, 60)) == 4, "beside the others it had less than it can be read in"
    assert len(shown(runs, columns, 120)) == 2
    results = [("share of right answers", "0.5625", "0.5"), ("tokens/s (sampled and trained)", "2009", "")]
    assert shown(results, ("", "before", "after"), 40)[1] == "share of right answers     0.5625  0.5"
    assert fitted([("name", "word " * 20), ("of", "x")], 80) == ([0, 1], 1, [])
    long = [("a run of a long name, which is kept whole", "a model of a long name", "finished", "number " * 9)]
    assert fitted(long, 60) == ([0, 2], None, [1, 3])


def test_check_shows_values_with_their_origin_and_trains_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(monkeypatch, lambda ui: pytest.fail("check ran the recipe"))
    code, out, _ = call(capsys, "check", "toy_basic", "adam.beta1=0.5")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert code == 0
    assert ["adam.beta1=0.5", "command line"] in lines
    assert ["batch_size=8", "default"] in lines
    assert "8 datums a step [/INST]" in out
    assert "an example" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy-bsic"], "did you mean toy-basic?"),
        (["chek", "toy-basic"], "did you mean check?"),
        (["check", "toy-bassic"], "did you mean toy-basic?"),
        (["batch_size=3"], "tinsmith RECIPE batch_size=3"),
        (["toy-basic", "bach_size=3"], "did you mean batch_size?"),
        (["toy-basic", "batch_size", "3"], "did you mean batch_size=3?"),
        (["toy-basic", "--batch-size", "3"], "did you mean batch_size=3?"),
        (["toy-basic", "batch_size=0"], "expected >= 1"),
        (["toy-basic", "loss=pppo"], "did you mean ppo?"),
        (["check", "toy-basic", "loss=pppo"], "did you mean ppo?"),
        (["toy-basic", "config=nowhere.toml"], "nowhere.toml: No such file"),
        (["--wrong"], "--wrong"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (errors.DataError("no text", source="rows.jsonl", line=3), 2, False),
        (errors.ModelNotFoundError("no such model"), 2, False),
        (errors.NonFiniteError("step 3: the loss is NaN"), 1, False),
        (errors.JournalError("the disk is full"), 1, False),
        (OSError(errno.ENOSPC, "x: No space left on device"), 1, False),
        (OSError("a bug"), 1, True),
        (KeyError("a bug"), 1, True),
    ],
)
def test_the_exit_code_says_whose_error_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, traceback: bool
) -> None:
    def fail(ui: Progress) -> None:
        raise error

    behave(monkeypatch, fail)
    found, _, err = call(capsys, "toy-basic")
    assert found == code
    assert ("Traceback" in err) == traceback
    assert (error.strerror or str(error) if isinstance(error, OSError) else str(error)) in err
    monkeypatch.setenv("TINSMITH_DEBUG", "1")
    assert "Traceback" in call(capsys, "toy-basic")[2]


def test_a_failure_of_the_machine_says_where_and_the_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: OSError) -> str:
        def fail(ui: Progress) -> None:
            raise error

        behave(monkeypatch, fail)
        return call(capsys, "toy-basic")[2]

    full = os.strerror(errno.ENOSPC)
    goes_on = "the same command goes on"
    assert fails(OSError(errno.ENOSPC, full)) == f"error: runs/the run: {full}; free some space, {goes_on}\n"
    told_by_rust = OSError(errno.ENOSPC, f"runs/the run/a.safetensors: {full} (os error 28)")
    assert fails(told_by_rust) == f"error: runs/the run/a.safetensors: {full}; free some space, {goes_on}\n"
    assert fails(PermissionError(errno.EACCES, "Permission denied", "/x/y")).startswith(
        "error: /x/y: Permission denied"
    )


def test_a_run_whose_reader_is_gone_says_how_it_goes_on(tmp_path: Path) -> None:
    options = [f"log_path={tmp_path / 'run'}", "max_steps=4", "groups_per_batch=4", "test_size=4", "export=none"]
    command = [sys.executable, "-m", "tinsmith", "rl-basic", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        said = run.stderr.read()
    assert run.returncode == 1
    assert "nobody reads standard output any more" in said
    assert f"tinsmith rl-basic {' '.join(options[1:])}" in said.replace(f"{options[0]} ", "")
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    found = summarize(tmp_path / "run", bootstrap.local_files())
    assert (found.state, found.reason) == ("failed", "OutputClosedError: nobody reads standard output any more")


def test_standard_output_that_is_full_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "tinsmith", "runs", str(tmp_path)]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"error: standard output cannot be written: {os.strerror(errno.ENOSPC)}\n"


def test_a_recipe_may_choose_its_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, 3)
    assert call(capsys, "toy-basic")[0] == 3


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(monkeypatch, lambda ui: os.kill(os.getpid(), signal.SIGINT))
    code, _, err = call(capsys, "toy-basic", "batch_size=3")
    assert code == 130
    assert err.splitlines()[-1].strip() == "tinsmith toy-basic batch_size=3 'log_path=runs/the run'"
    code, _, err = call(capsys, "toy-basic", "--log-path=here")
    assert err.splitlines()[-1].strip() == "tinsmith toy-basic --log-path=here"


def test_the_shell_completes_recipes_and_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TINSMITH_COMPLETE", "zsh_complete")
    for words, expected in (("tinsmith toy", "toy-basic"), ("tinsmith check toy-basic ad", "adam.beta1=")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            cli.main([])
        assert expected in capsys.readouterr().out.splitlines()


# --- what is shown ----------------------------------------------------------------------------------------------------


def terminal(interactive: bool) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(Console(file=out, force_terminal=interactive, width=100, color_system=None)), out


def test_progress_in_a_file_is_a_line_at_the_first_and_the_last_step() -> None:
    ui, out = terminal(interactive=False)
    with ui:
        for step in range(1, 51):
            ui.update(step, 50, {"time/step": 0.1, "train_mean_nll": 1 / step})
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 1/50  train_mean_nll 1"
    assert lines[-1] == "step 50/50  train_mean_nll 0.02"
    assert len(lines) < 10


def test_progress_on_a_terminal_is_live_and_ends_whatever_happens() -> None:
    ui, out = terminal(interactive=True)
    with contextlib.suppress(KeyboardInterrupt), ui:
        ui.update(3, 50, {"env/all/correct": 0.25})
        ui.note("beside [/the bar]")
        raise KeyboardInterrupt
    assert "3/50" in out.getvalue()
    assert "correct 0.25" in out.getvalue()
    assert "beside [/the bar]" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("3/50")  # the cursor is shown again


def test_the_metrics_that_matter_are_shown() -> None:
    metrics = {"time/step": 1.0, "learning_rate": 1.0, "b": 1.0, "train_mean_nll": 1.0, "env/all/correct": 1.0}
    assert key_metrics(metrics) == ["env/all/correct", "train_mean_nll", "learning_rate"]
    assert key_metrics({"time/step": 1.0, "b": 1.0}) == ["b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (1e-5, "1e-05"),
        (1234567.8, "1,234,568"),
        (12, "12"),
        (3.0, "3"),
        (True, "True"),
        ("a", "a"),
    ],
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert number(value) == text
    assert number(float("nan")) == "nan"
    assert number(float("inf")) == "inf"


def test_durations_are_clock_times() -> None:
    assert [duration(s) for s in (0.4, 42, 61, 3723)] == ["0:00", "0:42", "1:01", "1:02:03"]


# --- the recipes that there are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    for row in options_of(load_recipe(RECIPES[name]).Config):
        assert row.bounds.help, f"{name}: {row.name} has no meaning"
        assert any(line.split()[:1] == [row.name] for line in out.splitlines())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_takes_its_own_defaults(name: str) -> None:
    recipe = load_recipe(RECIPES[name])
    required = [f"{row.name}=x" for row in options_of(recipe.Config) if row.required and "." not in row.name]
    config = resolve(recipe.Config, pairs=required).config
    assert from_dict(recipe.Config, to_dict(config)) == config


def test_the_command_to_go_on_with_deletes_no_run() -> None:
    hint = cli.resume_hint("rl-basic", ["max_steps=5", "if_exists=delete"], "runs/x")
    assert "if_exists" not in hint
    assert "tinsmith rl-basic max_steps=5 log_path=runs/x" in hint


def test_a_live_line_holds_the_metrics_that_fit() -> None:
    metrics = {"env/all/correct": 0.5, "env/all/reward/total": 0.25, "optim/entropy": 0.125}
    assert fitting(metrics, 20) == "correct 0.5"
    assert fitting(metrics, 200) == "correct 0.5  reward 0.25  entropy 0.125"
