"""Equality by sympy (extra `math`), the classic way: the difference simplifies to zero.

Sympy sees objects that are built node by node from our own parse; no text reaches its parser, `sympify` or `eval`. What
does not simplify to zero is "different" only when its value shows that, and undecided otherwise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import sympy
from sympy import I, Rational, oo

from tinsmith import _native
from tinsmith.adapters.graders.worker import Compare

Node = Any
"""JSON: a list of a kind and its parts."""
Said = tuple[bool | None, str]

MAX_BITS = 1 << 17
"""Of an integer power, and so of what sympy computes at once."""
MAX_FACTORIAL = 10_000
ROUNDED_DIGITS = 6
"""A decimal of so many significant digits stands for an exact value that rounds to it."""
DIGITS = 60
POINTS = 6

_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": I, "inf": oo, "-inf": -oo}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{n: getattr(sympy, n) for n in ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan")},
    **{n: getattr(sympy, n) for n in ("asec", "acsc", "acot", "sinh", "cosh", "tanh", "sech", "csch", "coth")},
    **{n: getattr(sympy, n) for n in ("asinh", "acosh", "atanh", "exp", "log", "floor", "re", "im", "arg", "sign")},
    "ln": sympy.log,
    "ceil": sympy.ceiling,
    "abs": sympy.Abs,
    "conj": sympy.conjugate,
    "sqrt": sympy.sqrt,
    "min": sympy.Min,
    "max": sympy.Max,
    "gcd": sympy.gcd,
    "lcm": sympy.lcm,
    "mod": sympy.Mod,
}
_FLIPPED = {">": "<", ">=": "<=", "=": "=", "!=": "!=", "<": "<", "<=": "<="}
_UNORDERED = frozenset({"set", "list", "union", "intersection"})


class _CannotTell(Exception):
    """The reason why not, as a code."""


def load() -> Compare:
    return compare


def compare(gold: str, pred: str) -> Said:
    (right, _), (given, why) = _native.answer_ast(gold), _native.answer_ast(pred)
    if right is None:
        return None, "gold_unparsed"
    if given is None:
        return None, why or "unparsed"
    return same(json.loads(right), json.loads(given))


def same(gold: Node, pred: Node) -> Said:
    """Whether two parsed answers are equal."""
    try:
        verdict = _same(_plain(gold), _plain(pred))
    except _CannotTell as reason:
        return None, str(reason)
    return verdict, "unproved" if verdict is None else "simplified"


def _same(gold: Node, pred: Node) -> bool | None:
    kind, other = gold[0], pred[0]
    if kind != other and (_assigned(gold) is not None) != (_assigned(pred) is not None):
        return _same(_plain(_assigned(gold) or gold), _plain(_assigned(pred) or pred))
    if kind in _UNORDERED and kind == other:
        return _match(gold[1], pred[1])
    if kind == "tuple" and other == kind:
        return False if gold[1:3] != pred[1:3] else _each(gold[3], pred[3])
    if kind == other == "ratio":
        return _each(gold[1], pred[1])
    if kind == other == "matrix":
        if [len(row) for row in gold[1]] != [len(row) for row in pred[1]]:
            return False
        return _each([cell for row in gold[1] for cell in row], [cell for row in pred[1] for cell in row])
    if kind == other == "rel":
        return _same_relation(gold, pred)
    if kind == other == "chain":
        if gold[2] != pred[2]:
            raise _CannotTell("kind")
        return _each(gold[1], pred[1])
    if kind == other == "text":
        return bool(gold[1].casefold() == pred[1].casefold())
    if kind == other == "base":
        return bool(gold[1:] == pred[1:])
    if kind == other == "unit" and gold[2] != pred[2]:
        raise _CannotTell("unit")
    return _same_scalar(gold, pred)


def _plain(node: Node) -> Node:
    """The two values of a plus-minus as a list, and a ratio of two as a quotient."""
    kind = node[0]
    if kind == "plusminus":
        return ["list", node[1:]]
    if kind == "ratio" and len(node[1]) == 2:
        return ["div", *node[1]]
    return node


def _assigned(node: Node) -> Node | None:
    """5 of `x = 5`."""
    return node[3] if node[0] == "rel" and node[1] == "=" and node[2][0] == "var" else None


def _each(gold: Sequence[Node], pred: Sequence[Node]) -> bool | None:
    if len(gold) != len(pred):
        return False
    verdicts = [_same(_plain(a), _plain(b)) for a, b in zip(gold, pred, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _match(gold: Sequence[Node], pred: Sequence[Node]) -> bool | None:
    """In any order."""
    if len(gold) != len(pred):
        return False
    left, doubt = list(pred), False
    for item in gold:
        verdicts = [_same(_plain(item), _plain(other)) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            doubt = True
        else:
            return False
    return None if doubt else True


def _same_relation(gold: Node, pred: Node) -> bool | None:
    (op, a), (other, b) = _difference(gold), _difference(pred)
    if op != other:
        raise _CannotTell("kind")
    if a == 0 or b == 0:
        return bool(a == b)
    factor = sympy.simplify(a / b)
    if factor.is_number and factor.is_finite and factor.is_zero is False:
        return True if op in ("=", "!=") or factor.is_positive else None
    return None


def _difference(node: Node) -> tuple[str, Any]:
    """(op, left - right), with `<` for `>`."""
    _, op, left, right = node
    a, b = scalar(left), scalar(right)
    return _FLIPPED[op], b - a if op in (">", ">=") else a - b


def _same_scalar(gold: Node, pred: Node) -> bool | None:
    a, b = scalar(gold), scalar(pred)
    if any(value.has(sympy.nan, sympy.zoo) for value in (a, b)):
        raise _CannotTell("undefined")
    if a == b:
        return True
    difference = a - b
    if not difference.free_symbols:
        rounded = _rounded(gold, pred, a, b)
        if rounded is not None:
            return rounded
        if difference.is_Rational:
            return False
    if sympy.simplify(difference) == 0:
        return True
    return False if _shown_different(difference) else None


def _rounded(gold: Node, pred: Node, a: Any, b: Any) -> bool | None:
    """A decimal against an exact value: whether that rounds to it. None where this is no such case."""
    if (gold[0] == "dec") == (pred[0] == "dec"):
        return None
    (_, written, places), exact = (gold, b) if gold[0] == "dec" else (pred, a)
    unit = 10 ** int(places)
    if gold[0] != "dec" and abs(_rational(written)) * unit < 10 ** (ROUNDED_DIGITS - 1):
        return None
    half = Rational(1, 2 * unit)
    off = abs((exact - _rational(written)).evalf(DIGITS))
    return bool(off <= half) if off.is_comparable else None


def _shown_different(difference: Any) -> bool:
    """The value at some point, or of the constant itself, is away from zero by far more than its error."""
    symbols = sorted(difference.free_symbols, key=str)
    draw = random.Random(0)
    for _ in range(POINTS if symbols else 1):
        point = {symbol: Rational(draw.randint(1, 400), 100) for symbol in symbols}
        value = difference.evalf(DIGITS, subs=point)
        if value.is_number and value.is_finite and abs(value) > Rational(1, 10 ** (DIGITS // 2)):
            return True
    return False


def scalar(node: Node) -> Any:
    """The sympy expression of a node that stands for one value."""
    kind = node[0]
    match kind:
        case "num":
            return _rational(node[1])
        case "dec":
            return _rational(node[1])
        case "var":
            return sympy.Symbol(node[1], real=True)
        case "const":
            return _CONSTANTS[node[1]]
        case "add":
            return sympy.Add(*map(scalar, node[1]))
        case "mul":
            return sympy.Mul(*map(scalar, node[1]))
        case "neg":
            return -scalar(node[1])
        case "div":
            return scalar(node[1]) / scalar(node[2])
        case "pow":
            return _power(scalar(node[1]), scalar(node[2]))
        case "fn":
            return _function(node[1], list(map(scalar, node[2])))
        case "percent":
            return scalar(node[1]) / 100
        case "unit":
            return scalar(node[1])
        case "base":
            return sympy.Integer(int(node[1], int(node[2])))
        case _:
            raise _CannotTell("kind")


def _rational(text: str) -> Any:
    top, _, bottom = text.partition("/")
    return Rational(int(top), int(bottom or 1))


def _power(base: Any, exponent: Any) -> Any:
    if base.is_Rational and exponent.is_Rational:
        if abs(exponent) * max(abs(base.p).bit_length(), base.q.bit_length()) > MAX_BITS:
            raise _CannotTell("too_large")
    elif base.is_number and exponent.is_Rational and abs(exponent) > MAX_BITS:
        raise _CannotTell("too_large")
    return sympy.Pow(base, exponent)


def _function(name: str, arguments: list[Any]) -> Any:
    if name in ("fact", "binom"):
        if any(a.is_number and not abs(a) <= MAX_FACTORIAL for a in arguments):
            raise _CannotTell("too_large")
        return sympy.factorial(*arguments) if name == "fact" else sympy.binomial(*arguments)
    if name not in _FUNCTIONS:
        raise _CannotTell("unknown_command")
    return _FUNCTIONS[name](*arguments)
