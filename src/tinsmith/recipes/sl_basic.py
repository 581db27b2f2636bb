"""sl-basic: supervised fine-tuning on conversations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.cost import Tokens
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError, DataError, RenderError
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common
from tinsmith.rendering import NothingToTrain, TooLong, TrainOn
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.supervised import Reduction, SupervisedLoop, SupervisedSettings
from tinsmith.workflows.supervised_data import SupervisedData

NAME = "sl-basic"
RENDERED_AT_ONCE = 1024


@frozen(kw_only=True)
class Config(common.RunConfig):
    data: str = option(help="conversations: a JSONL or JSON file, an object store URL, or hf://NAME")
    test_data: str | None = option(None, help="conversations to evaluate on; none sets `test_size` of the data aside")
    test_size: int = option(0, help="conversations set aside for evaluation", min=0)
    train_on: TrainOn = option(TrainOn.ALL_ASSISTANT_MESSAGES, help="which messages carry the loss")
    max_length: int | None = option(
        None, help="tokens beyond which an example is cut; none is the model's context", min=2
    )
    too_long: Literal["truncate", "skip", "raise"] = option("truncate", help="what becomes of a longer example")
    batch_size: int = option(32, help="conversations an optimizer step", min=1)
    num_epochs: int = option(1, help="passes over the data", min=1)
    max_steps: int | None = option(None, help="optimizer steps at most", min=1)
    learning_rate: float = option(1e-3, help="peak learning rate", exclusive_min=0)
    reduction: Reduction = option("token_mean", help="how token losses make one number a batch")
    eval_every: int = option(0, help="steps between evaluations; 0 evaluates at the end alone", min=0)


def run(config: Config, progress: Progress) -> int:
    common.validate(config)
    model = common.open_model(config)
    examples, test = load_examples(config, model, progress.note)
    data = SupervisedData(examples, config.seed)
    for note in _ends_early(config, data):
        progress.note(note)
    path = config.log_path or common.default_path(NAME, config, Path(config.data).stem)
    with (
        common.open_run(NAME, config, path, progress) as directory,
        common.tracked(NAME, config, path, progress) as shown,
    ):
        trainer = common.make_trainer(model, config, directory)
        try:
            loop = SupervisedLoop(
                trainer, data, settings(config), directory, shown, test=test, token_bytes=model.text_bytes
            )
            loop.run()
            common.export(model, trainer, config, directory, progress)
        finally:
            trainer.close()
        report(progress, directory)
    return 0


def report(progress: Progress, directory: RunDirectory) -> None:
    """First and last step, what was trained in all, and where the run is; also of a run that was complete before."""
    lines = directory.read_metrics()
    steps = [line for line in lines if "train_mean_nll" in line]
    first, last = steps[0], steps[-1]
    tokens = sum(line["num_tokens"] for line in steps)
    spent = sum(line["time/step"] for line in steps)
    rows = [
        [name, first.get(name, ""), last.get(f"final/{name}", last.get(name))]
        for name in ("train_mean_nll", "train_mean_bpb", "test/nll", "test/bpb")
        if name in last or f"final/{name}" in last
    ]
    rows += [["tokens", "", tokens], ["time, s", "", spent], ["tokens/s", "", tokens / spent if spent else 0]]
    progress.table("result", ["", "first step", "last"], rows)
    progress.note(f"run directory: {directory.path}")


def check(config: Config) -> Iterable[Any]:
    """One rendered example with its weights, and what the run would take; trains nothing."""
    common.validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    examples, test = load_examples(config, model, notes.append)
    data = SupervisedData(examples, config.seed)
    steps = data.steps_between(0, config.num_epochs * len(data), config.batch_size)
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    tokens = [sum(d.num_tokens for d in example) for example in examples]
    seen = 0
    for _ in range(steps):  # the last batch of a pass may be short
        seen += min(config.batch_size, len(examples) - seen % len(examples))
    yield from notes
    yield from _ends_early(config, data)
    yield from common.show_example(model, examples[0][0])
    yield (
        f"{len(examples)} examples, {sum(tokens)} tokens (median {int(np.median(tokens))}, longest {max(tokens)}), "
        f"{len(test)} test datums"
    )
    trained = seen * float(np.mean(tokens))
    yield common.estimate(model, config, steps, trained)
    evaluated = sum(d.num_tokens for d in test) * (1 + (-(-steps // config.eval_every) if config.eval_every else 0))
    yield from common.forecast(config, Tokens(train=trained, prefill=evaluated))


def _ends_early(config: Config, data: SupervisedData) -> Iterator[str]:
    """What to say when the passes over the data end before `max_steps`."""
    steps = data.steps_between(0, config.num_epochs * len(data), config.batch_size)
    if config.max_steps is not None and steps < config.max_steps:
        yield (
            f"num_epochs={config.num_epochs} ends the run after {steps} step{'s' * (steps != 1)}, before "
            f"max_steps={config.max_steps}; for more steps take a larger num_epochs"
        )


def settings(config: Config) -> SupervisedSettings:
    return SupervisedSettings(
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        max_steps=config.max_steps,
        reduction=config.reduction,
        optimizer=common.optimizer(config),
        checkpoints=config.checkpoints,
        eval_every=config.eval_every,
        timeout_s=config.timeout_s,
        spending=common.spending(config),
    )


def load_examples(
    config: Config, model: Model, note: Callable[[str], object]
) -> tuple[list[tuple[Datum, ...]], list[Datum]]:
    """All examples as datums, and the test datums. A malformed row stops here, before anything is trained."""
    examples = list(_examples(config.data, config, model, note))
    if config.test_data is not None:
        test = list(_examples(config.test_data, config, model, note))
    else:
        if config.test_size >= len(examples):
            raise ConfigError(
                f"test_size={config.test_size} leaves nothing to train on: there are {len(examples)} examples"
            )
        chosen = set(np.random.default_rng([config.seed, 1]).permutation(len(examples))[: config.test_size].tolist())
        test = [e for i, e in enumerate(examples) if i in chosen]
        examples = [e for i, e in enumerate(examples) if i not in chosen]
    return examples, [d for example in test for d in example]


def _examples(where: str, config: Config, model: Model, note: Callable[[str], object]) -> Iterator[tuple[Datum, ...]]:
    source = bootstrap.open_source(where)
    max_length = min(config.max_length or model.context, model.context)
    overlong = "truncate" if config.too_long == "truncate" else "refuse"
    count = empty = long = cut = 0
    total, said = source.count(), time.monotonic()
    rows = enumerate(source, 1)
    while part := list(islice(rows, RENDERED_AT_ONCE)):
        if time.monotonic() - said > 5:
            said = time.monotonic()
            note(f"{source.name}: rendering, {part[0][0]} of {total or '?'} rows")
        examples = model.renderer.supervised_batch(
            [conversation_from_row(row, source=source.name, line=line) for line, row in part],
            train_on=config.train_on,
            max_length=max_length,
            overlong=overlong,
        )
        for (line, _), example in zip(part, examples, strict=True):
            if isinstance(example, NothingToTrain):
                empty += 1
            elif isinstance(example, TooLong) and config.too_long != "raise":
                long += 1
            elif isinstance(example, RenderError):
                hint = "; or too_long=truncate|skip" if isinstance(example, TooLong) else ""
                raise DataError(f"{example}{hint}", source=source.name, line=line) from example
            elif example.media:
                raise DataError("holds images or sounds; this trainer takes text only", source=source.name, line=line)
            else:
                cut += example.truncated
                count += 1
                yield example.datums
    for number, what in (
        (empty, "have nothing to train on and were left out"),
        (long, f"are longer than {max_length} tokens and were left out"),
        (cut, f"were cut to {max_length} tokens"),
    ):
        if number:
            note(f"{source.name}: {number} of {count + empty + long} examples {what}")
    if not count + empty + long:
        raise DataError("the file is empty: there is no conversation in it", source=source.name)
    if not count:
        raise DataError(
            f"no example has anything to train on ({empty} without a trained token, {long} too long)",
            source=source.name,
        )
