"""Rows of conversations as examples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from attrs import frozen

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import DataError, RenderError
from tinsmith.ports.data import Row
from tinsmith.rendering import Examples, NothingToTrain, Renderer, TooLong, TrainOn

TooLongPolicy = Literal["truncate", "skip", "raise"]


@frozen
class Place:
    """A row and where it stands, for messages."""

    row: Row
    source: str
    line: int


@frozen(eq=False)
class Example:
    """The datums that train one row."""

    datums: tuple[Datum, ...]
    cut: int = 0
    """Datums that were cut at the longest length."""


@frozen
class LeftOut:
    """A row that gives no example, and why, in words that are the same for all such rows."""

    why: str


Drawn: TypeAlias = Example | LeftOut

NOTHING = LeftOut("have nothing to train on")


@frozen(kw_only=True)
class ChatExamples:
    """Makes examples of rows, in one call for many."""

    renderer: Renderer
    train_on: TrainOn = TrainOn.ALL_ASSISTANT_MESSAGES
    max_length: int
    too_long: TooLongPolicy = "truncate"

    def __call__(self, places: Sequence[Place]) -> list[Drawn]:
        """Raises DataError, with file and line, for a row that cannot be read or rendered."""
        rendered = self.renderer.supervised_batch(
            [conversation_from_row(p.row, source=p.source, line=p.line) for p in places],
            train_on=self.train_on,
            max_length=self.max_length,
            overlong="truncate" if self.too_long == "truncate" else "refuse",
        )
        out: list[Drawn] = []
        for place, example in zip(places, rendered, strict=True):
            taken = taken_from(example, place, self.max_length, self.too_long)
            out.append(taken if isinstance(taken, LeftOut) else Example(taken.datums, taken.truncated))
        return out


def taken_from(
    rendered: Examples | RenderError, place: Place, max_length: int, too_long: TooLongPolicy
) -> Examples | LeftOut:
    """What the row at a place rendered to, where it can be trained. Raises DataError for a row that cannot be rendered,
    and for one that is too long where that is refused."""
    if isinstance(rendered, NothingToTrain):
        return LeftOut(f"{NOTHING.why} ({rendered.reason})")
    if isinstance(rendered, TooLong) and too_long != "raise":
        return LeftOut(f"are longer than {max_length} tokens")
    if isinstance(rendered, RenderError):
        hint = "; or too_long=truncate|skip" if isinstance(rendered, TooLong) else ""
        raise DataError(f"{rendered}{hint}", source=place.source, line=place.line) from rendered
    if rendered.media:
        raise DataError("holds images or sounds; this trainer takes text only", source=place.source, line=place.line)
    return rendered
