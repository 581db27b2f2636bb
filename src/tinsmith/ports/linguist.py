"""What is told of a text in words of grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Linguist(Protocol):
    """Reads texts; the same text is read the same way each time."""

    def language(self, text: str) -> str | None:
        """ISO 639-1 code of the language it is in, with `zh-cn` and `zh-tw`; None where there is nothing to tell by."""
        ...

    def sentences(self, text: str) -> int:
        """How many English sentences it has."""
        ...

    def words(self, text: str) -> Sequence[str]:
        """English words, as the Penn Treebank parts them: `can't` is `ca` and `n't`."""
        ...
