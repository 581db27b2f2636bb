//! The answer in a response: the last box, what follows the last `####`, what follows "answer is", the last formula, the
//! last number; in this order.

use super::limits::MAX_TAIL;

/// How an answer was marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Boxed,
    Hashes,
    Phrase,
    Formula,
    Number,
}

impl Kind {
    pub const NAMES: &'static [&'static str] = &["boxed", "hashes", "phrase", "formula", "number"];

    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Where an answer stands: bytes from `start`, before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

/// The answer in `text`, however it is marked.
pub fn extract(text: &str) -> Option<Extracted> {
    let found = boxed(text).or_else(|| hashes(text));
    if found.is_some() || [r"\boxed", r"\fbox"].iter().any(|m| text.contains(m)) {
        // A box that never closes is an answer that was cut off; no number in it is one.
        return found;
    }
    found.or_else(|| {
        let mut from = text.len().saturating_sub(MAX_TAIL);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let tail = &text[from..];
        let found = phrase(tail)
            .or_else(|| formula(tail))
            .or_else(|| number(tail))?;
        Some(Extracted {
            start: found.start + from,
            end: found.end + from,
            kind: found.kind,
        })
    })
}

#[derive(Clone, Copy)]
struct Box {
    /// Of the command.
    start: usize,
    inner: (usize, usize),
    /// After the closing brace.
    end: usize,
}

const OPEN_BOXES: usize = 4096;

/// What the last box holds whose braces match. Boxes joined by nothing but commas, "and" or "or" are taken together, as
/// they are written. A brace without a partner elsewhere changes nothing.
pub fn boxed(text: &str) -> Option<Extracted> {
    let bytes = text.as_bytes();
    // A text may be long and a box is rare: begin where the first one is.
    let first = [r"\boxed", r"\fbox"]
        .iter()
        .filter_map(|m| text.find(m))
        .min()?;
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut closed: Vec<Box> = Vec::new();
    let mut i = first;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => {
                let rest = &text[i..];
                let name = [r"\boxed", r"\fbox"]
                    .into_iter()
                    .find(|m| rest.starts_with(m));
                if let Some(name) =
                    name.filter(|m| !rest[m.len()..].starts_with(|c: char| c.is_ascii_alphabetic()))
                {
                    let after = rest[name.len()..].trim_start_matches([' ', '\n', '\t', '*']);
                    let at = text.len() - after.len();
                    if after.starts_with('{') {
                        if open.len() < OPEN_BOXES {
                            open.push((i, at + 1, depth));
                        }
                        depth += 1;
                        i = at + 1;
                    } else if let Some(len) = bare(after) {
                        push(
                            &mut closed,
                            Box {
                                start: i,
                                inner: (at, at + len),
                                end: at + len,
                            },
                        );
                        i = at + len;
                    } else {
                        i = at;
                    }
                    continue;
                }
                // An escaped brace is no brace; nor is one after `\left` or `\right`, which is escaped too.
                i += 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
            b'{' => depth += 1,
            b'}' if depth > 0 => {
                depth -= 1;
                if let Some(&(start, inner, at)) = open.last()
                    && at == depth
                {
                    open.pop();
                    push(
                        &mut closed,
                        Box {
                            start,
                            inner: (inner, i),
                            end: i + 1,
                        },
                    );
                }
            }
            _ => {}
        }
        i += 1;
    }
    let last = *closed.last()?;
    let mut start = last;
    for earlier in closed.iter().rev().skip(1) {
        if !joins(&text[earlier.end..start.start]) {
            break;
        }
        start = *earlier;
    }
    let (from, to) = if start.start == last.start {
        last.inner
    } else {
        (start.start, last.end)
    };
    Some(Extracted {
        start: from,
        end: to,
        kind: Kind::Boxed,
    })
}

