"""What sympy and math-verify say of pairs, in this process; no timeouts, so only pairs that are quick."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SYMPY = [
    (r"\sqrt{12}", r"2\sqrt{3}", True),
    (r"\sin(2x)", r"2\sin(x)\cos(x)", True),
    ("x^2-1", "(x-1)(x+1)", True),
    ("x^2", "x^3", False),
    ("x", "X", False),
    ("1/3", "0.333333", True),
    ("1/3", "0.333", False),
    (r"\{1,2\}", r"\{2,1\}", True),
    ("(1,2)", "(2,1)", False),
    ("[1,2)", "(1,2)", False),
    (r"1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}", True),
    ("5", "x=5", True),
    ("x+y=1", "2x+2y=2", True),
    ("x<1", "1>x", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", False),
    (r"\text{even}", r"\text{odd}", False),
    ("2^{3000}", "2^{3001}", False),
    ("1/0", "5", None),
    ("{{", "5", None),
    ("9^{9^{9^{9}}}", "5", None),
    ("1/2004!", "1/2006!", False),
]


@pytest.mark.parametrize(("gold", "pred", "equal"), SYMPY)
def test_sympy(gold: str, pred: str, equal: bool | None) -> None:
    pytest.importorskip("sympy", reason="needs the extra: math")
    from tinsmith.adapters.graders.sympy import compare

    said, reason = compare(gold, pred)
    assert said is equal, reason
    assert (gold == "{{") == reason.startswith("gold_")


@pytest.mark.parametrize(
    ("gold", "pred", "equal"), [("1/2", "0.5", True), (r"\frac{1}{2}", r"\frac13", False), ("{{", "5", None)]
)
def test_math_verify(gold: str, pred: str, equal: bool | None) -> None:
    pytest.importorskip("math_verify", reason="needs the extra: math")
    from tinsmith.adapters.graders.math_verify import compare

    assert compare(gold, pred)[0] is equal


def test_sympy_calls_no_pair_of_the_reference_equal_that_differs(shared: Path) -> None:
    pytest.importorskip("sympy", reason="needs the extra: math")
    from tinsmith.bootstrap import open_grader

    rows = [json.loads(line) for line in (shared / "reference" / "answer_equivalence.jsonl").read_text().splitlines()]
    grader = open_grader("sympy", alone=True)
    grades = grader.grade([r["gold"] for r in rows], [r["pred"] for r in rows]).result(120)
    grader.close()
    assert not [r for r, g in zip(rows, grades, strict=True) if g.equal is True and not r["expected"]]
    assert sum(g.equal is True for g in grades) > 0.85 * sum(r["expected"] for r in rows)
