"""Chapter: distillation.

A student learns from a teacher in two ways.

*On policy* the student samples and the teacher scores. With q the logprob that a token was sampled with and p the
teacher's, the advantage of the token is -(q - p): what the student says oftener than the teacher becomes rarer. Its
expectation under the student is minus the reverse KL divergence, and its policy gradient that divergence's gradient.
No baseline is taken off, and no reward is needed. Where several teachers teach, each scores the answers to prompts of
its own sources, whatever order they come in and whichever got lost on the way.

*Off policy* the tokens are given, and of each position the teacher's K likeliest next tokens are targets, weighted by
its probabilities as shares of their sum. The gradient of that cross-entropy is the gradient of the forward KL
divergence restricted to the K tokens; with K the whole vocabulary it is the divergence itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from reference import distillation as reference
from reference.strategies import cut, masked_rows, numbers
from tinsmith import rendering
from tinsmith.domain import losses
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.cost import Prices, Spending
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.distillation import entropy, reverse_kl, soft_targets
from tinsmith.domain.errors import BudgetError, ConfigError, DataError, NonFiniteError, ShapeError, TrainingError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.domain.tokens import Floats, Offsets, floats, ints, offsets_of
from tinsmith.ports.files import read
from tinsmith.ports.pending import Pending
from tinsmith.ports.progress import Silent
from tinsmith.recipes.teaching import check_tokens
from tinsmith.testing import FakeTokenizer, FakeTrainer
from tinsmith.testing.files import MemoryDisk, MemoryFiles, ProcessDied
from tinsmith.testing.scripted import ScriptedSampler
from tinsmith.workflows.distillation import SoftObjective, SoftTargets, Teachers, soften
from tinsmith.workflows.evaluation import EVAL_ROWS
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.teacher_answers import (
    CUT,
    NO_ROOM,
    UNMATCHED,
    Answers,
    AskSettings,
    Question,
    ask,
    pattern,
    tokens_used,
)

Masked = tuple[list[float], list[bool], Offsets]
gammas = st.one_of(st.sampled_from([0.0, 1.0]), numbers(0, 1))
distances = st.sampled_from(["positions", "unmasked"])
PROMPT_BETWEEN_ACTIONS: Masked = ([-1.0, 0.0, 0.0, -1.0], [True, False, False, True], offsets_of([4]))


def rows_of(values: list, offsets: Offsets) -> list[list]:
    return cut(values, np.diff(offsets).tolist())


def batch_of(q: list[float], mask: list[bool], offsets: Offsets) -> Batch:
    tokens = np.arange(len(q), dtype=np.int32)
    zeros = np.zeros(len(q), np.float32)
    return Batch(
        tokens=tokens,
        targets=tokens,
        weights=np.array(mask, np.float32),
        logprobs=q,
        advantages=zeros,
        offsets=offsets,
    )


# On policy


@given(masked_rows(-5, 0), st.data(), numbers(0.1, 2), gammas, distances)
@example(PROMPT_BETWEEN_ACTIONS, None, 1.0, 0.5, "positions")
def test_a_teachers_advantage_is_what_the_formula_says(
    drawn: Masked, data: st.DataObject | None, coef: float, gamma: float, distance: str
) -> None:
    q, mask, offsets = drawn
    p = [-2.0] * len(q) if data is None else data.draw(st.lists(numbers(-5, 0), min_size=len(q), max_size=len(q)))
    advantages, sums, counts = reference.reverse_kl(
        *(rows_of(column, offsets) for column in (q, p, mask)), coef, gamma, distance
    )
    got = reverse_kl(batch_of(q, mask, offsets), p, coef=coef, discount=gamma, distance=distance)
    assert got.advantages.tolist() == pytest.approx(advantages, rel=1e-5, abs=1e-5)
    assert got.sums.tolist() == pytest.approx(sums, rel=1e-5, abs=1e-5)
    assert got.counts.tolist() == counts


@given(masked_rows(-5, 0), gammas, distances, st.sampled_from([np.nan, np.inf, -1e9]))
@example(PROMPT_BETWEEN_ACTIONS, 0.9, "positions", np.nan)
def test_tokens_that_the_student_did_not_choose_are_not_read_and_teach_nothing(
    drawn: Masked, gamma: float, distance: str, noise: float
) -> None:
    q, mask, offsets = drawn
    batch = batch_of(q, mask, offsets)
    kept = np.array(mask, bool)
    noisy = np.where(kept, -1.5, noise)
    got = reverse_kl(batch, noisy, discount=gamma, distance=distance)
    calm = reverse_kl(batch, np.full(len(q), -1.5), discount=gamma, distance=distance)
    assert got.advantages.tolist() == calm.advantages.tolist()
    assert got.sums.tolist() == calm.sums.tolist()
    assert not got.advantages[~kept].any()


@given(masked_rows(-5, 0), gammas)
def test_a_student_that_is_its_teacher_learns_nothing(drawn: Masked, gamma: float) -> None:
    q, mask, offsets = drawn
    got = reverse_kl(batch_of(q, mask, offsets), q, discount=gamma)
    assert not got.advantages.any()
    assert not got.sums.any()


@given(st.lists(numbers(-3, 3), min_size=2, max_size=6), st.data())
def test_its_policy_gradient_is_the_gradient_of_the_reverse_kl(logits: list[float], data: st.DataObject) -> None:
    """Expected over the student's own samples of one token, against finite differences of the divergence."""
    n = len(logits)
    q = np.array(reference.log_softmax(logits))
    p = np.array(reference.log_softmax(data.draw(st.lists(numbers(-3, 3), min_size=n, max_size=n))))
    got = reverse_kl(batch_of(q.tolist(), [True] * n, offsets_of([n])), p)
    probabilities = np.exp(q)
    # d/dz_j of E_student[advantage * logprob], the advantage held: sum_i p_i A_i (1[i = j] - p_j)
    step = probabilities * (got.advantages - probabilities @ got.advantages)

    def divergence(z: np.ndarray) -> float:
        lp = np.array(reference.log_softmax(z.tolist()))
        return float(np.exp(lp) @ (lp - p))

    h = 1e-5
    for j in range(n):
        up, down = np.array(logits), np.array(logits)
        up[j], down[j] = up[j] + h, down[j] - h
        assert step[j] == pytest.approx(-(divergence(up) - divergence(down)) / (2 * h), abs=1e-4)


