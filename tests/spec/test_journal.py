"""What a run is.

A run is what its journal says. It can be killed at any moment, by a signal, a full disk or a power cut, and the same
command goes on with it; what comes out is what would have come out of the run that was never killed: the same metrics,
the same datums, the same rollouts, the same weights, bit for bit. Only times differ.

The laws are tested on a toy trainer of a few floats, whose every byte goes through a disk in memory that dies at any
operation, tears what it was writing, and after a power cut forgets any part of what was not synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import evolve, field, frozen, mutable
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tinsmith.domain.errors import JournalError
from tinsmith.ports.files import exists, read
from tinsmith.testing.fakes import FakeClock
from tinsmith.testing.files import MemoryDisk, MemoryFiles, ProcessDied
from tinsmith.workflows.journal import ResumePoint, RunDirectory
from tinsmith.workflows.journal.records import Record, Resumed, Started, Step, decode, encode, live, scan

RUN = Path("/runs/toy")


# A toy trainer: deterministic, with weights, a momentum, a random generator, and a place in its data.


@frozen
class Toy:
    weights: tuple[float, ...] = (0.5, -0.25, 0.125)
    momentum: tuple[float, ...] = (0.0, 0.0, 0.0)
    random: int = 1
    samples: int = 0
    """How many samples were trained: the cursor, so that the batch size may change between resumes."""

    def to_bytes(self) -> bytes:
        return struct.pack("<6d2q", *self.weights, *self.momentum, self.random, self.samples)

    @staticmethod
    def from_bytes(data: bytes) -> Toy:
        numbers = struct.unpack("<6d2q", data)
        return Toy(numbers[:3], numbers[3:6], numbers[6], numbers[7])


@frozen
class Trained:
    """What one step does: the state after it, and what is recorded of it."""

    after: Toy
    metrics: dict[str, float]
    datums: str
    rollouts: list[dict[str, Any]]


def train_one(toy: Toy, batch_size: int) -> Trained:
    random, weights, momentum, batch, loss = toy.random, toy.weights, toy.momentum, b"", 0.0
    for sample in range(toy.samples, toy.samples + batch_size):
        random = (random * 1103515245 + 12345) % 2**31
        x = random / 2**31
        batch += struct.pack("<qd", sample, x)
        error = sum(w * x**i for i, w in enumerate(weights)) - 1 / (1 + x)
        loss += error**2
        momentum = tuple(0.9 * m + error * x**i for i, m in enumerate(momentum))
        weights = tuple(w - 0.05 * m for w, m in zip(weights, momentum, strict=True))
    after = Toy(weights, momentum, random, toy.samples + batch_size)
    metrics = {"loss": loss / batch_size, "odd": float("nan") if random % 3 == 0 else 1.0}
    return Trained(after, metrics, hashlib.sha256(batch).hexdigest(), [{"text": f"é{s}"} for s in range(random % 3)])


def evaluate(toy: Toy) -> dict[str, float]:
    return {"test/loss": sum(toy.weights)}


def save(files: MemoryFiles, run: RunDirectory, name: str, toy: Toy) -> str:
    """Save as a trainer does: bytes in a folder, not synced."""
    folder = run.checkpoints / name
    files.make_directory(folder)
    files.append(folder / "state", toy.to_bytes())
    return name


def trainer_of(files: MemoryFiles, into: list[Toy]) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What loads a state, into a list, and what deletes one."""

    def load(handle: str) -> None:
        into[:] = [Toy.from_bytes(read(files, RUN / "checkpoints" / handle / "state"))]

    return load, lambda handle: files.remove(RUN / "checkpoints" / handle)


def open_run(
    files: MemoryFiles, clock: FakeClock, batch_size: int = 2, if_exists: Any = "resume", keep_rolling: int = 1
) -> RunDirectory:
    return RunDirectory.open(
        RUN,
        recipe="toy",
        config={"batch_size": batch_size, "rate": 0.05},
        may_change={"batch_size"},
        if_exists=if_exists,
        keep_rolling=keep_rolling,
        files=files,
        clock=clock,
    )


def lines(files: MemoryFiles, path: Path) -> list[dict[str, Any]]:
    text = read(files, path).decode() if exists(files, path) else ""
    assert text == "" or text.endswith("\n")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def as_written(values: dict[str, Any]) -> dict[str, Any]:
    return {k: "NaN" if v != v else v for k, v in values.items()}


