"""Questions with options: letters in boxes, and the layouts of the sets."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

import pytest

from tinsmith import bootstrap, rendering
from tinsmith.domain.errors import DataError
from tinsmith.envs.choice import choice_problems, letter, read_choices
from tinsmith.testing import FakeTokenizer, MemorySource, ScriptedSampler
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out

MMLU = {"question": "Prime?", "options": ["4", "5", "6"], "answer": "B", "answer_index": 1, "category": "math"}
GPQA = {"Question": "Q?", "Correct Answer": "right ", **{f"Incorrect Answer {i}": f"wrong{i}" for i in (1, 2, 3)}}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{B}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{(C)}", "C"),
        (r"\boxed{\text{D}}", "D"),
        (r"\boxed{\textbf{(A)}}", "A"),
        (r"\boxed{B. 23}", "B"),
        (r"\boxed{B) 23}", "B"),
        (r"\boxed{A} no, \boxed{J}", "J"),
        (r"\boxed{23}", None),
        (r"\boxed{BC}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{}", None),
        ("B", None),
    ],
)
def test_the_letter_in_the_last_box(text: str, found: str | None) -> None:
    assert letter(text) == found


def test_a_letter_equals_itself_alone() -> None:
    grader = bootstrap.open_grader()
    pairs = [(a, b) for a in ascii_uppercase for b in ascii_uppercase]
    grades = grader.grade([a for a, _ in pairs], [b for _, b in pairs]).result(10)
    assert [g.equal for g in grades] == [a == b for a, b in pairs]


def test_rows_become_questions() -> None:
    (problem,) = read_choices("mmlu_pro", MemorySource([MMLU]))
    assert problem.question == "Prime?\n\nA. 4\nB. 5\nC. 6\n\n"
    assert problem.answer == "B"


def test_the_right_option_of_gpqa_moves_and_does_so_the_same_way_each_time() -> None:
    problems = read_choices("gpqa", MemorySource([GPQA] * 40))
    assert {p.answer for p in problems} == set("ABCD")
    for p in problems:
        assert f"{p.answer}. right\n" in p.question
        assert sorted(line[3:] for line in p.question.splitlines()[2:6]) == ["right", "wrong1", "wrong2", "wrong3"]
    assert read_choices("gpqa", MemorySource([GPQA] * 40)) == problems


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mmlu_pro", {**MMLU, "answer": "D"}),
        ("mmlu_pro", {**MMLU, "answer": "AB"}),
        ("mmlu_pro", {**MMLU, "options": None}),
        ("mmlu_pro", {"question": "?"}),
        ("mmlu_pro", {**MMLU, "question": " "}),
        ("gpqa", MMLU),
    ],
)
def test_a_row_of_another_layout_is_named(name: str, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"line 2: row needs"):
        read_choices(name, MemorySource([MMLU if name == "mmlu_pro" else GPQA, row]))


def test_the_right_letter_earns_the_reward_and_another_does_not() -> None:
    tokenizer = FakeTokenizer()
    problems = read_choices("mmlu_pro", MemorySource([MMLU]))
    made = choice_problems("mmlu_pro", problems, rendering.get("chatml", tokenizer), bootstrap.open_grader())
    plan = RolloutPlan(limits=RolloutLimits(max_tokens=64), group_size=3)
    said = [r"5, so \boxed{(b)}", r"\boxed{A}", "B"]
    (group,) = roll_out(ScriptedSampler(tokenizer, lambda prompt, j: said[j]), [made[0]], plan)
    assert group.rewards.tolist() == pytest.approx([1.0, 0.0, -0.1])
