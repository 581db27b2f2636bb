//! Answers as LaTeX that is read back as the same answer.

use std::fmt::{Display, Formatter, Result};

use super::ast::{Answer, Bracket, Const, Expr, Func, Join, RelOp};

struct Row<'a, T>(&'a [T], &'static str);

impl<T: Display> Display for Row<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (i, item) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(self.1)?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

/// An expression where only one factor may stand.
struct Factor<'a>(&'a Expr);

impl Display for Factor<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let bare = match self.0 {
            Expr::Num(v) => {
                v.is_int()
                    && v.numerator()
                        .to_string()
                        .bytes()
                        .all(|b| b.is_ascii_digit())
            }
            Expr::Dec(_) | Expr::Var(_) | Expr::Const(_) | Expr::Div(..) => true,
            Expr::Fn(func, _) => !matches!(func, Func::Residue | Func::Fact),
            _ => false,
        };
        if bare {
            write!(f, "{}", self.0)
        } else {
            write!(f, "({})", self.0)
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Num(v) if v.is_int() => write!(f, "{}", v.numerator()),
            Self::Num(v) => write!(f, r"\frac{{{}}}{{{}}}", v.numerator(), v.denominator()),
            Self::Dec(d) => {
                let places = d.places as usize;
                let digits = (&d.value
                    * dashu_ratio::RBig::from(dashu_int::UBig::from(10u8).pow(places)))
                .numerator()
                .to_string();
                let digits = format!("{digits:0>width$}", width = places + 1);
                let (whole, fraction) = digits.split_at(digits.len() - places);
                write!(f, "{whole}.{fraction}")
            }
            Self::Var(name) => match name.split_once('_') {
                Some((name, sub)) => write!(f, "{name}_{{{sub}}}"),
                None => write!(f, "{name}"),
            },
            Self::Const(Const::Pi) => f.write_str(r"\pi"),
            Self::Const(Const::E) => f.write_str("e"),
            Self::Const(Const::I) => f.write_str("i"),
            Self::Const(Const::Infinity) => f.write_str(r"\infty"),
            Self::Add(items) => {
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(" + ")?;
                    }
                    if let Self::Add(_) = item {
                        write!(f, "({item})")?
                    } else {
                        write!(f, "{item}")?
                    }
                }
                Ok(())
            }
            Self::Mul(items) => {
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(r" \cdot ")?;
                    }
                    write!(f, "{}", Factor(item))?;
                }
                Ok(())
            }
            Self::Neg(x) => match &**x {
                Self::Add(_) | Self::Neg(_) => write!(f, "-({x})"),
                _ => write!(f, "-{x}"),
            },
            Self::Div(a, b) => write!(f, r"\frac{{{a}}}{{{b}}}"),
            Self::Pow(a, b) => match &**a {
                Self::Num(_) | Self::Dec(_) | Self::Var(_) | Self::Const(_) => {
                    write!(f, "{}^{{{b}}}", Factor(a))
                }
                _ => write!(f, "({a})^{{{b}}}"),
            },
            Self::Fn(Func::Fact, args) => write!(f, "({})!", Row(args, ", ")),
            Self::Fn(Func::Binom, args) => write!(f, r"\binom{{{}}}{{{}}}", args[0], args[1]),
            Self::Fn(Func::Mod, args) => write!(f, r"\operatorname{{Mod}}({})", Row(args, ", ")),
            Self::Fn(Func::Residue, args) => {
                write!(f, r"{} \pmod{{{}}}", Factor(&args[0]), args[1])
            }
            Self::Fn(func, args) => write!(f, r"\{}({})", func.name(), Row(args, ", ")),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Expr(e) => write!(f, "{e}"),
            Self::Tuple(open, close, items) => {
                let open = if *open == Bracket::Round { "(" } else { "[" };
                let close = if *close == Bracket::Round { ")" } else { "]" };
                write!(f, "{open}{}{close}", Row(items, ", "))
            }
            Self::Set(items) => write!(f, r"\{{{}\}}", Row(items, ", ")),
            Self::Builder(condition) => write!(f, r"\{{x \mid {condition}\}}"),
            Self::List(Join::Comma, items) => write!(f, "{}", Row(items, ", ")),
            Self::List(Join::And, items) => write!(f, "{}", Row(items, r" \text{ and } ")),
            Self::List(Join::Or, items) => write!(f, "{}", Row(items, r" \text{ or } ")),
            Self::Union(items) => write!(f, "{}", Row(items, r" \cup ")),
            Self::Intersection(items) => write!(f, "{}", Row(items, r" \cap ")),
            Self::Difference(a, b) => write!(f, r"{a} \setminus {b}"),
            Self::Named(set) => f.write_str(match set.name() {
                "empty" => r"\emptyset",
                "reals" => r"\mathbb{R}",
                "integers" => r"\mathbb{Z}",
                "naturals" => r"\mathbb{N}",
                "rationals" => r"\mathbb{Q}",
                _ => r"\mathbb{C}",
            }),
            Self::Relation(sides, ops) => {
                for (i, side) in sides.iter().enumerate() {
                    if i > 0 {
                        let op = match ops[i - 1] {
                            RelOp::Eq => "=",
                            RelOp::Ne => r"\ne",
                            RelOp::Lt => "<",
                            RelOp::Le => r"\le",
                            RelOp::Gt => ">",
                            RelOp::Ge => r"\ge",
                            RelOp::Approx => r"\approx",
                            RelOp::Equiv => r"\equiv",
                            RelOp::In => r"\in",
                        };
                        write!(f, " {op} ")?;
                    }
                    write!(f, "{side}")?;
                }
                Ok(())
            }
            Self::Matrix(rows) => {
                f.write_str(r"\begin{pmatrix}")?;
                for (i, row) in rows.iter().enumerate() {
                    if i > 0 {
                        f.write_str(r" \\ ")?;
                    }
                    write!(f, "{}", Row(row, " & "))?;
                }
                f.write_str(r"\end{pmatrix}")
            }
            Self::PlusMinus(a, b) => write!(f, "{a}, {b}"),
            Self::Ratio(parts) => write!(f, "{}", Row(parts, ":")),
            Self::Based(digits, base) => write!(f, "{digits}_{{{base}}}"),
            Self::Percent(e) => write!(f, r"{}\%", Factor(e)),
            Self::Measure(e, unit) => write!(f, r"{} \text{{ {}}}", Factor(e), unit.name),
            Self::Text { words, letter } => match letter {
                Some(letter) => write!(f, r"\text{{({letter})}}"),
                None => write!(f, r"\text{{{words}}}"),
            },
        }
    }
}