# 1. A record is a line.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
metric_values = st.floats() | st.integers()
records = st.builds(
    lambda step, metrics, time: Record(0, Step(step=step, metrics=metrics, datums="d"), 0, time),
    st.integers(0, 10**6),
    st.dictionaries(st.text(), metric_values, max_size=5),
    st.floats(0, 2e9).map(lambda t: round(t, 3)),
)


@given(records)
def test_a_record_is_one_line_of_valid_json_and_reads_back(record: Record) -> None:
    line = encode(record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    back = decode(line[:-1])
    assert back is not None
    assert isinstance(back.event, Step)
    assert isinstance(record.event, Step)
    assert back == evolve(record, event=evolve(record.event, metrics=back.event.metrics))
    for name, value in record.event.metrics.items():
        # Bit for bit, NaN and infinities too.
        assert struct.pack("<d", float(back.event.metrics[name])) == struct.pack("<d", float(value)) or value != value


@given(records, st.data())
def test_a_changed_byte_is_seen(record: Record, data: st.DataObject) -> None:
    line = bytearray(encode(record)[:-1])
    line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(line)) is None


# 2. A torn tail is cut; damage is refused.


def journal_of(durable: list[int]) -> bytes:
    """A journal whose record i was written when durable[i] records were known to be synced."""
    events = [Started(recipe="toy", config={}), *(Step(step=i, metrics={}, datums="") for i in range(len(durable) - 1))]
    return b"".join(encode(Record(i, e, min(d, i))) for i, (e, d) in enumerate(zip(events, durable, strict=True)))


@given(st.integers(1, 8), st.data())
def test_a_journal_torn_at_any_byte_keeps_every_whole_record(count: int, data: st.DataObject) -> None:
    whole = journal_of([0] * count)
    torn = whole[: data.draw(st.integers(0, len(whole)))]
    found = scan(torn, "journal.jsonl")
    assert len(found.records) == torn.count(b"\n")
    assert found.length == torn.rfind(b"\n") + 1


@given(st.lists(st.integers(0, 8), min_size=2, max_size=8), st.data())
def test_a_damaged_record_is_cut_with_what_follows_unless_it_was_durable(
    durable: list[int], data: st.DataObject
) -> None:
    whole = journal_of(durable)
    starts = [0, *(i + 1 for i, byte in enumerate(whole) if byte == 10)]
    bad = data.draw(st.integers(0, len(durable) - 1))
    spoiled = bytearray(whole)
    spoiled[data.draw(st.integers(starts[bad], starts[bad + 1] - 2))] ^= 1
    if any(min(d, i) > bad for i, d in enumerate(durable) if i > bad):
        event("damage")
        with pytest.raises(JournalError, match=rf"journal\.jsonl, line {bad + 1}: .*head -n {bad}\b"):
            scan(bytes(spoiled), "journal.jsonl")
    else:
        event("tail")
        found = scan(bytes(spoiled), "journal.jsonl")
        assert (len(found.records), found.length) == (bad, starts[bad])


def test_a_resume_sets_aside_what_came_after_its_checkpoint() -> None:
    def step(n: int) -> Step:
        return Step(step=n, metrics={}, datums="")

    def back(to: int) -> Resumed:
        return Resumed(step=0, after=to, checkpoint=None, config={})

    events = [Started(recipe="toy", config={}), step(0), step(1), back(1), step(1), step(2), back(4), step(2)]
    kept = live(Record(i, e) for i, e in enumerate(events))
    assert [r.seq for r in kept] == [0, 1, 3, 4, 6, 7]


# 3. A run that dies goes on as if it had not.


def train(
    files: MemoryFiles, clock: FakeClock, steps: int, *, periodic: int, rolling: int, evaluations: int
) -> Toy | None:
    """The loop of a recipe, in short. None when the run was finished already."""
    with open_run(files, clock) as run:
        if run.finished_at == steps:
            return None
        loaded: list[Toy] = []
        point = run.resume(*trainer_of(files, loaded))
        toy = loaded[0] if point else Toy()
        for step in range(point.step if point else 0, steps):
            if step % evaluations == 0:
                run.write_rollouts(step, [{"asked": step}], name="test")
                run.record_evaluation(step, evaluate(toy))
            trained = train_one(toy, 2)
            run.write_rollouts(step, trained.rollouts)
            run.record_step(step, trained.metrics, datums=trained.datums)
            clock.advance(0.3)
            toy = trained.after
            done = step + 1
            keep = "periodic" if done % periodic == 0 else "rolling" if done % rolling == 0 else None
            if keep is not None and done < steps:
                checkpoint(files, run, keep, done, toy)
        if not run.has_checkpoint("final", steps):
            checkpoint(files, run, "final", steps, toy)
        run.record_evaluation(steps, evaluate(toy))
        run.finish("max_steps")
        return toy


