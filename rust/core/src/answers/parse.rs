//! Tokens to an expression: precedence climbing over what people write, LaTeX and plain alike. Nothing is skipped: a
//! token without a meaning here is an error, never the end of the expression.

use std::str::FromStr;

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::ast::{Const, Decimal, Expr, Func};
use super::lex::{Tok, Token};
use super::limits::{MAX_DEPTH, MAX_NODES};
use super::reason::Reason;
use super::units::magnitude;

type Parse<T> = Result<T, Reason>;

/// Reads all of `tokens` as one expression.
pub fn expression(tokens: &[Token<'_>]) -> Parse<Expr> {
    let plain = !tokens
        .iter()
        .any(|t| matches!(t.tok, Tok::Cmd(_) | Tok::Text(_)));
    let mut parser = Parser {
        tokens,
        i: 0,
        offset: 0,
        depth: 0,
        nodes: 0,
        bars: 0,
        plain: plain && tokens.len() > 1,
    };
    let expr = parser.sum()?;
    if parser.i < tokens.len() {
        return Err(parser.unexpected());
    }
    Ok(expr)
}

/// Functions by the names that people give them.
pub fn function(name: &str) -> Option<Func> {
    Some(match name {
        "arcsin" => Func::Asin,
        "arccos" => Func::Acos,
        "arctan" | "arctg" => Func::Atan,
        "arcsec" => Func::Asec,
        "arccsc" => Func::Acsc,
        "arccot" => Func::Acot,
        "arcsinh" | "arsinh" => Func::Asinh,
        "arccosh" | "arcosh" => Func::Acosh,
        "arctanh" | "artanh" => Func::Atanh,
        "cosec" => Func::Csc,
        "tg" => Func::Tan,
        "ctg" => Func::Cot,
        "ceiling" => Func::Ceil,
        "factorial" => Func::Fact,
        "Mod" => Func::Mod,
        "binomial" => Func::Binom,
        "Abs" => Func::Abs,
        "Max" => Func::Max,
        "Min" => Func::Min,
        "Re" => Func::Re,
        "Im" => Func::Im,
        "sgn" => Func::Sign,
        "conjugate" => Func::Conj,
        "lg" => Func::Log,
        _ => return Func::ALL.iter().copied().find(|f| f.name() == name),
    })
}

const GREEK: &[&str] = &[
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "varrho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Sigma",
    "Upsilon",
    "Phi",
    "Psi",
    "Omega",
    "ell",
    "hbar",
    "partial",
    "nabla",
    "star",
    "square",
    "clubsuit",
    "heartsuit",
    "diamondsuit",
    "spadesuit",
    "imath",
    "jmath",
    "Pi",
    "aleph",
];
const ACCENTS: &[&str] = &[
    "overline",
    "bar",
    "vec",
    "hat",
    "widehat",
    "tilde",
    "dot",
    "overrightarrow",
    "mathring",
];

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    i: usize,
    /// Bytes already taken from the number or word at `i`: `\frac12` is a half, `xy` a product.
    offset: usize,
    depth: usize,
    nodes: usize,
    /// Bars of absolute values that are open.
    bars: usize,
    /// No LaTeX: `E` and `I` are the constants of computer algebra.
    plain: bool,
}

impl<'t, 'a> Parser<'t, 'a> {
    fn peek(&self) -> Option<&'t Tok<'a>> {
        self.tokens.get(self.i).map(|t| &t.tok)
    }

    fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Tok::Sym(sign))
    }

    fn eat(&mut self, sign: char) -> bool {
        let found = self.is(sign);
        if found {
            self.next();
        }
        found
    }

    fn next(&mut self) {
        self.i += 1;
        self.offset = 0;
    }

    fn need(&mut self, sign: char) -> Parse<()> {
        if self.eat(sign) {
            Ok(())
        } else if self.peek().is_none() {
            Err(Reason::Unbalanced)
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> Reason {
        match self.peek() {
            None => Reason::Unparsed,
            Some(Tok::Cmd(_)) => Reason::UnknownCommand,
            Some(Tok::Text(_) | Tok::Word(_)) => Reason::Prose,
            Some(Tok::Sym('(' | ')' | '[' | ']' | '{' | '}')) => Reason::Unbalanced,
            Some(_) => Reason::Unparsed,
        }
    }

    fn node(&mut self, expr: Expr) -> Parse<Expr> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            Err(Reason::TooLong)
        } else {
            Ok(expr)
        }
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        let result = work(self);
        self.depth -= 1;
        result
    }

    fn sum(&mut self) -> Parse<Expr> {
        self.deeper(|p| {
            let mut terms = Vec::with_capacity(2);
            loop {
                let mut negative = false;
                while p.is('+') || p.is('-') {
                    negative ^= p.is('-');
                    p.next();
                }
                let term = p.product()?;
                terms.push(if negative {
                    p.node(term.negated())?
                } else {
                    term
                });
                if !(p.is('+') || p.is('-')) {
                    break;
                }
            }
            if terms.len() == 1 {
                return terms.pop().ok_or(Reason::Unparsed);
            }
            p.node(Expr::Add(terms))
        })
    }

    /// `\pmod{7}` or `(mod 7)`: the modulus, if it comes next.
    fn modulus(&mut self) -> Parse<Option<Expr>> {
        if self.peek() == Some(&Tok::Cmd("pmod")) {
            self.next();
            return self.deeper(Self::atom).map(Some);
        }
        let named = |t: Option<&Token<'_>>| {
            matches!(
                t.map(|t| &t.tok),
                Some(Tok::Word("mod") | Tok::Cmd("mod" | "bmod"))
            )
        };
        if self.offset == 0 && self.is('(') && named(self.tokens.get(self.i + 1)) {
            self.i += 2;
            let modulus = self.sum()?;
            self.need(')')?;
            return Ok(Some(modulus));
        }
        Ok(None)
    }

    fn product(&mut self) -> Parse<Expr> {
        let mut left = self.power()?;
        loop {
            if let Some(modulus) = self.modulus()? {
                left = self.node(Expr::Fn(Func::Residue, vec![left, modulus]))?;
                continue;
            }
            if self.peek() == Some(&Tok::Cmd("choose")) {
                self.next();
                let right = self.product()?;
                left = self.node(Expr::Fn(Func::Binom, vec![left, right]))?;
            } else if self.eat('*') || self.times_ten() {
                let right = self.signed_power()?;
                left = self.times(left, right)?;
            } else if self.eat('/') {
                let right = self.signed_power()?;
                left = self.node(left.over(right))?;
            } else if self.peek() == Some(&Tok::Cmd("bmod"))
                || self.peek() == Some(&Tok::Cmd("mod"))
                || self.peek() == Some(&Tok::Word("mod"))
            {
                self.next();
                let right = self.signed_power()?;
                left = self.node(Expr::Fn(Func::Mod, vec![left, right]))?;
            } else if self.starts_factor() {
                let after_number = self.i > 0
                    && self.offset == 0
                    && matches!(self.tokens[self.i - 1].tok, Tok::Num(_));
                let number = matches!(
                    self.peek(),
                    Some(Tok::Num(_) | Tok::Sci(..) | Tok::Repeating(..))
                );
                if number && after_number && !matches!(left, Expr::Pow(..)) {
                    left = self.mixed(left)?;
                    continue;
                }
                if number && after_number {
                    return Err(Reason::Unparsed);
                }
                let whole = after_number && matches!(&left, Expr::Num(v) if v.is_int());
                let fraction = self.peek() == Some(&Tok::Cmd("frac"));
                if let Some(Tok::Word(word)) = self.peek()
                    && let Some(size) = magnitude(&word[self.offset..]).filter(|_| self.offset == 0)
                {
                    self.next();
                    left = self.times(left, Expr::Num(size))?;
                    continue;
                }
                let right = self.power()?;
                let mixed = whole
                    && fraction
                    && matches!(&right, Expr::Div(a, b) if matches!((&**a, &**b), (Expr::Num(_), Expr::Num(_))));
                left = if mixed {
                    self.node(Expr::Add(vec![left, right]))?
                } else {
                    self.times(left, right)?
                };
            } else {
                return Ok(left);
            }
        }
    }

    /// The `x` of `1.2x10^3`.
    fn times_ten(&mut self) -> bool {
        let after_number =
            self.i > 0 && self.offset == 0 && matches!(self.tokens[self.i - 1].tok, Tok::Num(_));
        let ten =
            matches!(self.tokens.get(self.i + 1).map(|t| &t.tok), Some(Tok::Num(n)) if n == "10");
        let power = self
            .tokens
            .get(self.i + 2)
            .is_some_and(|t| t.tok == Tok::Sym('^'));
        let found = after_number && ten && power && self.peek() == Some(&Tok::Word("x"));
        if found {
            self.next();
        }
        found
    }

    fn times(&mut self, left: Expr, right: Expr) -> Parse<Expr> {
        match left {
            Expr::Mul(mut items) => {
                items.push(right);
                self.node(Expr::Mul(items))
            }
            left => self.node(Expr::Mul(vec![left, right])),
        }
    }

    /// `2 1/2` is two and a half; any other two numbers side by side are nothing.
    fn mixed(&mut self, whole: Expr) -> Parse<Expr> {
        let int = |t: Option<&Token<'_>>| match t.map(|t| &t.tok) {
            Some(Tok::Num(text)) if text.bytes().all(|b| b.is_ascii_digit()) => Some(number(text)),
            _ => None,
        };
        let slash = self
            .tokens
            .get(self.i + 1)
            .is_some_and(|t| t.tok == Tok::Sym('/'));
        let (over, under) = (
            int(self.tokens.get(self.i)),
            int(self.tokens.get(self.i + 2)),
        );
        match (&whole, over, under) {
            (Expr::Num(w), Some(over), Some(under))
                if w.is_int() && slash && self.tokens[self.i].space_before =>
            {
                self.i += 3;
                self.offset = 0;
                let (over, under) = (over?, under?);
                self.node(Expr::Add(vec![whole, over.over(under)]))
            }
            _ => Err(Reason::Unparsed),
        }
    }

    fn starts_factor(&self) -> bool {
        match self.peek() {
            None => false,
            Some(Tok::Num(_) | Tok::Sci(..) | Tok::Repeating(..)) => true,
            Some(Tok::Word(word)) => *word != "mod",
            Some(Tok::Sym('(' | '[' | '{' | '∞')) => true,
            Some(Tok::Sym('|')) => self.bars == 0,
            Some(Tok::Cmd(name)) => {
                matches!(
                    *name,
                    "frac" | "sqrt" | "pi" | "binom" | "tbinom" | "dbinom" | "lfloor" | "lceil"
                ) || function(name).is_some()
                    || GREEK.contains(name)
                    || ACCENTS.contains(name)
                    || matches!(*name, "angle" | "triangle" | "measuredangle" | "odot")
            }
            Some(_) => false,
        }
    }

    fn signed_power(&mut self) -> Parse<Expr> {
        if self.eat('-') {
            let x = self.deeper(Self::signed_power)?;
            self.node(x.negated())
        } else if self.eat('+') {
            self.deeper(Self::signed_power)
        } else {
            self.power()
        }
    }

    fn power(&mut self) -> Parse<Expr> {
        let base = self.atom()?;
        self.postfix(base)
    }

    fn postfix(&mut self, mut x: Expr) -> Parse<Expr> {
        loop {
            if self.offset > 0 {
                return Ok(x); // the next letter of the same word
            }
            if self.eat('^') {
                let exponent = self.deeper(Self::exponent)?;
                x = self.node(x.pow(exponent))?;
            } else if self.eat('!') {
                x = self.node(Expr::Fn(Func::Fact, vec![x]))?;
            } else if self.eat('%') {
                x = self.node(x.over(Expr::int(100)))?;
            } else if self.eat('°') {
                let turn = Expr::Const(Const::Pi).over(Expr::int(180));
                x = self.times(x, turn)?;
            } else {
                return Ok(x);
            }
        }
    }

    fn exponent(&mut self) -> Parse<Expr> {
        if self.eat('-') {
            let x = self.exponent()?;
            return self.node(x.negated());
        }
        if self.eat('+') {
            return self.exponent();
        }
        let x = self.atom()?;
        // Towers bind to the right.
        if self.offset == 0 && self.eat('^') {
            let above = self.deeper(Self::exponent)?;
            return self.node(x.pow(above));
        }
        if self.offset == 0 && self.eat('!') {
            return self.node(Expr::Fn(Func::Fact, vec![x]));
        }
        Ok(x)
    }

    /// An argument of a command: a group, or one digit, letter or command.
    fn argument(&mut self) -> Parse<Expr> {
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

    fn group(&mut self, close: char) -> Parse<Expr> {
        self.next();
        let bars = std::mem::take(&mut self.bars);
        let inner = self.sum()?;
        self.bars = bars;
        self.need(close)?;
        Ok(inner)
    }

    fn atom(&mut self) -> Parse<Expr> {
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

    fn word(&mut self, word: &'a str) -> Parse<Expr> {
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
    fn take(&mut self, len: usize, word: &str) {
        self.offset += len;
        if self.offset >= word.len() {
            self.next();
        }
    }

    /// A variable, with its subscript and primes.
    fn named(&mut self, mut name: String) -> Parse<Expr> {
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

    fn subscript(&mut self, name: &mut String) -> Parse<()> {
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

    fn command(&mut self, name: &'a str) -> Parse<Expr> {
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
    fn series(&mut self, name: &str) -> Parse<Expr> {
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
        let whole = |e: &Expr| match super::exact::rational(e) {
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
    fn root(&mut self, name: &str) -> Parse<Expr> {
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
    fn apply(&mut self, mut func: Func) -> Parse<Expr> {
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

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
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

/// A function, root or constant at the start of a run of letters; the longest.
fn known_prefix(letters: &str) -> Option<(&'static str, Option<Func>)> {
    const NAMES: &[&str] = &[
        "arcsinh",
        "arccosh",
        "arctanh",
        "arcsin",
        "arccos",
        "arctan",
        "arccot",
        "arcsec",
        "arccsc",
        "factorial",
        "binomial",
        "ceiling",
        "floor",
        "asinh",
        "acosh",
        "atanh",
        "asin",
        "acos",
        "atan",
        "acot",
        "asec",
        "acsc",
        "sinh",
        "cosh",
        "tanh",
        "sech",
        "csch",
        "coth",
        "sqrt",
        "cbrt",
        "ceil",
        "cosec",
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "exp",
        "log",
        "ln",
        "abs",
        "Abs",
        "Mod",
        "max",
        "min",
        "Max",
        "Min",
        "gcd",
        "lcm",
        "sgn",
        "lg",
        "pi",
        "conjugate",
    ];
    let name = NAMES
        .iter()
        .copied()
        .filter(|n| letters.starts_with(n))
        .max_by_key(|n| n.len())?;
    Some((name, function(name)))
}

/// Whether a word is made of single letters and known names, with one known name at least: `xsin`, `sinx`.
fn has_known(word: &str) -> bool {
    (0..word.len().min(4)).any(|k| {
        known_prefix(&word[k..])
            .is_some_and(|(name, _)| k + name.len() + 2 >= word.len() && name.len() > 1)
    })
}

/// A number as written.
pub fn number(text: &str) -> Parse<Expr> {
    let Some((whole, fraction)) = text.split_once('.') else {
        return UBig::from_str(text)
            .map(|n| Expr::Num(RBig::from(n)))
            .map_err(|_| Reason::Unparsed);
    };
    let int = |s: &str| {
        if s.is_empty() {
            Ok(UBig::ZERO)
        } else {
            UBig::from_str(s).map_err(|_| Reason::Unparsed)
        }
    };
    let shift = UBig::from(10u8).pow(fraction.len());
    let value = RBig::from_parts(IBig::from(int(whole)? * &shift + int(fraction)?), shift);
    let places = u32::try_from(fraction.len()).map_err(|_| Reason::TooManyDigits)?;
    Ok(Expr::Dec(Decimal { value, places }))
}

fn repeating(whole: &str, fraction: &str, repeated: &str) -> Parse<RBig> {
    let int = |s: &str| {
        if s.is_empty() {
            Ok(IBig::ZERO)
        } else {
            IBig::from_str(s).map_err(|_| Reason::Unparsed)
        }
    };
    let shift = IBig::from(10).pow(fraction.len());
    let nines = IBig::from(10).pow(repeated.len()) - IBig::ONE;
    let fixed = int(whole)? * &shift + int(fraction)?;
    let numerator = fixed * &nines + int(repeated)?;
    Ok(RBig::from_parts_signed(numerator, shift * nines))
}
