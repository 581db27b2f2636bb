"""A Pending tells a cancelled work from a cancelled waiter, blocking or awaited."""

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref
from collections import Counter
from functools import partial

import pytest

from tinsmith.domain.errors import CancelledWorkError, DeadlineError, WorldError
from tinsmith.ports.pending import DEADLINE_S, WOKEN_AT_ONCE, Pending, hand_over


async def _awaited(pending):
    return await pending


WAITS = [lambda pending: pending.result(5), lambda pending: asyncio.run(_awaited(pending))]


@pytest.mark.parametrize("wait", WAITS, ids=["result", "await"])
def test_results_and_errors_arrive(wait):
    assert wait(Pending.of(3).then(lambda n: n + 1)) == 4
    failed = concurrent.futures.Future()
    failed.set_exception(WorldError("down"))
    with pytest.raises(WorldError, match="down"):
        wait(Pending(failed).then(lambda n: n + 1))
    with pytest.raises(ZeroDivisionError):
        wait(Pending.of(0).then(lambda n: 1 / n))


@pytest.mark.parametrize("wait", WAITS, ids=["result", "await"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancelled_work_raises_its_own_error(wait, steps):
    future = concurrent.futures.Future()
    pending = Pending(future)
    for _ in range(steps):
        pending = pending.then(lambda n: n)
    future.cancel()
    future.set_running_or_notify_cancel()
    with pytest.raises(CancelledWorkError):
        wait(pending)


def test_a_cancelled_waiter_is_cancelled_and_tells_the_work():
    told = []
    pending = Pending(concurrent.futures.Future(), on_cancel=lambda: told.append(True))

    async def main():
        task = asyncio.create_task(_awaited(pending))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Pending(concurrent.futures.Future()), 0.01)

    asyncio.run(main())
    assert told == [True]
    assert pending.done()


def test_a_deadline_leaves_the_work_running():
    future = concurrent.futures.Future()
    with pytest.raises(DeadlineError):
        Pending(future).result(0.01)
    future.set_result(1)
    assert Pending(future).result(0.01) == 1


def test_a_deadline_error_of_the_work_itself_is_passed_on():
    future = concurrent.futures.Future()
    future.set_exception(TimeoutError("inside"))
    with pytest.raises(TimeoutError, match="inside"):
        Pending(future).result(1)


def test_a_wait_without_a_limit_of_its_own_has_one():
    class Asked(concurrent.futures.Future):
        def result(self, timeout=None):
            return timeout

    assert Pending(Asked()).result() == DEADLINE_S
    assert Pending(Asked()).result(None) is None, "for ever only when that is said"


def test_many_that_finish_at_once_are_woken_some_a_round_and_leave_nothing_behind():
    """Between rounds the loop looks at its clock; and what was awaited is freed without the collector."""
    futures = [concurrent.futures.Future() for _ in range(200)]
    woken_in_round = Counter()

    class Result:
        pass

    async def main():
        rounds = 0

        async def one(future):
            await Pending(future)
            woken_in_round[rounds] += 1

        tasks = [asyncio.create_task(one(future)) for future in futures]
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: [future.set_result(Result()) for future in futures])
        thread.start()
        thread.join()
        while not all(task.done() for task in tasks):
            rounds += 1
            await asyncio.sleep(0)

    gc.disable()
    try:
        asyncio.run(main())
        seen = [weakref.ref(future.result()) for future in futures]
        futures.clear()
        assert not any(ref() for ref in seen)
    finally:
        gc.enable()
    assert sum(woken_in_round.values()) == 200
    assert max(woken_in_round.values()) <= WOKEN_AT_ONCE


def test_work_that_finishes_after_its_loop_was_closed_disturbs_nobody():
    future = concurrent.futures.Future()

    async def main():
        asyncio.create_task(_awaited(Pending(future)))  # noqa: RUF006 - left behind on purpose
        await asyncio.sleep(0)

    future.set_running_or_notify_cancel()
    asyncio.run(main())
    future.set_result(1)


def test_each_loop_wakes_its_own():
    futures = [concurrent.futures.Future() for _ in range(2)]
    found = [None, None]

    def run(i):
        found[i] = asyncio.run(_awaited(Pending(futures[i])))

    for again in range(2):  # a second loop in the same thread too
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for i, future in enumerate(futures):
            future.set_result((again, i))
        for thread in threads:
            thread.join(10)
        assert found == [(again, 0), (again, 1)]
        futures[:] = [concurrent.futures.Future() for _ in range(2)]


def test_callbacks_run_on_the_loop_each_once_whatever_others_do():
    class Result:
        pass

    finished = [concurrent.futures.Future() for _ in range(30)]
    seen: list[tuple[int, object]] = []
    complaints: list[str] = []
    every = asyncio.Event()

    def take(number: int, pending: Pending) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((number, weakref.ref(pending.result(0))))
        if len(seen) == len(finished):
            every.set()
        if number % 3 == 0:
            raise BaseException(number)  # what a panic in Rust is

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(str(context["exception"]))
        )
        for number, future in enumerate(finished):
            Pending(future).when_done(partial(take, number))
        thread = threading.Thread(target=lambda: [future.set_result(Result()) for future in finished])
        thread.start()
        thread.join()
        await asyncio.wait_for(every.wait(), 5)

    gc.disable()
    try:
        asyncio.run(main())
        finished.clear()
        assert not any(ref() for _, ref in seen), "a result outlives its callback until the collector comes"
    finally:
        gc.enable()
    assert [number for number, _ in seen] == list(range(30))
    assert complaints == [str(number) for number in range(0, 30, 3)]


def test_work_that_is_handed_over_has_begun():
    """A thread that stays busy keeps the interpreter from one that wakes for `sys.getswitchinterval()`."""
    asked, begun = threading.Event(), threading.Event()

    def work() -> None:
        asked.wait(5)
        begun.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(5.0)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        asked.set()
        for _ in range(1000):  # far below the interval, also on a busy machine
            hand_over()
            if begun.is_set():
                break
        assert begun.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
