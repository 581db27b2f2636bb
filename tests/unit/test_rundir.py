"""The run directory on a real disk: what it refuses, what it says, and what it leaves for people."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinsmith.adapters.local.clock import SystemClock
from tinsmith.adapters.local.files import LocalFiles
from tinsmith.domain.errors import ConfigError, JournalError, ModelError, RunLockedError, WorldError
from tinsmith.workflows.journal import RunDirectory

CONFIG: dict[str, Any] = {"learning_rate": 1e-4, "lora": {"rank": 8, "targets": ("attn", "mlp")}, "max_steps": 10}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "sl-basic"


def open_at(path: Path, config: dict[str, Any] = CONFIG, **options: Any) -> RunDirectory:
    return RunDirectory.open(
        path, **{"recipe": "sl-basic", "config": config, "files": LocalFiles(), "clock": SystemClock(), **options}
    )


def no_load(handle: str) -> None:
    raise AssertionError(f"{handle} is loaded")


def save(run: RunDirectory, keep: Any, step: int, text: str = "state", **cursor: Any) -> str:
    """Save and record a state, as a trainer does that keeps a file a state."""
    name = run.checkpoint_name(keep, step)
    (run.checkpoints / name).write_text(text)
    run.record_checkpoint(keep, step, name, cursor)
    return name


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def trained(path: Path, steps: int = 3, **options: Any) -> None:
    """A run of some steps with a periodic checkpoint after each, that was then interrupted."""
    with open_at(path, **options) as run:
        run.resume(no_load)
        for step in range(steps):
            run.record_step(step, {"train_mean_nll": 1.0 / (step + 1)}, datums=f"d{step}")
            save(run, "periodic", step + 1, samples=4 * (step + 1))


# Another config


def test_another_config_is_refused_naming_each_key_with_both_values(path: Path) -> None:
    trained(path)
    before = tree(path)
    changed = {**CONFIG, "learning_rate": 2e-4, "lora": {"rank": 8, "targets": ("attn",)}, "seed": 1}
    with pytest.raises(ConfigError) as caught:
        open_at(path, changed)
    assert str(caught.value) == (
        f"{path} was started with another config:\n"
        "  learning_rate: 0.0001 there, 0.0002 now\n"
        '  lora.targets: ["attn", "mlp"] there, ["attn"] now\n'
        "  seed: absent there, 1 now\n"
        "Give the old values, use another log_path, or start again with if_exists=delete"
    )
    assert tree(path) == before
    open_at(path).close()  # and the lock is free


def test_settings_that_may_change_do(path: Path) -> None:
    trained(path)
    more = {**CONFIG, "max_steps": 20, "lora": {"rank": 16, "targets": ("attn", "mlp")}}
    with open_at(path, more, may_change={"max_steps", "lora"}) as run:
        assert run.notes == ["lora.rank changed from 8 to 16", "max_steps changed from 10 to 20"]
        run.resume(lambda handle: None)
    assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(more))
    with open_at(path, more) as run:
        assert run.notes == [], "the config in force is that of the last resume"
    with pytest.raises(ConfigError, match="max_steps: 20 there, 10 now"):
        open_at(path)


def test_a_key_frees_what_is_below_it_and_not_what_it_begins(path: Path) -> None:
    trained(path)
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        open_at(path, {**CONFIG, "lora": {**CONFIG["lora"], "rank": 9}}, may_change={"lo", "lora.r"})


def test_another_recipe_is_refused(path: Path) -> None:
    trained(path)
    with pytest.raises(ConfigError, match="is a run of sl-basic, not of rl-basic"):
        open_at(path, recipe="rl-basic")


def test_a_config_that_json_cannot_hold_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="only JSON types"):
        open_at(path, {"data": object()})


# Another directory


def test_a_directory_of_other_files_is_left_alone(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "weights").mkdir()
    (path / "weights" / "a").write_text("precious")
    before = tree(path)
    for if_exists in ("resume", "raise", "delete"):
        with pytest.raises(JournalError, match="other files and no run"):
            open_at(path, if_exists=if_exists)
    assert tree(path) == before


@pytest.mark.parametrize("text", ["", '{"step": 1}\n{"step": 2}\n', "notes of mine"])
def test_a_journal_that_is_none_is_left_alone(path: Path, text: str) -> None:
    path.mkdir(parents=True)
    (path / "journal.jsonl").write_text(text)
    for if_exists in ("resume", "raise", "delete"):
        with pytest.raises(JournalError, match=r"no journal of a run|holds a run"):
            open_at(path, if_exists=if_exists)
    assert (path / "journal.jsonl").read_text() == text


def test_a_file_in_the_place_of_the_directory(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a file")
    with pytest.raises(JournalError, match="cannot be used as a run directory: Not a directory"):
        open_at(path)
    with pytest.raises(JournalError, match="cannot be used as a run directory"):
        open_at(path / "below")


def test_raise_refuses_a_run_and_delete_starts_again(path: Path) -> None:
    trained(path)
    with pytest.raises(JournalError, match="if_exists=resume goes on"):
        open_at(path, if_exists="raise")
    (path / "final").mkdir()
    with open_at(path, {"another": "config"}, if_exists="delete", recipe="rl-basic") as run:
        assert run.resume(no_load) is None
        assert run.read_metrics() == []
    assert set(tree(path)) == {"tinsmith.lock", "journal.jsonl", "config.json", "metrics.jsonl"}


# Another process


def test_a_second_process_is_refused_and_told_which_has_it(path: Path) -> None:
    with open_at(path):
        with pytest.raises(RunLockedError, match=rf"{path}: process {os.getpid()} on .* works in this run directory"):
            open_at(path, if_exists="delete")
        code = textwrap.dedent(f"""
            from tinsmith.adapters.local.files import LocalFiles
            from pathlib import Path
            LocalFiles().lock(Path({str(path / "tinsmith.lock")!r}))
        """)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
        assert f"RunLockedError: {path}: process {os.getpid()}" in other.stderr
    open_at(path).close()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_the_lock_of_a_process_that_was_killed_is_free(path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from tinsmith.adapters.local.files import LocalFiles
        lock = LocalFiles().lock(Path({str(path / "tinsmith.lock")!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path.mkdir(parents=True)
    killed = subprocess.run([sys.executable, "-c", code], env=environment())
    assert killed.returncode == -9
    assert (path / "tinsmith.lock").read_text() != "", "it had the lock"
    open_at(path).close()


def test_a_forked_worker_that_outlives_the_run_does_not_keep_the_lock(path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, signal, sys, time
        from pathlib import Path
        from tinsmith.adapters.local.files import LocalFiles
        lock = LocalFiles().lock(Path({str(path / "tinsmith.lock")!r}))
        worker = os.fork()
        if worker == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
        time.sleep(60)
    """)
    path.mkdir(parents=True)
    run = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())  # the worker has started
    with pytest.raises(RunLockedError):
        open_at(path)
    run.kill()
    run.wait()
    try:
        open_at(path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        run.stdout.close()


# Going on


def test_a_run_goes_on_from_its_newest_checkpoint(path: Path) -> None:
    trained(path)
    with open_at(path) as run:
        run.resume(lambda handle: None)
        run.record_step(3, {"train_mean_nll": 0.0}, datums="")
    loaded: list[str] = []
    with open_at(path) as run:
        point = run.resume(loaded.append)
        assert point is not None
        assert (point.step, point.cursor, point.name) == (3, {"samples": 12}, "000003-periodic")
        assert loaded == [point.handle]
        assert [line["step"] for line in run.read_metrics()] == [0, 1, 2]
        with pytest.raises(JournalError, match="step 4 is recorded where step 3 is next"):
            run.record_step(4, {}, datums="")


def damaged(state: Path) -> None:
    state.write_bytes(b"stale")


def shortened(state: Path) -> None:
    state.write_bytes(b"st")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(Path.unlink, "it is not there"), (damaged, "its bytes have changed"), (shortened, "2 bytes instead of 5")],
)
def test_a_spoiled_checkpoint_gives_way_to_an_older_one(path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    trained(path)
    spoil(path / "checkpoints" / "000003-periodic")
    loaded: list[str] = []
    with open_at(path) as run:
        point = run.resume(loaded.append)
        assert point is not None
        assert point.step == 2
        assert loaded == ["000002-periodic"]
        assert any("000003-periodic cannot be used" in note and reason in note for note in run.notes)
        assert [line["step"] for line in run.read_metrics()] == [0, 1]
        run.record_step(2, {}, datums="")
        assert save(run, "periodic", 3) == "000003-periodic-r1", "names are never used again"


@pytest.mark.parametrize("absolute", [False, True])
def test_a_state_may_be_a_file_with_a_suffix_and_the_run_may_move(path: Path, absolute: bool) -> None:
    with open_at(path) as run:
        run.resume(no_load)
        for step in (1, 2):
            run.record_step(step - 1, {}, datums="")
            name = run.checkpoint_name("rolling", step)
            state = run.checkpoints / f"{name}.safetensors"
            state.write_text("state")
            run.record_checkpoint("rolling", step, str(state) if absolute else name, {})
        (run.checkpoints / "000003-rolling.safetensors").write_text("half a state")
    moved = path.rename(path.with_name("moved"))
    loaded: list[str] = []
    with open_at(moved) as run:
        assert run.resume(loaded.append) is not None
        state = moved / "checkpoints" / "000002-rolling.safetensors"
        assert loaded == [str(state) if absolute else "000002-rolling"]
        assert list((moved / "checkpoints").iterdir()) == [state]
    state.write_text("stale")
    with open_at(moved) as run:
        assert run.resume(no_load) is None
        assert any("its bytes have changed" in note for note in run.notes)


def test_a_checkpoint_that_does_not_load_gives_way_too_but_not_to_a_failing_world(path: Path) -> None:
    trained(path)

    def picky(handle: str) -> None:
        if "000003" in handle:
            raise ModelError("made for another model")

    def offline(handle: str) -> None:
        raise WorldError("no network")

    before = tree(path)
    with open_at(path) as run, pytest.raises(WorldError):
        run.resume(offline)
    assert tree(path) == before
    with open_at(path) as run:
        point = run.resume(picky)
        assert point is not None
        assert point.step == 2


def test_a_run_none_of_whose_checkpoints_loads_is_not_thrown_away(path: Path) -> None:
    trained(path)
    before = tree(path)

    def refuse(handle: str) -> None:
        raise ModelError("made for another model")

    with open_at(path) as run, pytest.raises(JournalError, match=r"(?s)no checkpoint could be loaded.*another model"):
        run.resume(refuse)
    assert tree(path) == before


def test_a_damaged_journal_is_refused_and_the_message_says_how_to_go_on(path: Path) -> None:
    trained(path)
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"step":1', b'"step":7')
    journal.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 4: .* \(head -n 3\)"):
        open_at(path)
    journal.write_bytes(b"".join(lines[:3]))
    with open_at(path) as run:
        point = run.resume(lambda handle: None)
        assert point is not None
        assert point.step == 1


def test_a_torn_tail_is_cut_with_a_note(path: Path) -> None:
    trained(path)
    journal = path / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:-9])
    with open_at(path) as run:
        assert any("that a crash left" in note for note in run.notes)
    assert journal.read_bytes() == whole


