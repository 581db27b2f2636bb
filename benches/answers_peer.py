"""The peers of `answers.py`: math-verify, and the classic pipeline as tinker-cookbook ships it. Runs in an environment
that has tinker-cookbook, sympy, pylatexenc and math-verify.

Reads a JSON list [name, [gold, pred], ...] a line; grades each pair alone, in the main thread, and writes a JSON list
of [equal or null, seconds] a line. What takes longer than 5 s is null.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import time

import math_verify
from tinker_cookbook.recipes.math_rl.math_grading import grade_answer

LIMIT_S = 5


def by_math_verify(gold: str, pred: str) -> bool:
    right = math_verify.parse(f"${gold}$", parsing_timeout=None)
    return math_verify.verify(right, math_verify.parse(f"${pred}$", parsing_timeout=None), timeout_seconds=None)


def by_classic(gold: str, pred: str) -> bool:
    return grade_answer(pred, gold)


class TooLong(BaseException):
    pass


def ring(*_: object) -> None:
    raise TooLong


logging.disable(logging.CRITICAL)
signal.signal(signal.SIGALRM, ring)
for line in sys.stdin:
    name, *pairs = json.loads(line)
    grade = {"math_verify": by_math_verify, "classic": by_classic}[name]
    grade("\\frac{1}{2}+x", "x+0.5")  # what is made at first use is not counted
    said = []
    for gold, pred in pairs:
        began, equal = time.perf_counter(), None
        signal.alarm(LIMIT_S)
        with contextlib.suppress(Exception, TooLong):  # a peer that raises gives no verdict
            equal = bool(grade(gold, pred))
        signal.alarm(0)
        said.append([equal, time.perf_counter() - began])
    print(json.dumps(said), flush=True)
