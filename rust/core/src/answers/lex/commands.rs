//! Commands, escapes, and what text and font commands hold.

use super::{Lexer, Tok};
use crate::answers::parse::function;
use crate::answers::reason::Reason;

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
    /// The argument in braces that starts here, and where it ends.
    pub(super) fn argument(&self) -> Option<(&'a str, usize)> {
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

    pub(super) fn command(&mut self, depth: usize) -> Result<(), Reason> {
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

    pub(super) fn set(&mut self, open: bool) {
        if open {
            self.brackets += 1;
            self.push(Tok::SetOpen);
        } else {
            self.brackets = self.brackets.saturating_sub(1);
            self.push(Tok::SetClose);
        }
    }

    pub(super) fn escape(&mut self, after: &'a str) -> Result<(), Reason> {
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

    pub(super) fn text(&mut self, content: &'a str, depth: usize) -> Result<(), Reason> {
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

    pub(super) fn font(
        &mut self,
        name: &str,
        content: &'a str,
        depth: usize,
    ) -> Result<(), Reason> {
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

    pub(super) fn inline(&mut self, content: &'a str, depth: usize) -> Result<(), Reason> {
        let (s, i) = (self.s, self.i);
        (self.s, self.i) = (content, 0);
        self.run(depth + 1)?;
        (self.s, self.i) = (s, i);
        Ok(())
    }
}