def test_a_finished_run_says_so(path: Path) -> None:
    with open_at(path) as run:
        run.resume(no_load)
        run.record_step(0, {"train_mean_nll": 1.0}, datums="")
        save(run, "final", 1)
        run.record_evaluation(1, {"test/nll": 2.0})
        run.finish("end of data")
    with open_at(path) as run:
        assert run.finished_at == 1
        assert run.last_checkpoint is not None
        assert run.last_checkpoint.name == "000001-final"
        assert run.read_metrics() == [{"step": 0, "train_mean_nll": 1.0}, {"step": 1, "test/nll": 2.0}]


def test_nothing_is_recorded_out_of_turn(path: Path) -> None:
    with open_at(path) as run:
        with pytest.raises(JournalError, match="call resume"):
            run.record_step(0, {}, datums="")
        run.resume(no_load)
        with pytest.raises(JournalError, match="called once"):
            run.resume(no_load)
        with pytest.raises(JournalError, match="a checkpoint of 1 steps where 0 are done"):
            run.record_checkpoint("rolling", 1, "x", {})
        with pytest.raises(JournalError, match="evaluation after step 1"):
            run.record_evaluation(1, {})
        save(run, "rolling", 0)
        with pytest.raises(JournalError, match="already"):
            run.record_checkpoint("rolling", 0, "x", {})


