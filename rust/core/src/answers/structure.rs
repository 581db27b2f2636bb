//! Tokens to an answer: lists, relations, sets, intervals, matrices, quantities and words around expressions.

use super::ast::{Answer, Bracket, Expr, Join, NamedSet, RelOp};
use super::lex::{Tok, Token, lex};
use super::limits::{MAX_DEPTH, MAX_ITEMS};
use super::parse::{expression, function};
use super::reason::Reason;
use super::units::{self, Unit};

type Parse<T> = Result<T, Reason>;
type Tokens<'t, 'a> = &'t [Token<'a>];

/// Reads all of `tokens`.
pub fn answer(tokens: Tokens<'_, '_>) -> Parse<Answer> {
    whole(tokens, 0)
}

fn whole(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
    if depth > MAX_DEPTH {
        return Err(Reason::TooDeep);
    }
    let tokens = trimmed(tokens);
    if tokens.is_empty() {
        return Err(Reason::Empty);
    }
    balanced(tokens)?;
    if let Some(list) = list(tokens, depth)? {
        return Ok(list);
    }
    single(tokens, depth)
}

/// Without what ends a sentence or a line.
fn trimmed<'t, 'a>(mut tokens: Tokens<'t, 'a>) -> Tokens<'t, 'a> {
    while let [rest @ .., last] = tokens {
        let ends = matches!(
            last.tok,
            Tok::Sym('.' | ',' | ';' | ':' | '$') | Tok::RowSep
        );
        if !ends {
            break;
        }
        tokens = rest;
    }
    while let [first, rest @ ..] = tokens {
        if !matches!(
            first.tok,
            Tok::Sym('.' | ',' | ';' | ':' | '→' | '≈') | Tok::RowSep
        ) {
            break;
        }
        tokens = rest;
    }
    tokens
}

fn opens(tok: &Tok<'_>) -> bool {
    matches!(
        tok,
        Tok::Sym('(' | '[' | '{' | '⟨') | Tok::SetOpen | Tok::Begin(_)
    ) || matches!(tok, Tok::Cmd("lfloor" | "lceil"))
}

fn closes(tok: &Tok<'_>) -> bool {
    matches!(
        tok,
        Tok::Sym(')' | ']' | '}' | '⟩') | Tok::SetClose | Tok::End
    ) || matches!(tok, Tok::Cmd("rfloor" | "rceil"))
}

fn balanced(tokens: Tokens<'_, '_>) -> Parse<()> {
    let mut open = 0_usize;
    for t in tokens {
        if opens(&t.tok) {
            open += 1;
        } else if closes(&t.tok) {
            open = open.checked_sub(1).ok_or(Reason::Unbalanced)?;
        }
    }
    if open == 0 {
        Ok(())
    } else {
        Err(Reason::Unbalanced)
    }
}

/// Positions outside all brackets.
fn outside<'t>(tokens: Tokens<'t, '_>) -> impl Iterator<Item = usize> + use<'t> {
    let flags: Vec<usize> = {
        let mut depth = 0_usize;
        let mut found = Vec::new();
        for (i, t) in tokens.iter().enumerate() {
            if opens(&t.tok) {
                depth += 1;
            } else if closes(&t.tok) {
                depth = depth.saturating_sub(1);
            } else if depth == 0 {
                found.push(i);
            }
        }
        found
    };
    flags.into_iter()
}

fn conjunction(tok: &Tok<'_>) -> Option<Join> {
    match tok {
        Tok::Text(w) | Tok::Word(w) => match w
            .trim_matches([' ', ',', ';', '~'])
            .trim_end_matches(['\\', ' '])
        {
            "and" | "And" | "AND" => Some(Join::And),
            "or" | "Or" | "OR" => Some(Join::Or),
            _ => None,
        },
        Tok::Sym(',' | ';') => Some(Join::Comma),
        _ => None,
    }
}

fn list(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
    let mut items = Vec::new();
    let mut join = Join::Comma;
    let mut from = 0;
    let mut any = false;
    for i in outside(tokens) {
        let Some(kind) = conjunction(&tokens[i].tok) else {
            continue;
        };
        // Bars hold commas of their own: |a, b|.
        any = true;
        if kind != Join::Comma {
            join = kind;
        }
        if i > from {
            items.push(&tokens[from..i]);
        }
        from = i + 1;
    }
    if !any {
        return Ok(None);
    }
    if from < tokens.len() {
        items.push(&tokens[from..]);
    }
    match items.as_slice() {
        [] => Err(Reason::Empty),
        [one] => whole(one, depth + 1).map(Some),
        many if many.len() > MAX_ITEMS => Err(Reason::TooManyItems),
        many => {
            let mut read = Vec::with_capacity(many.len());
            for item in many {
                read.push(single(trimmed(item), depth + 1)?);
            }
            // "a sentence, with commas" is words.
            if read
                .iter()
                .all(|a| matches!(a, Answer::Text { letter: None, .. }))
            {
                return Ok(Some(words(tokens)?));
            }
            Ok(Some(Answer::List(join, spread(read))))
        }
    }
}

