//! What brackets, braces and environments hold.

use super::{Parse, Tokens, balanced, closes, conjunction, opens, outside, single, spread, whole};
use crate::answers::ast::{Answer, Bracket, NamedSet, RelOp};
use crate::answers::lex::{Tok, Token};
use crate::answers::limits::MAX_ITEMS;
use crate::answers::reason::Reason;

pub(super) fn set_operations(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
    for (sign, word) in [('∪', "U"), ('∩', ""), ('∖', "")] {
        let mut parts = Vec::new();
        let mut from = 0;
        for i in outside(tokens) {
            // A capital U between intervals is a union.
            let letter = !word.is_empty()
                && tokens[i].tok == Tok::Word(word)
                && i > 0
                && tokens.get(i + 1).is_some_and(|t| opens(&t.tok))
                && closes(&tokens[i - 1].tok);
            if tokens[i].tok == Tok::Sym(sign) || letter {
                parts.push(&tokens[from..i]);
                from = i + 1;
            }
        }
        if parts.is_empty() {
            continue;
        }
        parts.push(&tokens[from..]);
        if parts.len() > MAX_ITEMS {
            return Err(Reason::TooManyItems);
        }
        let mut read = Vec::with_capacity(parts.len());
        for part in parts {
            read.push(single(part, depth + 1)?);
        }
        return Ok(Some(match sign {
            '∪' => Answer::Union(read),
            '∩' => Answer::Intersection(read),
            _ => {
                let mut rest = read.into_iter();
                let (Some(a), Some(b), None) = (rest.next(), rest.next(), rest.next()) else {
                    return Err(Reason::Unparsed);
                };
                Answer::Difference(Box::new(a), Box::new(b))
            }
        }));
    }
    // `- {0}` after a set is a difference too.
    if let [
        Token {
            tok: Tok::Cmd("Reals" | "Integers" | "Naturals" | "Rationals" | "Complex"),
            ..
        },
        Token {
            tok: Tok::Sym('-'), ..
        },
        rest @ ..,
    ] = tokens
        && rest.first().is_some_and(|t| t.tok == Tok::SetOpen)
    {
        let (a, b) = (single(&tokens[..1], depth + 1)?, single(rest, depth + 1)?);
        return Ok(Some(Answer::Difference(Box::new(a), Box::new(b))));
    }
    Ok(None)
}

/// Whether one pair of brackets holds all of `tokens`.
pub(super) fn one_pair(tokens: Tokens<'_, '_>) -> bool {
    let mut depth = 0_usize;
    for (i, t) in tokens.iter().enumerate() {
        if opens(&t.tok) {
            depth += 1;
        } else if closes(&t.tok) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return i + 1 == tokens.len();
            }
        }
        if depth == 0 {
            return false;
        }
    }
    false
}

pub(super) fn bracketed(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
    let [first, inner @ .., last] = tokens else {
        return Ok(None);
    };
    // `]1, 2[` is the French open interval.
    if first.tok == Tok::Sym(']') && last.tok == Tok::Sym('[') && balanced(inner).is_ok() {
        let items = entries(inner, depth)?;
        return Ok((items.len() == 2).then_some(Answer::Tuple(
            Bracket::Round,
            Bracket::Round,
            items,
        )));
    }
    if !opens(&first.tok) || !one_pair(tokens) {
        return Ok(None);
    }
    match (&first.tok, &last.tok) {
        (Tok::Begin(env), Tok::End) => environment(env, inner, depth).map(Some),
        (Tok::SetOpen, Tok::SetClose) => set(inner, depth).map(Some),
        (Tok::Sym('{'), Tok::Sym('}')) => {
            // Braces that LaTeX does not show; in plain text they are a set's.
            if outside(inner).any(|i| inner[i].tok == Tok::Sym(',')) {
                return set(inner, depth).map(Some);
            }
            whole(inner, depth + 1).map(Some)
        }
        (Tok::Sym('⟨'), Tok::Sym('⟩')) => Ok(Some(Answer::Tuple(
            Bracket::Round,
            Bracket::Round,
            entries(inner, depth)?,
        ))),
        (Tok::Sym(open @ ('(' | '[')), Tok::Sym(close @ (')' | ']'))) => {
            let separated = outside(inner).any(|i| matches!(inner[i].tok, Tok::Sym(',' | ';')));
            if separated {
                let left = if *open == '(' {
                    Bracket::Round
                } else {
                    Bracket::Square
                };
                let right = if *close == ')' {
                    Bracket::Round
                } else {
                    Bracket::Square
                };
                return Ok(Some(Answer::Tuple(left, right, entries(inner, depth)?)));
            }
            if (*open == '(') == (*close == ')') {
                return whole(inner, depth + 1).map(Some);
            }
            Err(Reason::Unbalanced)
        }
        _ => Ok(None),
    }
}

