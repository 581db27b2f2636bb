"""What renderers give back and what they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import RenderError, ShapeError
from tinsmith.domain.messages import MediaPart, Message
from tinsmith.domain.tokens import Ints, ints

Media: TypeAlias = tuple[tuple[int, MediaPart], ...]
"""Images and sounds, each with the position of the token that stands for it."""


class TrainOn(StrEnum):
    """Which messages are trained. A weight that the data gives a message scales it in every mode."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    """The assistant messages since the last user message before the last answer."""
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    """What every author wrote, without the headers that the format puts around it."""
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    """What people wrote, not the model and not its tools."""
    ALL_TOKENS = "all_tokens"
    CUSTOMISED = "customised"
    """Each message by the weight that the data gives it; a message without one is refused."""

    @classmethod
    def _missing_(cls, value: object) -> TrainOn | None:
        return cls.CUSTOMISED if value == "customized" else None


class Origin(IntEnum):
    """Where a token comes from."""

    FORMAT = 0
    """Put there by the format: headers, separators, whatever the generation prompt supplies. Never sampled."""
    TEXT = 1
    """The message's own words."""
    MARK = 2
    """The format's marks that the message's author writes: thinking and tool call tags, the stop."""


class Overlong(StrEnum):
    """What becomes of an example longer than the context."""

    REFUSE = "refuse"
    TRUNCATE = "truncate"
    """Cut at the right."""


class NothingToTrain(RenderError):
    """No token of the example has a weight; `reason` says why, in few words that are the same for all such examples."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"nothing to train on: {reason}")


class TooLong(RenderError):
    """The example has `num_tokens` tokens, more than `max_length`."""

    def __init__(self, num_tokens: int, max_length: int) -> None:
        self.num_tokens = num_tokens
        self.max_length = max_length
        super().__init__(f"{num_tokens} tokens, longer than max_length={max_length}: cut it or leave it out")


@frozen(eq=False)
class Rendered:
    """T tokens and where each comes from."""

    ids: Ints = field(converter=ints)
    """[T] int32."""
    message: Ints = field(converter=ints)
    """[T] int32: index of the message that owns the token; -1 for none."""
    origin: npt.NDArray[np.uint8]
    """[T] uint8: an `Origin`."""
    special: npt.NDArray[np.bool_]
    """[T]: the token is a control token; else it is (part of) text."""
    media: Media = ()
    """Images and sounds, each with the position of the token that stands for it."""

    def __attrs_post_init__(self) -> None:
        if not len(self.ids) == len(self.message) == len(self.origin) == len(self.special):
            raise ShapeError("the columns of a rendering differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_content(self) -> npt.NDArray[np.bool_]:
        """[T]: words of the message itself."""
        return np.equal(self.origin, Origin.TEXT)

    @property
    def is_output(self) -> npt.NDArray[np.bool_]:
        """[T]: what the author of the message writes after the header, the stop included."""
        return np.not_equal(self.origin, Origin.FORMAT)

    def starts_with(self, other: Rendered) -> bool:
        """Whether `other` is a prefix: the same tokens from the same origins."""
        n = len(other)
        return (
            n <= len(self)
            and np.array_equal(self.ids[:n], other.ids)
            and np.array_equal(self.message[:n], other.message)
            and np.array_equal(self.origin[:n], other.origin)
        )


@frozen(eq=False)
class Examples(Sequence[Datum]):
    """The datums of one conversation; also says what was cut or left out on the way."""

    datums: tuple[Datum, ...]
    truncated: int = 0
    """Datums that were cut at `max_length`."""
    skipped: int = 0
    """Datums left out because the cut left nothing to train on."""
    media: tuple[Media, ...] = ()
    """Of each datum, when there are any: its images and sounds, each with the position of the input token that stands
    for it. A backend that takes none must refuse them."""

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | Sequence[Datum]:
        return self.datums[index]

    def __iter__(self) -> Iterator[Datum]:
        return iter(self.datums)

    def __len__(self) -> int:
        return len(self.datums)


class Termination(StrEnum):
    """How a completion ended."""

    STOP = "stop"
    """At the format's stop."""
    EOS = "eos"
    """At an end of text that is not the format's stop."""
    LENGTH = "length"
    """It did not end: a limit cut it."""
    MALFORMED = "malformed"
    """It goes on after its stop, or holds control tokens that have no place in a message."""

    @property
    def is_clean(self) -> bool:
        return self in (Termination.STOP, Termination.EOS)


class FailureKind(StrEnum):
    STRUCTURAL = "structural"
    """The frame is broken: thinking that never closes, a stray control token, text after a tool call."""
    CONTENT = "content"
    """The frame holds, what it holds cannot be read: arguments that are not JSON."""


@frozen
class Failure:
    kind: FailureKind
    reason: str


@frozen
class Parsed:
    """A completion, read. Whatever is wrong with it, `message` holds what was written before its stop."""

    message: Message
    termination: Termination
    failures: tuple[Failure, ...] = ()

    @property
    def is_clean(self) -> bool:
        """It ended by itself and nothing in it is broken."""
        return self.termination.is_clean and not self.failures


@frozen
class Hints:
    """What is known beside a completion, for reading it."""

    opened: bool | None = None
    """Whether its prompt left a thinking block open; None where only the format can say, for its usual prompt."""
    types: Mapping[str, Mapping[str, frozenset[str]]] = field(factory=dict)
    """By tool and parameter: the JSON types that the tool declares; none where it does not say."""


@frozen
class Stop:
    """What ends a completion: any of these ids, or any of these strings in its text."""

    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