/// Keeps the last few boxes, the outer one of nested ones.
fn push(closed: &mut Vec<Box>, found: Box) {
    while closed.last().is_some_and(|b| b.start > found.start) {
        closed.pop();
    }
    if closed.len() >= 16 {
        closed.remove(0);
    }
    closed.push(found);
}

/// What follows `\boxed` without braces, up to a space or a delimiter.
fn bare(after: &str) -> Option<usize> {
    let end = after
        .find(|c: char| c.is_whitespace() || matches!(c, '$' | '}'))
        .unwrap_or(after.len());
    let word = after[..end].trim_end_matches(['.', ',', ';', ':']);
    let word = word
        .strip_suffix(r"\)")
        .or_else(|| word.strip_suffix(r"\]"))
        .unwrap_or(word);
    word.chars()
        .any(char::is_alphanumeric)
        .then_some(word.len())
}

fn joins(between: &str) -> bool {
    if between.len() > 32 {
        return false;
    }
    let mut rest = between.replace(r"\text", " ");
    for mark in [
        r"\(", r"\)", r"\[", r"\]", r"\quad", r"\qquad", r"\;", r"\,", r"\ ", "$", "{", "}", "*",
    ] {
        rest = rest.replace(mark, " ");
    }
    let rest = rest.trim();
    matches!(rest, "," | "and" | "or" | ", and" | ", or" | ";" | "&")
}

/// What follows the last `####` on its line.
pub fn hashes(text: &str) -> Option<Extracted> {
    let start = text.rfind("####")? + 4;
    let end = text[start..].find('\n').map_or(text.len(), |n| start + n);
    span(text, start, end, Kind::Hashes)
}

/// The part without spaces around it; None if nothing is left.
fn span(text: &str, start: usize, end: usize, kind: Kind) -> Option<Extracted> {
    let part = &text[start..end];
    let start = start + (part.len() - part.trim_start().len());
    let end = end - (part.len() - part.trim_end().len());
    (start < end).then_some(Extracted { start, end, kind })
}

/// What follows the last "answer is", "Answer:" and their like.
fn phrase(tail: &str) -> Option<Extracted> {
    let lower = tail.to_ascii_lowercase();
    let mut to = lower.len();
    // A few occurrences from the end; the last one that is followed by something wins.
    for _ in 0..8 {
        let at = lower[..to].rfind("answer")?;
        if let Some(found) = after_answer(tail, &lower, at + "answer".len()) {
            return Some(found);
        }
        to = at;
    }
    None
}

fn after_answer(tail: &str, lower: &str, at: usize) -> Option<Extracted> {
    let line_end = lower[at..].find('\n').map_or(lower.len(), |n| at + n);
    let mut window_end = line_end.min(at + 96);
    while !lower.is_char_boundary(window_end) {
        window_end -= 1;
    }
    let line = &lower[at..window_end];
    const MARKS: &[&str] = &[
        ":",
        " is ",
        " is:",
        " are ",
        " would be ",
        " equals ",
        " should be ",
        "=",
        " is\n",
        " must be ",
    ];
    let mark = MARKS
        .iter()
        .filter_map(|m| line.find(m).map(|k| (k, m.len())))
        .min();
    let mut start = match mark {
        Some((k, len)) => at + k + len,
        None if line.trim_end().ends_with(" is") => line_end,
        None => return None,
    };
    // "is:" and "is **" and "is that".
    loop {
        let rest = &lower[start..];
        let trimmed = rest.trim_start_matches([' ', '\n', '\r', '\t', ':', '*', '_', '=', '>']);
        let trimmed = [
            "that ",
            "therefore ",
            "thus ",
            "indeed ",
            "option ",
            "choice ",
            "simply ",
            "just ",
            "is ",
        ]
        .iter()
        .find_map(|w| trimmed.strip_prefix(w))
        .unwrap_or(trimmed);
        if trimmed.len() == rest.len() {
            break;
        }
        start = lower.len() - trimmed.len();
    }
    let rest = &tail[start..];
    let math = rest.starts_with(['$']) || rest.starts_with(r"\(") || rest.starts_with(r"\[");
    if rest.starts_with("$$") || rest.starts_with(r"\[") {
        return first_formula(tail, start).map(|f| Extracted {
            kind: Kind::Phrase,
            ..f
        });
    }
    let end = sentence_end(tail, start);
    let sentence = &tail[start..end];
    if !math {
        // Prose around a formula or a number: the formula or the number.
        let words = sentence
            .split_whitespace()
            .filter(|w| w.len() > 1 && w.bytes().all(|b| b.is_ascii_alphabetic()))
            .count();
        if words >= 4 {
            let inside = formula(sentence).or_else(|| number(sentence));
            if let Some(found) = inside {
                return Some(Extracted {
                    start: start + found.start,
                    end: start + found.end,
                    kind: Kind::Phrase,
                });
            }
        }
    }
    let cut = sentence
        .trim_end()
        .trim_end_matches(['.', '*', '_', ' ', '!']);
    span(tail, start, start + cut.len(), Kind::Phrase)
}

