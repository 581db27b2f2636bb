//! LaTeX and plain text to tokens. Commands that only shape the page are dropped here.

use std::borrow::Cow;

use super::limits::{MAX_DEPTH, MAX_DIGITS};
use super::parse::function;
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

const SHAPES: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "Biggl",
    "Biggr",
    "bigm",
    "middle",
    "mleft",
    "mright",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "nolimits",
    "nonumber",
    "bf",
    "rm",
    "it",
    "sf",
    "tt",
    "cal",
    "large",
    "Large",
    "small",
    "normalsize",
    "boldmath",
    "centering",
    "noindent",
    "strut",
    "relax",
    "notag",
];
const SPACES: &[&str] = &[
    "quad",
    "qquad",
    "enspace",
    "thinspace",
    "medspace",
    "thickspace",
    "space",
    "nobreakspace",
];
const TEXTS: &[&str] = &[
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "textnormal",
    "textup",
    "mbox",
    "hbox",
    "emph",
];
const MATH_FONTS: &[&str] = &[
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "mathcal",
    "mathscr",
    "mathfrak",
    "boldsymbol",
    "bm",
    "operatorname",
    "underline",
    "boxed",
    "fbox",
    "mathop",
    "mathnormal",
    "pmb",
    "cancel",
];
const IGNORED_WITH_ARGUMENT: &[&str] = &[
    "phantom", "hspace", "vspace", "label", "tag", "color", "hphantom", "vphantom", "hfill",
];

