"""Small programming problems, made here in the layout of DeepCoder, with a solution each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tinsmith.recipes.small_sets import WORDS, SmallSet

CASES = 5
"""Tests a problem."""


class _Whole(NamedTuple):
    """A program that reads a line and writes one. NUMBER stands for one that is drawn."""

    asked: str
    solution: str
    given: Callable[[random.Random], str]
    right: Callable[[str, int], object]


class _Function(NamedTuple):
    name: str
    signature: str
    asked: str
    body: str
    given: Callable[[random.Random], list[Any]]
    right: Callable[..., object]


def _numbers(rng: random.Random) -> str:
    return " ".join(str(rng.randint(-50, 50)) for _ in range(rng.randint(2, 6)))


def _words(rng: random.Random) -> str:
    return " ".join(rng.sample(WORDS, rng.randint(1, 5)))


def _ints(text: str) -> list[int]:
    return [int(word) for word in text.split()]


_WHOLE: Sequence[_Whole] = (
    _Whole(
        "Write the sum of the numbers, plus NUMBER.",
        "print(sum(map(int, input().split())) + NUMBER)",
        _numbers,
        lambda text, n: sum(_ints(text)) + n,
    ),
    _Whole(
        "Write how many of the numbers are larger than NUMBER.",
        "print(sum(int(x) > NUMBER for x in input().split()))",
        _numbers,
        lambda text, n: sum(x > n for x in _ints(text)),
    ),
    _Whole(
        "Write the largest number times NUMBER.",
        "print(max(map(int, input().split())) * NUMBER)",
        _numbers,
        lambda text, n: max(_ints(text)) * n,
    ),
    _Whole(
        "Write the numbers from the smallest to the largest, each plus NUMBER.",
        "print(*sorted(int(x) + NUMBER for x in input().split()))",
        _numbers,
        lambda text, n: " ".join(str(x + n) for x in sorted(_ints(text))),
    ),
    _Whole(
        "Write the words in reverse order, and then NUMBER.",
        "print(*input().split()[::-1], NUMBER)",
        _words,
        lambda text, n: " ".join([*text.split()[::-1], str(n)]),
    ),
    _Whole(
        "Write how many letters all words have together, plus NUMBER.",
        "print(sum(map(len, input().split())) + NUMBER)",
        _words,
        lambda text, n: sum(map(len, text.split())) + n,
    ),
)
_FUNCTIONS: Sequence[_Function] = (
    _Function(
        "longest",
        "words: List[str]) -> str",
        "Give the longest word, of several the first, NUMBER times over.",
        "return max(words, key=len) * NUMBER",
        lambda rng: [rng.sample(WORDS, rng.randint(1, 6))],
        lambda n, words: max(words, key=len) * n,
    ),
    _Function(
        "differences",
        "values: List[int]) -> List[int]",
        "Give the difference of each value to the one before it, times NUMBER.",
        "return [(b - a) * NUMBER for a, b in zip(values, values[1:])]",
        lambda rng: [[rng.randint(-20, 20) for _ in range(rng.randint(1, 6))]],
        lambda n, values: [(b - a) * n for a, b in pairwise(values)],
    ),
    _Function(
        "multiples",
        "values: List[int], start: int) -> int",
        "Give how many of the values, start added to each, are multiples of NUMBER.",
        "return sum((v + start) % NUMBER == 0 for v in values)",
        lambda rng: [[rng.randint(0, 200) for _ in range(rng.randint(1, 8))], rng.randint(0, 9)],
        lambda n, values, start: sum((v + start) % n == 0 for v in values),
    ),
)


def _problem(rng: random.Random) -> dict[str, Any]:
    return _whole(rng) if rng.random() < 0.7 else _function(rng)


def _whole(rng: random.Random) -> dict[str, Any]:
    kind, number = rng.choice(_WHOLE), rng.randint(2, 99)
    lines = [kind.given(rng) for _ in range(CASES)]
    tests = [{"type": "stdin_stdout", "input": f"{x}\n", "output": f"{kind.right(x, number)}\n"} for x in lines]
    what = "numbers" if kind.given is _numbers else "words"
    return {
        "problem": f"A line holds {what}. {kind.asked}".replace("NUMBER", str(number)),
        "tests": json.dumps(tests),
        "solution": kind.solution.replace("NUMBER", str(number)),
    }


def _function(rng: random.Random) -> dict[str, Any]:
    kind, number = rng.choice(_FUNCTIONS), rng.randint(2, 99)
    given = [kind.given(rng) for _ in range(CASES)]
    tests = [
        {
            "testtype": "functional",
            "input": "\n".join(json.dumps(value) for value in arguments),
            "output": json.dumps(kind.right(number, *arguments)),
            "metadata": {"func_name": kind.name},
        }
        for arguments in given
    ]
    head = f"class Solution:\n    def {kind.name}(self, {kind.signature}:\n"
    return {
        "problem": kind.asked.replace("NUMBER", str(number)),
        "starter_code": f"{head}        ",
        "tests": json.dumps(tests),
        "solution": f"{head}        {kind.body.replace('NUMBER', str(number))}",
    }


PROBLEMS = SmallSet("small", 200, _problem)