pub(super) fn entries(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Vec<Answer>> {
    let mut items = Vec::new();
    let mut from = 0;
    for i in outside(tokens) {
        if matches!(tokens[i].tok, Tok::Sym(',' | ';')) {
            items.push(single(&tokens[from..i], depth + 1)?);
            from = i + 1;
            if items.len() > MAX_ITEMS {
                return Err(Reason::TooManyItems);
            }
        }
    }
    items.push(single(&tokens[from..], depth + 1)?);
    Ok(items)
}

pub(super) fn set(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
    if tokens.is_empty() {
        return Ok(Answer::Named(NamedSet::Empty));
    }
    let bar = outside(tokens)
        .find(|&i| matches!(tokens[i].tok, Tok::Sym('|' | ':')) && i > 0 && i + 1 < tokens.len());
    if let Some(bar) = bar {
        // { x | condition }; `x` may come with the set it is taken from.
        let head = &tokens[..bar];
        let names = head.iter().all(|t| {
            matches!(
                t.tok,
                Tok::Word(_) | Tok::Sym('∈' | ',' | '(' | ')') | Tok::Cmd(_)
            )
        });
        if names {
            let condition = whole(&tokens[bar + 1..], depth + 1)?;
            return Ok(Answer::Builder(Box::new(condition)));
        }
    }
    let mut items = Vec::new();
    let mut from = 0;
    for i in outside(tokens) {
        if conjunction(&tokens[i].tok).is_some() {
            if i > from {
                items.push(single(&tokens[from..i], depth + 1)?);
            }
            from = i + 1;
            if items.len() > MAX_ITEMS {
                return Err(Reason::TooManyItems);
            }
        }
    }
    if from < tokens.len() {
        items.push(single(&tokens[from..], depth + 1)?);
    }
    Ok(Answer::Set(spread(items)))
}

pub(super) fn environment(name: &str, tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
    if name == "cases" {
        return Err(Reason::UnknownCommand);
    }
    if !matches!(
        name,
        "matrix"
            | "pmatrix"
            | "bmatrix"
            | "Bmatrix"
            | "smallmatrix"
            | "psmallmatrix"
            | "bsmallmatrix"
            | "array"
    ) {
        return Err(Reason::UnknownCommand);
    }
    let mut rows = Vec::new();
    let mut cells = 0;
    for row in split(tokens, &Tok::RowSep) {
        if row.is_empty() {
            continue;
        }
        let mut out = Vec::new();
        for cell in split(row, &Tok::Sym('&')) {
            cells += 1;
            if cells > MAX_ITEMS {
                return Err(Reason::TooManyItems);
            }
            out.push(whole(cell, depth + 1)?);
        }
        rows.push(out);
    }
    if rows.is_empty() || rows.iter().any(|r| r.len() != rows[0].len()) {
        return Err(Reason::Unparsed);
    }
    Ok(Answer::Matrix(rows))
}

pub(super) fn split<'t, 'a>(tokens: Tokens<'t, 'a>, at: &Tok<'_>) -> Vec<Tokens<'t, 'a>> {
    let mut parts = Vec::new();
    let mut from = 0;
    for i in outside(tokens) {
        if tokens[i].tok == *at {
            parts.push(&tokens[from..i]);
            from = i + 1;
        }
    }
    parts.push(&tokens[from..]);
    parts
}

/// What computer algebra systems print: `Matrix([[1, 2], [3, 4]])`, `Eq(x, 1)`, `Interval(0, 1)`, `FiniteSet(1, 2)`.
pub(super) fn constructed(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
    let [
        Token {
            tok: Tok::Word(name),
            ..
        },
        rest @ ..,
    ] = tokens
    else {
        return Ok(None);
    };
    // `Interval.open(0, 1)`
    let (name, rest) = match rest {
        [
            Token {
                tok: Tok::Sym('.'), ..
            },
            Token {
                tok: Tok::Word(kind),
                ..
            },
            rest @ ..,
        ] if *name == "Interval" => (*kind, rest),
        _ => (*name, rest),
    };
    if !matches!(
        rest.first(),
        Some(Token {
            tok: Tok::Sym('('),
            ..
        })
    ) || !one_pair(rest)
    {
        return Ok(None);
    }
    let inner = &rest[1..rest.len() - 1];
    let op = match name {
        "Eq" => Some(RelOp::Eq),
        "Ne" => Some(RelOp::Ne),
        "Lt" | "StrictLessThan" => Some(RelOp::Lt),
        "Le" | "LessThan" => Some(RelOp::Le),
        "Gt" | "StrictGreaterThan" => Some(RelOp::Gt),
        "Ge" | "GreaterThan" => Some(RelOp::Ge),
        _ => None,
    };
    if let Some(op) = op {
        let sides = entries(inner, depth)?;
        return Ok((sides.len() == 2).then(|| Answer::Relation(sides, vec![op])));
    }
    let bracket = |open: bool| {
        if open {
            Bracket::Round
        } else {
            Bracket::Square
        }
    };
    Ok(match name {
        "Matrix" | "ImmutableMatrix" | "ImmutableDenseMatrix" => match whole(inner, depth + 1)? {
            Answer::Tuple(_, _, rows) => matrix_of(rows),
            Answer::Expr(e) => Some(Answer::Matrix(vec![vec![Answer::Expr(e)]])),
            _ => None,
        },
        "FiniteSet" if inner.is_empty() => Some(Answer::Named(NamedSet::Empty)),
        "FiniteSet" => Some(Answer::Set(entries(inner, depth)?)),
        "Union" => Some(Answer::Union(entries(inner, depth)?)),
        "Intersection" => Some(Answer::Intersection(entries(inner, depth)?)),
        "Tuple" => Some(Answer::Tuple(
            Bracket::Round,
            Bracket::Round,
            entries(inner, depth)?,
        )),
        "Interval" | "open" | "Lopen" | "Ropen" => {
            let ends = entries(inner, depth)?;
            let (left, right) = (
                matches!(name, "open" | "Lopen"),
                matches!(name, "open" | "Ropen"),
            );
            (ends.len() == 2).then(|| Answer::Tuple(bracket(left), bracket(right), ends))
        }
        _ => None,
    })
}

pub(super) fn matrix_of(rows: Vec<Answer>) -> Option<Answer> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        match row {
            Answer::Tuple(_, _, cells) => out.push(cells),
            other => out.push(vec![other]),
        }
    }
    let width = out.first()?.len();
    out.iter()
        .all(|r| r.len() == width)
        .then_some(Answer::Matrix(out))
}

pub(super) fn named(tokens: Tokens<'_, '_>) -> Option<Answer> {
    let [Token { tok, .. }] = tokens else {
        return None;
    };
    Some(Answer::Named(match tok {
        Tok::Sym('∅') => NamedSet::Empty,
        Tok::Cmd("Reals") => NamedSet::Reals,
        Tok::Cmd("Integers") => NamedSet::Integers,
        Tok::Cmd("Naturals") => NamedSet::Naturals,
        Tok::Cmd("Rationals") => NamedSet::Rationals,
        Tok::Cmd("Complex") => NamedSet::Complex,
        _ => return None,
    }))
}
