"""Whatever fails, every sandbox that was created is released: created = released + live, at any moment."""

import threading

from hypothesis import example, given
from hypothesis import strategies as st

from tinsmith.adapters.sandbox.pool import SandboxPool
from tinsmith.domain.errors import CancelledWorkError, WorldError
from tinsmith.ports.sandbox import End, Isolation, Limits, Program, Ran, SandboxError
from tinsmith.testing.faulty import Fail, Late, Raise, faulty

ALL = Isolation(network=True, files=True, memory=True, disk=True, processes=True)


class Backend:
    """Sandboxes that are numbers, and a list of those that there are."""

    name, isolation, limits = "counted", ALL, Limits()

    def __init__(self):
        self.there, self.made, self.lock = set(), 0, threading.Lock()

    def create(self, stop):
        with self.lock:
            self.made += 1
            self.there.add(self.made)
            return self.made

    def run(self, sandbox, program, stop):
        assert sandbox in self.there, "it is used before it is released"
        if program.source == "for ever":
            ended = threading.Event()
            with stop.calling(ended.set):
                assert ended.wait(60)
            raise SandboxError("stopped")
        return Ran(end=End.EXITED, exit_code=0, stdout=program.source.encode(), stderr=b"")

    def release(self, sandbox):
        with self.lock:
            self.there.discard(sandbox)


ERRORS = (WorldError("gone"), OSError("reset"), TimeoutError("late"), KeyError("a mistake in the adapter"))
FAULTS = st.one_of(st.sampled_from([Raise(e) for e in ERRORS]), st.just(Late(0.001)))
RELEASES = st.one_of(FAULTS, st.sampled_from([Fail(e) for e in ERRORS]))
SCHEDULES = st.builds(
    lambda create, run, release: {**create, **run, **release},
    st.dictionaries(st.tuples(st.just("create"), st.integers(1, 8)), FAULTS, max_size=4),
    st.dictionaries(st.tuples(st.just("run"), st.integers(1, 8)), RELEASES, max_size=4),
    st.dictionaries(st.tuples(st.just("release"), st.integers(1, 12)), RELEASES, max_size=6),
)
RUNS = st.lists(st.sampled_from(["quick", "for ever", "cancelled"]), max_size=8)
"""`for ever` ends when it is cancelled alone; `cancelled` is so at once."""


@given(schedule=SCHEDULES, runs=RUNS, at_once=st.integers(1, 3))
@example(schedule={("release", 1): Raise(WorldError("x"))}, runs=["quick"], at_once=1)
@example(schedule={("release", 1): Fail(WorldError("x"))}, runs=["quick", "quick"], at_once=1)
@example(schedule={("run", 1): Raise(KeyError("x"))}, runs=["quick"], at_once=1)
def test_created_is_released_and_live(schedule, runs, at_once):
    backend = Backend()
    pool = SandboxPool(faulty(backend, schedule), max_concurrent=at_once)

    def sound():
        leases = pool.leases
        assert leases.created == leases.released + leases.live

    owed = []
    for kind in runs:
        pending = pool.run(Program(source="quick" if kind == "quick" else "for ever"))
        owed.append((kind, pending))
        sound()
        if kind == "cancelled":
            pending.cancel()
    for kind, pending in owed:
        if kind == "for ever":
            pending.cancel()
        try:
            ran = pending.result(60)
            assert kind == "quick"
            assert ran.stdout == b"quick"
        except CancelledWorkError:
            assert kind != "quick", "nobody cancelled it"
        except (KeyError, SandboxError):
            pass
        sound()
    pool.close()
    sound()
    leases = pool.leases
    failed = sum(method == "release" for method, _ in schedule)
    if failed < 3:  # tries at the end
        assert leases.live == 0, "what can be released is"
        assert not backend.there
    assert leases.created == backend.made, "no more and no less than there were"
    assert leases.live >= len(backend.there), "what is there is on the books"


def test_what_could_not_be_released_is_tried_again_before_the_next_run():
    backend = Backend()
    with SandboxPool(faulty(backend, {("release", 1): Raise(WorldError("x"))}), max_concurrent=1) as pool:
        assert pool.run(Program(source="1")).result(60).ok, "what the program did is known"
        assert pool.leases.live == 1
        assert pool.run(Program(source="2")).result(60).ok
        pool.close()
        assert pool.leases.live == 0
        assert not backend.there