/// Entries with `±` are two each.
fn spread(items: Vec<Answer>) -> Vec<Answer> {
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Answer::PlusMinus(a, b) => out.extend([Answer::Expr(*a), Answer::Expr(*b)]),
            other => out.push(other),
        }
    }
    out
}

fn relation(tok: &Tok<'_>) -> Option<RelOp> {
    Some(match tok {
        Tok::Sym('=') => RelOp::Eq,
        Tok::Sym('≠') => RelOp::Ne,
        Tok::Sym('<') => RelOp::Lt,
        Tok::Sym('>') => RelOp::Gt,
        Tok::Sym('≤') => RelOp::Le,
        Tok::Sym('≥') => RelOp::Ge,
        Tok::Sym('≈') => RelOp::Approx,
        Tok::Sym('≡') => RelOp::Equiv,
        Tok::Sym('∈') => RelOp::In,
        _ => return None,
    })
}

fn single(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
    if depth > MAX_DEPTH {
        return Err(Reason::TooDeep);
    }
    if tokens.is_empty() {
        return Err(Reason::Empty);
    }
    if let Some(relation) = relations(tokens, depth)? {
        return Ok(relation);
    }
    if let Some(sets) = set_operations(tokens, depth)? {
        return Ok(sets);
    }
    if let Some(rest) = labelled(tokens) {
        return single(rest, depth + 1);
    }
    if let Some(choice) = choice(tokens) {
        return Ok(choice);
    }
    // Numbers with nothing but spaces between them.
    if tokens.len() > 1
        && tokens.len() <= MAX_ITEMS
        && tokens.iter().all(|t| matches!(t.tok, Tok::Num(_)))
    {
        let items = tokens
            .iter()
            .map(|t| expression(std::slice::from_ref(t)).map(Answer::Expr));
        return items
            .collect::<Parse<Vec<_>>>()
            .map(|items| Answer::List(Join::Comma, items));
    }
    // Mathematics in a text command: `\text{5 cm}`.
    if let [
        Token {
            tok: Tok::Text(content),
            ..
        },
    ] = tokens
        && content
            .bytes()
            .any(|b| b.is_ascii_digit() || matches!(b, b'\\' | b','))
    {
        let inner = lex(content, true).and_then(|l| whole(&l.tokens, depth + 1));
        if let Ok(answer) = inner {
            return Ok(answer);
        }
    }
    if let Some(structure) = bracketed(tokens, depth)? {
        return Ok(structure);
    }
    if let Some(made) = constructed(tokens, depth)? {
        return Ok(made);
    }
    if let Some(simple) = named(tokens) {
        return Ok(simple);
    }
    if let Some(number) = in_words(tokens) {
        return Ok(Answer::Expr(number));
    }
    let short = |w: &str| SHORT_WORDS.contains(&w.to_ascii_lowercase().as_str());
    if matches!(tokens, [Token { tok: Tok::Word(w), .. }] if short(w)) {
        return words(tokens);
    }
    if let Some(two) = plus_minus(tokens)? {
        return Ok(two);
    }
    if let Some(ratio) = ratio(tokens) {
        return Ok(ratio);
    }
    if let Some(based) = based(tokens) {
        return Ok(based);
    }
    let failed = match expression(tokens) {
        Ok(expr) if !looks_like_quantity(tokens) => return Ok(Answer::Expr(expr)),
        Ok(expr) => match quantity(tokens) {
            Some(quantity) => return Ok(quantity),
            None => return Ok(Answer::Expr(expr)),
        },
        Err(reason) => reason,
    };
    if let Some(quantity) = quantity(tokens) {
        return Ok(quantity);
    }
    match failed {
        Reason::Prose | Reason::Unparsed | Reason::UnknownCommand if has_words(tokens) => {
            words(tokens)
        }
        other => Err(other),
    }
}