fn symbol(name: &str) -> Option<char> {
    Some(match name {
        "leq" | "leqslant" | "le" | "leqq" => '≤',
        "geq" | "geqslant" | "ge" | "geqq" => '≥',
        "ne" | "neq" => '≠',
        "lt" => '<',
        "gt" => '>',
        "cdot" | "times" | "ast" | "bullet" => '*',
        "div" => '/',
        "cup" | "bigcup" => '∪',
        "cap" | "bigcap" => '∩',
        "in" => '∈',
        "pm" => '±',
        "mp" => '∓',
        "infty" | "infin" => '∞',
        "approx" | "simeq" | "thickapprox" => '≈',
        "equiv" | "cong" => '≡',
        "lbrack" => '[',
        "rbrack" => ']',
        "lparen" => '(',
        "rparen" => ')',
        "vert" | "lvert" | "rvert" | "mid" => '|',
        "Vert" | "lVert" | "rVert" | "|" => '‖',
        "degree" => '°',
        "colon" => ':',
        "ldots" | "cdots" | "dots" | "dotsc" | "dotsb" => '…',
        "setminus" | "smallsetminus" | "backslash" => '∖',
        "emptyset" | "varnothing" | "O" => '∅',
        "langle" => '⟨',
        "rangle" => '⟩',
        "to" | "rightarrow" | "Rightarrow" | "implies" | "longrightarrow" | "mapsto" => '→',
        "%" => '%',
        "$" => '$',
        "&" => '&',
        "#" => '#',
        "_" => '_',
        "prime" => '\'',
        _ => return None,
    })
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.s[self.i..]
    }

    fn byte(&self, at: usize) -> u8 {
        self.s.as_bytes().get(at).copied().unwrap_or(0)
    }

    fn push(&mut self, tok: Tok<'a>) {
        self.tokens.push(Token {
            tok,
            space_before: self.space,
        });
        self.space = false;
    }

    fn run(&mut self, depth: usize) -> Result<(), Reason> {
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

    fn word(&mut self) {
        let len = self
            .rest()
            .bytes()
            .take_while(u8::is_ascii_alphabetic)
            .count();
        let word = &self.rest()[..len];
        self.i += len;
        self.push(Tok::Word(word));
    }

    fn sign(&mut self, c: char) {
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
    fn group_follows(&self, len: usize) -> bool {
        let at = self.i + len;
        (0..3).all(|k| self.byte(at + k).is_ascii_digit()) && !self.byte(at + 3).is_ascii_digit()
    }

    fn digits(&mut self) -> &'a str {
        let len = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let digits = &self.rest()[..len];
        self.i += len;
        digits
    }

    fn number(&mut self) -> Result<(), Reason> {
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

    fn limit(&self, digits: usize) -> Result<(), Reason> {
        if digits > MAX_DIGITS {
            Err(Reason::TooManyDigits)
        } else {
            Ok(())
        }
    }

    /// `\overline{3}` and its like after a decimal point.
    fn repeated(&mut self) -> Option<&'a str> {
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
    fn exponent(&mut self) -> Result<Option<i64>, Reason> {
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

    /// The argument in braces that starts here, and where it ends.
    fn argument(&self) -> Option<(&'a str, usize)> {
        let skipped = self.rest().len() - self.rest().trim_start_matches(' ').len();
        let open = self.i + skipped;
        if self.byte(open) != b'{' {
            return None;
        }
        let mut depth = 0_usize;
        let bytes = self.s.as_bytes();
        let mut k = open;
        while k < bytes.len() {
            match bytes[k] {
                b'\\' => k += 1,
                b'{' => depth += 1,
                b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some((&self.s[open + 1..k], k + 1));
                    }
                }
                _ => {}
            }
            k += 1;
        }
        None
    }

    fn command(&mut self, depth: usize) -> Result<(), Reason> {
        let after = &self.s[self.i + 1..];
        let len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        if len == 0 {
            return self.escape(after);
        }
        let name = &after[..len];
        let begin = self.i;
        self.i += 1 + len;
        if SHAPES.contains(&name) {
            // `\left.` and `\right.` are brackets that are not there.
            if matches!(name, "left" | "right") && self.byte(self.i) == b'.' {
                self.i += 1;
            }
            return Ok(());
        }
        if SPACES.contains(&name) {
            self.space = true;
            return Ok(());
        }
        match name {
            "lbrace" => self.set(true),
            "rbrace" => self.set(false),
            "lbrack" | "lparen" | "langle" => {
                self.brackets += 1;
                self.push(Tok::Sym(symbol(name).unwrap_or('(')));
            }
            "rbrack" | "rparen" | "rangle" => {
                self.brackets = self.brackets.saturating_sub(1);
                self.push(Tok::Sym(symbol(name).unwrap_or(')')));
            }
            "land" | "wedge" => self.push(Tok::Text("and")),
            "lor" | "vee" => self.push(Tok::Text("or")),
            "dfrac" | "tfrac" | "cfrac" => self.push(Tok::Cmd("frac")),
            "begin" => {
                let (env, end) = self.argument().ok_or(Reason::Unbalanced)?;
                self.i = end;
                self.environments += 1;
                self.push(Tok::Begin(env.trim()));
                if env.trim() == "array"
                    && let Some((_, end)) = self.argument()
                {
                    self.i = end;
                }
            }
            "end" => {
                let (_, end) = self.argument().ok_or(Reason::Unbalanced)?;
                self.i = end;
                self.environments = self.environments.saturating_sub(1);
                self.push(Tok::End);
            }
            _ if IGNORED_WITH_ARGUMENT.contains(&name) => {
                if let Some((_, end)) = self.argument() {
                    self.i = end;
                }
            }
            _ if TEXTS.contains(&name) => {
                if let Some((content, end)) = self.argument() {
                    self.i = end;
                    self.text(content, depth)?;
                }
            }
            _ if MATH_FONTS.contains(&name) => {
                let starred = self.byte(self.i) == b'*';
                self.i += usize::from(starred);
                if let Some((content, end)) = self.argument() {
                    self.i = end;
                    self.font(name, content, depth)?;
                }
            }
            "mathbb" | "Bbb" => {
                let set = match self.argument() {
                    Some((content, end)) => {
                        self.i = end;
                        content.trim()
                    }
                    None => {
                        let rest = self.rest().trim_start();
                        let letter = rest.get(..1).ok_or(Reason::Unparsed)?;
                        self.i = self.s.len() - rest.len() + 1;
                        letter
                    }
                };
                self.push(Tok::Cmd(match set {
                    "R" => "Reals",
                    "Z" => "Integers",
                    "N" => "Naturals",
                    "Q" => "Rationals",
                    "C" => "Complex",
                    _ => return Err(Reason::UnknownCommand),
                }));
            }
            _ => match symbol(name) {
                Some(sign) => self.push(Tok::Sym(sign)),
                None => self.push(Tok::Cmd(&self.s[begin + 1..begin + 1 + len])),
            },
        }
        Ok(())
    }

    fn set(&mut self, open: bool) {
        if open {
            self.brackets += 1;
            self.push(Tok::SetOpen);
        } else {
            self.brackets = self.brackets.saturating_sub(1);
            self.push(Tok::SetClose);
        }
    }

    fn escape(&mut self, after: &'a str) -> Result<(), Reason> {
        let Some(c) = after.chars().next() else {
            self.i += 1;
            return Ok(());
        };
        match c {
            '{' | '}' => {
                self.i += 2;
                self.set(c == '{');
            }
            '\\' => {
                let doubled = self.environments == 0
                    && after[1..].starts_with(|c: char| c.is_ascii_alphabetic());
                if doubled {
                    // A backslash that was escaped once too often.
                    self.i += 1;
                } else {
                    self.i += 2;
                    self.push(Tok::RowSep);
                }
            }
            ',' | ';' | ':' | '!' | ' ' | '>' | '/' | '-' => {
                self.i += 2;
                self.space |= c != '!';
            }
            '(' | ')' | '[' | ']' => self.i += 2, // math delimiters inside an answer
            _ => {
                self.i += 1 + c.len_utf8();
                let sign = symbol(&after[..c.len_utf8()]).ok_or(Reason::UnknownCommand)?;
                self.push(Tok::Sym(sign));
            }
        }
        Ok(())
    }

    fn text(&mut self, content: &'a str, depth: usize) -> Result<(), Reason> {
        let trimmed = content.trim();
        self.space |= content.starts_with(' ');
        if trimmed.is_empty() {
            self.space = true;
        } else if trimmed.chars().any(char::is_alphabetic) || trimmed.contains('\\') {
            let word = trimmed.len() == 1 || function(trimmed).is_some();
            self.push(if word {
                Tok::Word(trimmed)
            } else {
                Tok::Text(trimmed)
            });
        } else {
            self.inline(content, depth)?;
        }
        self.space |= content.ends_with(' ');
        Ok(())
    }

    fn font(&mut self, name: &str, content: &'a str, depth: usize) -> Result<(), Reason> {
        let trimmed = content.trim();
        let letters = trimmed.len() > 1
            && trimmed
                .bytes()
                .all(|b| b.is_ascii_alphabetic() || b == b' ');
        if letters && name != "boxed" && name != "fbox" && name != "underline" {
            self.push(if name == "operatorname" {
                Tok::Word(trimmed)
            } else {
                Tok::Text(trimmed)
            });
            Ok(())
        } else if trimmed.len() == 1 && !trimmed.bytes().all(|b| b.is_ascii_alphabetic())
            || trimmed.len() > 1
        {
            // A group keeps what follows, an exponent say, from the last part alone.
            self.push(Tok::Sym('{'));
            self.inline(content, depth)?;
            self.push(Tok::Sym('}'));
            Ok(())
        } else {
            self.inline(content, depth)
        }
    }

    fn inline(&mut self, content: &'a str, depth: usize) -> Result<(), Reason> {
        let (s, i) = (self.s, self.i);
        (self.s, self.i) = (content, 0);
        self.run(depth + 1)?;
        (self.s, self.i) = (s, i);
        Ok(())
    }
}