class Constant:
    """A teacher for whom every token has the same logprob; remembers what it was asked."""

    def __init__(self, logprob: float, context: int = 1 << 20) -> None:
        self.logprob = logprob
        self.context = context
        self.asked = 0

    def score(self, tokens: np.ndarray) -> Pending[Floats]:
        self.asked += 1
        assert len(tokens) <= self.context
        return Pending.of(floats([np.nan, *[self.logprob] * (len(tokens) - 1)]))


@given(masked_rows(-5, 0), st.data())
def test_each_teacher_teaches_the_rows_of_its_own_sources(drawn: Masked, data: st.DataObject) -> None:
    """In any order, and however many rows of a source there are; one teacher of two sources is one."""
    q, mask, offsets = drawn
    assume(np.all(np.diff(offsets) > 0))  # what was sampled has tokens
    batch = batch_of(q, mask, offsets)
    one, other = Constant(-1.0), Constant(-3.0)
    shared = Reference(other, 1.0)  # type: ignore[arg-type]
    of = {"a": Reference(one, 1.0), "b": shared, "c": shared}  # type: ignore[arg-type]
    sources = data.draw(st.lists(st.sampled_from("abc"), min_size=len(batch), max_size=len(batch)))
    taught, metrics = Teachers(of=of, coef=1.0).teach(batch, sources)
    assert one.asked == sources.count("a")
    assert other.asked == len(sources) - sources.count("a")
    kept = np.array(mask, bool)
    said = np.repeat([-1.0 if s == "a" else -3.0 for s in sources], batch.lengths)
    expected = np.where(kept, said - np.array(q, np.float32), 0.0)
    assert taught.advantages is not None
    assert taught.advantages.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert metrics["teacher_kl"] == pytest.approx(-expected[kept].mean() if kept.any() else 0.0, abs=1e-5)
    for source in set(sources):
        rows = np.repeat([s == source for s in sources], batch.lengths) & kept
        mean = -expected[rows].mean() if rows.any() else 0.0
        assert metrics[f"teacher_kl/{source}"] == pytest.approx(mean, abs=1e-5)
    with pytest.raises(TrainingError, match="no teacher of 'd'"):
        Teachers(of=of, coef=1.0).teach(batch, ["d"] * len(batch))


