"""Questions with lettered options, of which one is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

import numpy as np
from attrs import evolve

from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Message
from tinsmith.envs import math
from tinsmith.envs.problem import Problem, ProblemSet
from tinsmith.ports.data import DatasetSource, Row
from tinsmith.ports.grader import Grader
from tinsmith.rendering import Renderer

SUFFIX = r"Write the letter of the right option in \boxed{}."
EXAMPLE = (
    Message.user("Which of these is a prime number?\n\nA. 21\nB. 23\nC. 25\n\n" + SUFFIX),
    Message.assistant("21 is 3 times 7 and 25 is 5 times 5; 23 has no divisor but 1 and itself: \\boxed{B}."),
)
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|[.:)]\s.*|[.:]|\s*)", re.DOTALL)
_WRAPPED = re.compile(r"\s*\\(?:text|textbf|mathrm|mathbf)\s*\{(.*)\}\s*", re.DOTALL)


def letter(text: str) -> str | None:
    r"""The letter in the last `\boxed{}` of a text, upper case: of `B`, `(b)`, `\text{B}`, `B. 23`."""
    found = math.boxed(text)
    while found is not None and (inner := _WRAPPED.fullmatch(found)):
        found = inner[1]
    match = None if found is None else _LETTER.fullmatch(found.strip())
    return match[1].upper() if match else None


def _mmlu_pro(row: Row, seed: int) -> tuple[str, list[str], int]:
    return str(row["question"]), [str(o) for o in row["options"]], list(ascii_uppercase).index(row["answer"])


def _gpqa(row: Row, seed: int) -> tuple[str, list[str], int]:
    """The right answer has a column of its own; options are shuffled, the same way each time."""
    texts = [str(row["Correct Answer"]), *(str(row[f"Incorrect Answer {i}"]) for i in (1, 2, 3))]
    order = np.random.default_rng([seed, 0]).permutation(4).tolist()
    return str(row["Question"]), [texts[i].strip() for i in order], order.index(0)


LAYOUTS: Mapping[str, tuple[Callable[[Row, int], tuple[str, list[str], int]], str]] = {
    "mmlu_pro": (_mmlu_pro, '"question", "options" and an "answer" that is the letter of one of them'),
    "gpqa": (_gpqa, '"Question", "Correct Answer" and "Incorrect Answer 1" to "3"'),
}
"""By set, how its rows are read (with their number), and what they need. TIGER-Lab/MMLU-Pro, Idavidrein/gpqa."""


def read_choices(name: str, rows: DatasetSource) -> list[Problem]:
    """The problems of a source in the layout `name`. Raises DataError with its line for a row that is none."""
    read, needs = LAYOUTS[name]
    problems = []
    for number, row in enumerate(rows, 1):
        try:
            question, options, right = read(row, number)
            if not question.strip() or not 0 <= right < len(options) <= len(ascii_uppercase):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DataError(f"row needs {needs}", source=rows.name, line=number) from None
        listed = "\n".join(f"{ascii_uppercase[i]}. {option}" for i, option in enumerate(options))
        problems.append(Problem(f"{name}/{number - 1}", f"{question.strip()}\n\n{listed}\n\n", ascii_uppercase[right]))
    if not problems:
        raise DataError("the file is empty: there is no problem in it", source=rows.name)
    return problems


def choice_problems(
    name: str, problems: Sequence[Problem], renderer: Renderer, grader: Grader, *, fewshot: bool = True
) -> ProblemSet:
    """Problems in their own order, whose answer is a letter in a box."""
    made = math.boxed_problems("math", problems, renderer, grader, seed=None)
    task = evolve(made.task, extract=letter, prefix=EXAMPLE if fewshot else (), suffix=SUFFIX)
    return evolve(made, name=name, task=task)
