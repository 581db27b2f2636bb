"""Arithmetic, GSM8K and MATH as problem sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from tinsmith.domain import answers
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Message
from tinsmith.envs.problem import Problem, ProblemSet, ProblemTask
from tinsmith.ports.data import DatasetSource, Row
from tinsmith.ports.grader import Grader
from tinsmith.rendering import Renderer

ARITHMETIC_PROBLEMS = 101 * 101
"""Problems in one pass; they are drawn, so a pass has no end of its own."""

BOXED_SUFFIX = r" Write your answer in \boxed{} format."
NUMERIC_SUFFIX = r" Provide a numerical answer without units, written inside \boxed{}."

BOXED_EXAMPLE = (
    Message.user("How many r's are in strawberry?" + NUMERIC_SUFFIX),
    Message.assistant(
        "Spell the word and count as I go: s, t, r (1), a, w, b, e, r (2), r (3), y. That makes \\boxed{3}."
    ),
)
ARITHMETIC_EXAMPLE = (Message.user("What is 4 + 5?"), Message.assistant("9"))


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` of a text."""
    found = answers.extract(text)
    return found.text if found is not None and found.mark == "boxed" else None


def arithmetic(
    renderer: Renderer,
    grader: Grader,
    *,
    seed: int,
    test: bool = False,
    length: int = ARITHMETIC_PROBLEMS,
    fewshot: bool = False,
    format_coef: float = 0.1,
) -> ProblemSet:
    """`What is x + y?` with x and y drawn from 0 to 100. Test problems are drawn from another stream of the seed."""

    def load(index: int) -> Problem:
        x, y = (int(v) for v in np.random.default_rng([seed, int(test), index]).integers(0, 101, 2))
        return Problem(f"arithmetic/{x}+{y}", f"What is {x} + {y}?", str(x + y))

    task = ProblemTask(
        renderer=renderer,
        grader=grader,
        extract=answers.last_number,
        prefix=ARITHMETIC_EXAMPLE if fewshot else (),
        format_coef=format_coef,
    )
    return ProblemSet("arithmetic", task, length, load)


def gsm8k(
    rows: DatasetSource,
    renderer: Renderer,
    grader: Grader,
    *,
    seed: int | None,
    fewshot: bool = True,
    format_coef: float = 0.1,
) -> ProblemSet:
    """Rows `{"question", "answer"}`; the right answer follows `####` in `answer`."""

    def answer(row: Row) -> str | None:
        found = answers.after_hashes(str(row["answer"]))
        return None if found is None else found.replace(",", "")

    problems = _problems(rows, "gsm8k", "question", answer, 'an "answer" that ends with "#### NUMBER"')
    return _boxed("gsm8k", rows.name, problems, NUMERIC_SUFFIX, renderer, grader, seed, fewshot, format_coef)


def math(
    rows: DatasetSource,
    renderer: Renderer,
    grader: Grader,
    *,
    seed: int | None,
    fewshot: bool = True,
    format_coef: float = 0.1,
) -> ProblemSet:
    """Rows `{"problem", "answer"}` or `{"problem", "solution"}` with the answer in the solution's last box."""

    def answer(row: Row) -> str | None:
        return str(row["answer"]) if row.get("answer") is not None else boxed(str(row["solution"]))

    problems = _problems(rows, "math", "problem", answer, r'an "answer", or a "solution" with a \boxed{} answer')
    return _boxed("math", rows.name, problems, BOXED_SUFFIX, renderer, grader, seed, fewshot, format_coef)


def _problems(
    rows: DatasetSource, name: str, question: str, answer: Callable[[Row], str | None], needs: str
) -> list[Problem]:
    problems = []
    for number, row in enumerate(rows, 1):
        text = row.get(question)
        try:
            right = answer(row)
        except KeyError:
            right = None
        if not isinstance(text, str) or not text.strip() or not right:
            raise DataError(f'row needs a "{question}" and {needs}', source=rows.name, line=number)
        problems.append(Problem(f"{name}/{number - 1}", text, right))
    if not problems:
        raise DataError("the file is empty: there is no problem in it", source=rows.name)
    return problems


def _boxed(
    name: str,
    source: str,
    problems: list[Problem],
    suffix: str,
    renderer: Renderer,
    grader: Grader,
    seed: int | None,
    fewshot: bool,
    format_coef: float,
) -> ProblemSet:
    task = ProblemTask(
        renderer=renderer,
        grader=grader,
        extract=boxed,
        prefix=BOXED_EXAMPLE if fewshot else (),
        suffix=suffix,
        format_coef=format_coef,
    )
    digest = hashlib.blake2b(repr([(p.question, p.answer) for p in problems]).encode(), digest_size=16)
    return ProblemSet(
        name, task, len(problems), problems.__getitem__, seed, fingerprint=digest.hexdigest(), source=source
    )