def checkpoint(files: MemoryFiles, run: RunDirectory, keep: Any, step: int, toy: Toy) -> None:
    handle = save(files, run, run.checkpoint_name(keep, step), toy)
    run.record_checkpoint(keep, step, handle, {"samples": toy.samples, "random": toy.random})


def outcome(files: MemoryFiles) -> dict[str, Any]:
    """All that a run leaves: everything but times, and the marks of resumes in the names of checkpoints."""
    journal = live(scan(read(files, RUN / "journal.jsonl"), "journal.jsonl").records)
    states = files.list(RUN / "checkpoints")
    return {
        "metrics": read(files, RUN / "metrics.jsonl"),
        "rollouts": [lines(files, RUN / "rollouts" / f"{name}.jsonl") for name in ("train", "test")],
        "datums": [(r.event.step, r.event.datums) for r in journal if isinstance(r.event, Step)],
        "states": {
            re.sub(r"-r[0-9]+$", "", name): read(files, RUN / "checkpoints" / name / "state") for name in states
        },
    }


deaths = st.lists(st.tuples(st.integers(1, 120), st.integers(0, 300), st.booleans()), max_size=6)


@given(
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    deaths,
    st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_a_run_that_was_killed_equals_the_run_that_was_not(
    steps: int, periodic: int, rolling: int, evaluations: int, deaths: list[tuple[int, int, bool]], random: Any
) -> None:
    plan = {"periodic": periodic, "rolling": rolling, "evaluations": evaluations}
    calm = MemoryDisk()
    expected_toy = train(calm.mount(), FakeClock(), steps, **plan)
    expected = outcome(calm.mount())

    disk, clock, toy = MemoryDisk(), FakeClock(), None
    for operation, torn, power in deaths:
        files = disk.mount(crash_at=operation, tear=lambda n, torn=torn: min(n, torn))
        with contextlib.suppress(ProcessDied):
            toy = train(files, clock, steps, **plan) or toy
        event(f"died: {not files.alive}, power cut: {power}")
        disk.power_cut(lambda n: random.randint(0, n)) if power else disk.kill()
    toy = train(disk.mount(), clock, steps, **plan) or toy
    assert outcome(disk.mount()) == expected
    assert toy is None or toy == expected_toy
    assert train(disk.mount(), clock, steps, **plan) is None, "a finished run is finished"
    assert outcome(disk.mount()) == expected
    assert expected["metrics"].count(b"\n") == steps + 1


@pytest.mark.parametrize("survives", ["nothing", "all"])
def test_a_process_killed_at_each_operation_then_a_power_cut_at_the_end(survives: str) -> None:
    """What a killed process left in the page cache, names and bytes, the next one makes durable."""
    plan = {"periodic": 3, "rolling": 1, "evaluations": 2}
    calm = MemoryDisk().mount()
    train(calm, FakeClock(), 3, **plan)
    for operation in range(1, calm.operations + 1):
        disk, clock = MemoryDisk(), FakeClock()
        with pytest.raises(ProcessDied):
            train(disk.mount(crash_at=operation), clock, 3, **plan)
        disk.kill()
        train(disk.mount(), clock, 3, **plan)
        disk.power_cut(lambda n: 0 if survives == "nothing" else n)
        assert train(disk.mount(), clock, 3, **plan) is None, f"the run that died at operation {operation} is lost"
        assert outcome(disk.mount()) == outcome(calm)


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_at_each_operation(seed: int) -> None:
    """Whatever part of what was not synced survives."""
    plan = {"periodic": 3, "rolling": 1, "evaluations": 2}
    calm = MemoryDisk().mount()
    train(calm, FakeClock(), 3, **plan)
    for operation in range(1, calm.operations + 1):
        disk, clock, survives = MemoryDisk(), FakeClock(), Random(1000 * seed + operation)
        with pytest.raises(ProcessDied):
            train(disk.mount(operation, lambda n, s=survives: s.randint(0, n)), clock, 3, **plan)
        disk.power_cut(lambda n, s=survives: s.randint(0, n))
        train(disk.mount(), clock, 3, **plan)
        assert outcome(disk.mount()) == outcome(calm), f"died at operation {operation}"


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_a_finished_run_goes_on_to_more_steps(first: int, more: int, evaluations: int) -> None:
    """But for the final checkpoint that it made on the way, it equals the run that was to take all the steps."""
    plan = {"periodic": 100, "rolling": 100, "evaluations": evaluations}
    straight, twice = MemoryDisk(), MemoryDisk()
    expected = train(straight.mount(), FakeClock(), first + more, **plan)
    train(twice.mount(), FakeClock(), first, **plan)
    assert train(twice.mount(), FakeClock(), first + more, **plan) == expected
    a, b = outcome(straight.mount()), outcome(twice.mount())
    assert [a["rollouts"], a["datums"]] == [b["rollouts"], b["datums"]]
    assert a["states"].items() <= b["states"].items()
    steps = [line["step"] for line in lines(twice.mount(), RUN / "metrics.jsonl")]
    assert steps == list(range(first + more + 1))


def test_rollouts_that_were_cut_do_not_come_back() -> None:
    """A cut that is not durable is undone by a power cut, after a checkpoint has vouched for what was left."""
    disk, clock = MemoryDisk(), FakeClock()
    run = open_run(disk.mount(), clock)
    run.resume(*trainer_of(disk.mount(), []))
    run.write_rollouts(0, [{"text": "of step 0"}])
    run.record_step(0, {}, datums="")
    checkpoint(disk.processes[0], run, "periodic", 1, Toy())
    run.write_rollouts(1, [{"text": "of a step that no checkpoint has"}])
    run.write_rollouts(1, [{"text": "in a file of its own"}], name="test")
    run.close()
    files = disk.mount()
    run = open_run(files, clock)
    run.resume(*trainer_of(files, []))
    checkpoint(files, run, "final", 1, Toy())
    run.finish("max_steps")
    run.close()
    disk.power_cut(lambda n: 0)
    open_run(disk.mount(), clock).close()
    assert lines(disk.mount(), RUN / "rollouts" / "train.jsonl") == [{"step": 0, "text": "of step 0"}]
    assert lines(disk.mount(), RUN / "rollouts" / "test.jsonl") == []


# 4. The same laws, for any order of events, beside a plainer model of a run.


@mutable
class Story:
    """The model: what has been done since step 0, as far as it counts."""

    toy: Toy = Toy()
    steps: list[Trained] = field(factory=list)
    evaluations: dict[int, dict[str, float]] = field(factory=dict)
    asked: list[int] = field(factory=list)
    """Steps of the rows of rollouts/test.jsonl."""

    def before_now(self) -> Story:
        """What a checkpoint made now goes back to: what belongs to the next step is made again."""
        now = len(self.steps)
        evaluations = {s: e for s, e in self.evaluations.items() if s < now}
        return Story(self.toy, list(self.steps), evaluations, [s for s in self.asked if s < now])

    def metrics(self, finished: bool) -> dict[int, dict[str, Any]]:
        """By step; evaluations of a step that is to come are shown when it has come, or at the end."""
        shown = {s: e for s, e in self.evaluations.items() if s < len(self.steps) or finished}
        trained = {s: t.metrics for s, t in enumerate(self.steps)}
        return {
            s: as_written({"step": s} | shown.get(s, {}) | trained.get(s, {}))
            for s in sorted(shown.keys() | trained.keys())
        }

    def rollouts(self) -> list[dict[str, Any]]:
        return [{"step": s, **row} for s, t in enumerate(self.steps) for row in t.rollouts]


@frozen
class Mark:
    """A checkpoint of the model: the story up to it."""

    name: str
    keep: str
    story: Story


class Runs(RuleBasedStateMachine):
    """Processes come and go on one disk. `marks` are the checkpoints that must be there, oldest first; `perhaps` are
    those that may be: a process died while it wrote or deleted them."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.clock = FakeClock()
        self.run: RunDirectory | None = None
        self.batch_size = 0
        self.story = Story()
        self.marks: list[Mark] = []
        self.perhaps: list[Mark] = []
        self.finished = False
        self.perhaps_finished = False
        self.perhaps_new = True  # a process died while it created the run, or replaced it

    # A process

    @initialize(batch_size=st.integers(1, 4), keep_rolling=st.integers(1, 2))
    def create(self, batch_size: int, keep_rolling: int) -> None:
        self.keep_rolling = keep_rolling
        self.start(batch_size, "resume")

    @contextlib.contextmanager
    def process(self) -> Iterator[RunDirectory]:
        """What the running process does next; it may die of it, or stop at a full disk."""
        assert self.run is not None
        try:
            yield self.run
        except ProcessDied:
            event("died at work")
            self.run = None
        except OSError as error:
            if str(RUN) not in str(error):
                raise AssertionError("the error does not say where") from error
            assert self.disk.capacity is not None, "only a full disk may stop a run"
            event(f"full disk: {type(error).__name__}")
            if isinstance(error, JournalError):
                with pytest.raises(JournalError, match="earlier error"):
                    self.run.record_evaluation(0, {})
            with contextlib.suppress(ProcessDied, OSError):
                self.run.close()
            self.disk.capacity = None
            self.run = None

    @rule(operation=st.integers(1, 15), torn=st.integers(0, 400))
    def will_die(self, operation: int, torn: int) -> None:
        self.files.die(self.files.operations + operation, lambda n: min(n, torn))

    @rule(room=st.integers(0, 800))
    def disk_will_be_full(self, room: int) -> None:
        if self.run is not None:
            self.disk.capacity = self.disk.used() + room

    @rule(
        close=st.booleans(),
        power_cut=st.booleans(),
        random=st.randoms(use_true_random=False),
        spoil=st.sampled_from([False] * 5 + [True]),
        deaths=st.lists(
            st.tuples(st.integers(1, 40), st.integers(0, 400), st.booleans(), st.none() | st.integers(0, 600)),
            max_size=2,
        ),
        batch_size=st.integers(1, 4),
        if_exists=st.sampled_from(["resume"] * 9 + ["delete"]),
    )
    def start_again(
        self,
        close: bool,
        power_cut: bool,
        random: Any,
        spoil: bool,
        deaths: list[tuple[int, int, bool, int | None]],
        batch_size: int,
        if_exists: str,
    ) -> None:
        """The process ends if it has not, by itself or not; perhaps the machine does, and perhaps the newest state is
        spoiled; and the next processes start, of which the last gets to work."""

        def lose(power_cut: bool) -> None:
            if power_cut:
                self.disk.power_cut(lambda n: random.randint(0, n))
            else:
                self.disk.kill()

        if close and self.run is not None:
            with self.process() as run:
                run.close()
        self.run = None
        lose(power_cut)
        self.disk.capacity = None
        if spoil and self.marks:
            event("spoiled a state")
            path = RUN / "checkpoints" / self.marks.pop().name / "state"
            self.disk.flip(path, random.randrange(len(self.disk.inode(path).data)))
        self.perhaps_new |= if_exists == "delete"
        for operation, torn, power_cut_then, room in deaths:
            self.disk.capacity = None if room is None else self.disk.used() + room
            self.files = self.disk.mount(operation, lambda n, torn=torn: min(n, torn))
            try:
                run = self.open(batch_size, if_exists)
                run.resume(*trainer_of(self.files, []))
                run.close()
            except ProcessDied:
                event("died while it opened")
            except JournalError:
                assert room is not None, "only a full disk may stop a run"
                event("full disk while it opened")
            self.disk.capacity = None
            lose(power_cut_then)
            self.perhaps_finished |= self.finished
            self.finished = False
        self.start(batch_size, if_exists)

    def ready(self) -> None:
        """Let a process be at work on an unfinished run."""
        if self.run is None or self.finished:
            self.disk.kill()
            self.disk.capacity = None
            self.start(self.batch_size, "resume")

    def open(self, batch_size: int, if_exists: str) -> RunDirectory:
        return open_run(self.files, self.clock, batch_size, if_exists, self.keep_rolling)

    def start(self, batch_size: int, if_exists: str) -> None:
        self.files = self.disk.mount()
        run = self.open(batch_size, if_exists)
        if self.finished and if_exists != "delete":
            event("was finished")
            assert run.finished_at == len(self.story.steps)
            self.check_projections()
        if run.finished_at is not None:
            assert self.finished or self.perhaps_finished
        loaded: list[Toy] = []
        self.went_on(run.resume(*trainer_of(self.files, loaded)), loaded)
        self.run, self.batch_size = run, batch_size

    def went_on(self, point: ResumePoint | None, loaded: list[Toy]) -> None:
        """The checkpoint is the newest that must be there, or a newer one that may be."""
        names = [m.name for m in self.marks]
        by_name = {m.name: m for m in [*self.marks, *self.perhaps]}
        if point is None:
            assert not names or self.perhaps_new, f"resumed from nothing, but there are {names}"
            self.story, self.marks = Story(), []
            event("began at step 0")
        else:
            assert point.name in by_name, f"{point.name} was never made, or is spoiled, or was deleted"
            mark = by_name[point.name]
            newest = self.marks[-1] if self.marks else None
            assert newest is None or len(mark.story.steps) >= len(newest.story.steps)
            assert point.step == len(mark.story.steps)
            assert loaded == [mark.story.toy]
            assert point.cursor == {"samples": mark.story.toy.samples, "random": mark.story.toy.random}
            self.story = mark.story.before_now()
            there = set(self.files.list(RUN / "checkpoints"))
            assert there >= set(names), "a checkpoint is lost"
            assert there <= by_name.keys(), "a state that no checkpoint names was left"
            self.marks = [m for m in [*self.perhaps, *self.marks] if m.name in there]
            self.marks.sort(key=lambda m: (len(m.story.steps), m.name == point.name))
            event("went on from a checkpoint")
        self.perhaps = []
        self.perhaps_new = self.finished = self.perhaps_finished = False

    # What a loop does

    @rule(count=st.integers(1, 3), seconds=st.sampled_from([0.0, 0.3, 1.5]))
    def step(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.ready()
            step, trained = len(self.story.steps), train_one(self.story.toy, self.batch_size)
            with self.process() as run:
                run.write_rollouts(step, trained.rollouts)
                run.record_step(step, trained.metrics, datums=trained.datums)
                self.story.steps.append(trained)
                self.story.toy = trained.after
            self.clock.advance(seconds)

    @rule(late=st.booleans())
    def evaluate(self, late: bool) -> None:
        self.ready()
        step = len(self.story.steps) - (late and len(self.story.steps) > 0)
        metrics = {"test/loss": float(step), "test/late": late}
        with self.process() as run:
            if not self.story.asked or step >= self.story.asked[-1]:
                run.write_rollouts(step, [{"asked": step}], name="test")
                self.story.asked.append(step)
            run.record_evaluation(step, metrics)
            self.story.evaluations[step] = self.story.evaluations.get(step, {}) | metrics

    @rule(keep=st.sampled_from(["periodic", "rolling", "rolling"]))
    def checkpoint(self, keep: Any) -> None:
        self.ready()
        step = len(self.story.steps)
        assert self.run is not None
        if self.run.has_checkpoint(keep, step):
            return
        mark = Mark(self.run.checkpoint_name(keep, step), keep, self.story.before_now())
        rolling = [m for m in [*self.marks, mark] if m.keep == "rolling"]
        dropped = rolling[: -self.keep_rolling]
        kept = [m for m in self.marks if m not in dropped]
        with self.process() as run:
            checkpoint(self.files, run, keep, step, mark.story.toy)
            self.marks = [*kept, mark]
            return
        self.marks, self.perhaps = kept, [*dropped, mark]

    @rule()
    def finish(self) -> None:
        self.checkpoint("final")
        if self.run is not None:
            self.perhaps_finished = True
            with self.process() as run:
                run.finish("max_steps")
                self.finished, self.perhaps_finished = True, False

    # What is always so

    @invariant()
    def files_say_what_was_done(self) -> None:
        if self.run is not None:
            self.check_projections()
            assert json.loads(read(self.disk.mount(), RUN / "config.json"))["batch_size"] == self.batch_size
            assert set(self.disk.mount().list(RUN / "checkpoints")) == {m.name for m in self.marks}

    def check_projections(self) -> None:
        files = self.disk.mount()
        found = lines(files, RUN / "metrics.jsonl")
        assert len({line["step"] for line in found}) == len(found), "a step appears twice"
        assert {line["step"]: line for line in found} == self.story.metrics(self.finished)
        assert lines(files, RUN / "rollouts" / "train.jsonl") == self.story.rollouts()
        asked = [{"step": s, "asked": s} for s in self.story.asked]
        assert lines(files, RUN / "rollouts" / "test.jsonl") == asked


TestRuns = Runs.TestCase
TestRuns.settings = settings(stateful_step_count=40, max_examples=60)
