//! Numbers, names, functions, roots and groups.

use super::names::{ACCENTS, GREEK, function, has_known, known_prefix, number, repeating};
use super::{Parse, Parser};
use crate::answers::ast::{Const, Expr, Func};
use crate::answers::exact;
use crate::answers::lex::Tok;
use crate::answers::reason::Reason;

impl<'t, 'a> Parser<'t, 'a> {
    /// An argument of a command: a group, or one digit, letter or command.
    pub(super) fn argument(&mut self) -> Parse<Expr> {
        match self.peek() {
            Some(Tok::Num(text)) if !text.contains('.') => {
                let digit = text
                    .get(self.offset..=self.offset)
                    .ok_or(Reason::Unparsed)?;
                let value = number(digit)?;
                self.offset += 1;
                if self.offset >= text.len() {
                    self.next();
                }
                self.node(value)
            }
            Some(_) => self.deeper(Self::atom),
            None => Err(Reason::Unparsed),
        }
    }

    pub(super) fn group(&mut self, close: char) -> Parse<Expr> {
        self.next();
        let bars = std::mem::take(&mut self.bars);
        let inner = self.sum()?;
        self.bars = bars;
        self.need(close)?;
        Ok(inner)
    }

    pub(super) fn atom(&mut self) -> Parse<Expr> {
        let Some(tok) = self.peek() else {
            return Err(Reason::Unparsed);
        };
        match tok {
            Tok::Num(text) => {
                let value = number(&text[self.offset..])?;
                self.next();
                self.node(value)
            }
            Tok::Sci(mantissa, exponent) => {
                let value = number(mantissa)?;
                self.next();
                let ten = Expr::int(10).pow(Expr::int(*exponent));
                self.times(value, ten)
            }
            Tok::Repeating(whole, fraction, repeated) => {
                let value = repeating(whole, fraction, repeated)?;
                self.next();
                self.node(Expr::Num(value))
            }
            Tok::Word(word) => self.word(word),
            Tok::Sym('(') => self.group(')'),
            Tok::Sym('[') => self.group(']'),
            Tok::Sym('{') => self.group('}'),
            Tok::Sym('|') => {
                self.next();
                self.bars += 1;
                let inner = self.sum()?;
                self.bars -= 1;
                self.need('|')?;
                self.node(Expr::Fn(Func::Abs, vec![inner]))
            }
            Tok::Sym('∞') => {
                self.next();
                self.node(Expr::Const(Const::Infinity))
            }
            Tok::Cmd(name) => self.command(name),
            Tok::Sym('-' | '+') => self.deeper(Self::signed_power),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn word(&mut self, word: &'a str) -> Parse<Expr> {
        let rest = &word[self.offset..];
        if self.offset == 0 {
            match word {
                "pi" | "Pi" | "PI" => {
                    self.next();
                    return self.node(Expr::Const(Const::Pi));
                }
                "inf" | "infinity" | "infty" | "oo" => {
                    self.next();
                    return self.node(Expr::Const(Const::Infinity));
                }
                "and" | "or" | "if" | "is" | "of" | "to" | "in" | "for" | "no" | "not" | "yes"
                | "the" => return Err(Reason::Prose),
                _ => {}
            }
            if GREEK.contains(&word) && word.len() > 3 {
                self.next();
                return self.named(format!("\\{word}"));
            }
        }
        if let Some((name, func)) = known_prefix(rest) {
            self.take(name.len(), word);
            return match func {
                Some(func) => self.apply(func),
                None if name == "pi" => self.node(Expr::Const(Const::Pi)),
                None => self.root(name),
            };
        }
        if self.offset == 0
            && word.len() > 3
            && !word.bytes().all(|b| b.is_ascii_uppercase())
            && !has_known(word)
        {
            return Err(Reason::Prose);
        }
        let letter = rest.get(..1).ok_or(Reason::Unparsed)?;
        self.take(1, word);
        match letter {
            "e" => self.node(Expr::Const(Const::E)),
            "i" => self.node(Expr::Const(Const::I)),
            "E" if self.plain && word.len() == 1 && !self.is('_') => {
                self.node(Expr::Const(Const::E))
            }
            "I" if self.plain && word.len() == 1 && !self.is('_') => {
                self.node(Expr::Const(Const::I))
            }
            _ => self.named(letter.to_owned()),
        }
    }

    /// Takes `len` bytes of the word at hand.
    pub(super) fn take(&mut self, len: usize, word: &str) {
        self.offset += len;
        if self.offset >= word.len() {
            self.next();
        }
    }

    /// A variable, with its subscript and primes.
    pub(super) fn named(&mut self, mut name: String) -> Parse<Expr> {
        if self.offset == 0 && self.is('_') {
            self.next();
            name.push('_');
            self.subscript(&mut name)?;
        }
        while self.offset == 0 && self.eat('\'') {
            name.push('\'');
        }
        self.node(Expr::Var(name.into()))
    }

    pub(super) fn subscript(&mut self, name: &mut String) -> Parse<()> {
        let mut open = 0_usize;
        loop {
            match self.peek().ok_or(Reason::Unbalanced)? {
                Tok::Sym('{') => open += 1,
                Tok::Sym('}') => open = open.checked_sub(1).ok_or(Reason::Unbalanced)?,
                Tok::Num(text) => name.push_str(text),
                Tok::Word(text) | Tok::Text(text) | Tok::Cmd(text) => name.push_str(text),
                Tok::Sym(c) if open > 0 => name.push(*c),
                _ => return Err(self.unexpected()),
            }
            self.next();
            if open == 0 {
                return Ok(());
            }
        }
    }

    pub(super) fn command(&mut self, name: &'a str) -> Parse<Expr> {
        if let Some(func) = function(name).filter(|f| *f != Func::Binom) {
            self.next();
            return self.apply(func);
        }
        match name {
            "frac" => {
                self.next();
                let (a, b) = (self.argument()?, self.argument()?);
                self.node(a.over(b))
            }
            "binom" | "tbinom" | "dbinom" => {
                self.next();
                let (a, b) = (self.argument()?, self.argument()?);
                self.node(Expr::Fn(Func::Binom, vec![a, b]))
            }
            "sqrt" => {
                self.next();
                self.root("sqrt")
            }
            "pi" => {
                self.next();
                self.node(Expr::Const(Const::Pi))
            }
            "sum" | "prod" => self.deeper(|p| p.series(name)),
            "lfloor" | "lceil" => {
                self.next();
                let inner = self.sum()?;
                let (close, func) = if name == "lfloor" {
                    ("rfloor", Func::Floor)
                } else {
                    ("rceil", Func::Ceil)
                };
                if self.peek() != Some(&Tok::Cmd(close)) {
                    return Err(Reason::Unbalanced);
                }
                self.next();
                self.node(Expr::Fn(func, vec![inner]))
            }
            _ if GREEK.contains(&name) => {
                self.next();
                self.named(format!("\\{name}"))
            }
            "angle" | "triangle" | "measuredangle" | "odot" => {
                self.next();
                let Some(Tok::Word(word)) = self.peek() else {
                    return Err(self.unexpected());
                };
                let full = format!("\\{name} {}", &word[self.offset..]);
                self.next();
                self.named(full)
            }
            _ if ACCENTS.contains(&name) => {
                self.next();
                // Two commands for one mark.
                let mark = if name == "bar" { "overline" } else { name };
                let mut inner = format!("\\{mark} ");
                if self.is('{') {
                    self.subscript(&mut inner)?;
                } else {
                    match self.peek() {
                        Some(Tok::Word(word)) => {
                            let rest = &word[self.offset..];
                            inner.push_str(rest.get(..1).ok_or(Reason::Unparsed)?);
                            self.take(1, word);
                        }
                        _ => return Err(self.unexpected()),
                    }
                }
                self.named(inner)
            }
            _ => Err(Reason::UnknownCommand),
        }
    }

    /// `\sum_{k=1}^{10} k^2`, written out.
    pub(super) fn series(&mut self, name: &str) -> Parse<Expr> {
        self.next();
        let (mut from, mut to) = (None, None);
        for _ in 0..2 {
            if self.eat('_') {
                if !self.eat('{') {
                    return Err(Reason::Unparsed);
                }
                let Expr::Var(index) = self.atom()? else {
                    return Err(Reason::Unparsed);
                };
                self.need('=')?;
                from = Some((index, self.sum()?));
                self.need('}')?;
            } else if self.eat('^') {
                to = Some(self.exponent()?);
            }
        }
        let (Some((index, from)), Some(to)) = (from, to) else {
            return Err(Reason::Unparsed);
        };
        let body = self.product()?;
        let whole = |e: &Expr| match exact::rational(e) {
            Ok(Some(n)) if n.is_int() => i64::try_from(n.numerator()).map_err(|_| Reason::TooLarge),
            _ => Err(Reason::UnknownCommand),
        };
        let (from, to) = (whole(&from)?, whole(&to)?);
        if to.saturating_sub(from) > 200 {
            return Err(Reason::TooManyItems);
        }
        let mut parts = Vec::new();
        for k in from..=to {
            let part = body.with(&index, &Expr::int(k));
            self.nodes += part.size();
            parts.push(self.node(part)?);
        }
        self.node(if name == "sum" {
            Expr::Add(parts)
        } else {
            Expr::Mul(parts)
        })
    }

    /// What follows `\sqrt` or `sqrt`, `cbrt`.
    pub(super) fn root(&mut self, name: &str) -> Parse<Expr> {
        let mut index = Expr::int(if name == "cbrt" { 3 } else { 2 });
        if self.offset == 0 && name == "sqrt" && self.is('[') {
            index = self.group(']')?;
        }
        let spaced = self.tokens.get(self.i).is_some_and(|t| t.space_before);
        let inner = if self.offset == 0 && spaced && matches!(self.peek(), Some(Tok::Num(_))) {
            self.atom()?
        } else {
            self.argument()?
        };
        let exponent = self.node(Expr::int(1).over(index))?;
        self.node(inner.pow(exponent))
    }

    /// The power, base and arguments of a function.
    pub(super) fn apply(&mut self, mut func: Func) -> Parse<Expr> {
        let mut power = None;
        let mut base = None;
        for _ in 0..2 {
            if self.offset == 0 && self.is('^') {
                self.next();
                power = Some(self.deeper(Self::exponent)?);
            } else if self.offset == 0 && self.is('_') {
                self.next();
                base = Some(self.argument()?);
            }
        }
        let inverse = matches!(&power, Some(Expr::Neg(x)) if **x == Expr::int(1));
        if inverse {
            let inverted = match func {
                Func::Sin => Some(Func::Asin),
                Func::Cos => Some(Func::Acos),
                Func::Tan => Some(Func::Atan),
                Func::Sec => Some(Func::Asec),
                Func::Csc => Some(Func::Acsc),
                Func::Cot => Some(Func::Acot),
                Func::Sinh => Some(Func::Asinh),
                Func::Cosh => Some(Func::Acosh),
                Func::Tanh => Some(Func::Atanh),
                _ => None,
            };
            if let Some(inverted) = inverted {
                func = inverted;
                power = None;
            }
        }
        let mut args = self.deeper(Self::arguments)?;
        if func == Func::Log && args.len() == 1 {
            args.extend(base);
        } else if base.is_some() {
            return Err(Reason::Unparsed);
        }
        let fits = match func {
            Func::Log => args.len() <= 2,
            Func::Binom | Func::Mod => args.len() == 2,
            Func::Max | Func::Min | Func::Gcd | Func::Lcm => !args.is_empty(),
            _ => args.len() == 1,
        };
        if !fits {
            return Err(Reason::Unparsed);
        }
        let call = self.node(Expr::Fn(func, args))?;
        match power {
            Some(power) => self.node(call.pow(power)),
            None => Ok(call),
        }
    }

    pub(super) fn arguments(&mut self) -> Parse<Vec<Expr>> {
        if self.offset == 0 {
            for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
                if self.is(open) {
                    self.next();
                    let bars = std::mem::take(&mut self.bars);
                    let mut args = vec![self.sum()?];
                    while self.eat(',') {
                        args.push(self.sum()?);
                    }
                    self.bars = bars;
                    self.need(close)?;
                    return Ok(args);
                }
            }
        }
        // Without brackets the argument goes on over factors: `\sin 2x`, up to the next function.
        let mut x = self.signed_power()?;
        loop {
            let goes_on = match self.peek() {
                Some(Tok::Num(_)) => self.offset > 0,
                Some(Tok::Word(word)) => {
                    known_prefix(&word[self.offset..]).is_none_or(|(_, func)| func.is_none())
                }
                Some(Tok::Cmd(name)) => {
                    matches!(*name, "pi" | "frac" | "sqrt") || GREEK.contains(name)
                }
                _ => false,
            };
            if !goes_on {
                return Ok(vec![x]);
            }
            let y = self.power()?;
            x = self.times(x, y)?;
        }
    }
}
