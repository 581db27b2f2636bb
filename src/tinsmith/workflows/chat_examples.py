"""Rows of conversations as examples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from attrs import field, frozen

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import DataError, RenderError
from tinsmith.ports.data import Row
from tinsmith.rendering import NothingToTrain, Renderer, TooLong, TrainOn

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
    _long: LeftOut = field(init=False)

    @_long.default
    def _make_long(self) -> LeftOut:
        return LeftOut(f"are longer than {self.max_length} tokens")

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
            if isinstance(example, NothingToTrain):
                out.append(LeftOut(f"{NOTHING.why} ({example.reason})"))
            elif isinstance(example, TooLong) and self.too_long != "raise":
                out.append(self._long)
            elif isinstance(example, RenderError):
                hint = "; or too_long=truncate|skip" if isinstance(example, TooLong) else ""
                raise DataError(f"{example}{hint}", source=place.source, line=place.line) from example
            elif example.media:
                raise DataError(
                    "holds images or sounds; this trainer takes text only", source=place.source, line=place.line
                )
            else:
                out.append(Example(example.datums, example.truncated))
        return out
