//! LaTeX and plain text to tokens. Commands that only shape the page are dropped here.

mod commands;

use std::borrow::Cow;

use super::limits::{MAX_DEPTH, MAX_DIGITS};
use super::reason::Reason;

#[derive(Clone, Debug, PartialEq)]
pub enum Tok<'a> {
    /// Digits, at most one point, no separators.
    Num(Cow<'a, str>),
    /// A mantissa and a power of ten, as in `1.2e3`.
    Sci(&'a str, i64),
    /// A decimal whose last digits repeat for ever: the digits before the point, after it, and the repeated ones.
    Repeating(&'a str, &'a str, &'a str),
    /// Letters that stand together.
    Word(&'a str),
    /// The name of a command, without its backslash.
    Cmd(&'a str),
    /// What a text command holds.
    Text(&'a str),
    Sym(char),
    SetOpen,
    SetClose,
    RowSep,
    Begin(&'a str),
    End,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    pub tok: Tok<'a>,
    pub space_before: bool,
}

/// Tokens, and whether commas were read as separators of thousands.
pub struct Lexed<'a> {
    pub tokens: Vec<Token<'a>>,
    pub grouped: bool,
}

struct Lexer<'a> {
    s: &'a str,
    i: usize,
    tokens: Vec<Token<'a>>,
    space: bool,
    /// Round, square and set brackets that are open: commas inside separate entries.
    brackets: usize,
    /// Environments that are open: `\\` inside ends a row.
    environments: usize,
    group_commas: bool,
    grouped: bool,
    /// Dollar signs come in pairs: they delimit formulas.
    delimited: bool,
}

/// `group_commas`: whether `1,234` outside brackets is one number.
pub fn lex(s: &str, group_commas: bool) -> Result<Lexed<'_>, Reason> {
    let mut lexer = Lexer {
        s,
        i: 0,
        tokens: Vec::with_capacity(s.len() / 2 + 4),
        space: false,
        brackets: 0,
        environments: 0,
        group_commas,
        grouped: false,
        delimited: dollars(s).is_multiple_of(2),
    };
    lexer.run(0)?;
    Ok(Lexed {
        tokens: lexer.tokens,
        grouped: lexer.grouped,
    })
}

/// Dollar signs that are not escaped.
fn dollars(s: &str) -> usize {
    let b = s.as_bytes();
    (0..b.len())
        .filter(|&i| b[i] == b'$' && (i == 0 || b[i - 1] != b'\\'))
        .count()
}

impl<'a> Lexer<'a> {
    pub(super) fn rest(&self) -> &'a str {
        &self.s[self.i..]
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.s.as_bytes().get(at).copied().unwrap_or(0)
    }

    pub(super) fn push(&mut self, tok: Tok<'a>) {
        self.tokens.push(Token {
            tok,
            space_before: self.space,
        });
        self.space = false;
    }

    pub(super) fn run(&mut self, depth: usize) -> Result<(), Reason> {
        if depth > MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        while let Some(c) = self.rest().chars().next() {
            match c {
                ' ' | '~' => {
                    self.space = true;
                    self.i += 1;
                }
                '\\' => self.command(depth)?,
                '0'..='9' => self.number()?,
                '.' if self.byte(self.i + 1).is_ascii_digit() => self.number()?,
                'a'..='z' | 'A'..='Z' => self.word(),
                _ => self.sign(c),
            }
        }
        Ok(())
    }

    pub(super) fn word(&mut self) {
        let len = self
            .rest()
            .bytes()
            .take_while(u8::is_ascii_alphabetic)
            .count();
        let word = &self.rest()[..len];
        self.i += len;
        self.push(Tok::Word(word));
    }

    pub(super) fn sign(&mut self, c: char) {
        const TWINS: &[(&str, char)] = &[
            ("...", '…'),
            ("+/-", '±'),
            ("**", '^'),
            ("<=", '≤'),
            (">=", '≥'),
            ("!=", '≠'),
            ("==", '='),
            ("=<", '≤'),
            ("->", '→'),
            ("=>", '→'),
            ("+-", '±'),
            ("||", '‖'),
        ];
        if let Some((twin, sign)) = TWINS.iter().find(|(twin, _)| self.rest().starts_with(twin)) {
            self.i += twin.len();
            return self.push(Tok::Sym(*sign));
        }
        self.i += c.len_utf8();
        match c {
            '$' if self.delimited => {
                self.space = true;
                return;
            }
            '(' | '[' => self.brackets += 1,
            ')' | ']' => self.brackets = self.brackets.saturating_sub(1),
            '^' => {
                // A degree sign is written as a power.
                let rest = self.rest().trim_start_matches(' ');
                for form in [
                    r"\circ",
                    r"{\circ}",
                    r"{ \circ }",
                    r"{\circ }",
                    r"{ \circ}",
                    r"\degree",
                    r"{\degree}",
                ] {
                    let bounded = |r: &str| {
                        form.ends_with('}') || !r.starts_with(|c: char| c.is_ascii_alphabetic())
                    };
                    if let Some(after) = rest.strip_prefix(form).filter(|r| bounded(r)) {
                        self.i = self.s.len() - after.len();
                        return self.push(Tok::Sym('°'));
                    }
                }
            }
            _ => {}
        }
        self.push(Tok::Sym(c));
    }

    /// Three digits and no fourth after a separator of `len` bytes.
    pub(super) fn group_follows(&self, len: usize) -> bool {
        let at = self.i + len;
        (0..3).all(|k| self.byte(at + k).is_ascii_digit()) && !self.byte(at + 3).is_ascii_digit()
    }

    pub(super) fn digits(&mut self) -> &'a str {
        let len = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let digits = &self.rest()[..len];
        self.i += len;
        digits
    }

    pub(super) fn number(&mut self) -> Result<(), Reason> {
        let start = self.i;
        let whole = self.digits();
        let mut grouped = String::new();
        if !whole.is_empty() && whole.len() <= 3 {
            loop {
                // `10{,}000`, `10,\!000` and `10\,000` are one number anywhere; a bare comma only outside brackets, a
                // space only where it parts nothing else.
                let separator = [
                    r"{,}", r",\!", r",\! ", r"\,\!", r"\,", r"{\,}", r"\;", r"\ ",
                ]
                .into_iter()
                .find(|sep| self.rest().starts_with(sep) && self.group_follows(sep.len()));
                let comma = || {
                    self.group_commas
                        && self.brackets == 0
                        && self.byte(self.i) == b','
                        && self.group_follows(1)
                };
                let space = || {
                    self.byte(self.i) == b' '
                        && self.group_follows(1)
                        && !matches!(self.byte(self.i + 4), b'/' | b'\\')
                };
                let len = match separator {
                    Some(sep) => sep.len(),
                    None if comma() => {
                        self.grouped = true;
                        1
                    }
                    None if space() => 1,
                    None => break,
                };
                if grouped.is_empty() {
                    grouped.push_str(whole);
                }
                grouped.push_str(&self.s[self.i + len..self.i + len + 3]);
                self.i += len + 3;
            }
        }
        let mut fraction = "";
        let mut has_point = false;
        if self.byte(self.i) == b'.' && self.byte(self.i + 1) != b'.' {
            let follows = self.byte(self.i + 1);
            let repeats = follows == b'\\'
                && (self.s[self.i + 1..].starts_with(r"\overline")
                    || self.s[self.i + 1..].starts_with(r"\bar")
                    || self.s[self.i + 1..].starts_with(r"\dot"));
            if follows.is_ascii_digit() || repeats {
                self.i += 1;
                has_point = true;
                fraction = self.digits();
            }
        }
        if has_point && let Some(digits) = self.repeated() {
            self.limit(whole.len() + fraction.len() + digits.len())?;
            self.push(Tok::Repeating(whole, fraction, digits));
            return Ok(());
        }
        self.limit(grouped.len().max(whole.len()) + fraction.len())?;
        if grouped.is_empty() {
            let plain = &self.s[start..self.i];
            if let Some(exponent) = self.exponent()? {
                self.push(Tok::Sci(plain, exponent));
            } else {
                self.push(Tok::Num(Cow::Borrowed(plain)));
            }
        } else {
            if has_point {
                grouped.push('.');
                grouped.push_str(fraction);
            }
            self.push(Tok::Num(Cow::Owned(grouped)));
        }
        Ok(())
    }

    pub(super) fn limit(&self, digits: usize) -> Result<(), Reason> {
        if digits > MAX_DIGITS {
            Err(Reason::TooManyDigits)
        } else {
            Ok(())
        }
    }

    /// `\overline{3}` and its like after a decimal point.
    pub(super) fn repeated(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let after = [r"\overline", r"\bar", r"\dot"]
            .into_iter()
            .find_map(|cmd| rest.strip_prefix(cmd))?
            .trim_start();
        let (digits, len) = match after.strip_prefix('{') {
            Some(inner) => {
                let end = inner.find('}')?;
                (&inner[..end], end + 2)
            }
            None => (after.get(..1)?, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        self.i = self.s.len() - after.len() + len;
        Some(digits)
    }

    /// The `e-3` of `1.2e-3`.
    pub(super) fn exponent(&mut self) -> Result<Option<i64>, Reason> {
        if !matches!(self.byte(self.i), b'e' | b'E') {
            return Ok(None);
        }
        let signed = usize::from(matches!(self.byte(self.i + 1), b'+' | b'-'));
        let at = self.i + 1 + signed;
        let len = self.s[at..].bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 || self.byte(at + len).is_ascii_alphabetic() {
            return Ok(None);
        }
        let digits = &self.s[self.i + 1..at + len];
        self.i = at + len;
        digits
            .trim_start_matches('+')
            .parse()
            .map(Some)
            .map_err(|_| Reason::TooManyDigits)
    }
}
