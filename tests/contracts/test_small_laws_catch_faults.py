"""Each law of the small ports' contracts goes red for a fault that it is about."""

import asyncio
import contextlib
import inspect
import logging
import time

import numpy as np
import pytest
from faults import laws_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tinsmith.domain.documents import Document
from tinsmith.domain.errors import TinsmithError
from tinsmith.ports.search import Hit
from tinsmith.ports.tokenizer import encode_scripts
from tinsmith.testing import FakeClock, FakeTokenizer, MemoryBlobStore, MemoryRunLog, MemorySearch, MemorySource
from tinsmith.testing.contracts import (
    BlobStoreContract,
    ClockContract,
    DatasetSourceContract,
    RunLogContract,
    SearchContract,
    TokenizerContract,
)
from tinsmith.testing.contracts._common import seeds
from tinsmith.testing.contracts.blob import operations
from tinsmith.testing.contracts.data import rows
from tinsmith.testing.contracts.runlog import steps
from tinsmith.testing.contracts.search import queries

# Blobs


class LosesTheLastByte(MemoryBlobStore):
    def put(self, key, data):
        super().put(key, data[:-1])


class StreamsOnlyOneChunk(MemoryBlobStore):
    def stream(self, key, chunk_bytes=1 << 20):
        return iter([self.get(key)[:chunk_bytes]])


class StreamsTooMuchAtOnce(MemoryBlobStore):
    def stream(self, key, chunk_bytes=1 << 20):
        yield self.get(key)


class ListsByWholeNames(MemoryBlobStore):
    def list(self, prefix=""):
        return [key for key in super().list() if not prefix or key == prefix or key.startswith(f"{prefix}/")]


class DeletingNothingFails(MemoryBlobStore):
    def delete(self, key):
        del self._blobs[key]


class MissingIsEmpty(MemoryBlobStore):
    def get(self, key):
        return super().get(key) if key in self._blobs else b""


class TakesAnyKey(MemoryBlobStore):
    def put(self, key, data):
        self._blobs[key] = data


class WritesInTwoParts(MemoryBlobStore):
    def put(self, key, data):
        half = len(data) // 2
        super().put(key, data[:half])
        time.sleep(0.002)
        super().put(key, self.get(key) + data[half:])


class HasNoUrl(MemoryBlobStore):
    url = "memory"


# Rows


class ReadsOnce(MemorySource):
    def __init__(self, rows):
        super().__init__(rows)
        self._rows = iter(rows)


class SharesItsCursor(MemorySource):
    def __iter__(self):
        if not hasattr(self, "cursor") or self.cursor >= len(self._rows):
            self.cursor = 0
        while self.cursor < len(self._rows):
            self.cursor += 1
            yield self._rows[self.cursor - 1]


class DropsTheLastRow(MemorySource):
    def __iter__(self):
        return iter(self._rows[:-1])


class CountsOneMore(MemorySource):
    def count(self):
        return len(self._rows) + 1


# Metrics


class LosesALine(MemoryRunLog):
    def log(self, step, metrics):
        if step != 1:
            super().log(step, metrics)


class FailsOnNumpy(MemoryRunLog):
    def log(self, step, metrics):
        super().log(step, {name: value for name, value in metrics.items() if type(value) is float})


class FailsWhenClosed(MemoryRunLog):
    def close(self):
        if self.closed:
            raise TinsmithError("closed twice")
        super().close()


class SaysSoEachTime(MemoryRunLog):
    def log(self, step, metrics):
        logging.getLogger("tinsmith").warning("broken")


class StopsTheRun(MemoryRunLog):
    def log(self, step, metrics):
        raise TinsmithError("broken")


# Time


class SleepsHalf(FakeClock):
    def sleep(self, seconds):
        self.advance(seconds / 2)


class RefusesToSleepBackwards(FakeClock):
    def sleep(self, seconds):
        if seconds < 0:
            raise TinsmithError("negative")
        super().sleep(seconds)