fn relations(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
    let mut sides = Vec::new();
    let mut ops = Vec::new();
    let mut from = 0;
    for i in outside(tokens) {
        if let Some(op) = relation(&tokens[i].tok) {
            sides.push(&tokens[from..i]);
            ops.push(op);
            from = i + 1;
        }
    }
    if ops.is_empty() {
        return Ok(None);
    }
    sides.push(&tokens[from..]);
    if sides.len() > 16 {
        return Err(Reason::TooManyItems);
    }
    // "= 5" and "\approx 5" answer with the value.
    if sides[0].is_empty() && ops.len() == 1 && matches!(ops[0], RelOp::Eq | RelOp::Approx) {
        return single(sides[1], depth + 1).map(Some);
    }
    let mut read = Vec::with_capacity(sides.len());
    for (i, side) in sides.iter().enumerate() {
        match single(side, depth + 1) {
            Ok(side) => read.push(side),
            // `P(X = 2) = 0.3`: what stands first may be a name of a form of its own.
            Err(Reason::Unparsed | Reason::Unbalanced)
                if i == 0 && ops[0] == RelOp::Eq && is_call(side) =>
            {
                read.push(Answer::Text {
                    words: "a call".into(),
                    letter: None,
                });
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(Some(Answer::Relation(read, ops)))
}

/// A name and something in brackets.
fn is_call(side: Tokens<'_, '_>) -> bool {
    let [
        Token {
            tok: Tok::Word(name),
            ..
        },
        rest @ ..,
    ] = side
    else {
        return false;
    };
    name.len() <= 3
        && side.len() <= 16
        && rest.first().is_some_and(|t| t.tok == Tok::Sym('('))
        && one_pair(rest)
}

fn set_operations(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
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
fn one_pair(tokens: Tokens<'_, '_>) -> bool {
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

fn bracketed(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
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

fn entries(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Vec<Answer>> {
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

fn set(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
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

fn environment(name: &str, tokens: Tokens<'_, '_>, depth: usize) -> Parse<Answer> {
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

fn split<'t, 'a>(tokens: Tokens<'t, 'a>, at: &Tok<'_>) -> Vec<Tokens<'t, 'a>> {
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
fn constructed(tokens: Tokens<'_, '_>, depth: usize) -> Parse<Option<Answer>> {
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

fn matrix_of(rows: Vec<Answer>) -> Option<Answer> {
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

fn named(tokens: Tokens<'_, '_>) -> Option<Answer> {
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

/// `a ± b`, anywhere in the expression, read once with each sign; `∓` takes the other.
fn plus_minus(tokens: Tokens<'_, '_>) -> Parse<Option<Answer>> {
    if !tokens.iter().any(|t| matches!(t.tok, Tok::Sym('±' | '∓'))) {
        return Ok(None);
    }
    let signed = |upper: char, lower: char| -> Vec<Token<'_>> {
        tokens
            .iter()
            .map(|t| match t.tok {
                Tok::Sym('±') => Token {
                    tok: Tok::Sym(upper),
                    space_before: t.space_before,
                },
                Tok::Sym('∓') => Token {
                    tok: Tok::Sym(lower),
                    space_before: t.space_before,
                },
                _ => t.clone(),
            })
            .collect()
    };
    let (a, b) = (
        expression(&signed('+', '-'))?,
        expression(&signed('-', '+'))?,
    );
    Ok(Some(Answer::PlusMinus(Box::new(a), Box::new(b))))
}

fn ratio(tokens: Tokens<'_, '_>) -> Option<Answer> {
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
fn based(tokens: Tokens<'_, '_>) -> Option<Answer> {
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

/// What follows a label: `Area: 12`, `\text{The answer is } 12`.
fn labelled<'t, 'a>(tokens: Tokens<'t, 'a>) -> Option<Tokens<'t, 'a>> {
    let wordy = |t: &Token<'_>| match t.tok {
        Tok::Text(_) => true,
        Tok::Word(w) => w.len() > 2 && function(w).is_none(),
        _ => false,
    };
    let colon = tokens.iter().take(6).position(|t| t.tok == Tok::Sym(':'));
    if let Some(at) = colon.filter(|&at| at > 0 && at + 1 < tokens.len()) {
        if tokens[..at].iter().all(wordy) {
            return Some(&tokens[at + 1..]);
        }
    }
    let [
        Token {
            tok: Tok::Text(text),
            ..
        },
        rest @ ..,
    ] = tokens
    else {
        return None;
    };
    let lower = text
        .trim()
        .trim_end_matches([':', '=', ' '])
        .to_ascii_lowercase();
    let says = [
        "answer",
        "answer is",
        "the answer is",
        "final answer",
        "final answer is",
        "the final answer is",
        "answer:",
    ];
    (!rest.is_empty() && says.contains(&lower.as_str())).then_some(rest)
}

/// The letter of a multiple choice, alone or before its text: `(B)`, `B.`, `(B) 12`, `\text{B}`.
fn choice(tokens: Tokens<'_, '_>) -> Option<Answer> {
    let text = |c: char| Answer::Text {
        words: c.to_ascii_lowercase().to_string().into(),
        letter: Some(c),
    };
    let letter = |t: &Token<'_>| match t.tok {
        Tok::Word(w) if w.len() == 1 => w.chars().next().filter(|c| ('A'..='J').contains(c)),
        _ => None,
    };
    match tokens {
        [
            Token {
                tok: Tok::Sym('('), ..
            },
            l,
            Token {
                tok: Tok::Sym(')'), ..
            },
            rest @ ..,
        ] => {
            let separate = rest
                .first()
                .is_none_or(|t| t.space_before || matches!(t.tok, Tok::Text(_) | Tok::Sym('{')));
            letter(l).filter(|_| separate).map(text)
        }
        [
            l,
            Token {
                tok: Tok::Sym(')' | '.' | ':'),
                ..
            },
            ..,
        ] => letter(l).map(text),
        [
            Token {
                tok: Tok::Text(content),
                ..
            },
            ..,
        ] => {
            let inner = content.trim().strip_prefix('(')?;
            let c = inner.chars().next().filter(char::is_ascii_uppercase)?;
            inner[1..].trim_start().starts_with(')').then(|| text(c))
        }
        _ => None,
    }
}

fn has_words(tokens: Tokens<'_, '_>) -> bool {
    tokens.iter().any(|t| {
        matches!(t.tok, Tok::Text(_))
            || matches!(t.tok, Tok::Word(w) if w.len() > 1 && function(w).is_none())
    })
}

/// Answers that are words although a product of their letters could be read.
const SHORT_WORDS: &[&str] = &[
    "yes", "no", "odd", "not", "none", "both", "all", "red", "sun", "mon", "tue", "wed", "thu",
    "fri", "sat", "may", "tie", "win", "yea", "nay", "boy", "man", "cat", "dog", "old", "new",
    "up", "down", "left", "east", "west", "bob", "ann", "tom", "sam", "amy", "joe", "dan", "ben",
    "kim", "jim", "lee", "ray", "true", "even",
];

/// Everything as words: letters and digits in lower case.
fn words(tokens: Tokens<'_, '_>) -> Parse<Answer> {
    let mut out = String::new();
    for t in tokens {
        match &t.tok {
            Tok::Text(w) | Tok::Word(w) | Tok::Cmd(w) => out.push_str(w),
            Tok::Num(w) => out.push_str(w),
            Tok::Sym(c)
                if matches!(c, '+' | '-' | '*' | '/' | '^' | '=' | '<' | '>' | '≤' | '≥') =>
            {
                out.push(*c)
            }
            Tok::Sci(w, e) => {
                out.push_str(w);
                out.push('e');
                out.push_str(&e.to_string());
            }
            _ => {}
        }
        out.push(' ');
    }
    let words = plain_words(&out);
    let set = match words.as_str() {
        "" => return Err(Reason::Empty),
        "no solution" | "no solutions" | "no real solution" | "no real solutions" | "empty set"
        | "the empty set" => NamedSet::Empty,
        "all real numbers" | "all reals" | "the real numbers" | "real numbers"
        | "all real number" => NamedSet::Reals,
        _ => {
            return Ok(Answer::Text {
                words: words.into(),
                letter: None,
            });
        }
    };
    Ok(Answer::Named(set))
}

/// Words without punctuation, in lower case, one space between them.
pub fn plain_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| {
        c.is_whitespace()
            || matches!(
                c,
                ',' | ';' | ':' | '!' | '?' | '"' | '\'' | '(' | ')' | '{' | '}' | '\\' | '~'
            )
    }) {
        let word = word.trim_matches(['.', ':', '*', '_']);
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.extend(word.chars().flat_map(char::to_lowercase));
        }
    }
    out.replace(['.'], "")
}

fn currency(tok: &Tok<'_>) -> Option<&'static str> {
    match tok {
        Tok::Sym('$') => Some("dollar"),
        Tok::Sym('€') => Some("euro"),
        Tok::Sym('¥') => Some("yuan"),
        Tok::Sym('£') => Some("sterling"),
        _ => None,
    }
}

fn looks_like_quantity(tokens: Tokens<'_, '_>) -> bool {
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
fn quantity(tokens: Tokens<'_, '_>) -> Option<Answer> {
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

fn in_words(tokens: Tokens<'_, '_>) -> Option<Expr> {
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

fn amount(tokens: Tokens<'_, '_>, unit: &str, negative: bool) -> Option<Answer> {
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
fn unit_text(tokens: Tokens<'_, '_>) -> Option<String> {
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