@given(masked_rows(-5, 0), st.lists(st.integers(1, 8), min_size=2, max_size=2), gammas, st.data())
def test_rows_that_a_teacher_has_no_room_for_are_not_trained_on_and_counted(
    drawn: Masked, contexts: list[int], gamma: float, data: st.DataObject
) -> None:
    """All others are taught what they would be without those."""
    q, mask, offsets = drawn
    assume(len(offsets) > 1 and np.all(np.diff(offsets) > 0))
    batch = batch_of(q, mask, offsets)
    of = dict(zip("ab", (Reference(Constant(-1.5, context), 1.0) for context in contexts), strict=True))  # type: ignore[arg-type]
    sources = data.draw(st.lists(st.sampled_from("ab"), min_size=len(batch), max_size=len(batch)))
    fits = [n + 1 <= of[s].context for n, s in zip(batch.lengths, sources, strict=True)]
    taught, metrics = Teachers(of=of, coef=1.0, discount=gamma).teach(batch, sources)
    assert metrics["teacher_left_out"] == fits.count(False)
    kept = [i for i, whole in enumerate(fits) if whole]
    for i, row in enumerate(taught):
        assert row.weights.tolist() == (batch[i].weights.tolist() if fits[i] else [0.0] * row.num_tokens)
    if kept:
        apart, alone = Teachers(of=of, coef=1.0, discount=gamma).teach(batch.take(kept), [sources[i] for i in kept])
        assert taught.take(kept).same_as(apart)
        assert metrics["teacher_kl"] == pytest.approx(alone["teacher_kl"])


TOKENIZER = FakeTokenizer()
V = TOKENIZER.vocab_size


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTrainer]:
    trainer = FakeTrainer(TOKENIZER, context=64)
    yield trainer
    trainer.close()


tokens_drawn = st.lists(st.integers(0, V - 1), min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(tokens_drawn, tokens_drawn, st.none() | tokens_drawn), min_size=1, max_size=4), st.data())
@example([([1, 2], [3, 4, 5], [6, 7, 8, 9])], None)
def test_a_teacher_may_read_more_before_an_answer_than_the_student(
    fake: FakeTrainer, drawn: list[tuple[list[int], list[int], list[int] | None]], data: st.DataObject | None
) -> None:
    """The answer's own tokens, each given those before it, after the teacher's prompt in place of the student's. How
    long that prompt is counts for the context, and the first tokens of answers may be left to the student."""
    skip = 1 if data is None else data.draw(st.integers(0, 3))
    context = 7 if data is None else data.draw(st.sampled_from([4, 7, 64]))
    rows = []
    for prompt, answer, _ in drawn:
        whole, sampled = [*prompt, *answer], np.arange(len(prompt) + len(answer) - 1) >= len(prompt) - 1
        column = np.where(sampled, -2.0, 0.0)
        rows.append(
            Datum(
                tokens=whole[:-1],
                targets=whole[1:],
                weights=sampled.astype(np.float32),
                sampled=sampled,
                logprobs=column,
                advantages=np.zeros(len(column)),
            )
        )
    batch = Batch.of(rows)
    with fake.sampler().result() as sampler:
        narrow = SimpleNamespace(context=context, score=sampler.score)
        teachers = Teachers(of={"a": Reference(narrow, 10.0)}, coef=1.0, skip=skip)  # type: ignore[arg-type]
        taught, metrics = teachers.teach(batch, ["a"] * len(rows), [None if p is None else ints(p) for *_, p in drawn])
        left_out = 0
        for row, (prompt, answer, told) in zip(taught, drawn, strict=True):
            read = [*(prompt if told is None else told), *answer]
            assert row.advantages is not None
            assert row.tokens.tolist() == [*prompt, *answer][:-1], "the student reads what it read"
            if len(read) > context:
                assert not row.weights.any()
                left_out += 1
                continue
            said = sampler.score(ints(read)).result()[-len(answer) :] + 2.0
            first = len(prompt) - 1
            assert row.weights[first:].tolist() == [float(i >= skip) for i in range(len(answer))]
            assert row.advantages[first + skip :].tolist() == pytest.approx(said[skip:].tolist(), abs=1e-4)
            assert not row.advantages[: first + skip].any()
        assert metrics["teacher_left_out"] == left_out


