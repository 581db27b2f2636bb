"""Arithmetic, and sets of mathematical problems in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import frozen

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


def in_box(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


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


@frozen(kw_only=True)
class Layout:
    """How the rows of a set hold a problem, and the form that its answer is asked for in."""

    question: str = "problem"
    answer: Callable[[Row], str | None]
    """The right answer; None, or a KeyError, for a row without one."""
    needs: str
    """What a row must have beside the question, in words."""
    suffix: str = BOXED_SUFFIX


def _after_hashes(row: Row) -> str | None:
    found = answers.after_hashes(str(row["answer"]))
    return None if found is None else found.replace(",", "")


def _answer_or_solution(row: Row) -> str | None:
    return str(row["answer"]) if row.get("answer") is not None else boxed(str(row["solution"]))


def _text_of(key: str) -> Callable[[Row], str | None]:
    return lambda row: None if row[key] is None else str(row[key])


LAYOUTS: Mapping[str, Layout] = {
    "gsm8k": Layout(
        question="question",
        answer=_after_hashes,
        needs='an "answer" that ends with "#### NUMBER"',
        suffix=NUMERIC_SUFFIX,
    ),
    "math": Layout(answer=_answer_or_solution, needs=r'an "answer", or a "solution" with a \boxed{} answer'),
    "polaris": Layout(answer=_text_of("answer"), needs='an "answer"'),
    "deepmath": Layout(question="question", answer=_text_of("final_answer"), needs='a "final_answer"'),
}
"""By name of the set. GSM8K (openai/gsm8k), MATH (EleutherAI/hendrycks_math, HuggingFaceH4/MATH-500), Polaris
(POLARIS-Project/Polaris-Dataset-53K), DeepMath (zwhe99/DeepMath-103K)."""


def read_problems(name: str, rows: DatasetSource, *, first: int = 0) -> list[Problem]:
    """The problems of a source in the layout `name`; their ids count from `first`. Raises DataError with its line for a
    row that is none."""
    layout = LAYOUTS[name]
    problems = []
    for number, row in enumerate(rows, 1):
        text = row.get(layout.question)
        try:
            right = layout.answer(row)
        except KeyError:
            right = None
        if not isinstance(text, str) or not text.strip() or not right:
            raise DataError(f'row needs a "{layout.question}" and {layout.needs}', source=rows.name, line=number)
        problems.append(Problem(f"{name}/{first + number - 1}", text, right))
    if not problems:
        raise DataError("the file is empty: there is no problem in it", source=rows.name)
    return problems


def boxed_problems(
    name: str,
    problems: Sequence[Problem],
    renderer: Renderer,
    grader: Grader,
    *,
    seed: int | None,
    fewshot: bool = True,
    format_coef: float = 0.1,
    source: str = "",
) -> ProblemSet:
    """Problems whose answer is asked for in a box, as the layout `name` asks. source: the file, where each problem is
    one of its lines."""
    task = ProblemTask(
        renderer=renderer,
        grader=grader,
        extract=boxed,
        write=in_box,
        prefix=BOXED_EXAMPLE if fewshot else (),
        suffix=LAYOUTS[name].suffix,
        format_coef=format_coef,
    )
    digest = hashlib.blake2b(repr([(p.question, p.answer) for p in problems]).encode(), digest_size=16)
    return ProblemSet(
        name, task, len(problems), problems.__getitem__, seed, fingerprint=digest.hexdigest(), source=source
    )