class CountsFromBoot(FakeClock):
    def now(self):
        return self.monotonic()


# Text


class DropsSpaces(FakeTokenizer):
    def encode(self, text):
        return super().encode(text.replace(" ", ""))


class GivesControlTokens(FakeTokenizer):
    def encode(self, text):
        if text in self.special_tokens:
            return np.array([self.special_tokens[text]], np.int32)
        return super().encode(text)


class OffsetsAreBytes(FakeTokenizer):
    def encode_with_offsets(self, text):
        ids = self.encode(text)
        return ids, np.arange(len(ids), dtype=np.int32)


class RefusesHalfCharacters(FakeTokenizer):
    def decode(self, ids):
        try:
            return b"".join(self._bytes[i] for i in ids).decode()
        except UnicodeDecodeError as error:
            raise TinsmithError(str(error)) from None


class HidesControlTokens(FakeTokenizer):
    def decode(self, ids):
        return super().decode([i for i in ids if i < 256])


class PutsATokenFirst(FakeTokenizer):
    def encode(self, text):
        return np.concatenate([np.array([0], np.int32), super().encode(text)])


class GivesARunToItsLastPiece(FakeTokenizer):
    def encode_scripts(self, scripts):
        offsets, ids, message, origin, special = encode_scripts(FakeTokenizer(), scripts)
        if len(message):
            message = np.where(special, message, message[-1]).astype(np.int32)
        return offsets, ids, message, origin, special


# Searching


class FindsTheWorstFirst(MemorySearch):
    def _one(self, words, k):
        return super()._one(words, k)[::-1]


class FindsOneMore(MemorySearch):
    def _one(self, words, k):
        return super()._one(words, k + 1)


class LosesTitles(MemorySearch):
    def __init__(self, documents):
        super().__init__([Document(d.id, d.text) for d in documents])


class SharesWordsBetweenQueries(MemorySearch):
    async def search(self, queries, k):
        return await super().search([" ".join(queries)] * len(queries), k)


class MindsCase(MemorySearch):
    async def search(self, queries, k):
        return await super().search(["" if query.isupper() else query for query in queries], k)


class FindsSomethingForNothing(MemorySearch):
    def _one(self, words, k):
        return super()._one(words, k) or [Hit(self.documents[0], 0.0)]


class RefusesHalfPairs(MemorySearch):
    async def search(self, queries, k):
        if any("\ud800" <= letter <= "\udfff" for query in queries for letter in query):
            raise TinsmithError("no Unicode text")
        return await super().search(queries, k)


class BelongsToOneLoop(MemorySearch):
    def __init__(self, documents):
        super().__init__(documents)
        self.loop = None

    async def search(self, queries, k):
        self.loop = self.loop or asyncio.get_running_loop()
        assert self.loop is asyncio.get_running_loop()
        return await super().search(queries, k)


class HasNoFingerprint(MemorySearch):
    def __init__(self, documents):
        super().__init__(documents)
        self.fingerprint = ""


class ClosesOnce(MemorySearch):
    closed = False

    def close(self):
        if self.closed:
            raise TinsmithError("closed twice")
        self.closed = True


