"""Training examples in a reproducible order: all in memory, or rendered as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from attrs import evolve, field, frozen

from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import DataError
from tinsmith.domain.mixtures import Mixture, shuffled
from tinsmith.ports.data import IndexedRows
from tinsmith.workflows.chat_examples import Drawn, Example, Place


@frozen(eq=False)
class DrawnBatch:
    """A batch of examples; a position in the data is the number of examples (or rows) seen so far."""

    batch: Batch
    end: int
    """The position after it."""
    metrics: Mapping[str, float] = field(factory=dict)
    """What was cut or left out on the way."""
    sources: Sequence[int] = ()
    """Of each row of the batch which source it is of; empty where there are none."""


class HeldOut(list[Datum]):
    """Test data of several sources, one after the other."""

    def __init__(self) -> None:
        self.sources: list[int] = []
        """Of each datum which source it is of."""

    def add(self, source: int, datums: Sequence[Datum]) -> None:
        self.extend(datums)
        self.sources += [source] * len(datums)


class TrainingData(Protocol):
    """Examples in an order that is fixed, passed over again and again."""

    @property
    def fingerprint(self) -> str:
        """Changes when the examples do; a run goes on with those that it began with alone."""
        ...

    def __len__(self) -> int:
        """Examples in one pass; a batch never spans two."""
        ...

    def batch(self, position: int, batch_size: int) -> DrawnBatch:
        """The batch that starts at `position`."""
        ...


def steps_between(data: TrainingData, position: int, end: int, batch_size: int) -> int:
    """Batches from `position` up to `end`."""
    steps = 0
    while position < end:
        rest = len(data) - position % len(data)
        full = min(rest, end - position)
        steps += -(-full // batch_size)
        position += full
    return steps


@frozen(eq=False, slots=False)
class SupervisedData:
    """Examples in memory, each of one or more datums, passed over in an order fixed by (seed, epoch).

    No example is dropped: the last batch of an epoch is shorter when the batch size does not divide the number of
    examples.
    """

    examples: Sequence[tuple[Datum, ...]]
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if not self.examples:
            raise DataError("there is no example to train on")

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def fingerprint(self) -> str:
        """Fixed by every token, target and weight, and the order of the examples."""
        state = hashlib.blake2b(digest_size=16)
        for example in self.examples:
            for datum in example:
                for column in (datum.tokens, datum.targets, datum.weights):
                    state.update(f"{column.shape};".encode())
                    state.update(column.tobytes())
            state.update(b"|")
        return state.hexdigest()

    def batch(self, position: int, batch_size: int) -> DrawnBatch:
        epoch, start = divmod(position, len(self.examples))
        order = shuffled(len(self.examples), self.seed, epoch)
        rows = order[start : start + batch_size]
        return DrawnBatch(Batch.of([d for i in rows for d in self.examples[int(i)]]), position + len(rows))


class StreamedData:
    """Rows of a mixture, rendered some ahead of their use: memory holds what is rendered ahead, however many there are.

    A position counts rows, those that give no example too, so that the number of steps is known from the start. What
    a batch leaves out or cuts is counted in its metrics, `num_left_out` and `num_cut`.
    """

    def __init__(
        self,
        sources: Sequence[IndexedRows],
        mixture: Mixture,
        render: Callable[[int, Sequence[Place]], Sequence[Drawn]],
        *,
        rows: Sequence[npt.NDArray[np.int64]] | None = None,
        ahead: int = 256,
    ) -> None:
        """render: of the number of a source and rows of it, the example of each. rows: of each source, which of its
        rows take part; None takes all. ahead: rows that are rendered in one call, where a batch has fewer."""
        self._sources = sources
        self._mixture = mixture
        self._render = render
        self._rows = [np.arange(len(s)) for s in sources] if rows is None else rows
        if tuple(map(len, self._rows)) != mixture.sizes:
            raise ValueError(f"rows of sources {list(map(len, self._rows))}, of the mixture {list(mixture.sizes)}")
        self._ahead = ahead
        self._rendered: dict[int, Drawn] = {}
        """By position; those before the last batch are dropped."""
        state = hashlib.blake2b(digest_size=16)
        for source, chosen in zip(sources, self._rows, strict=True):
            state.update(source.fingerprint.encode() + np.asarray(chosen, np.int64).tobytes() + b"|")
        self.fingerprint = state.hexdigest()

    def __len__(self) -> int:
        return len(self._mixture)

    def batch(self, position: int, batch_size: int) -> DrawnBatch:
        length = len(self._mixture)
        end = min(position + batch_size, (position // length + 1) * length)
        if any(p not in self._rendered for p in range(position, end)):
            self._fill(position, max(end, min(position + self._ahead, (position // length + 1) * length)))
        drawn = [self._rendered.pop(p) for p in range(position, end)]
        kept = [example for example in drawn if isinstance(example, Example)]
        if not kept:
            where = [self._place(p)[1] for p in (position, end - 1)]
            why = ", ".join(sorted({d.why for d in drawn if not isinstance(d, Example)}))
            raise DataError(
                f"a batch of {len(drawn)} rows, from {where[0].source}, line {where[0].line} to {where[1].source}, "
                f"line {where[1].line}, has nothing to train on: they {why}"
            )
        return DrawnBatch(
            Batch.of([datum for example in kept for datum in example.datums]),
            end,
            {"num_left_out": float(len(drawn) - len(kept)), "num_cut": float(sum(e.cut for e in kept))},
            [
                self._mixture.at(p)[0]
                for p, example in zip(range(position, end), drawn, strict=True)
                if isinstance(example, Example)
                for _ in example.datums
            ],
        )

    def _place(self, position: int) -> tuple[int, Place]:
        source, number = self._mixture.at(position)
        rows = self._sources[source]
        line, row = rows[int(self._rows[source][number])]
        return source, Place(row, rows.name, line)

    def _fill(self, position: int, end: int) -> None:
        self._rendered = {p: d for p, d in self._rendered.items() if position <= p < end}
        by_source: dict[int, list[tuple[int, Place]]] = {}
        for p in range(position, end):
            if p not in self._rendered:
                source, place = self._place(p)
                by_source.setdefault(source, []).append((p, place))
        for source, places in by_source.items():
            for (p, _), example in zip(places, self._render(source, [place for _, place in places]), strict=True):
                self._rendered[p] = example


def normalised(batch: Batch, how: str) -> Batch:
    """The batch with its weights scaled so that a summed loss becomes the reduction asked for.

    token_sum leaves them; token_mean divides by the batch's total weight; sequence_mean divides each row by its total
    weight and by the number of rows that have any.
    """
    if how == "token_sum":
        return batch
    weights = batch.weights.astype(np.float64)
    if how == "token_mean":
        return evolve(batch, weights=(weights / weights.sum()).astype(np.float32))
    per_row = weights if weights.ndim == 1 else weights.sum(axis=1)
    sums = np.array([per_row[a:b].sum() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)])
    scale = np.repeat(
        np.divide(1.0, sums * np.count_nonzero(sums), where=sums != 0, out=np.zeros_like(sums)), batch.lengths
    )
    return evolve(batch, weights=(weights * (scale if weights.ndim == 1 else scale[:, None])).astype(np.float32))
