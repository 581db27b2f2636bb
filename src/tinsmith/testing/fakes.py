"""In-memory stand-ins of the small ports: tokenizer, blobs, rows, metrics, time, grader, search.

The backend: `backend.py`."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tinsmith.domain.documents import Document, fingerprint
from tinsmith.domain.errors import CancelledWorkError, DataNotFoundError, ShapeError
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.blob import check_key
from tinsmith.ports.data import Row
from tinsmith.ports.grader import Grade
from tinsmith.ports.pending import Pending
from tinsmith.ports.search import Hit

_FRACTION = re.compile(r"\s*[-+]?[0-9]{1,40}(/[1-9][0-9]{0,40}|\.[0-9]{1,40})?\s*")
CHAT_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)


class FakeTokenizer:
    """Ids 0 to 255 are bytes, the ones above are control tokens (by default those of ChatML)."""

    def __init__(self, special_tokens: Sequence[str] = CHAT_TOKENS, *, chat_template: str | None = None) -> None:
        self._special = {text: 256 + i for i, text in enumerate(special_tokens)}
        self._bytes = [bytes([i]) for i in range(256)] + [text.encode() for text in special_tokens]
        self.chat_template = chat_template

    @property
    def name(self) -> str:
        return "fake-bytes"

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self._special

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return tuple(self._special[text] for text in ("<|endoftext|>", "<|im_end|>") if text in self._special)

    @property
    def bos_id(self) -> int | None:
        return None

    def encode(self, text: str) -> Ints:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def encode_with_offsets(self, text: str) -> tuple[Ints, Ints]:
        ids = self.encode(text)
        return ids, np.cumsum((ids & 0xC0) != 0x80, dtype=np.int32) - np.int32(1)

    def encode_batch(self, texts: Sequence[str]) -> list[Ints]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Ints) -> str:
        values = ints(ids)
        if values.size and values.min() < 0:
            raise ShapeError(f"token id {values.min()} is negative")
        table = self._bytes  # ids that pad a model's vocabulary stand for nothing
        return b"".join([table[i] if i < len(table) else b"\xff" for i in values.tolist()]).decode("utf-8", "replace")

    def token_bytes(self) -> list[bytes]:
        return list(self._bytes)


class MemoryBlobStore:
    """Blobs in a dictionary; safe to use from several threads."""

    def __init__(self, blobs: Mapping[str, bytes] | None = None) -> None:
        self._blobs: dict[str, bytes] = dict(blobs or {})
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory:///"

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._blobs[check_key(key)] = bytes(data)

    def get(self, key: str) -> bytes:
        with self._lock:
            if check_key(key) not in self._blobs:
                raise DataNotFoundError(f"{self.url}{key}: no such blob")
            return self._blobs[key]

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        data = self.get(key)
        return (data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes))

    def exists(self, key: str) -> bool:
        with self._lock:
            return key in self._blobs

    def list(self, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(key for key in self._blobs if key.startswith(prefix))

    def delete(self, key: str) -> None:
        with self._lock:
            self._blobs.pop(key, None)


class MemorySource:
    """Rows of a list."""

    def __init__(self, rows: Sequence[Row], name: str = "memory") -> None:
        self._rows = tuple(rows)
        self.name = name

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def count(self) -> int | None:
        return len(self._rows)


class MemoryRunLog:
    """Keeps what it was told: `config`, and `lines` as (step, metrics)."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.config: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        self.name, self.config = name, dict(config)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True

    def series(self, metric: str) -> list[float]:
        """The values of one metric, in the order logged, of the steps that have it."""
        return [metrics[metric] for _, metrics in self.lines if metric in metrics]


class FakeClock:
    """Time that passes only by `sleep` and `advance`."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._passed = 0.0
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._start + self.monotonic()

    def monotonic(self) -> float:
        with self._lock:
            return self._passed

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._passed += max(0.0, seconds)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)


class FakeGrader:
    """Compares fractions as `fractions.Fraction` reads them and other texts as they are, at once. A right answer of
    braces alone cannot be read."""

    name = "fake"

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter(workers_replaced=0)
        self._closed = False

    @property
    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def grade(
        self, golds: Sequence[str | None], preds: Sequence[str | None], *, deadline: float | None = None
    ) -> Pending[list[Grade]]:
        if len(golds) != len(preds):
            raise ShapeError(f"{len(golds)} right answers, but {len(preds)} answers")
        if self._closed:
            raise CancelledWorkError("the grader was closed")
        grades = [self._one(gold or "", pred or "") for gold, pred in zip(golds, preds, strict=True)]
        self._counts.update(grade.reason for grade in grades)
        return Pending.of(grades)

    def _one(self, gold: str, pred: str) -> Grade:
        if not gold.strip(" {}"):
            return Grade(None, "gold_unparsed" if gold.strip() else "gold_empty", self.name)
        return Grade(self._value(gold) == self._value(pred), "compared", self.name)

    def _value(self, text: str) -> Fraction | str:
        return Fraction(text) if _FRACTION.fullmatch(text) else text.strip()

    def close(self) -> None:
        self._closed = True


class MemorySearch:
    """A SearchIndex that counts the words that a query and a document share."""

    name = "memory"

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = tuple(documents)
        self.fingerprint = fingerprint(self.documents)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._one(set(re.findall(r"\w+", query.casefold())), k) for query in queries]

    def _one(self, words: set[str], k: int) -> list[Hit]:
        hits = [
            Hit(d, float(len(words & set(re.findall(r"\w+", f"{d.title} {d.text}".casefold())))))
            for d in self.documents
        ]
        return sorted((hit for hit in hits if hit.score), key=lambda hit: -hit.score)[:k]

    def close(self) -> None:
        """Nothing is held."""
