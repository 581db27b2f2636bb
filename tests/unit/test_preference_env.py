"""Answers paid by comparison, and judges."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from tinsmith.bootstrap import load_model
from tinsmith.domain.comparisons import Comparison
from tinsmith.domain.errors import DataError, JudgeError, WorldError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.envs.preference import ComparedGroup, ComparedTask, Judge, ModelJudge, ShorterIsBetter, compared_rows
from tinsmith.envs.prompt import split_answer
from tinsmith.rendering import get
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.scripted import ScriptedSampler
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, Rollouts, roll_out

RENDERER = get("chatml", FakeTokenizer())
ASKED = Conversation((Message.user("Which?"),))


def comparison(first: str, second: str) -> Comparison:
    return Comparison(ASKED, (Message.assistant(first),), (Message.assistant(second),))


def rolled(
    answers: Sequence[str], judge: Judge, *, reference: str | None = None, failures: FailurePolicy | None = None
) -> Rollouts:
    task = ComparedTask(renderer=RENDERER, judge=judge, format_coef=1.0)
    given = None if reference is None else (Message.assistant(reference),)
    group = ComparedGroup(task=task, problem="p/0", prompt=ASKED, reference=given)
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=30), group_size=len(answers), failures=failures or FailurePolicy(backoff_s=0)
    )
    return roll_out(ScriptedSampler(RENDERER.tokenizer, lambda _, j: answers[j]), [group], plan)


def test_a_group_is_paid_by_wins_less_losses() -> None:
    (group,) = rolled(["aa", "a", "aaaa", "aaa"], ShorterIsBetter())
    assert group.rewards.tolist() == pytest.approx([1 / 3, 1.0, -1.0, -1 / 3])
    assert [e.transitions[0].metrics["answer_chars"] for e in group.episodes] == [2, 1, 4, 3]


def test_an_answer_that_does_not_end_is_compared_and_loses_besides() -> None:
    (group,) = rolled(["a", "b" * 90], ShorterIsBetter())
    assert group.rewards.tolist() == pytest.approx([1.0, -2.0])
    assert [e.transitions[0].metrics["format"] for e in group.episodes] == [1, 0]


class Places:
    """A judge that prefers the first answer, whatever it says."""

    async def compare(self, comparisons: Sequence[Comparison]) -> Sequence[float]:
        return [0.8] * len(comparisons)


def test_a_judge_that_looks_at_places_alone_pays_nobody() -> None:
    (group,) = rolled(["a", "bb", "ccc"], Places())
    np.testing.assert_allclose(group.rewards, 0, atol=1e-12)
    (group,) = rolled(["a"], Places(), reference="bb")
    assert group.rewards.tolist() == pytest.approx([0.5])


def test_against_a_reference_the_reward_is_the_rate_of_wins() -> None:
    (group,) = rolled(["a", "bbb", "cc"], ShorterIsBetter(), reference="rr")
    assert group.rewards.tolist() == [1.0, 0.0, 0.5]


class Down:
    """A judge that cannot be reached at first."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def compare(self, comparisons: Sequence[Comparison]) -> Sequence[float]:
        self.left -= 1
        if self.left >= 0:
            raise WorldError("no judge")
        return await ShorterIsBetter().compare(comparisons)


def test_a_judge_that_is_down_is_asked_again_and_never_a_reward() -> None:
    again = FailurePolicy(retries=2, backoff_s=0)
    calm = rolled(["aa", "a"], ShorterIsBetter())
    tried = rolled(["aa", "a"], Down(2), failures=again)
    assert tried[0].rewards.tolist() == calm[0].rewards.tolist()
    assert tried.errors == {"WorldError": 2}
    with pytest.raises(WorldError):
        rolled(["aa", "a"], Down(3), failures=again)


def test_the_shorter_answer_wins_and_an_empty_one_loses() -> None:
    answers = [("a", "bb"), ("bb", "a"), ("aa", "bb"), ("", "b"), ("", "")]
    compared = [comparison(*both) for both in answers]
    assert asyncio.run(ShorterIsBetter().compare(compared)) == [1.0, 0.0, 0.5, 0.0, 0.5]


def test_the_model_judge_is_a_probability_and_its_place_cancels() -> None:
    model = load_model("tiny", threads=1)
    with model.sampler() as sampler:
        judge = ModelJudge(sampler, model.renderer)
        one, same, two = asyncio.run(judge.compare([comparison("a", "b"), comparison("a", "b"), comparison("b", "a")]))
    assert one == same
    assert 0 < one < 1
    assert 0 < two < 1


def test_answers_that_leave_the_judge_no_room_are_the_judges_failure() -> None:
    model = load_model("tiny", threads=1)
    with model.sampler() as sampler:
        long = ("x" * 2 * sampler.context, "a")
        judge = ModelJudge(sampler, model.renderer)
        with pytest.raises(JudgeError, match="context"):
            asyncio.run(judge.compare([comparison(*long)]))


def test_prompts_end_before_the_answer() -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    prompt, answer = split_answer(row, "rows", 1)
    assert prompt.messages == (Message.user("q"),)
    assert answer == (Message.assistant("a"),)
    assert split_answer({"messages": row["messages"][:1]}, "rows", 1)[1] == ()
    with pytest.raises(DataError, match="rows, line 3: is an answer"):
        split_answer({"messages": row["messages"][1:]}, "rows", 3)


class Two:
    """Rows of which the second ends with no answer."""

    name, fingerprint = "two.jsonl", "two"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[int, dict[str, object]]:
        said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "this"}]
        return index + 1, {"messages": said[: 2 - index]}


def test_what_is_compared_with_an_answer_has_one() -> None:
    task = ComparedTask(renderer=RENDERER, judge=ShorterIsBetter())
    against = compared_rows("p", task, Two(), against_reference=True)
    first = against[0]
    assert isinstance(first, ComparedGroup)
    assert first.reference == (Message.assistant("this"),)
    with pytest.raises(DataError, match=r"two\.jsonl.*2.*no answer to compare with"):
        against[1]
    alone = compared_rows("p", task, Two())[0]
    assert isinstance(alone, ComparedGroup)
    assert alone.reference is None
