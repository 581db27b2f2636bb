"""`tinsmith runs`: states from locks and journals, counts from the records that count."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import bootstrap, cli
from tinsmith.adapters.local.files import LocalFiles
from tinsmith.domain.errors import BudgetError, DataError, DataNotFoundError, NonFiniteError
from tinsmith.ports.files import read
from tinsmith.recipes import common
from tinsmith.testing.fakes import FakeClock
from tinsmith.testing.files import MemoryDisk
from tinsmith.ui import Terminal
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.journal.reading import TAIL_BYTES, find_runs, summarize
from tinsmith.workflows.journal.records import Step, live, scan

HOSTILE = "a\x1b[31m\u202e<script>"


def a_run(path: Path, *, steps: int = 3, total: int = 4, config: dict[str, object] | None = None) -> RunDirectory:
    run = RunDirectory.open(
        path,
        recipe="rl-basic",
        config={"model": "tiny", "max_steps": total} | (config or {}),
        files=bootstrap.local_files(),
        clock=bootstrap.system_clock(),
    )
    run.resume(load=lambda _: None)
    for step in range(steps):
        run.record_step(
            step, {"env/all/correct": step / 8, "progress/done_frac": (step + 1) / total}, datums="x" * 1000
        )
    return run


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    code = cli.main(["runs", *words, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert code == any(row["state"] == "damaged" for row in rows)
    return {Path(row["path"]).name: row for row in rows}


def left_by(path: Path, error: BaseException) -> None:
    def work() -> None:
        with common.open_run("rl-basic", common.RunConfig(), path, Terminal()) as run:
            run.resume(load=lambda _: None)
            run.record_step(0, {"x": 1}, datums="")
            if isinstance(error, BudgetError):
                run.record_stop("budget: all spent")
            raise error

    with pytest.raises(type(error)):
        work()


def test_every_state_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_run(tmp_path / "done", steps=4) as done:
        done.finish("max_steps")
    a_run(tmp_path / "killed").close()
    left_by(tmp_path / "interrupted", KeyboardInterrupt())
    left_by(tmp_path / "broken", NonFiniteError(f"step 1: loss is NaN {HOSTILE}"))
    left_by(tmp_path / "spent", BudgetError("stopped by its budget: all spent"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.jsonl").write_text("no journal\n")
    capsys.readouterr()
    with a_run(tmp_path / "deep" / "er" / "busy"):
        rows = listed(capsys, str(tmp_path))
        assert cli.main(["runs", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished",
        "killed": "killed",
        "interrupted": "stopped",
        "broken": "failed",
        "spent": "budget",
        "bad": "damaged",
        "busy": "running",
    }
    assert rows["busy"]["reason"] == f"process {os.getpid()} on {os.uname().nodename}"
    assert rows["spent"]["reason"] == "budget: all spent"
    assert (rows["done"]["steps"], rows["killed"]["steps"], rows["broken"]["steps"]) == (4, 3, 1)
    assert (rows["killed"]["total"], rows["killed"]["metrics"]["env/all/correct"]) == (4, 0.25)
    assert "deep/er/busy" in shown
    assert "broken: failed: NonFiniteError: step 1: loss is NaN a\\x1b[31m\\u202e<script>" in shown
    assert "\x1b" not in shown


def test_a_running_process_is_known_by_its_lock_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files may be old, and it may be killed at any time."""
    path = tmp_path / "run"
    a_run(path).close()
    for file in path.iterdir():
        os.utime(file, (1, 1))
    program = "import sys, time; from pathlib import Path; from tinsmith.adapters.local.files import LocalFiles\n"
    program += (
        "lock = LocalFiles().lock(Path(sys.argv[1]) / 'tinsmith.lock'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        assert listed(capsys, str(tmp_path))["run"]["state"] == "running"
        process.kill()
        process.wait()
    assert listed(capsys, str(tmp_path))["run"]["state"] == "killed"


def test_looking_is_in_no_ones_way(tmp_path: Path) -> None:
    """A run that starts in the moment that somebody looks gets its lock."""
    path = tmp_path / "tinsmith.lock"
    LocalFiles().lock(path).release()
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as `holder` has it, but for longer
    looks = threading.Timer(0.05, os.close, [descriptor])
    looks.start()
    LocalFiles().lock(path).release()
    looks.join()


@given(st.lists(st.sampled_from(["step", "save", "resume", "distrust", "evaluate"]), max_size=25), st.integers(0, 40))
def test_a_summary_counts_what_the_whole_journal_counts(doings: list[str], padding: int) -> None:
    """Reading from the end finds the step, and its metrics, that reading from the beginning does."""
    disk, path = MemoryDisk(), Path("/runs/a")

    def opened(refused: int = 0) -> RunDirectory:
        """refused: how many of the newest checkpoints cannot be loaded."""

        def load(_: str) -> None:
            nonlocal refused
            refused -= 1
            if refused >= 0:
                raise ValueError("damaged")

        run = RunDirectory.open(path, recipe="r", config={}, files=disk.mount(), clock=FakeClock())
        nonlocal step
        point = run.resume(load=load)
        step = point.step if point else 0
        return run

    step = 0
    saved: set[int] = set()
    run = opened()
    for serial, doing in enumerate(doings):
        if doing == "step":
            run.record_step(step, {"serial": serial, "pad": "x" * (padding * TAIL_BYTES // 30)}, datums="")
            step += 1
        elif doing == "evaluate":
            run.record_evaluation(step, {"test": serial})
        elif doing == "save":
            if not run.has_checkpoint("periodic", step):
                run.record_checkpoint("periodic", step, "elsewhere", {})
                saved.add(step)
        else:
            disk.kill()
            run = opened(1 if doing == "distrust" and len(saved) > 1 else 0)
            saved = {name for name in saved if name <= step}
    files = disk.mount()
    files.append(path / "journal.jsonl", b'{"crc":"torn')
    summary = summarize(path, files)
    trained = [
        r.event for r in live(scan(read(files, path / "journal.jsonl"), "").records) if isinstance(r.event, Step)
    ]
    assert summary.steps == step == len(trained)
    assert summary.metrics.get("serial") == (trained[-1].metrics["serial"] if trained else None)
    assert (summary.state, summary.notes) == ("running", [])


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = bootstrap.local_files()
    with pytest.raises(DataNotFoundError, match="tinsmith runs"):
        summarize(tmp_path / "missing", files)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file, not a run"):
        summarize(tmp_path / "file", files)
    a_run(tmp_path / "some" / "run").close()
    with pytest.raises(DataError, match=r"below it are .*some/run"):
        summarize(tmp_path / "some", files)
    assert cli.main(["runs", str(tmp_path / "missing")]) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["runs", str(tmp_path / "empty")]) == 0
    assert "no run" in capsys.readouterr().out


def test_hundreds_of_runs_are_listed_at_once(tmp_path: Path) -> None:
    """Only the ends of their journals are read: 300 runs of 2 MB in well under the time to read them."""
    with a_run(tmp_path / "one", steps=0) as run:
        for step in range(1200):
            run.record_step(step, {f"metric/{i}": i / 7 for i in range(60)}, datums="")
    for i in range(300):
        (tmp_path / f"run{i}").mkdir()
        os.link(tmp_path / "one" / "journal.jsonl", tmp_path / f"run{i}" / "journal.jsonl")
    began = time.perf_counter()
    found = [summarize(path, bootstrap.local_files()) for path in find_runs(tmp_path, bootstrap.local_files())]
    assert len(found) == 301
    assert time.perf_counter() - began < 5


def test_evaluations_are_listed_and_those_of_a_run_are_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(tmp_path / "run").close()
    evaluation = tmp_path / "run" / "evals" / "arithmetic" / "000002"
    assert cli.main(["eval", "arithmetic", "size=4", f"log_path={evaluation}"]) == 0
    assert cli.main(["eval", "arithmetic", "size=4", f"log_path={tmp_path / 'e'}"]) == 0
    score = json.loads((tmp_path / "e" / "results.json").read_text())["score"]["value"]
    capsys.readouterr()
    rows = listed(capsys, str(tmp_path))
    assert set(rows) == {"run", "e"}
    row = rows["e"]
    assert (row["state"], row["recipe"], row["model"]) == ("finished", "eval arithmetic", "tiny")
    assert (row["steps"], row["total"], row["metrics"]["score"]) == (4, 4, score)
    assert time.time() - 100 < row["began"] <= row["changed"] <= time.time()
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "eval arithmetic" in capsys.readouterr().out
    (tmp_path / "e" / "results.json").write_text("{")
    assert cli.main(["runs", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().out