# Off policy


@st.composite
def top_tables(draw: st.DrawFn) -> tuple[list[list[float]], int]:
    """(teacher logits [T, V], K)"""
    v = draw(st.integers(2, 6))
    rows = draw(st.lists(st.lists(numbers(-4, 4), min_size=v, max_size=v), min_size=1, max_size=5))
    return rows, draw(st.integers(1, v))


def table(rows: list[list[float]], k: int) -> tuple[np.ndarray, np.ndarray]:
    lp = np.array([reference.log_softmax(row) for row in rows])
    ids = np.argsort(-lp, axis=1, kind="stable")[:, :k]
    return ints(ids), floats(np.take_along_axis(lp, ids, axis=1))


@given(top_tables())
def test_soft_targets_are_the_teachers_shares_of_its_likeliest_tokens(drawn: tuple[list[list[float]], int]) -> None:
    rows, k = drawn
    ids, lp = table(rows, k)
    targets, weights, mass = soft_targets(ids, lp)
    assert targets.tolist() == ids.tolist()
    probabilities = np.exp(lp.astype(np.float64))
    assert mass.tolist() == pytest.approx(probabilities.sum(axis=1).tolist(), rel=1e-5)
    shares = probabilities / probabilities.sum(axis=1, keepdims=True)
    assert weights.ravel().tolist() == pytest.approx(shares.ravel().tolist(), rel=1e-4, abs=1e-6)
    assert entropy(weights).tolist() == pytest.approx((-(shares * np.log(shares)).sum(axis=1)).tolist(), abs=1e-4)


@given(top_tables(), st.data())
def test_their_gradient_is_that_of_the_cross_entropy_restricted_to_them(
    drawn: tuple[list[list[float]], int], data: st.DataObject
) -> None:
    """By the student's logits z: share of K tokens that the teacher gives, less the student's probability."""
    rows, k = drawn
    v, t = len(rows[0]), len(rows)
    ids, lp = table(rows, k)
    targets, weights, _ = soft_targets(ids, lp)
    z = np.array(data.draw(st.lists(st.lists(numbers(-3, 3), min_size=v, max_size=v), min_size=t, max_size=t)))
    student = np.array([reference.log_softmax(row) for row in z.tolist()])
    batch = Batch(tokens=np.zeros(t, np.int32), targets=targets, weights=weights, offsets=offsets_of([t]))
    found = losses.evaluate(batch, np.take_along_axis(student, ids, axis=1).astype(np.float32), "cross_entropy")

    def whole(logits: np.ndarray) -> float:
        """Plain: -sum over all tokens of teacher * log student, the teacher's distribution cut to K and scaled."""
        teacher = np.zeros((t, v))
        cut_to_k = np.exp(lp.astype(np.float64))
        np.put_along_axis(teacher, ids.astype(np.int64), cut_to_k / cut_to_k.sum(axis=1, keepdims=True), axis=1)
        return -float(sum(teacher[i] @ np.array(reference.log_softmax(row)) for i, row in enumerate(logits.tolist())))

    assert found.value == pytest.approx(whole(z), rel=1e-4, abs=1e-4)
    # dL/dz_j = sum_k dL/dlp_k (1[id_k = j] - softmax_j)
    by_token = np.zeros((t, v))
    np.put_along_axis(by_token, ids.astype(np.int64), found.gradient.astype(np.float64), axis=1)
    gradient = by_token - by_token.sum(axis=1, keepdims=True) * np.exp(student)
    h = 1e-5
    for i in range(t):
        for j in range(v):
            up, down = z.copy(), z.copy()
            up[i, j], down[i, j] = up[i, j] + h, down[i, j] - h
            assert gradient[i, j] == pytest.approx((whole(up) - whole(down)) / (2 * h), abs=1e-3)


