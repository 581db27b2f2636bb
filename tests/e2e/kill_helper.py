"""Kill real runs with SIGKILL, run the same command again until it is done, and compare what is left."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith.adapters.local.files import LocalFiles
from tinsmith.ports.files import files_under, read
from tinsmith.workflows.journal.records import Evaluation, Finished, Step, live, scan

FILES = LocalFiles()


@frozen
class Killed:
    """What became of one process: how many records its journal had when it ended, and whether it was killed."""

    records: int
    killed: bool


def run_killed(
    command: Sequence[str],
    directory: Path,
    *,
    kills: int,
    seed: int,
    records: int = 10,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> list[Killed]:
    """Run `command`, which works in run directory `directory`, killing its first `kills` processes at moments that
    `seed` fixes: each once the journal has grown by 0 to `records` lines, and then up to 50 ms later (up to 2 s when it
    is to die before its first record). A process that is done before its moment ends the run early.

    Raises AssertionError when a process fails by itself, or none of them finishes within `timeout` seconds.
    """
    schedule = random.Random(seed)
    story: list[Killed] = []
    for turn in range(kills + 1):
        growth = schedule.randint(0, records)
        pause = schedule.uniform(0, 0.05 if growth else 2.0)
        before = _count(directory)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        if turn < kills:
            deadline = time.monotonic() + timeout
            while process.poll() is None and _count(directory) < before + growth and time.monotonic() < deadline:
                time.sleep(0.001)
            try:
                process.wait(pause)
            except subprocess.TimeoutExpired:
                process.kill()
        output, _ = process.communicate(timeout=timeout)
        story.append(Killed(_count(directory), process.returncode == -9))
        if process.returncode != -9:
            assert process.returncode == 0, f"{' '.join(command)} failed with {process.returncode}:\n{output}"
            return story
    raise AssertionError("the last process was killed by someone else")


def _count(directory: Path) -> int:
    try:
        return (directory / "journal.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def compare_runs(a: Path, b: Path, but: tuple[str, ...] = ()) -> list[str]:
    """What differs between two run directories, bit for bit; empty when nothing does.

    Compared are metrics and rollouts (but for keys `time/...`), datums, evaluations and the end as journalled, states
    of checkpoints (but for the mark that a resume leaves in their names), the config (but for `log_path`), and whatever
    else lies there. `but`: metrics that may differ too.
    """
    left, right = _outcome(a, but), _outcome(b, but)
    differences = []
    for key in sorted(left.keys() | right.keys()):
        if key not in left or key not in right:
            differences.append(f"{key}: only in {a if key in left else b}")
        elif left[key] != right[key]:
            differences.append(f"{key}: {_short(left[key])} in {a}, {_short(right[key])} in {b}")
    return differences


def _outcome(directory: Path, but: tuple[str, ...]) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    for record in live(scan(read(FILES, directory / "journal.jsonl"), str(directory)).records):
        event = record.event
        if isinstance(event, Step):
            outcome[f"datums of step {event.step}"] = event.datums
        elif isinstance(event, Evaluation):
            outcome[f"evaluation after {event.step} steps"] = _timeless(event.metrics)
        elif isinstance(event, Finished):
            outcome["finished"] = (event.step, event.reason)
    for path in files_under(FILES, directory):
        name = path.relative_to(directory).as_posix()
        if name == "metrics.jsonl" or name.startswith("rollouts/"):
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                outcome[f"{name}, line {number}"] = _timeless(json.loads(line.decode("utf-8", "surrogatepass")), but)
        elif name.startswith("checkpoints/"):
            _, state, *rest = name.split("/")
            outcome["/".join(["checkpoints", re.sub(r"-r[0-9]+(?=\.|$)", "", state), *rest])] = path.read_bytes()
        elif name == "config.json":
            outcome[name] = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "log_path"}
        elif name not in ("journal.jsonl", "tinsmith.lock"):
            outcome[name] = path.read_bytes()
    return outcome


def _timeless(value: Mapping[str, Any], but: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: item for key, item in value.items() if not key.startswith("time/") and key not in but}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
