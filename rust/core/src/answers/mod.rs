//! Are two answers to a mathematics question equal?
//!
//! Text is read in one pass, without regular expressions, into an answer of our own kinds (`ast`); what cannot be read
//! whole is undecided, with the reason, never cut down to a part that can. Numbers are compared exactly, rational
//! functions at points of a prime field, other expressions at sample points and to 50 digits. Limits come first
//! (`limits`), so that no input costs more than milliseconds. Nothing is ever executed.

pub mod ast;
mod clean;
mod compare;
pub mod exact;
pub mod extract;
mod field;
mod float;
pub mod json;
mod lex;
pub mod limits;
mod parse;
mod precise;
mod print;
pub mod reason;
mod region;
mod relation;
mod rounding;
mod structure;
pub mod units;
mod value;

use std::time::Instant;

use rayon::prelude::*;

use ast::Answer;
use compare::Compare;
pub use extract::{Extracted, extract};
pub use reason::{Equality, Reason, Tier, Verdict};

/// Where users differ on what is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A unit may be missing, `10%` is 10 and 0.1, a correctly rounded decimal stands for the exact value, and a bare
    /// list in order is the tuple.
    Relaxed,
    /// Exact: none of these.
    Strict,
}

impl Policy {
    const fn rounds(self) -> bool {
        matches!(self, Self::Relaxed)
    }

    const fn forgives(self) -> bool {
        matches!(self, Self::Relaxed)
    }
}

/// What a text was read as.
struct Read {
    answer: Answer,
    /// Commas were taken as separators of thousands; read as a list otherwise.
    grouped: bool,
}

fn read(cleaned: &str, group_commas: bool) -> Result<Read, Reason> {
    let lexed = lex::lex(cleaned, group_commas)?;
    Ok(Read {
        answer: structure::answer(&lexed.tokens)?,
        grouped: lexed.grouped,
    })
}

/// The answer that `text` is.
pub fn parse(text: &str) -> Result<Answer, Reason> {
    if text.len() > limits::MAX_BYTES {
        return Err(Reason::TooLong);
    }
    let cleaned = clean::clean(unboxed(text));
    if says_nothing(&cleaned) {
        return Err(Reason::Empty);
    }
    read(&cleaned, true).map(|r| r.answer)
}

/// What stands in the box, where there is one.
fn unboxed(text: &str) -> &str {
    if !text.contains(r"\boxed") && !text.contains(r"\fbox") {
        return text;
    }
    extract::boxed(text).map_or(text, |found| &text[found.start..found.end])
}

/// No letter, digit, or command.
fn says_nothing(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_alphanumeric() || c == '\\' || c == '∅')
}

/// Compares one answer with the gold one.
pub fn equal(gold: &str, pred: &str, policy: Policy) -> Verdict {
    let longest = gold.len().max(pred.len());
    if longest > limits::MAX_BYTES {
        let (g, p) = (gold.trim(), pred.trim());
        if g.len() <= limits::MAX_BYTES && !p.is_empty() {
            // A long text may hold its answer in a box.
            let inner = unboxed(p);
            if inner.len() <= limits::MAX_BYTES {
                return equal(g, inner, policy);
            }
        }
        return if g == p {
            Verdict::equal(Reason::SameText, Tier::Text)
        } else {
            Verdict::undecided(Reason::TooLong)
        };
    }
    let (g, p) = (clean::clean(unboxed(gold)), clean::clean(unboxed(pred)));
    if says_nothing(&g) {
        return Verdict::undecided(Reason::GoldEmpty);
    }
    if says_nothing(&p) {
        return Verdict::different(Reason::Empty, Tier::Text);
    }
    if clean::normal(&g) == clean::normal(&p) {
        return Verdict::equal(Reason::SameText, Tier::Text);
    }
    let gold = match read(&g, true) {
        Ok(read) => read,
        Err(_) => return Verdict::undecided(Reason::GoldUnparsed),
    };
    let pred = match read(&p, true) {
        Ok(read) => read,
        Err(Reason::Empty) => return Verdict::different(Reason::Empty, Tier::Text),
        Err(reason) => return Verdict::undecided(reason),
    };
    let verdict = Compare::new(policy).answers(&gold.answer, &pred.answer);
    if verdict.is_equal() || !(gold.grouped || pred.grouped) {
        return verdict;
    }
    // `1,234` beside a list may be one.
    let several = |a: &Answer| matches!(a, Answer::List(..) | Answer::Set(_) | Answer::Tuple(..));
    let other = match (
        gold.grouped && several(&pred.answer),
        pred.grouped && several(&gold.answer),
    ) {
        (true, false) => {
            read(&g, false).map(|g| Compare::new(policy).answers(&g.answer, &pred.answer))
        }
        (false, true) => {
            read(&p, false).map(|p| Compare::new(policy).answers(&gold.answer, &p.answer))
        }
        _ => return verdict,
    };
    other.ok().filter(|v| v.is_equal()).unwrap_or(verdict)
}

/// Finds the answer in a response and compares it with the gold one.
pub fn grade_response(gold: &str, response: &str, policy: Policy) -> Verdict {
    match extract(response) {
        Some(found) => equal(gold, &response[found.start..found.end], policy),
        None => Verdict::different(Reason::NotFound, Tier::None),
    }
}

/// A batch on all threads, in order, each with the seconds it took; `responses`: the answer is found in the text first.
pub fn grade_batch<S: AsRef<str> + Sync>(
    golds: &[S],
    preds: &[S],
    responses: bool,
    policy: Policy,
) -> Vec<(Verdict, f32)> {
    let grade = |(gold, pred): (&S, &S)| {
        let (gold, pred, began) = (gold.as_ref(), pred.as_ref(), Instant::now());
        let verdict = if responses {
            grade_response(gold, pred, policy)
        } else {
            equal(gold, pred, policy)
        };
        (verdict, began.elapsed().as_secs_f32())
    };
    if golds.len() < 64 {
        return golds.iter().zip(preds).map(grade).collect();
    }
    golds
        .par_iter()
        .zip(preds)
        .with_min_len(16)
        .map(grade)
        .collect()
}
