"""What recipes on mixtures of sources share: their options, and reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.mixtures import Mixture
from tinsmith.ports.data import DatasetSource, IndexedRows, Row
from tinsmith.ports.progress import Notes, Progress
from tinsmith.recipes import common, supervised
from tinsmith.recipes.supervised import SupervisedConfig
from tinsmith.rendering import TrainOn
from tinsmith.workflows.chat_examples import Drawn, LeftOut, Place, TooLongPolicy
from tinsmith.workflows.supervised_data import DrawnBatch, HeldOut, StreamedData

RENDERED_AT_ONCE = 256

Render = Callable[[Sequence[Place]], Sequence[Drawn]]


@frozen(kw_only=True)
class NamedSet:
    """A set with a name of its own."""

    train: str | DatasetSource
    test: str | None = None
    test_size: int = 0
    """Rows to test on: of the test split at most, 0 for all of it; without one, set aside."""
    train_on: TrainOn = TrainOn.ALL_ASSISTANT_MESSAGES


@frozen(kw_only=True)
class MixtureConfig(SupervisedConfig):
    """Options of every recipe that learns from a mixture of sources."""

    data: tuple[str, ...] = option(("small",), help="sources: small (made here), names of sets, files, URLs, hf://NAME")
    weights: tuple[float, ...] = option(
        (), help="how often each source is drawn; none: as many rows as each has", exclusive_min=0
    )
    max_rows: int | None = option(None, help="rows read of each source at most", min=1)
    test_data: tuple[str, ...] = option(
        (), help="what to evaluate on; none takes the test split of a named set, else sets `test_size` aside"
    )
    test_size: int | None = option(
        None, help="test rows of a source at most; none: what a named set has, of others nothing", min=0
    )
    max_length: int | None = option(
        None, help="tokens beyond which an example is cut; none is the model's context", min=2
    )
    too_long: TooLongPolicy = option("truncate", help="what becomes of a longer example")
    eval_every: int = option(20, help="steps between evaluations; 0 evaluates at the end alone", min=0)


def validate(config: MixtureConfig, sets: Mapping[str, NamedSet]) -> None:
    common.validate(config)
    if not config.data:
        raise ConfigError(f"data names no source: {', '.join(sets)}, a file, an object store URL or hf://NAME")
    if config.weights and len(config.weights) != len(config.data):
        raise ConfigError(f"{len(config.weights)} weights for {len(config.data)} sources: give each one, or none")


def run_path(recipe: str, config: MixtureConfig) -> Path:
    """Where the run lies; without `log_path` a place named for its sources."""
    return config.log_path or common.default_path(recipe, config, *(name.rsplit("/")[-1] for name in config.data))


C = TypeVar("C", bound=MixtureConfig)


def looked_at(
    config: C,
    sets: Mapping[str, NamedSet],
    load: Callable[[C, Model, Progress], tuple[StreamedData, list[Datum]]],
) -> Generator[Any, None, tuple[Model, StreamedData, list[Datum], DrawnBatch]]:
    """What `check` begins with: the model, the data, what is to be said of them, and the first batch of a pass."""
    validate(config, sets)
    model = common.open_model(config)
    notes = Notes()
    data, test = load(config, model, notes)
    yield from notes.texts
    yield from supervised.ends_early(config, data)
    return model, data, test, data.batch(0, RENDERED_AT_ONCE)


def load(
    config: MixtureConfig,
    model: Model,
    sets: Mapping[str, NamedSet],
    keep: Callable[[str], Callable[[Row, int], str | None]],
    renderer: Callable[[NamedSet, int], Render],
    progress: Progress,
) -> tuple[StreamedData, HeldOut]:
    """The mixture, and the test datums, which know the number of their source (in `test_data` where that is given).

    Every row is read and checked here, so that a malformed one stops a run before anything is trained; it is rendered
    when its turn comes. keep: for the name of a source, what is asked about each of its rows and its line. renderer:
    for a set and the longest length in tokens, what makes its examples.
    """
    max_length = min(config.max_length or model.context, model.context)
    chosen: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    sources: list[IndexedRows] = []
    renderers: list[Render] = []
    test = HeldOut()

    def read(where: str | DatasetSource, limit: int | None) -> IndexedRows:
        source = bootstrap.open_source(where) if isinstance(where, str) else where
        rows = bootstrap.spool(source, keep=shown(keep(source.name), source, limit, progress), limit=limit)
        for why, number in rows.left_out.items():
            progress.note(f"{source.name}: {number} of {number + len(rows)} rows {why} and were left out")
        if not len(rows):
            raise DataError("there is nothing in it to learn from", source=source.name)
        return rows

    for number, name in enumerate(config.data):
        known = sets.get(name, NamedSet(train=name))
        render = renderer(known, max_length)
        rows = read(known.train, config.max_rows)
        places = np.arange(len(rows))
        size = known.test_size if config.test_size is None else config.test_size
        if config.test_data or (size == 0 and config.test_size == 0):
            pass
        elif known.test is not None:
            held_out = read(known.test, size or None)
            test.add(number, _datums(render, held_out, range(len(held_out)), progress))
        elif size:
            if size >= len(rows):
                raise ConfigError(f"{rows.name}: test_size={size} leaves nothing to train on of {len(rows)} rows")
            order = np.random.default_rng([config.seed, 1]).permutation(len(rows))
            test.add(number, _datums(render, rows, sorted(order[:size].tolist()), progress))
            places = np.sort(order[size:])
        sources.append(rows)
        chosen.append(places)
        renderers.append(render)
    for number, where in enumerate(config.test_data):
        known = sets.get(where, NamedSet(train=where))
        rows = read(known.train, config.test_size)
        test.add(number, _datums(renderer(known, max_length), rows, range(len(rows)), progress))
    if not test and (config.test_data or config.test_size):
        raise DataError("no test row has anything to evaluate on", source=", ".join(config.test_data or config.data))
    mixture = Mixture(list(map(len, chosen)), config.weights or None, config.seed)
    for rows, share in zip(sources, mixture.shares, strict=True):
        progress.note(f"{rows.name}: {len(rows)} rows, {share} of the {len(mixture)} examples of a pass")
    return StreamedData(sources, mixture, lambda source, some: renderers[source](some), rows=chosen), test


def shown(
    keep: Callable[[Row, int], str | None], source: DatasetSource, limit: int | None, progress: Progress
) -> Callable[[Row, int], str | None]:
    """`keep`, telling how many rows of the source were read."""
    total = source.count()
    total = limit if total is None else min(total, limit or total)
    progress.doing(f"reading {source.name}", 0, total)

    def told(row: Row, line: int) -> str | None:
        if line % 256 == 0:
            progress.doing(f"reading {source.name}", line, total)
        return keep(row, line)

    return told


def _datums(render: Render, rows: IndexedRows, places: Sequence[int], progress: Progress) -> list[Datum]:
    """The test datums of these rows."""
    out: list[Datum] = []
    left_out: Counter[str] = Counter()
    for i in range(0, len(places), RENDERED_AT_ONCE):
        progress.doing(f"rendering test data of {rows.name}", i, len(places))
        for example in render(
            [Place(row, rows.name, line) for line, row in (rows[p] for p in places[i : i + RENDERED_AT_ONCE])]
        ):
            if isinstance(example, LeftOut):
                left_out[example.why] += 1
            else:
                out += example.datums
    for why, number in left_out.items():
        progress.note(f"{rows.name}: {number} of {len(places)} test examples {why} and were left out")
    return out


@frozen
class Part:
    """Rows `start` to `end` of others."""

    of: IndexedRows
    start: int
    end: int

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def fingerprint(self) -> str:
        return f"{self.of.fingerprint}[{self.start}:{self.end}]"

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, index: int) -> tuple[int, Row]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.of[self.start + index]