@given(st.lists(numbers(-30, 0), min_size=1, max_size=5), numbers(-500, 0))
def test_shares_do_not_depend_on_how_unlikely_all_of_them_are(logprobs: list[float], shift: float) -> None:
    ids = ints([list(range(len(logprobs)))])
    one = soft_targets(ids, floats([logprobs]))[1]
    other = soft_targets(ids, floats([[x + shift for x in logprobs]]))[1]
    assert other.ravel().tolist() == pytest.approx(one.ravel().tolist(), abs=1e-3)
    assert float(one.sum()) == pytest.approx(1.0, abs=1e-5)


@st.composite
def sequences(draw: st.DrawFn) -> list[list[int]]:
    row = st.lists(st.integers(0, V - 1), min_size=2, max_size=7)
    return draw(st.lists(row, min_size=1, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=sequences(), k=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_teacher_is_asked_what_comes_after_each_token(
    fake: FakeTrainer, drawn: list[list[int]], k: int, seed: int
) -> None:
    """The K targets of a position are the likeliest tokens given the row up to there, and nothing of other rows."""
    rng = np.random.default_rng(seed)
    weights = [rng.choice([0.0, 1.0, 0.5], len(row) - 1) for row in drawn]
    batch = Batch.of(
        [Datum(tokens=row[:-1], targets=row[1:], weights=w) for row, w in zip(drawn, weights, strict=True)]
    )
    with fake.sampler().result() as sampler:
        soft = SoftTargets(sampler, k, 10.0).soften(batch)
        assert soft.targets.shape == (batch.num_tokens, k + 1)
        assert soft.targets[:, -1].tolist() == batch.targets.tolist()
        assert not soft.weights[:, -1].any()
        assert soft.weights.sum(axis=1).tolist() == pytest.approx(batch.weights.tolist(), abs=1e-6)
        assert (soft.weights[:, :-1] >= 0).all()
        for datum in list(soft)[:2]:
            t = int(rng.integers(len(datum.tokens)))
            every = [float(sampler.score(ints([*datum.tokens[: t + 1], i])).result()[-1]) for i in range(V)]
            best = np.sort(every)[::-1][:k]
            found = np.array(every)[datum.targets[t, :k]]
            assert found.tolist() == pytest.approx(best.tolist(), abs=1e-4)
            assert len(set(datum.targets[t, :k].tolist())) == k
        objective = SoftObjective([SoftTargets(sampler, V, 10.0)], test=list(batch))
        if any(w.any() for w in weights):
            said = objective.evaluation(objective.submit_evaluation(fake), 10.0)
            assert said["test/kl"] == pytest.approx(0.0, abs=1e-4), "the student is its own teacher"


@pytest.fixture(scope="module")
def others() -> Iterator[list[FakeTrainer]]:
    trainers = [FakeTrainer(TOKENIZER, context=64, likely=[i]) for i in (5, 9)]
    yield trainers
    for trainer in trainers:
        trainer.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=sequences(), data=st.data())
def test_each_row_has_the_soft_targets_of_its_own_sources_teacher(
    others: list[FakeTrainer], drawn: list[list[int]], data: st.DataObject
) -> None:
    """One teacher of two sources is one; the test data are of sources too, over several batches of an evaluation."""
    batch = Batch.of([Datum(tokens=row[:-1], targets=row[1:], weights=[1.0] * (len(row) - 1)) for row in drawn])
    with others[0].sampler().result() as one, others[1].sampler().result() as other:
        a, b = SoftTargets(one, 3, 10.0), SoftTargets(other, 3, 10.0)
        sources = data.draw(st.lists(st.integers(0, 2), min_size=len(batch), max_size=len(batch)))
        got = soften([a, b, a], batch, sources)
        for i, source in enumerate(sources):
            assert got[i].same_as((b if source == 1 else a).soften(batch.take([i]))[0])
        many = [1, *[0] * (EVAL_ROWS - 1), 1]
        held = [batch[0]] * len(many)
        trainer = others[1]
        objective = SoftObjective([SoftTargets(s, V, 10.0) for s in (one, other)], test=held, test_sources=many)
        told = objective.evaluation(objective.submit_evaluation(trainer), 10.0)["test/kl"]
        alone = SoftObjective([SoftTargets(one, V, 10.0)], test=[batch[0]])
        one_kl = alone.evaluation(alone.submit_evaluation(trainer), 10.0)["test/kl"]
        assert one_kl > 0.01
        assert told == pytest.approx(one_kl * (EVAL_ROWS - 1) / len(many), rel=1e-3)


# What a teacher answered is kept


RENDERER = rendering.get("chatml", TOKENIZER)
WHERE = Path("/run/answers.jsonl")


class Recited:
    """A teacher that gives each question back, with the number of the sample; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sampler = ScriptedSampler(TOKENIZER, self.answer)

    def answer(self, prompt: str, j: int) -> str:
        word = prompt.rpartition("user\n")[2].partition("<")[0]
        self.asked.append(word)
        return f"{word} {j}" if word != "long" else "x" * 99


def keep_answers(
    teacher: Recited,
    words: list[str],
    files: MemoryFiles,
    of: str = "1",
    spending: Spending = Spending(),  # noqa: B008 - frozen
    **settings: Any,
) -> Answers:
    questions = [
        Question(
            asked=Conversation((Message("system", "Recite."), Message.user(word))),
            kept=Conversation((Message.user(word),)),
        )
        for word in words
    ]
    how = AskSettings(max_tokens=40, samples=2, in_flight=3, **settings)
    return ask(
        teacher.sampler,
        RENDERER,
        questions,
        how,
        path=WHERE,
        of=of,
        files=files,
        progress=Silent(),
        spending=spending,
    )


WORDS = [f"w{i}" for i in range(5)]


def test_what_a_teacher_reads_is_not_what_a_student_reads() -> None:
    disk = MemoryDisk()
    files = disk.mount()
    found = keep_answers(Recited(), ["a", "long"], files)
    rows = [json.loads(line) for line in read(files, WHERE).splitlines()]
    assert [conversation_from_row(row).messages for row in rows] == [
        (Message.user("a"), Message.assistant(f"a {j}")) for j in range(2)
    ]
    assert (found.kept, found.left_out) == (2, {CUT: 2})
    with pytest.raises(DataError, match="no answer to learn from"):
        keep_answers(Recited(), ["long"], files, of="2")
    narrow = Recited()
    narrow.sampler = ScriptedSampler(TOKENIZER, narrow.answer, context=60)
    found = keep_answers(narrow, ["a", "b" * 50, "c"], files, of="3")
    assert (found.kept, found.left_out) == (4, {NO_ROOM: 2})
    assert narrow.asked == ["a", "a", "c", "c"]


def test_a_teacher_of_other_tokens_is_refused() -> None:
    """One with more of them is none of those: what the student writes is the same for both."""

    def model(tokens: list[bytes], name: str) -> Any:
        return SimpleNamespace(name=name, tokenizer=SimpleNamespace(token_bytes=lambda: tokens))

    student = model([b"a", b"b"], "student")
    check_tokens(student, model([b"a", b"b"], "teacher"))
    check_tokens(student, model([b"a", b"b", b"<|end|>"], "teacher"))
    for tokens, first in (([b"a"], 1), ([b"b", b"a"], 0), ([b"a", b"c", b"b"], 1)):
        with pytest.raises(ConfigError, match=f"the first at id {first}"):
            check_tokens(student, model(tokens, "teacher"))


def test_a_pattern_keeps_what_it_finds_exactly_once() -> None:
    files = MemoryDisk().mount()
    found = keep_answers(Recited(), ["a", "b"], files, extract=pattern(r"a (\d)"))
    rows = [json.loads(line)["messages"][-1]["content"] for line in read(files, WHERE).splitlines()]
    assert rows == ["0", "1"]
    assert found.left_out == {UNMATCHED: 2}
    for bad, why in (("(", "regular expression"), ("a", "0 groups"), ("(a)(b)", "2 groups")):
        with pytest.raises(ConfigError, match=why):
            pattern(bad)


@pytest.mark.parametrize("survives", ["a process", "nothing", "some", "all"])
def test_a_stage_that_died_anywhere_goes_on_to_the_same_file(survives: str) -> None:
    """Killed at each operation in turn, or with the machine; what is complete is not asked again."""
    calm = MemoryDisk().mount()
    keep_answers(Recited(), WORDS, calm)
    for at in range(1, calm.operations + 1):
        disk = MemoryDisk()
        rng = np.random.default_rng(at)
        with pytest.raises(ProcessDied):
            keep_answers(Recited(), WORDS, disk.mount(crash_at=at))
        if survives == "a process":
            disk.kill()
        else:
            keep = {"nothing": lambda n: 0, "some": lambda n, r=rng: int(r.integers(n + 1)), "all": lambda n: n}
            disk.power_cut(keep[survives])
        again = Recited()
        keep_answers(again, WORDS, disk.mount())
        assert read(disk.mount(), WHERE) == read(calm, WHERE), at
        if survives == "a process":
            assert len(again.asked) <= 2 * len(WORDS)
        last = Recited()
        keep_answers(last, WORDS, disk.mount())
        assert not last.asked
        keep_answers(last, WORDS, disk.mount(), of="another teacher")
        assert len(last.asked) == 2 * len(WORDS)


def test_a_budget_ends_the_asking_before_it_is_exceeded_and_a_larger_one_goes_on() -> None:
    prices = Prices(prefill=1e6, sample=1e6, train=0)
    calm, files = MemoryDisk().mount(), MemoryDisk().mount()
    whole = prices.cost(keep_answers(Recited(), WORDS, calm).tokens)
    assert whole > 0
    spent = 0.0
    for budget in (0.3 * whole, 0.7 * whole):
        teacher = Recited()
        with pytest.raises(BudgetError, match="larger budget= goes on"):
            keep_answers(teacher, WORDS, files, spending=Spending(prices=prices, budget=budget))
        before, spent = spent, prices.cost(tokens_used(WHERE, files))
        assert before < spent <= budget
        assert teacher.asked
    last = Recited()
    found = keep_answers(last, WORDS, files, spending=Spending(prices=prices, budget=whole + 1e-6))
    assert len(last.asked) < 2 * len(WORDS)
    assert prices.cost(found.tokens) == prices.cost(tokens_used(WHERE, files)) == whole
    assert read(files, WHERE) == read(calm, WHERE)


def test_bad_input_is_refused() -> None:
    batch = batch_of([-1.0, -1.0], [True, True], offsets_of([2]))
    with pytest.raises(ShapeError, match="NaN at row 0, index 1"):
        reverse_kl(batch, [-1.0, np.nan])
    with pytest.raises(ShapeError, match="tokens"):
        reverse_kl(batch, [-1.0])
    with pytest.raises(NonFiniteError):
        soft_targets(ints([[1]]), floats([[np.nan]]))
    with pytest.raises(ShapeError, match="both"):
        soft_targets(ints([[1]]), floats([[0.0, 0.0]]))
