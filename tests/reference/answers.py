"""Rational expressions with their values, by Python's own arithmetic."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

Valued = tuple[str, Fraction]
"""LaTeX and its value."""


def numbers() -> st.SearchStrategy[Valued]:
    whole = st.integers(0, 10**6).map(lambda n: (str(n), Fraction(n)))
    decimal = st.tuples(st.integers(0, 10**5), st.integers(1, 4)).map(
        lambda nd: (f"{nd[0] // 10 ** nd[1]}.{nd[0] % 10 ** nd[1]:0{nd[1]}d}", Fraction(nd[0], 10 ** nd[1]))
    )
    grouped = st.integers(1000, 10**9).map(lambda n: (f"{n:,}".replace(",", "{,}"), Fraction(n)))
    return st.one_of(whole, decimal, grouped)


def expressions() -> st.SearchStrategy[Valued]:
    def grow(inner: st.SearchStrategy[Valued]) -> st.SearchStrategy[Valued]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            pairs.map(lambda p: (f"({p[0][0]})+({p[1][0]})", p[0][1] + p[1][1])),
            pairs.map(lambda p: (f"({p[0][0]})-({p[1][0]})", p[0][1] - p[1][1])),
            pairs.map(lambda p: (rf"({p[0][0]})\cdot({p[1][0]})", p[0][1] * p[1][1])),
            pairs.filter(lambda p: p[1][1] != 0).map(
                lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
            ),
            pairs.filter(lambda p: p[1][1] != 0).map(lambda p: (f"({p[0][0]})/({p[1][0]})", p[0][1] / p[1][1])),
            inner.map(lambda v: (f"-({v[0]})", -v[1])),
            st.tuples(inner, st.integers(0, 4)).map(lambda p: (f"({p[0][0]})^{{{p[1]}}}", p[0][1] ** p[1])),
        )

    return st.recursive(numbers(), grow, max_leaves=6)


def written(value: Fraction) -> str:
    """A value as a fraction."""
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
