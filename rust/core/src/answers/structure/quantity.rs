//! Numbers with something beside them: per cent, degrees, currencies, units, ratios, bases.

use super::Tokens;
use super::sets::split;
use crate::answers::ast::{Answer, Expr};
use crate::answers::lex::{Tok, Token};
use crate::answers::parse::{expression, function};
use crate::answers::units::{self, Unit};

pub(super) fn ratio(tokens: Tokens<'_, '_>) -> Option<Answer> {
    let parts = split(tokens, &Tok::Sym(':'));
    if parts.len() < 2 || parts.len() > 16 {
        return None;
    }
    parts
        .into_iter()
        .map(|p| expression(p).ok())
        .collect::<Option<Vec<_>>>()
        .map(Answer::Ratio)
}

/// `101_2`, `1A_{16}`, `101_{\text{two}}`.
pub(super) fn based(tokens: Tokens<'_, '_>) -> Option<Answer> {
    let at = tokens.iter().position(|t| t.tok == Tok::Sym('_'))?;
    let mut digits = String::new();
    for (i, t) in tokens[..at].iter().enumerate() {
        match &t.tok {
            Tok::Sym('-') if i == 0 => digits.push('-'),
            Tok::Num(text) => digits.push_str(text),
            Tok::Word(text) if text.bytes().all(|b| b.is_ascii_uppercase()) => {
                digits.push_str(text)
            }
            Tok::Text(text) if text.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                digits.push_str(text)
            }
            Tok::Sym('{' | '}' | '(' | ')') => {}
            _ => return None,
        }
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        || digits.len() < 1 + usize::from(digits.starts_with('-'))
    {
        return None;
    }
    let sub = match &tokens[at + 1..] {
        [one] => std::slice::from_ref(one),
        [
            Token {
                tok: Tok::Sym('{'), ..
            },
            inner @ ..,
            Token {
                tok: Tok::Sym('}'), ..
            },
        ] => inner,
        _ => return None,
    };
    let base = match sub {
        [
            Token {
                tok: Tok::Num(text),
                ..
            },
        ] => text.parse().ok()?,
        [
            Token {
                tok: Tok::Text(word) | Tok::Word(word),
                ..
            },
        ] => u32::try_from(units::number_word(word)?).ok()?,
        _ => return None,
    };
    (2..=36)
        .contains(&base)
        .then(|| Answer::Based(digits.into(), base))
}

pub(super) fn currency(tok: &Tok<'_>) -> Option<&'static str> {
    match tok {
        Tok::Sym('$') => Some("dollar"),
        Tok::Sym('€') => Some("euro"),
        Tok::Sym('¥') => Some("yuan"),
        Tok::Sym('£') => Some("sterling"),
        _ => None,
    }
}

pub(super) fn looks_like_quantity(tokens: Tokens<'_, '_>) -> bool {
    // The degrees of an angle inside a function belong to the function.
    let inside = |t: &Token<'_>| match t.tok {
        Tok::Cmd(name) | Tok::Word(name) => name.len() > 2 && function(name).is_some(),
        _ => false,
    };
    if tokens.iter().any(inside) {
        return false;
    }
    matches!(tokens.last().map(|t| &t.tok), Some(Tok::Sym('%' | '°')))
        || tokens
            .iter()
            .any(|t| matches!(t.tok, Tok::Word(w) if units::is_plain_unit_word(w)))
}

