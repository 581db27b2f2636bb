//! Tokens to an answer: lists, relations, sets, intervals, matrices, quantities and words around expressions.

mod quantity;
mod sets;
mod words;

use crate::answers::ast::{Answer, Join, RelOp};
use crate::answers::lex::{Tok, Token, lex};
use crate::answers::limits::{MAX_DEPTH, MAX_ITEMS};
use crate::answers::parse::expression;
use crate::answers::reason::Reason;
use quantity::{based, in_words, looks_like_quantity, quantity, ratio};
use sets::{bracketed, constructed, named, one_pair, set_operations};
use words::{SHORT_WORDS, choice, has_words, labelled, words};

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
        Reason::Prose | Reason::Unparsed if has_words(tokens) => words(tokens),
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
