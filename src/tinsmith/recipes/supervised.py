"""What recipes that learn from examples share: options, the run itself, its report, and what `check` says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.cost import Tokens
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, costs, inline_evals
from tinsmith.workflows.evaluation import Objective
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.supervised import SupervisedLoop, SupervisedSettings
from tinsmith.workflows.supervised_data import TrainingData, steps_between


@frozen(kw_only=True)
class SupervisedConfig(common.RunConfig):
    """Options of every recipe that learns from examples."""

    batch_size: int = option(32, help="examples an optimizer step", min=1)
    num_epochs: int = option(1, help="passes over the data", min=1)
    max_steps: int | None = option(None, help="optimizer steps at most", min=1)
    learning_rate: float = option(1e-3, help="peak learning rate", exclusive_min=0)
    eval_every: int = option(
        0, help="steps between evaluations (test data, evals=); 0 evaluates at the end alone", min=0
    )


def train(
    recipe: str,
    config: SupervisedConfig,
    path: Path,
    model: Model,
    data: TrainingData,
    objective: Callable[[Meter], Objective],
    progress: Progress,
    report: Callable[[Progress, RunDirectory], None],
) -> str:
    """One run, from opening its directory to its report; gives the handle of its last state. `objective` is made with
    the meter of the run."""
    for note in ends_early(config, data):
        progress.note(note)
    with (
        inline_evals.evaluators(config, model, progress) as evaluators,
        common.open_run(recipe, config, path, progress) as directory,
        common.tracked(recipe, config, path, progress) as shown,
        closing(common.make_trainer(model, config, directory)) as trainer,
    ):
        meter = Meter(costs.spending(config), directory.spent)
        loop = SupervisedLoop(
            trainer, data, objective(meter), settings(config), directory, shown, meter=meter, evaluators=evaluators
        )
        loop.run()
        common.export(model, trainer, config, directory, progress)
        report(progress, directory)
        inline_evals.report(directory, progress)
        last = directory.last_checkpoint
        assert last is not None
        return last.handle


def settings(config: SupervisedConfig) -> SupervisedSettings:
    return SupervisedSettings(
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        max_steps=config.max_steps,
        optimizer=common.optimizer(config),
        checkpoints=config.checkpoints,
        eval_every=config.eval_every,
        timeout_s=config.timeout_s,
        spending=costs.spending(config),
    )


def report_nll(progress: Progress, directory: RunDirectory) -> None:
    report(progress, directory, ("train_mean_nll", "train_mean_bpb", "test/nll", "test/bpb"))


def report(progress: Progress, directory: RunDirectory, names: tuple[str, ...]) -> None:
    """First and last step, what was trained in all, and where the run is; also of a run that was complete before."""
    lines = directory.read_metrics()
    steps = [line for line in lines if "num_tokens" in line]
    first, last = steps[0], steps[-1]
    tokens = sum(line["num_tokens"] for line in steps)
    spent = sum(line["time/step"] for line in steps)
    rows = [
        [name, first.get(name, ""), last.get(f"final/{name}", last.get(name))]
        for name in names
        if name in last or f"final/{name}" in last
    ]
    rows += [["tokens", "", tokens], ["time, s", "", spent], ["tokens/s", "", tokens / spent if spent else 0]]
    progress.table("result", ["", "first step", "last"], rows)
    progress.note(f"run directory: {directory.path}")


def ends_early(config: SupervisedConfig, data: TrainingData) -> Iterator[str]:
    """What to say when the passes over the data end before `max_steps`."""
    steps = steps_between(data, 0, config.num_epochs * len(data), config.batch_size)
    if config.max_steps is not None and steps < config.max_steps:
        yield (
            f"num_epochs={config.num_epochs} ends the run after {steps} step{'s' * (steps != 1)}, before "
            f"max_steps={config.max_steps}; for more steps take a larger num_epochs"
        )


def forecast(
    config: SupervisedConfig,
    model: Model,
    data: TrainingData,
    tokens: float,
    test_tokens: float,
    *,
    read: float = 0.0,
) -> Iterator[str]:
    """What a run would take; `tokens` are those of an example on average, `read` what is read of it without being
    trained, `test_tokens` those of an evaluation."""
    steps = steps_between(data, 0, config.num_epochs * len(data), config.batch_size)
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    seen = 0
    for _ in range(steps):  # the last batch of a pass may be short
        seen += min(config.batch_size, len(data) - seen % len(data))
    yield costs.estimate(model, config.lora, steps, seen * tokens)
    evaluations = 1 + (-(-steps // config.eval_every) if config.eval_every else 0)
    measured = yield from inline_evals.forecast(config, model, evaluations)
    used = Tokens(train=seen * tokens, prefill=test_tokens * evaluations + seen * read)
    yield from costs.forecast(config, used + measured)
