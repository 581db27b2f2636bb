"""The supervised and the reinforcement-learning loop, on the backend in memory."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tinsmith.domain import answers
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import DataError, DeadlineError, NonFiniteError, WorldError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.envs.problem import Problem, ProblemSet, ProblemTask
from tinsmith.ports.progress import Silent
from tinsmith.ports.trainer import LossSpec
from tinsmith.rendering import get
from tinsmith.testing import FakeClock, FakeGrader, FakeTokenizer, FakeTrainer, MemoryBlobStore
from tinsmith.testing.faulty import Fail, Hang, Schedule, faulty
from tinsmith.testing.files import MemoryDisk
from tinsmith.workflows.evaluation import NllObjective
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rl import RLLoop, RLSettings, _merged
from tinsmith.workflows.rollout_log import from_lines
from tinsmith.workflows.settings import AdamSettings, CheckpointSettings, OptimizerSettings
from tinsmith.workflows.supervised import SupervisedLoop, SupervisedSettings
from tinsmith.workflows.supervised_data import SupervisedData

TOKENIZER = FakeTokenizer()
RENDERER = get("chatml", TOKENIZER)
PATH = Path("/run")
NO_FAULTS: Schedule = {}
LIKELY = TOKENIZER.encode("0123456789").tolist() + list(RENDERER.stop.ids)


def examples(n: int) -> list[tuple[Datum, ...]]:
    return [
        RENDERER.supervised(
            Conversation((Message.user(f"{i} {'x' * (i % 5)}"), Message.assistant(f"yes {i % 3}")))
        ).datums
        for i in range(n)
    ]


def optimizer(learning_rate: float = 0.05) -> OptimizerSettings:
    return OptimizerSettings(
        learning_rate=learning_rate, schedule="constant", warmup_steps=0, adam=AdamSettings(beta2=0.99)
    )


def open_run(disk: MemoryDisk) -> RunDirectory:
    return RunDirectory.open(PATH, recipe="test", config={}, files=disk.mount(), clock=FakeClock())


def lines(disk: MemoryDisk, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    text = b"".join(disk.mount().stream(PATH / name)).decode()
    return [json.loads(line) for line in text.splitlines()]


def supervised(
    disk: MemoryDisk,
    states: MemoryBlobStore,
    *,
    count: int = 10,
    batch_size: int = 4,
    epochs: int = 3,
    faults: Schedule = NO_FAULTS,
    **settings: object,
) -> FakeTrainer:
    trainer = FakeTrainer(TOKENIZER, states=states)
    with open_run(disk) as directory:
        SupervisedLoop(
            faulty(trainer, faults),
            SupervisedData(examples(count), seed=1),
            NllObjective(test=[d for e in examples(3) for d in e]),
            SupervisedSettings(
                batch_size=batch_size,
                num_epochs=epochs,
                optimizer=optimizer(),
                checkpoints=CheckpointSettings(every=2),
                **settings,  # type: ignore[arg-type]
            ),
            directory,
            Silent(),
        ).run()
    return trainer


def test_supervised_learns_and_counts_every_example() -> None:
    disk = MemoryDisk()
    supervised(disk, MemoryBlobStore(), eval_every=4)
    rows = lines(disk)
    steps = [row for row in rows if "train_mean_nll" in row]
    assert [row["step"] for row in rows] == list(range(9))
    assert len(steps) == 9, "10 examples in batches of 4 are 3 steps an epoch"
    assert sum(row["num_sequences"] for row in steps) == 30
    assert steps[-1]["train_mean_nll"] < 0.7 * steps[0]["train_mean_nll"]
    assert rows[0]["test/nll"] > rows[4]["test/nll"] > rows[-1]["final/test/nll"]


def test_a_data_set_smaller_than_a_batch_is_one_step_an_epoch() -> None:
    disk = MemoryDisk()
    supervised(disk, MemoryBlobStore(), count=3, batch_size=64, epochs=2)
    assert [row["num_sequences"] for row in lines(disk) if "num_sequences" in row] == [3, 3]


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one() -> None:
    whole, parts = MemoryDisk(), MemoryDisk()
    reference = supervised(whole, MemoryBlobStore(), max_steps=8)
    states = MemoryBlobStore()
    supervised(parts, states, max_steps=3)
    again = supervised(parts, states, max_steps=8)
    assert again.weights.tobytes() == reference.weights.tobytes()
    assert [_timeless(r) for r in lines(parts) if "train_mean_nll" in r and r["step"] >= 3] == [
        _timeless(r) for r in lines(whole) if "train_mean_nll" in r and r["step"] >= 3
    ]


def test_another_batch_size_goes_on_at_the_next_example() -> None:
    disk, states = MemoryDisk(), MemoryBlobStore()
    supervised(disk, states, batch_size=4, epochs=2, max_steps=2)
    supervised(disk, states, batch_size=3, epochs=2)
    sizes = [row["num_sequences"] for row in lines(disk)]
    assert sizes == [4, 4, 2, 3, 3, 3, 1]
    assert sum(sizes) == 20, "each example once an epoch"


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="no example"):
        SupervisedData([])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_without_a_finite_loss_is_named_and_leaves_a_checkpoint() -> None:
    disk, states = MemoryDisk(), MemoryBlobStore()
    trainer = FakeTrainer(TOKENIZER, states=states)
    huge = OptimizerSettings(learning_rate=1e308, schedule="constant", warmup_steps=0, adam=AdamSettings())
    settings = SupervisedSettings(batch_size=4, num_epochs=5, optimizer=huge, checkpoints=CheckpointSettings(every=0))
    with open_run(disk) as directory, pytest.raises(NonFiniteError, match=r"^step \d+: "):
        SupervisedLoop(trainer, SupervisedData(examples(8)), NllObjective(), settings, directory, Silent()).run()
    with open_run(disk) as directory:
        point = directory.resume(lambda handle: None)
        assert point is not None
        assert point.step == len([r for r in lines(disk) if "train_mean_nll" in r])


def problems() -> ProblemSet:
    task = ProblemTask(renderer=RENDERER, grader=FakeGrader(), extract=answers.last_number, format_coef=0.0)
    return ProblemSet("digits", task, 8, lambda i: Problem(f"digits/{i}", "Say 7.", "7"), seed=3)


def rl(
    disk: MemoryDisk,
    states: MemoryBlobStore,
    steps: int,
    *,
    trainer: FakeTrainer | None = None,
    faults: Schedule = NO_FAULTS,
    tested: bool = True,
    teacher_context: int | None = None,
    **settings: object,
) -> FakeTrainer:
    trainer = trainer or FakeTrainer(TOKENIZER, states=states, likely=LIKELY)
    kl = settings.get("kl_penalty_coef")
    reference = FakeTrainer(TOKENIZER, likely=LIKELY, context=teacher_context or 512).sampler().result() if kl else None
    with open_run(disk) as directory:
        RLLoop(
            faulty(trainer, faults),
            problems(),
            RLSettings(
                groups_per_batch=4,
                group_size=16,
                max_steps=steps,
                max_tokens=3,
                optimizer=optimizer(0.3),
                checkpoints=CheckpointSettings(every=3),
                **settings,  # type: ignore[arg-type]
            ),
            directory,
            Silent(),
            reference=None if reference is None or teacher_context else faulty(reference, faults),
            teachers={"digits": reference} if reference is not None and teacher_context else None,
            test=problems() if tested else None,
            decode=TOKENIZER.decode,
        ).run()
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": LossSpec("ppo"), "num_substeps": 2},
        {"advantages": "mean_std", "remove_constant_groups": False},
        {"kl_penalty_coef": 0.01, "kl_discount_factor": 0.5, "compute_post_kl": True},
    ],
    ids=["plain", "ppo with substeps", "standardised", "KL penalty"],
)
def test_rl_learns(settings: dict[str, object]) -> None:
    disk = MemoryDisk()
    rl(disk, MemoryBlobStore(), 25, **settings)
    rows = lines(disk)
    first, last = rows[0], rows[-1]
    assert last["final/test/env/all/correct"] > first["test/env/all/correct"] + 0.3
    trained = next(row for row in rows if "optim/kl_sample_train_v1" in row)
    assert trained["env/all/total_episodes"] == 64
    stops = [value for name, value in trained.items() if name.startswith("env/all/stop/")]
    assert sum(stops) == pytest.approx(1), "each episode has exactly one stop reason"
    if settings.get("num_substeps", 1) == 1:
        assert abs(trained["optim/kl_sample_train_v1"]) < 1e-5, "on policy the ratio is 1"
    if "kl_penalty_coef" in settings:
        assert abs(trained["kl_policy_base"]) < 1e-5
        assert [row for row in rows if "kl_policy_base" in row][-1]["kl_policy_base"] > 0.01
        assert trained["kl_pre_post_v2"] > 0


def test_rollouts_read_back_to_the_groups_that_were_trained_on() -> None:
    disk = MemoryDisk()
    rl(disk, MemoryBlobStore(), 2)
    text = b"".join(disk.mount().stream(PATH / "rollouts" / "train.jsonl")).decode().splitlines()
    groups = from_lines([line for line in text if json.loads(line)["step"] == 1])
    assert [len(g.episodes) for g in groups] == [16] * 4
    rewards = np.mean([g.rewards for g in groups])
    assert rewards == pytest.approx(lines(disk)[1]["env/all/reward/total"])


def test_what_is_longer_than_its_teacher_reads_stops_no_run() -> None:
    """Where all of it is, nothing is trained, and that is said."""
    prompt = len(problems()[0].task.prompt(Problem("", "Say 7.", "7")).tokens)  # type: ignore[attr-defined]
    for room, left_out in ((3, 0), (2, None), (0, 64)):
        disk = MemoryDisk()
        settings = {"kl_penalty_coef": 1.0, "reward_coef": 0.0, "remove_constant_groups": False}
        trained = rl(disk, MemoryBlobStore(), 2, teacher_context=prompt + room, **settings)
        for row in lines(disk):
            told = row["teacher_left_out"]
            assert told == left_out if left_out is not None else 0 < told < 64
            assert (row["num_loss_tokens"] > 0) == (told < 64)
        if left_out == 64:
            assert trained.weights.tobytes() == FakeTrainer(TOKENIZER, likely=LIKELY).weights.tobytes()


def test_rl_goes_on_from_a_checkpoint_as_if_never_stopped() -> None:
    whole, parts = MemoryDisk(), MemoryDisk()
    reference = rl(whole, MemoryBlobStore(), 7)
    states = MemoryBlobStore()
    rl(parts, states, 4)
    again = rl(parts, states, 7)
    assert again.weights.tobytes() == reference.weights.tobytes()


def _timeless(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if not k.startswith("time/") and k != "progress" and "test/" not in k}


def test_metrics_of_substeps_are_sums_over_counts() -> None:
    parts = [
        (10, {"a:sum": 1.0, "r:max": 2.0, "r:min": 2.0, "m:mean": 1.0}),
        (30, {"a:sum": 3.0, "r:max": 1.0, "r:min": 1.0, "m:mean": 2.0, "late": 4.0}),
    ]
    assert _merged(parts) == {"a:sum": 4.0, "r:max": 2.0, "r:min": 1.0, "m:mean": 1.75, "late": 4.0}


# A backend that fails, or owes its results


@pytest.mark.parametrize(
    ("method", "call", "where"),
    [
        ("forward_backward", 2, "step 1: the forward and backward pass"),
        ("optim_step", 3, "step 2: the optimizer step"),
        ("forward", 2, "step 1: the evaluation"),
        ("save_state", 1, "step 1: saving the periodic checkpoint after 2 steps"),
    ],
)
def test_a_supervised_backend_that_owes_a_result_costs_its_deadline(method: str, call: int, where: str) -> None:
    with pytest.raises(DeadlineError, match=f"^{where}.* within 1.5 s.*timeout_s"):
        supervised(MemoryDisk(), MemoryBlobStore(), faults={(method, call): Hang()}, timeout_s=1.5, eval_every=1)


@pytest.mark.parametrize(
    ("method", "call", "where"),
    [
        ("sampler", 2, "step 1: the sampler"),
        ("sample", 7, "step 1: a sampling or environment call"),
        ("score", 3, "step 0: scoring by the reference"),
        ("forward", 2, "step 0: the forward pass after the update"),
        ("backward", 1, "step 0: the forward and backward pass"),
        ("optim_step", 1, "step 0: the optimizer step"),
        ("save_state", 1, "saving the periodic checkpoint after 3 steps"),
    ],
)
def test_an_rl_backend_that_owes_a_result_costs_its_deadline(method: str, call: int, where: str) -> None:
    with pytest.raises(DeadlineError, match=f"^{where}.* 1.5 s.*timeout_s"):
        rl(
            *(MemoryDisk(), MemoryBlobStore(), 4),
            faults={(method, call): Hang()},
            timeout_s=1.5,
            kl_penalty_coef=0.01,
            compute_post_kl=True,
            remove_constant_groups=False,
            tested=False,
        )


def test_a_state_that_never_loads_costs_its_deadline() -> None:
    disk, states = MemoryDisk(), MemoryBlobStore()
    supervised(disk, states, max_steps=2)
    with pytest.raises(DeadlineError, match="loading 000002-final"):
        supervised(disk, states, max_steps=3, faults={("load_state", 1): Hang()}, timeout_s=1.5)


class Counting(FakeTrainer):
    """Keeps the samplers it made, and knows which were closed."""

    def sampler(self):  # type: ignore[no-untyped-def]
        if not hasattr(self, "made"):
            self.made, self.shut = [], []

        def seen(sampler):  # type: ignore[no-untyped-def]
            self.made.append(sampler)
            close = sampler.close
            sampler.close = lambda: (self.shut.append(sampler), close())
            return sampler

        return super().sampler().then(seen)


NOT_FINITE = Fail(NonFiniteError("the loss is nan"))


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {("backward", 2): NOT_FINITE},
        {("optim_step", 2): NOT_FINITE},
        {("sample", 1): NOT_FINITE},  # of the first evaluation
        {("sample", 30): NOT_FINITE},  # of the final one
        {("save_state", 1): Fail(WorldError("down"))},
    ],
    ids=["complete", "a loss", "a step", "the first evaluation", "the final evaluation", "a save"],
)
def test_every_sampler_that_was_made_is_closed(faults: Schedule) -> None:
    disk = MemoryDisk()
    trainer = Counting(TOKENIZER, states=MemoryBlobStore())
    with contextlib.suppress(NonFiniteError, WorldError):
        rl(disk, trainer.states, 4, trainer=trainer, faults=faults, remove_constant_groups=False)
    assert trainer.made
    trainer.weights  # what was submitted is done  # noqa: B018
    assert {id(s) for s in trainer.made} == {id(s) for s in trainer.shut}


@pytest.mark.parametrize(
    ("faults", "said", "kept"),
    [
        ({("backward", 3): NOT_FINITE}, "step 2: the loss is nan; the last checkpoint is 000002-rolling", 2),
        ({("sample", 1): NOT_FINITE}, "step 0: the loss is nan; the last checkpoint is the start", None),
        ({("sample", 32): NOT_FINITE}, "step 3: the loss is nan; the last checkpoint is 000003-periodic", 3),
        ({("forward", 4): NOT_FINITE}, "step 1: the loss is nan; the last checkpoint is the start", None),
    ],
    ids=["a loss", "the first evaluation", "the final evaluation", "after the update"],
)
def test_what_is_not_finite_names_step_and_checkpoint(faults: Schedule, said: str, kept: int | None) -> None:
    """And no weights are saved as those of a step that they are not of."""
    disk, states = MemoryDisk(), MemoryBlobStore()
    with pytest.raises(NonFiniteError, match=f"^{said}$"):
        rl(disk, states, 4, faults=faults, remove_constant_groups=False, compute_post_kl="forward" in str(faults))
    with open_run(disk) as directory:
        point = directory.resume(lambda handle: None)
    assert (point and point.step) == kept


def test_an_evaluation_that_is_not_finite_names_its_step_and_saves_nothing() -> None:
    disk = MemoryDisk()
    with pytest.raises(NonFiniteError, match=r"^step 3: the loss is nan; the last checkpoint is 000002-periodic$"):
        supervised(disk, MemoryBlobStore(), faults={("forward", 4): NOT_FINITE}, eval_every=1)


def test_the_reason_of_the_end_is_the_true_one() -> None:
    def reasons(disk: MemoryDisk) -> list[str]:
        journal = b"".join(disk.mount().stream(PATH / "journal.jsonl")).decode()
        return re.findall(r'"reason":"([^"]*)"', journal)

    disk, states = MemoryDisk(), MemoryBlobStore()
    supervised(disk, states, max_steps=5)
    supervised(disk, states, max_steps=3)  # lowered: past it already
    supervised(disk, states)
    assert reasons(disk) == ["max_steps", "max_steps", "end of data"]