# What people read


def test_metrics_are_valid_json_whatever_they_hold(path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    import numpy as np

    metrics = {"nan": math.nan, "up": math.inf, "down": -math.inf, "f32": np.float32(0.1), "n": np.int64(3)}
    with open_at(path) as run:
        run.resume(no_load)
        run.record_step(0, metrics, datums="")
        run.write_rollouts(1, [{"logprobs": np.array([0.5, -np.inf], np.float32), "text": "\ud800 é\n"}])
    for name in ("journal.jsonl", "metrics.jsonl"):
        for line in (path / name).read_bytes().splitlines():
            json.loads(line.decode(), parse_constant=refuse)
    line = json.loads((path / "metrics.jsonl").read_text())
    assert math.isnan(float(line["nan"]))
    assert (float(line["up"]), float(line["down"])) == (math.inf, -math.inf)
    assert (line["f32"], line["n"]) == (float(np.float32(0.1)), 3)
    row = (path / "rollouts" / "train.jsonl").read_bytes()
    assert json.loads(row.decode("utf-8", "surrogatepass"))["text"] == "\ud800 é\n"


def test_an_evaluation_joins_the_line_of_its_step_early_or_late(path: Path) -> None:
    with open_at(path) as run:
        run.resume(no_load)
        run.record_evaluation(0, {"test/nll": 3.0})
        run.record_step(0, {"a": 1}, datums="")
        run.record_step(1, {"a": 2}, datums="")
        run.record_evaluation(1, {"test/nll": 2.0})
        assert run.read_metrics() == [
            {"step": 0, "test/nll": 3.0, "a": 1},
            {"step": 1, "a": 2, "test/nll": 2.0},
        ]


class FullDisk(LocalFiles):
    full = False

    def append(self, path: Path, data: bytes) -> None:
        if self.full:
            super().append(path, data[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().append(path, data)


def test_a_full_disk_stops_the_run_and_loses_nothing(path: Path) -> None:
    files = FullDisk()
    with open_at(path, files=files) as run:
        run.resume(no_load)
        run.record_step(0, {"a": 1}, datums="")
        save(run, "rolling", 1)
        files.full = True
        with pytest.raises(
            JournalError, match=rf"{path / 'journal.jsonl'}: No space left on device while writing \d+ bytes"
        ) as caught:
            run.record_step(1, {"a": 2}, datums="")
        assert isinstance(caught.value, OSError)
        with pytest.raises(JournalError, match="nothing is recorded after an earlier error"):
            run.finish("max_steps")
    with open_at(path) as run:
        point = run.resume(lambda handle: None)
        assert point is not None
        assert run.read_metrics() == [{"step": 0, "a": 1}]


def test_an_error_in_the_loop_leaves_what_was_recorded(path: Path) -> None:
    def loop() -> None:
        with open_at(path) as run:
            run.resume(no_load)
            run.record_step(0, {"a": 1}, datums="")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    with open_at(path):
        assert (path / "journal.jsonl").read_bytes().count(b"\n") == 2
