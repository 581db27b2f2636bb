"""chat-sl: supervised fine-tuning on chats of several sources, rendered as they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.mixtures import Mixture
from tinsmith.ports.data import DatasetSource, IndexedRows, Row
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, small_sets, supervised
from tinsmith.recipes.supervised import SupervisedConfig
from tinsmith.rendering import TrainOn
from tinsmith.workflows.chat_examples import ChatExamples, LeftOut, Place, TooLongPolicy
from tinsmith.workflows.evaluation import NllObjective, Reduction
from tinsmith.workflows.supervised_data import StreamedData

NAME = "chat-sl"
MEASURED = 256
"""Rows that `check` renders to say what a run would take."""


@frozen(kw_only=True)
class ChatSet:
    """A set with a name of its own."""

    train: str | DatasetSource
    test: str | None = None
    test_size: int = 0
    """Rows set aside where there is no test split."""
    train_on: TrainOn = TrainOn.ALL_ASSISTANT_MESSAGES


SETS: Mapping[str, ChatSet] = {
    "small": ChatSet(train=small_sets.CHATS, test_size=200),
    "no_robots": ChatSet(train="hf://HuggingFaceH4/no_robots:train", test="hf://HuggingFaceH4/no_robots:test"),
    "tulu3": ChatSet(
        train="hf://allenai/tulu-3-sft-mixture:train", test_size=1024, train_on=TrainOn.LAST_ASSISTANT_MESSAGE
    ),
}


@frozen(kw_only=True)
class Config(SupervisedConfig):
    data: tuple[str, ...] = option(
        ("small",),
        help="sources of conversations: small (made here), no_robots, tulu3, files, object store URLs, hf://NAME",
    )
    weights: tuple[float, ...] = option(
        (),
        help="how often each source is drawn; none: as many rows as each has",
        exclusive_min=0,
    )
    max_rows: int | None = option(None, help="rows read of each source at most", min=1)
    test_data: tuple[str, ...] = option(
        (), help="conversations to evaluate on; none takes the test split of a named set, else sets `test_size` aside"
    )
    test_size: int | None = option(
        None,
        help="test conversations of a source at most; none: what a named set has, of others nothing",
        min=0,
    )
    train_on: TrainOn | None = option(
        None, help="which messages carry the loss; none: all of the assistant's, of tulu3 the last one"
    )
    max_length: int | None = option(
        None, help="tokens beyond which an example is cut; none is the model's context", min=2
    )
    too_long: TooLongPolicy = option("truncate", help="what becomes of a longer example")
    reduction: Reduction = option("token_mean", help="how token losses make one number a batch")
    num_epochs: int = option(2, help="passes over the data", min=1)
    eval_every: int = option(20, help="steps between evaluations; 0 evaluates at the end alone", min=0)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    data, test = load(config, model, progress.note)
    path = config.log_path or common.default_path(NAME, config, *(source.rsplit("/")[-1] for source in config.data))
    supervised.train(
        NAME,
        config,
        path,
        model,
        data,
        lambda _: NllObjective(config.reduction, test=test, token_bytes=model.text_bytes),
        progress,
        supervised.report_nll,
    )
    return 0


def check(config: Config) -> Iterable[Any]:
    """One rendered example with its weights, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    data, test = load(config, model, notes.append)
    yield from notes
    yield from supervised.ends_early(config, data)
    drawn = data.batch(0, MEASURED)
    yield from common.show_example(model, drawn.batch[0])
    yield f"{len(data)} examples a pass, {len(test)} test datums"
    tokens = drawn.batch.num_tokens / drawn.end
    yield from supervised.forecast(config, model, data, tokens, sum(d.num_tokens for d in test))


def validate(config: Config) -> None:
    common.validate(config)
    if not config.data:
        raise ConfigError(f"data names no source: {', '.join(SETS)}, a file, an object store URL or hf://NAME")
    if config.weights and len(config.weights) != len(config.data):
        raise ConfigError(f"{len(config.weights)} weights for {len(config.data)} sources: give each one, or none")


def load(config: Config, model: Model, note: Callable[[str], object]) -> tuple[StreamedData, list[Datum]]:
    """The mixture, and the test datums. Every row is read and checked here, so that a malformed one stops a run before
    anything is trained; it is rendered when its turn comes."""
    sources, chosen, renderers, test = [], [], [], []
    for name in config.data:
        known = SETS.get(name, ChatSet(train=name))
        render = _renderer(config, model, known)
        rows = _read(known.train, config.max_rows)
        held_out: IndexedRows | None = None
        places = np.arange(len(rows))
        size = known.test_size if config.test_size is None else config.test_size
        if config.test_data:
            pass
        elif known.test is not None:
            held_out = _read(known.test, config.test_size)
            test += _datums(render, held_out, range(len(held_out)), note)
        elif size:
            if size >= len(rows):
                raise ConfigError(
                    f"{rows.name}: test_size={size} leaves nothing to train on: there are {len(rows)} rows"
                )
            order = np.random.default_rng([config.seed, 1]).permutation(len(rows))
            test += _datums(render, rows, sorted(order[:size].tolist()), note)
            places = np.sort(order[size:])
        sources.append(rows)
        chosen.append(places)
        renderers.append(render)
    for where in config.test_data:
        known = SETS.get(where, ChatSet(train=where))
        rows = _read(known.train, config.test_size)
        test += _datums(_renderer(config, model, known), rows, range(len(rows)), note)
    if not test and (config.test_data or config.test_size):
        raise DataError("no test row has anything to evaluate on", source=", ".join(config.test_data or config.data))
    mixture = Mixture(list(map(len, chosen)), config.weights or None, config.seed)
    for rows, share in zip(sources, mixture.shares, strict=True):
        note(f"{rows.name}: {len(rows)} rows, {share} of the {len(mixture)} examples of a pass")
    return StreamedData(sources, mixture, lambda source, rows: renderers[source](rows), rows=chosen), test


def _renderer(config: Config, model: Model, known: ChatSet) -> ChatExamples:
    return ChatExamples(
        renderer=model.renderer,
        train_on=config.train_on or known.train_on,
        max_length=min(config.max_length or model.context, model.context),
        too_long=config.too_long,
    )


def _read(where: str | DatasetSource, limit: int | None) -> IndexedRows:
    source = bootstrap.open_source(where) if isinstance(where, str) else where

    def keep(row: Row, line: int) -> None:
        conversation_from_row(row, source=source.name, line=line)

    rows = bootstrap.spool(source, keep=keep, limit=limit)
    if not len(rows):
        raise DataError("there is no conversation in it", source=source.name)
    return rows


def _datums(
    render: ChatExamples, rows: IndexedRows, places: Sequence[int], note: Callable[[str], object]
) -> list[Datum]:
    """The test datums of these rows."""
    out: list[Datum] = []
    left_out: Counter[str] = Counter()
    for i in range(0, len(places), MEASURED):
        for example in render(
            [Place(row, rows.name, line) for line, row in (rows[p] for p in places[i : i + MEASURED])]
        ):
            if isinstance(example, LeftOut):
                left_out[example.why] += 1
            else:
                out += example.datums
    for why, number in left_out.items():
        note(f"{rows.name}: {number} of {len(places)} test examples {why} and were left out")
    return out
