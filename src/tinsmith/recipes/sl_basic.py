"""sl-basic: supervised fine-tuning on conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.ports.progress import Notes, Progress
from tinsmith.recipes import common, small_sets, supervised
from tinsmith.recipes.supervised import SupervisedConfig
from tinsmith.rendering import TrainOn
from tinsmith.workflows.chat_examples import ChatExamples, LeftOut, Place, TooLongPolicy
from tinsmith.workflows.evaluation import NllObjective, Reduction
from tinsmith.workflows.supervised_data import SupervisedData

NAME = "sl-basic"
RENDERED_AT_ONCE = 1024


@frozen(kw_only=True)
class Config(SupervisedConfig):
    data: str = option(
        "small", help="conversations: small (made here), a JSONL or JSON file, an object store URL, or hf://NAME"
    )
    test_data: str | None = option(None, help="conversations to evaluate on; none sets `test_size` of the data aside")
    test_size: int = option(0, help="conversations set aside for evaluation", min=0)
    train_on: TrainOn = option(TrainOn.ALL_ASSISTANT_MESSAGES, help="which messages carry the loss")
    max_length: int | None = option(
        None, help="tokens beyond which an example is cut; none is the model's context", min=2
    )
    too_long: TooLongPolicy = option("truncate", help="what becomes of a longer example")
    reduction: Reduction = option("token_mean", help="how token losses make one number a batch")


def run(config: Config, progress: Progress) -> int:
    common.validate(config)
    model = common.open_model(config)
    examples, test = load_examples(config, model, progress)
    path = config.log_path or common.default_path(NAME, config, Path(config.data).stem)
    supervised.train(
        NAME,
        config,
        path,
        model,
        SupervisedData(examples, config.seed),
        lambda _: NllObjective(config.reduction, test=test, token_bytes=model.text_bytes),
        progress,
        supervised.report_nll,
    )
    return 0


def check(config: Config) -> Iterable[Any]:
    """One rendered example with its weights, and what the run would take; trains nothing."""
    common.validate(config)
    model = common.open_model(config)
    notes = Notes()
    examples, test = load_examples(config, model, notes)
    data = SupervisedData(examples, config.seed)
    tokens = [sum(d.num_tokens for d in example) for example in examples]
    yield from notes.texts
    yield from supervised.ends_early(config, data)
    yield from common.show_example(model, examples[0][0])
    yield (
        f"{len(examples)} examples, {sum(tokens)} tokens (median {int(np.median(tokens))}, longest {max(tokens)}), "
        f"{len(test)} test datums"
    )
    yield from supervised.forecast(config, model, data, float(np.mean(tokens)), sum(d.num_tokens for d in test))


def load_examples(config: Config, model: Model, progress: Progress) -> tuple[list[tuple[Datum, ...]], list[Datum]]:
    """All examples as datums, and the test datums. A malformed row stops here, before anything is trained."""
    examples = list(_examples(config.data, config, model, progress))
    if config.test_data is not None:
        test = list(_examples(config.test_data, config, model, progress))
    else:
        if config.test_size >= len(examples):
            raise ConfigError(
                f"test_size={config.test_size} leaves nothing to train on: there are {len(examples)} examples"
            )
        chosen = set(np.random.default_rng([config.seed, 1]).permutation(len(examples))[: config.test_size].tolist())
        test = [e for i, e in enumerate(examples) if i in chosen]
        examples = [e for i, e in enumerate(examples) if i not in chosen]
    return examples, [d for example in test for d in example]


def _examples(where: str, config: Config, model: Model, progress: Progress) -> Iterator[tuple[Datum, ...]]:
    source = small_sets.CHATS if where == "small" else bootstrap.open_source(where)
    max_length = min(config.max_length or model.context, model.context)
    render = ChatExamples(
        renderer=model.renderer, train_on=config.train_on, max_length=max_length, too_long=config.too_long
    )
    read = kept = cut = 0
    left_out: Counter[str] = Counter()
    total = source.count()
    rows = enumerate(source, 1)
    while part := list(islice(rows, RENDERED_AT_ONCE)):
        progress.doing(f"rendering {source.name}", part[0][0] - 1, total)
        for example in render([Place(row, source.name, line) for line, row in part]):
            read += 1
            if isinstance(example, LeftOut):
                left_out[example.why] += 1
            else:
                kept += 1
                cut += example.cut
                yield example.datums
    for why, number in left_out.items():
        progress.note(f"{source.name}: {number} of {read} examples {why} and were left out")
    if cut:
        progress.note(f"{source.name}: {cut} of {read} examples were cut to {max_length} tokens")
    if not read:
        raise DataError("the file is empty: there is no conversation in it", source=source.name)
    if not kept:
        why = ", ".join(f"{number} {why}" for why, number in left_out.items())
        raise DataError(f"no example has anything to train on: {why}", source=source.name)
