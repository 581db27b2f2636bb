"""The processes of a grader: what hostile answers do to them, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinsmith.adapters.graders.pool import PoolGrader
from tinsmith.domain.errors import CancelledWorkError, ConfigError, WorldError
from tinsmith.ports.grader import Grade

HERE = str(Path(__file__).parent)
WAIT = 60.0
TIMEOUT = 1.0
SLACK = 4.0
"""Seconds by which a busy machine may be late; a worker that is never killed is late for ever."""


def open_pool(**options: object) -> PoolGrader:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        given = {"workers": 2, "timeout": TIMEOUT, "memory": 1 << 28, **options}
        return PoolGrader("hostile_engine", name="hostile", **given)  # type: ignore[arg-type]


@pytest.fixture
def pool() -> Iterator[PoolGrader]:
    with open_pool() as pool:
        yield pool


def one(pool: PoolGrader, pred: str) -> Grade:
    return pool.grade(["5"], [pred]).result(WAIT)[0]


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def gone(pid: int) -> bool:
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("pred", "reason"),
    [
        ("spin", "timeout"),
        ("bigint", "timeout"),
        ("sleep 60", "timeout"),
        ("eat", "memory"),
        ("creep", "memory"),
        ("exit", "crashed"),
        ("deep", "too_deep"),
        ("raise", "failed"),
        ("write {}", "failed"),
        ("system touch {}", "failed"),
    ],
)
def test_a_hostile_answer_is_undecided_for_its_reason_and_costs_no_other(
    pool: PoolGrader, pred: str, reason: str, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    began = time.monotonic()
    owed = pool.grade(["5"] * 3, ["5", pred.format(marker), "6"])
    others = pool.grade(["5"] * 50, [f"{i}" for i in range(50)]).result(WAIT)
    grades = owed.result(WAIT)
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert [g.equal for g in grades] == [True, None, False]
    assert grades[1].reason == reason
    assert not grades[1].data_error
    assert [g.equal for g in others] == [i == 5 for i in range(50)]
    assert pool.counts[reason] == 1
    assert not marker.exists()


def test_a_worker_that_is_killed_costs_nothing(pool: PoolGrader) -> None:
    victim = int(one(pool, "pid").reason)
    owed = pool.grade(["5"] * 4, ["sleep 0.3", "sleep 0.31", "sleep 0.32", "5"])
    time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    assert [g.equal for g in owed.result(WAIT)] == [False, False, False, True]
    assert gone(victim), "no zombie stays"


def test_answers_behind_a_slow_one_are_given_to_other_workers(pool: PoolGrader) -> None:
    preds = ["spin a", "spin b", *(f"{i}" for i in range(300))]
    asked = [pool.grade(["5"], [pred]) for pred in preds]
    began = time.monotonic()
    for pending in asked[2:]:
        pending.result(WAIT)
    assert not asked[0].done() or time.monotonic() - began > TIMEOUT, "they did not wait for the deadline"
    assert {pending.result(WAIT)[0].reason for pending in asked[:2]} == {"timeout"}


def test_a_deadline_answers_the_whole_batch(pool: PoolGrader) -> None:
    began = time.monotonic()
    grades = pool.grade(["5"] * 41, ["5", *(f"spin {i}" for i in range(40))], deadline=0.5).result(WAIT)
    assert time.monotonic() - began < 0.5 + SLACK
    assert {g.reason for g in grades[1:]} <= {"deadline", "timeout"}
    assert "deadline" in {g.reason for g in grades}
    assert one(pool, "5").equal is True


def test_the_same_pair_is_worked_on_once(pool: PoolGrader) -> None:
    grades = pool.grade(["5"] * 20, ["pid"] * 20).result(WAIT)
    assert len({g.reason for g in grades}) == 1
    again = one(pool, "pid")
    assert (again.reason, again.seconds) == (grades[0].reason, 0.0)
    assert one(pool, "spin").reason == "timeout"
    began = time.monotonic()
    assert one(pool, "spin").reason == "timeout"
    assert time.monotonic() - began < TIMEOUT, "a timeout is remembered too"


def test_a_cancelled_batch_is_not_worked_on(pool: PoolGrader) -> None:
    async def give_up() -> None:
        task = asyncio.ensure_future(asyncio.wait_for(_awaited(pool), 0.1))
        with pytest.raises(TimeoutError):
            await task

    asyncio.run(give_up())
    began = time.monotonic()
    assert one(pool, "5").equal is True
    assert time.monotonic() - began < 2 * TIMEOUT + SLACK, "20 spins would take longer"


async def _awaited(pool: PoolGrader) -> list[Grade]:
    return await pool.grade(["5"] * 20, [f"spin {i}" for i in range(20)])


def test_many_threads_get_their_own_answers(pool: PoolGrader) -> None:
    wrong: list[int] = []

    def ask(n: int) -> None:
        preds = [str((n * i) % 11) for i in range(200)]
        grades = pool.grade(["5"] * 200, preds).result(WAIT)
        if [g.equal for g in grades] != [p == "5" for p in preds]:
            wrong.append(n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not wrong


def test_closing_leaves_no_process_and_no_descriptor() -> None:
    gc.collect()
    descriptors, before = set(os.listdir("/proc/self/fd")), set(children(os.getpid()))
    pool = open_pool()
    workers = [p for child in children(os.getpid()) for p in [child, *children(child)] if child not in before]
    assert len(workers) >= 2
    owed = pool.grade(["5"], ["spin"])
    pool.close()
    with pytest.raises(CancelledWorkError):
        owed.result(WAIT)
    assert all(map(gone, workers))
    assert set(children(os.getpid())) == before
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_workers_end_with_their_parent() -> None:
    code = (
        "import sys, time, os; sys.path.insert(0, sys.argv[1])\n"
        "from tinsmith.adapters.graders.pool import PoolGrader\n"
        "pool = PoolGrader('hostile_engine', name='hostile', timeout=600.0)\n"
        "print(pool.grade(['5'], ['pid']).result(60)[0].reason, flush=True)\n"
        "pool.grade(['5'] * 2, ['spin a', 'spin b'])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, HERE], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        worker = int(parent.stdout.readline())
    family = [p for child in children(parent.pid) for p in [child, *children(child)]]
    assert worker in family
    parent.kill()
    parent.wait(WAIT)
    assert all(map(gone, family))


def test_an_engine_that_cannot_load_is_said_at_once() -> None:
    with pytest.raises(WorldError, match="no_such_engine"):
        PoolGrader("no_such_engine", name="none")
    with pytest.raises(ConfigError, match="timeout"):
        PoolGrader("hostile_engine", name="none", timeout=0)


def test_a_nursery_that_is_killed_comes_back(pool: PoolGrader) -> None:
    assert one(pool, "5").equal is True
    for child in children(os.getpid()):
        if b"hostile_engine" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    assert one(pool, "6").equal is False
    assert one(pool, "7").equal is False


def test_a_forked_child_cannot_use_the_pool(pool: PoolGrader) -> None:
    pool._owner += 1  # as a fork would see it
    with pytest.raises(WorldError, match="belongs to process"):
        pool.grade(["5"], ["5"])
    pool._owner -= 1
