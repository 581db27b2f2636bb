"""A script: what a format writes, piece by piece, before it is tokens.

Control tokens are written by name and become their id; text stays text. Text between two control tokens is encoded as
one run, the way a tokenizer encodes a finished chat, with one exception: a run ends where a model's output begins or
ends, because there sampling begins and ends (`cut`). A token that spans several pieces of a run belongs to the one it
starts in.

Writing touches no token. `encode` takes all the scripts that a caller has and makes one call of them, which a tokenizer
that can (`ScriptEncoder`) serves without the interpreter lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.tokens import Ints, Offsets
from tinsmith.ports.tokenizer import Piece, ScriptEncoder, Tokenizer, encode_scripts
from tinsmith.rendering.records import Media, Origin, Rendered

_CUT: Piece = (None, 0, 0)


class Script:
    """Collects pieces; `message` owns what is written until it is set again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.message = -1
        self.last_role = ""
        """For formats whose header depends on it: the role of the message before."""
        self.pieces: list[Piece] = []
        self.sampled = False
        """The last answer is written for training, as it is sampled: after exactly what its prompt supplies."""
        self._tokenizer = tokenizer
        self._controls: Mapping[str, int] = tokenizer.special_tokens

    def control(self, name: str, origin: Origin = Origin.FORMAT) -> None:
        self.pieces.append((self._controls[name], self.message, origin))

    def control_id(self, id: int, origin: Origin = Origin.FORMAT) -> None:
        self.pieces.append((id, self.message, origin))

    def text(self, text: str, origin: Origin = Origin.FORMAT) -> None:
        if text:
            self.pieces.append((text, self.message, origin))

    def cut(self) -> None:
        """End the run: nothing before is encoded together with anything after."""
        self.pieces.append(_CUT)

    def render(self) -> Rendered:
        return encode(self._tokenizer, [self])[0]


class LooseScript(Script):
    """Takes control tokens out of any text: for text that is trusted, when a person asks for it."""

    def text(self, text: str, origin: Origin = Origin.FORMAT) -> None:
        for piece in re.split(self._names, text) if self._names else [text]:
            if piece in self._controls:
                self.control(piece, origin)
            else:
                super().text(piece, origin)

    @property
    def _names(self) -> str:
        longest_first = sorted(self._controls, key=len, reverse=True)
        return f"({'|'.join(map(re.escape, longest_first))})" if longest_first else ""


@frozen(eq=False)
class RenderedBatch(Sequence[Rendered]):
    """N renderings with their columns concatenated: `ids[offsets[i]:offsets[i + 1]]` is rendering i, a view."""

    offsets: Offsets
    """[N + 1] int64."""
    ids: Ints
    message: Ints
    origin: npt.NDArray[np.uint8]
    special: npt.NDArray[np.bool_]
    media: Mapping[int, Media] = field(factory=dict)
    """Of the renderings that have any: their images and sounds (see `Rendered.media`)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Rendered: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rendered]: ...
    def __getitem__(self, index: int | slice) -> Rendered | list[Rendered]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"rendering {index} of {len(self)}")
        index = index % len(self)
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Rendered(
            self.ids[part], self.message[part], self.origin[part], self.special[part], self.media.get(index, ())
        )

    def __iter__(self) -> Iterator[Rendered]:
        return (self[i] for i in range(len(self)))


def encode(tokenizer: Tokenizer, scripts: Sequence[Script]) -> RenderedBatch:
    """The scripts as tokens, all in one call."""
    pieces = [script.pieces for script in scripts]
    if isinstance(tokenizer, ScriptEncoder):
        return RenderedBatch(*tokenizer.encode_scripts(pieces))
    return RenderedBatch(*encode_scripts(tokenizer, pieces))
