"""Documents of a corpus, and rows as documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from tinsmith.domain.errors import DataError


@frozen
class Document:
    id: str
    text: str
    title: str = ""


def document_from_row(row: Mapping[str, Any], *, source: str, line: int) -> Document:
    """A row of a corpus: `text` beside an optional `title`, or `contents`, whose first line is the title (in quotes or
    not) and whose rest is the text, as the wiki-18 corpus of Search-R1 (arXiv:2503.09516) has it. `id` is text or a
    number; without one, the line is. Raises DataError."""
    contents, title = row.get("contents"), row.get("title", "")
    text = row.get("text")
    if text is None and isinstance(contents, str):
        first, _, rest = contents.partition("\n")
        title, text = (first.strip().strip('"'), rest) if rest.strip() else ("", contents)
    if not isinstance(text, str) or not text.strip() or not isinstance(title, str | None):
        raise DataError(
            'a document is a row with a "text" (and a "title" where it has one), or with "contents"',
            source=source,
            line=line,
        )
    name = row.get("id", line)
    if not isinstance(name, str | int):
        raise DataError(f'"id" is text or a number, not {type(name).__name__}', source=source, line=line)
    return Document(str(name), text.strip(), title or "")


def fingerprint(documents: Iterable[Document]) -> str:
    """Fixed by the content of every document and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for d in documents:
        digest.update(repr((d.id, d.title, d.text)).encode())
    return digest.hexdigest()
