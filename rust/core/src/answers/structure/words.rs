//! Answers in words, and words around answers.

use super::{Parse, Tokens};
use crate::answers::ast::{Answer, NamedSet};
use crate::answers::lex::{Tok, Token};
use crate::answers::parse::function;
use crate::answers::reason::Reason;

/// What follows a label: `Area: 12`, `\text{The answer is } 12`.
pub(super) fn labelled<'t, 'a>(tokens: Tokens<'t, 'a>) -> Option<Tokens<'t, 'a>> {
    let wordy = |t: &Token<'_>| match t.tok {
        Tok::Text(_) => true,
        Tok::Word(w) => w.len() > 2 && function(w).is_none(),
        _ => false,
    };
    let colon = tokens.iter().take(6).position(|t| t.tok == Tok::Sym(':'));
    if let Some(at) = colon.filter(|&at| at > 0 && at + 1 < tokens.len())
        && tokens[..at].iter().all(wordy)
    {
        return Some(&tokens[at + 1..]);
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
pub(super) fn choice(tokens: Tokens<'_, '_>) -> Option<Answer> {
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

pub(super) fn has_words(tokens: Tokens<'_, '_>) -> bool {
    let word = |w: &str| {
        let short = SHORT_WORDS.contains(&w.to_ascii_lowercase().as_str());
        short || w.len() > 2 && function(w).is_none()
    };
    tokens.iter().any(|t| match t.tok {
        Tok::Text(_) => true,
        Tok::Word(w) => word(w),
        _ => false,
    })
}

/// Answers that are words although a product of their letters could be read.
pub(super) const SHORT_WORDS: &[&str] = &[
    "yes", "no", "odd", "not", "none", "both", "all", "red", "sun", "mon", "tue", "wed", "thu",
    "fri", "sat", "may", "tie", "win", "yea", "nay", "boy", "man", "cat", "dog", "old", "new",
    "up", "down", "left", "east", "west", "bob", "ann", "tom", "sam", "amy", "joe", "dan", "ben",
    "kim", "jim", "lee", "ray", "true", "even", "am", "pm",
];

/// Everything as words: letters and digits in lower case.
pub(super) fn words(tokens: Tokens<'_, '_>) -> Parse<Answer> {
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
