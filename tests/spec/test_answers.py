r"""Chapter: answers.

A reward of mathematics RL asks one question: is this answer the right one? *Equality* of answers is a relation between
texts. It is reflexive, and symmetric but for what the policy grants the model alone (a long decimal for an exact
value); it does not see delimiters, spacing, or how a number is written. Rational numbers are compared exactly. The
verdict has a third value, *undecided*, for what cannot be read.

The policy itself is `docs/answers.md`, a page of tables whose rows are run here.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reference import answers as reference
from tinsmith import answers
from tinsmith.domain.errors import ConfigError, DataError, ShapeError

POLICY = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
NAMES = {True: "yes", False: "no", None: "open"}
anything = st.one_of(st.text(max_size=60), st.binary(max_size=60), st.none())


def rows() -> list[tuple[str, str, str, str]]:
    found = []
    for line in POLICY.read_text().splitlines():
        match = re.fullmatch(r"\| `(.*?)` \| `(.*?)` \| (yes|no|open) \| (yes|no|open) \|", line)
        if match:
            found.append((match[1], match[2], match[3], match[4]))
    assert len(found) > 90
    return found


@pytest.mark.parametrize(("gold", "pred", "relaxed", "strict"), rows())
def test_the_policy_page_is_what_happens(gold: str, pred: str, relaxed: str, strict: str) -> None:
    assert NAMES[answers.equal(gold, pred).equal] == relaxed, answers.equal(gold, pred)
    assert NAMES[answers.equal(gold, pred, policy="strict").equal] == strict, answers.equal(gold, pred, policy="strict")


# Numbers.


@given(reference.expressions(), reference.expressions())
@example(("1{,}000", Fraction(1000)), ("1000", Fraction(1000)))
def test_rational_expressions_are_equal_when_their_values_are(a: reference.Valued, b: reference.Valued) -> None:
    strict = answers.equal(a[0], b[0], policy="strict")
    assert strict.equal is (a[1] == b[1])


@given(reference.expressions())
def test_an_expression_equals_its_value_and_no_neighbour(a: reference.Valued) -> None:
    text, value = a
    assert answers.equal(text, reference.written(value)).equal
    assert answers.equal(reference.written(value), text).equal
    assert answers.equal(text, reference.written(value + 1)).equal is False


@given(st.integers(10**20, 10**60), st.integers(1, 9))
def test_long_integers_differ_by_their_last_digit(n: int, d: int) -> None:
    assert answers.equal(str(n), str(n + d)).equal is False


@given(st.integers(1, 10**6), st.integers(2, 997))
def test_a_decimal_stands_for_a_fraction_when_it_is_long_and_rounded_correctly(over: int, under: int) -> None:
    value = Fraction(over, under)
    assume(value.denominator not in (1, 2, 4, 5, 8, 10) and value > 1)
    nearest = round(value, 8)
    text = f"{float(nearest):.8f}"
    assume(Fraction(text) == nearest and Fraction(text) != value)
    gold = reference.written(value)
    assert answers.equal(gold, text).equal
    assert answers.equal(gold, text, policy="strict").equal is False
    wrong = f"{float(nearest + Fraction(3, 10**8)):.8f}"
    assert answers.equal(gold, wrong).equal is False


# Functions: what a rewrite keeps, what a perturbation breaks.

ATOMS = st.sampled_from(["x", "y", "n", "2", "3", "5", r"\sqrt{2}", r"\pi", "x^2", r"\sin x", r"\ln(y+1)"])


@st.composite
def functions(draw: st.DrawFn) -> str:
    terms = draw(st.lists(st.tuples(st.integers(1, 9), ATOMS, ATOMS), min_size=1, max_size=3))
    return "+".join(rf"{k}\cdot {a}\cdot {b}" for k, a, b in terms)


@given(functions(), functions())
def test_functions_equal_their_rewrites(f: str, g: str) -> None:
    rewrites = {
        f"({f})+({g})": f"({g})+({f})",
        f"({f})({g})": f"({g})({f})",
        f"({f})^2-({g})^2": f"(({f})-({g}))(({f})+({g}))",
        rf"\frac{{({f})({g})}}{{{g}}}": f,
        f"2({f})": f"({f})+({f})",
        f"e^{{0({f})}}": "1",
    }
    for left, right in rewrites.items():
        assert answers.equal(left, right).equal, (left, right)


@given(functions(), st.integers(1, 9))
def test_functions_differ_from_what_is_perturbed(f: str, k: int) -> None:
    assert answers.equal(f, f"{f}+{k}").equal is False
    assert answers.equal(f, f"{k + 1}({f})").equal is False
    assert answers.equal(f"({f})^2", f"({f})^3+{k}").equal is False


# The relation.


@given(functions(), functions())
def test_equality_is_symmetric(f: str, g: str) -> None:
    assert answers.equal(f, g).equal == answers.equal(g, f).equal


@given(st.one_of(functions(), reference.expressions().map(lambda v: v[0])))
def test_delimiters_and_spacing_say_nothing(text: str) -> None:
    forms = [f"${text}$", rf"\({text}\)", rf"\[{text}\]", f" {text} .", rf"\boxed{{{text}}}", rf"\text{{}}{text}"]
    assert all(answers.equal(text, form).equal for form in forms)
    assert answers.equal(text, text.replace("+", r"\, + \;")).equal


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_lists_and_sets_have_no_order_and_tuples_have_one(items: list[int], random: object) -> None:
    text = [str(i) for i in items]
    other = [*text[1:], text[0]]
    assert answers.equal(", ".join(text), ", ".join(other)).equal
    assert answers.equal(rf"\{{{', '.join(text)}\}}", rf"\{{{', '.join(other)}\}}").equal
    assert answers.equal(f"({', '.join(text)})", f"({', '.join(other)})").equal is False
    assert answers.equal(", ".join(text), ", ".join(text[1:])).equal is False


# Any input at all.


@given(anything, anything, st.sampled_from(["answer", "response"]), st.sampled_from(["relaxed", "strict"]))
@example("\ud800", "5", "answer", "relaxed")
@example(b"\xff\xfe", "5", "response", "relaxed")
@example("5", "\0" * 100 + "5", "answer", "strict")
def test_nothing_makes_it_fail(gold: object, pred: object, mode: str, policy: str) -> None:
    verdict = answers.grade_batch([gold], [pred], mode=mode, policy=policy)[0]  # type: ignore[list-item, arg-type]
    assert verdict.reason in answers.REASONS
    assert verdict.tier in answers.TIERS


@given(st.text(max_size=60))
def test_a_text_equals_itself_or_says_nothing(text: str) -> None:
    verdict = answers.equal(text, text)
    assert verdict.equal or verdict.reason == "gold_empty"


def test_the_right_answer_is_blamed_for_its_own_faults() -> None:
    for gold in (None, "", "  ", "$$", r"\frac{1}{0}", r"\begin{cases}1\end{cases}"):
        verdict = answers.equal(gold, "5")
        assert verdict.equal is None
        assert verdict.reason.startswith("gold_")


def test_ten_megabytes_are_refused_or_searched() -> None:
    assert answers.equal("5", "{" * 10_000_000).equal is not True
    assert answers.grade_batch(["5"], ["{" * 10_000_000 + r"\boxed{5}"], mode="response")[0].equal


def test_a_batch_is_its_pairs() -> None:
    golds = ["1", "x", "(1,2)", "", "7"] * 40
    preds = ["1.0", "y", "(1, 2)", "3", "{"] * 40
    batch = answers.grade_batch(golds, preds)
    assert [batch[i] for i in range(len(batch))] == [answers.equal(g, p) for g, p in zip(golds, preds, strict=True)]


def test_what_is_no_text_and_what_does_not_pair_is_refused() -> None:
    with pytest.raises(DataError, match="not int"):
        answers.equal(5, "5")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="one for each gold"):
        answers.grade_batch(["1"], [])
    with pytest.raises(ConfigError, match="relaxed or strict"):
        answers.equal("1", "1", policy="lax")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="answer or response"):
        answers.grade_batch([], [], mode="text")  # type: ignore[arg-type]


# Extraction.


@given(st.text(alphabet="abc {}$.\n", max_size=40), functions(), st.text(alphabet="abc {}$.\n", max_size=40))
def test_what_is_planted_is_found(before: str, answer: str, after: str) -> None:
    found = answers.extract(rf"{before}\boxed{{{answer}}}{after}")
    assert found is not None
    assert (found.text, found.mark) == (answer, "boxed")


@pytest.mark.parametrize(
    ("text", "answer", "mark"),
    [
        (r"first \boxed{1}, then \boxed{2}", "2", "boxed"),
        (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}", "boxed"),
        (r"\boxed 5", "5", "boxed"),
        (r"\boxed -7/2.", "-7/2", "boxed"),
        (r"\fbox{x}", "x", "boxed"),
        (r"\right\} \boxed{3}", "3", "boxed"),
        ("```\n\\boxed{3}\n```", "3", "boxed"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}", "boxed"),
        ("thus\n#### 1,200", "1,200", "hashes"),
        ("The answer is 5.", "5", "phrase"),
        ("**Answer:** $x=2$", "$x=2$", "phrase"),
        ("Hence $a$, and so $b+1$.", "b+1", "formula"),
        ("She has 3 left, that is -12.5% of it", "-12.5%", "number"),
    ],
)
def test_the_answer_is_where_it_is_marked(text: str, answer: str, mark: str) -> None:
    found = answers.extract(text)
    assert found is not None
    assert (found.text, found.mark) == (answer, mark)
    assert text[found.start : found.end] == answer


@pytest.mark.parametrize("text", ["", "I do not know.", r"\boxed{5", r"so \boxed{ is 5"])
def test_a_text_without_an_answer_has_none(text: str) -> None:
    assert answers.extract(text) is None
    assert answers.grade_batch(["5"], [text], mode="response")[0].equal is False


# Real answers.


def test_the_shared_cases_are_right(shared: Path) -> None:
    cases = [json.loads(line) for line in (shared / "reference" / "answer_equivalence.jsonl").read_text().splitlines()]
    verdicts = answers.grade_batch([c["gold"] for c in cases], [c["pred"] for c in cases])
    wrong = [c["id"] for c, v in zip(cases, verdicts, strict=True) if v.equal is not c["expected"]]
    assert not wrong


def test_every_real_gold_equals_itself_and_can_be_read(shared: Path) -> None:
    golds: list[str] = []
    for file in ("math/test.jsonl", "math/math500_test.jsonl", "gsm8k/train.jsonl", "gsm8k/test.jsonl"):
        for line in (shared / "data" / file).read_text().splitlines():
            row = json.loads(line)
            found = answers.extract(row.get("solution") or row["answer"])
            assert found is not None
            golds.append(row["answer"] if file.startswith("math/math500") else found.text)
    assert answers.grade_batch(golds, golds).equal.min() == 1
    unread = [g for g in golds if answers.parse(g) is None]
    assert len(unread) < 0.01 * len(golds)