CAUGHT_BY = {
    LosesTheLastByte: ["dictionary", "large_blob"],
    StreamsOnlyOneChunk: ["dictionary", "large_blob"],
    StreamsTooMuchAtOnce: ["large_blob"],
    ListsByWholeNames: ["dictionary"],
    DeletingNothingFails: ["dictionary"],
    MissingIsEmpty: ["dictionary"],
    TakesAnyKey: ["leads_elsewhere"],
    WritesInTwoParts: ["never_mix"],
    HasNoUrl: ["url_names"],
    ReadsOnce: ["each_time_again"],
    SharesItsCursor: ["do_not_disturb"],
    DropsTheLastRow: ["each_time_again"],
    CountsOneMore: ["count_is"],
    LosesALine: ["kept_in_order"],
    FailsOnNumpy: ["numpy_numbers"],
    FailsWhenClosed: ["closing_twice"],
    SaysSoEachTime: ["goes_quiet"],
    StopsTheRun: ["goes_quiet"],
    SleepsHalf: ["never_goes_back"],
    RefusesToSleepBackwards: ["no_time"],
    CountsFromBoot: ["seconds_since"],
    DropsSpaces: ["gives_the_text_back"],
    GivesControlTokens: ["text_is_text"],
    OffsetsAreBytes: ["a_batch_and_offsets"],
    RefusesHalfCharacters: ["any_ids"],
    HidesControlTokens: ["fit_together"],
    PutsATokenFirst: ["no_text"],
    GivesARunToItsLastPiece: ["many_scripts"],
    FindsTheWorstFirst: ["best_first"],
    FindsOneMore: ["best_first"],
    LosesTitles: ["by_its_title", "best_first"],
    SharesWordsBetweenQueries: ["beside_others", "any_text"],
    MindsCase: ["any_case"],
    FindsSomethingForNothing: ["any_text"],
    RefusesHalfPairs: ["any_text"],
    BelongsToOneLoop: ["after_another"],
    HasNoFingerprint: ["the_fingerprint"],
    ClosesOnce: ["closing_twice_is"],
}
CONTRACTS = {
    MemoryBlobStore: BlobStoreContract,
    MemorySource: DatasetSourceContract,
    MemoryRunLog: RunLogContract,
    FakeClock: ClockContract,
    FakeTokenizer: TokenizerContract,
    MemorySearch: SearchContract,
}
IN_CONTEXT = (MemoryBlobStore, MemorySource, MemorySearch)
"""Whose suites take a context."""


def suite_of(made):
    """A suite of the contract that `made`'s fake keeps."""
    (contract,) = [contract for fake, contract in CONTRACTS.items() if issubclass(made, fake)]

    class Suite(contract):
        def make(self, *rows):
            thing = made(*rows)
            return contextlib.nullcontext(thing) if isinstance(thing, IN_CONTEXT) else thing

        make_broken = make

        def read(self, log):
            return log.lines

    Suite.__test__ = False
    return contract, Suite()


EXAMPLES = {
    "steps": st.lists(operations, max_size=12),
    "lines": steps,
    "given_rows": rows(),
    "naps": st.lists(st.floats(0, 0.002), max_size=4),
    "data": st.data(),
    "seed": seeds,
    "length": st.integers(0, 12),
    "asked": queries(),
    "k": st.integers(1, 8),
}


def run(suite, law, caplog):
    """One law, on more examples than usual, always the same, and without shrinking what fails."""
    method = getattr(suite, law)
    if hasattr(method, "hypothesis"):
        test = method.hypothesis.inner_test
        names = [name for name in inspect.signature(test).parameters if name != "self"]

        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(**{name: EXAMPLES[name] for name in names})
        def examples(**values):
            test(suite, **values)

        examples()
    else:
        given_by_pytest = {"key": "a//b", "caplog": caplog}
        names = inspect.signature(method).parameters
        method(**{name: given_by_pytest[name] for name in names})


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_a_planted_fault_is_caught(mutant, caplog):
    contract, suite = suite_of(mutant)
    for part in CAUGHT_BY[mutant]:
        (law,) = [law for law in laws_of(contract) if part in law]
        with pytest.raises((AssertionError, pytest.fail.Exception, TinsmithError, KeyError, ExceptionGroup)):
            run(suite, law, caplog)


def test_every_law_catches_a_fault():
    parts = [part for parts in CAUGHT_BY.values() for part in parts]
    laws = [law for contract in CONTRACTS.values() for law in laws_of(contract)]
    assert [law for law in laws if not any(part in law for part in parts)] == []