/// An expression with a percent sign, a degree sign, a currency or a unit.
pub(super) fn quantity(tokens: Tokens<'_, '_>) -> Option<Answer> {
    if let [first, rest @ ..] = tokens {
        if let Some(unit) = currency(&first.tok) {
            return amount(rest, unit, false);
        }
        // -$5
        if let [second, rest @ ..] = rest
            && first.tok == Tok::Sym('-')
            && let Some(unit) = currency(&second.tok)
        {
            return amount(rest, unit, true);
        }
    }
    let [rest @ .., last] = tokens else {
        return None;
    };
    if let Some(unit) = currency(&last.tok) {
        return amount(rest, unit, false);
    }
    match last.tok {
        Tok::Sym('%') => return expression(rest).ok().map(Answer::Percent),
        Tok::Sym('°') => {
            return expression(rest)
                .ok()
                .map(|e| Answer::Measure(e, Unit::degree()));
        }
        _ => {}
    }
    // 20°C
    if let [
        rest @ ..,
        Token {
            tok: Tok::Sym('°'),
        ..
        },
        Token {
            tok: Tok::Word(scale @ ("C" | "F")) | Tok::Text(scale @ ("C" | "F")),
            ..
        },
    ] = tokens
    {
        let unit = units::parse(if *scale == "C" {
            "celsius"
        } else {
            "fahrenheit"
        })?;
        return expression(rest).ok().map(|e| Answer::Measure(e, unit));
    }
    // The longest tail that is a unit, after an expression that stands without it.
    for at in 1..tokens.len() {
        let starts = match &tokens[at].tok {
            Tok::Text(_) => true,
            Tok::Word(w) => {
                let number = matches!(
                    tokens[at - 1].tok,
                    Tok::Num(_)
                        | Tok::Sym('}' | ')')
                        | Tok::Word(_)
                        | Tok::Repeating(..)
                        | Tok::Cmd("pi")
                );
                number
                    && (units::is_plain_unit_word(w)
                        || w.len() >= 3 && function(w).is_none() && *w != "mod")
            }
            _ => false,
        };
        if !starts {
            continue;
        }
        let tail = unit_text(&tokens[at..])?;
        let percent = matches!(
            tail.trim().to_ascii_lowercase().as_str(),
            "percent" | "percents" | "pct" | "per cent" | "percentage"
        );
        let before = &tokens[..at];
        let Ok(expr) = expression(before).or_else(|r| in_words(before).ok_or(r)) else {
            continue;
        };
        if percent {
            return Some(Answer::Percent(expr));
        }
        if let Some(size) = units::magnitude(tail.trim()) {
            return Some(Answer::Expr(Expr::Mul(vec![expr, Expr::Num(size)])));
        }
        if matches!(tail.trim(), "radians" | "radian" | "rad" | "rads") {
            return Some(Answer::Expr(expr));
        }
        if let Some((magnitude, unit)) = tail.trim().split_once(' ')
            && let (Some(size), Some(unit)) = (units::magnitude(magnitude), units::parse(unit))
        {
            return Some(Answer::Measure(
                Expr::Mul(vec![expr, Expr::Num(size)]),
                unit,
            ));
        }
        return units::parse(&tail).map(|unit| Answer::Measure(expr, unit));
    }
    in_words(tokens).map(Answer::Expr)
}

pub(super) fn in_words(tokens: Tokens<'_, '_>) -> Option<Expr> {
    match tokens {
        [
            Token {
                tok: Tok::Word(w) | Tok::Text(w),
                ..
            },
        ] => units::number_word(w).map(Expr::int),
        _ => None,
    }
}

pub(super) fn amount(tokens: Tokens<'_, '_>, unit: &str, negative: bool) -> Option<Answer> {
    let value = expression(tokens)
        .ok()
        .map(|e| (e, None))
        .or_else(|| match quantity(tokens)? {
            Answer::Expr(e) => Some((e, None)),
            Answer::Measure(e, unit) => Some((e, Some(unit))),
            _ => None,
        })?;
    let expr = if negative { value.0.negated() } else { value.0 };
    let unit = match value.1 {
        Some(unit) => unit,
        None => units::parse(unit)?,
    };
    Some(Answer::Measure(expr, unit))
}

/// The text of a unit: words, `/`, and powers.
pub(super) fn unit_text(tokens: Tokens<'_, '_>) -> Option<String> {
    let mut out = String::new();
    for (i, t) in tokens.iter().enumerate() {
        match &t.tok {
            Tok::Text(w) | Tok::Word(w) => {
                if i > 0 && !out.ends_with(['/', '^', '{']) {
                    out.push(' ');
                }
                out.push_str(w);
            }
            Tok::Num(n) if out.ends_with(['^', '{', '-']) => out.push_str(n),
            Tok::Sym(c @ ('/' | '^' | '{' | '}' | '-')) => out.push(*c),
            Tok::Sym('.') => {}
            Tok::Sym('*') => out.push(' '),
            _ => return None,
        }
    }
    Some(out)
}