/// The end of a sentence or line that begins at `start`.
fn sentence_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut dollars = false;
    for i in start..bytes.len() {
        match bytes[i] {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b'$' if i == 0 || bytes[i - 1] != b'\\' => dollars = !dollars,
            b'\n' if depth == 0 && !dollars => return i,
            b'\n' if bytes.get(i + 1) == Some(&b'\n') => return i,
            b'.' if depth == 0 && !dollars => {
                let next = bytes.get(i + 1);
                let abbreviation = i >= 2
                    && bytes[i - 1].is_ascii_alphabetic()
                    && matches!(bytes[i - 2], b'.' | b' ');
                if next.is_none_or(u8::is_ascii_whitespace) && !abbreviation {
                    return i;
                }
            }
            _ => {}
        }
    }
    text.len()
}

const DELIMITERS: &[(&str, &str)] = &[("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$")];

/// The formula that begins at `at`, without its delimiters.
fn first_formula(text: &str, at: usize) -> Option<Extracted> {
    let (open, close) = DELIMITERS
        .iter()
        .find(|(open, _)| text[at..].starts_with(open))?;
    let inner = at + open.len();
    let len = text[inner..].find(close)?;
    span(text, inner, inner + len, Kind::Formula)
}

/// The last formula.
fn formula(text: &str) -> Option<Extracted> {
    let mut last = None;
    let mut i = 0;
    let bytes = text.as_bytes();
    while i < bytes.len() {
        match bytes[i] {
            b'$' | b'\\' => {
                if let Some((open, close)) = DELIMITERS
                    .iter()
                    .find(|(open, _)| text[i..].starts_with(open))
                {
                    let inner = i + open.len();
                    if let Some(len) = text[inner..].find(close) {
                        last = span(text, inner, inner + len, Kind::Formula).or(last);
                        i = inner + len + close.len();
                        continue;
                    }
                    return last;
                }
                let step = text[i + 1..].chars().next().map_or(1, |c| 1 + c.len_utf8());
                i += if bytes[i] == b'\\' { step } else { 1 };
            }
            _ => i += 1,
        }
    }
    last
}

/// The last number, with its sign, its fraction and its percent sign.
fn number(text: &str) -> Option<Extracted> {
    let bytes = text.as_bytes();
    let mut end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let mut start = end;
    let part_of = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b',' | b'/');
    while start > 0 && part_of(bytes[start - 1]) {
        start -= 1;
    }
    while start < end && !(bytes[start].is_ascii_digit() || bytes[start] == b'.') {
        start += 1;
    }
    let signed = start > 0
        && bytes[start - 1] == b'-'
        && (start < 2 || !bytes[start - 2].is_ascii_alphanumeric());
    start -= usize::from(signed);
    end += usize::from(bytes.get(end) == Some(&b'%'));
    span(text, start, end, Kind::Number)
}
