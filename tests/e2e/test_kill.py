"""Real processes, really killed. In memory where there is such a folder: a kill leaves the page cache alone, so that
a disk would only make this slower."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_helper import compare_runs, run_killed

TOY = str(Path(__file__).with_name("toy_run.py"))
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.fixture
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def test_a_toy_run_that_was_killed_equals_the_one_that_was_not(folder: Path) -> None:
    calm, killed = folder / "calm", folder / "killed"
    run_killed([sys.executable, TOY, str(calm), "120"], calm, kills=0, seed=0, env=ENV)
    story = run_killed([sys.executable, TOY, str(killed), "120"], killed, kills=4, seed=0, env=ENV)
    assert any(s.killed for s in story), story
    assert compare_runs(calm, killed) == []
    run_killed([sys.executable, TOY, str(killed), "120"], killed, kills=0, seed=0, env=ENV)
    assert compare_runs(calm, killed) == [], "a finished run is left as it is"


def test_a_comparison_sees_what_differs(folder: Path) -> None:
    a, b = folder / "a", folder / "b"
    run_killed([sys.executable, TOY, str(a), "4"], a, kills=0, seed=0, env=ENV)
    shutil.copytree(a, b)
    assert compare_runs(a, b) == []
    metrics, state = b / "metrics.jsonl", b / "checkpoints" / "000004-final" / "state"
    metrics.write_text(metrics.read_text().replace('"step":2', '"step":5'))
    state.write_text("0.0")
    (b / "extra").write_text("")
    (b / "rollouts" / "train.jsonl").unlink()
    found = compare_runs(a, b)
    keys = [difference.partition(":")[0] for difference in found]
    rollouts = [f"rollouts/train.jsonl, line {n}" for n in (1, 2, 3)]
    assert keys == ["checkpoints/000004-final/state", "extra", "metrics.jsonl, line 3", *rollouts]
