//! Answers as JSON arrays, for graders in other languages: the head names the kind, as in `["add",[["num","1"],["var","x"]]]`.

use std::fmt::Write;

use super::ast::{Answer, Bracket, Const, Expr};

/// The answer as JSON.
pub fn answer(a: &Answer) -> String {
    let mut out = String::new();
    write_answer(&mut out, a);
    out
}

fn string(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `["head", part, part]`.
fn node(out: &mut String, head: &str, parts: &[&dyn Fn(&mut String)]) {
    out.push('[');
    string(out, head);
    for part in parts {
        out.push(',');
        part(out);
    }
    out.push(']');
}

fn sequence<T>(out: &mut String, items: &[T], write: fn(&mut String, &T)) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn write_expr(out: &mut String, e: &Expr) {
    match e {
        Expr::Num(v) => node(out, "num", &[&|o| string(o, &v.to_string())]),
        Expr::Dec(d) => node(
            out,
            "dec",
            &[&|o| string(o, &d.value.to_string()), &|o| {
                o.push_str(&d.places.to_string())
            }],
        ),
        Expr::Var(name) => node(out, "var", &[&|o| string(o, name)]),
        Expr::Const(c) => {
            let name = match c {
                Const::Pi => "pi",
                Const::E => "e",
                Const::I => "i",
                Const::Infinity => "inf",
            };
            node(out, "const", &[&|o| string(o, name)]);
        }
        Expr::Add(items) => node(out, "add", &[&|o| sequence(o, items, write_expr)]),
        Expr::Mul(items) => node(out, "mul", &[&|o| sequence(o, items, write_expr)]),
        Expr::Neg(x) => node(out, "neg", &[&|o| write_expr(o, x)]),
        Expr::Div(a, b) => node(out, "div", &[&|o| write_expr(o, a), &|o| write_expr(o, b)]),
        Expr::Pow(a, b) => node(out, "pow", &[&|o| write_expr(o, a), &|o| write_expr(o, b)]),
        Expr::Fn(func, args) => node(
            out,
            "fn",
            &[&|o| string(o, func.name()), &|o| {
                sequence(o, args, write_expr)
            }],
        ),
    }
}

const fn bracket(b: Bracket, open: bool) -> &'static str {
    match (b, open) {
        (Bracket::Round, true) => "(",
        (Bracket::Round, false) => ")",
        (Bracket::Square, true) => "[",
        (Bracket::Square, false) => "]",
    }
}

#[allow(clippy::ptr_arg)]
fn write_row(out: &mut String, row: &Vec<Answer>) {
    sequence(out, row, write_answer);
}

fn write_answer(out: &mut String, a: &Answer) {
    let items = |head: &'static str, items: &[Answer], out: &mut String| {
        node(out, head, &[&|o| sequence(o, items, write_answer)])
    };
    match a {
        Answer::Expr(e) => write_expr(out, e),
        Answer::Tuple(open, close, parts) => node(
            out,
            "tuple",
            &[
                &|o| string(o, bracket(*open, true)),
                &|o| string(o, bracket(*close, false)),
                &|o| sequence(o, parts, write_answer),
            ],
        ),
        Answer::Set(parts) => items("set", parts, out),
        Answer::Builder(inner) => node(out, "builder", &[&|o| write_answer(o, inner)]),
        Answer::List(_, parts) => items("list", parts, out),
        Answer::Union(parts) => items("union", parts, out),
        Answer::Intersection(parts) => items("intersection", parts, out),
        Answer::Difference(x, y) => node(
            out,
            "difference",
            &[&|o| write_answer(o, x), &|o| write_answer(o, y)],
        ),
        Answer::Named(set) => node(out, "named", &[&|o| string(o, set.name())]),
        Answer::Relation(sides, ops) => {
            if let ([x, y], [op]) = (sides.as_slice(), ops.as_slice()) {
                node(
                    out,
                    "rel",
                    &[&|o| string(o, op.name()), &|o| write_answer(o, x), &|o| {
                        write_answer(o, y)
                    }],
                );
            } else {
                node(
                    out,
                    "chain",
                    &[&|o| sequence(o, sides, write_answer), &|o| {
                        sequence(o, ops, |o, op| string(o, op.name()))
                    }],
                );
            }
        }
        Answer::Matrix(rows) => node(out, "matrix", &[&|o| sequence(o, rows, write_row)]),
        Answer::PlusMinus(x, y) => node(
            out,
            "plusminus",
            &[&|o| write_expr(o, x), &|o| write_expr(o, y)],
        ),
        Answer::Ratio(parts) => node(out, "ratio", &[&|o| sequence(o, parts, write_expr)]),
        Answer::Based(digits, base) => node(
            out,
            "base",
            &[&|o| string(o, digits), &|o| string(o, &base.to_string())],
        ),
        Answer::Percent(e) => node(out, "percent", &[&|o| write_expr(o, e)]),
        Answer::Measure(e, unit) => node(
            out,
            "unit",
            &[&|o| write_expr(o, e), &|o| string(o, &unit.name)],
        ),
        Answer::Text { words, .. } => node(out, "text", &[&|o| string(o, words)]),
    }
}
