//! Tokens to an expression: precedence climbing over what people write, LaTeX and plain alike. Nothing is skipped: a
//! token without a meaning here is an error, never the end of the expression.

mod atoms;
mod names;

use crate::answers::ast::{Const, Expr, Func};
use crate::answers::lex::{Tok, Token};
use crate::answers::limits::{MAX_DEPTH, MAX_NODES};
use crate::answers::reason::Reason;
use crate::answers::units::magnitude;
use names::{ACCENTS, GREEK};
pub use names::{function, number};

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
    pub(super) fn peek(&self) -> Option<&'t Tok<'a>> {
        self.tokens.get(self.i).map(|t| &t.tok)
    }

    pub(super) fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Tok::Sym(sign))
    }

    pub(super) fn eat(&mut self, sign: char) -> bool {
        let found = self.is(sign);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn next(&mut self) {
        self.i += 1;
        self.offset = 0;
    }

    pub(super) fn need(&mut self, sign: char) -> Parse<()> {
        if self.eat(sign) {
            Ok(())
        } else if self.peek().is_none() {
            Err(Reason::Unbalanced)
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn unexpected(&self) -> Reason {
        match self.peek() {
            None => Reason::Unparsed,
            Some(Tok::Cmd(_)) => Reason::UnknownCommand,
            Some(Tok::Text(_) | Tok::Word(_)) => Reason::Prose,
            Some(Tok::Sym('(' | ')' | '[' | ']' | '{' | '}')) => Reason::Unbalanced,
            Some(_) => Reason::Unparsed,
        }
    }

    pub(super) fn node(&mut self, expr: Expr) -> Parse<Expr> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            Err(Reason::TooLong)
        } else {
            Ok(expr)
        }
    }

    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        let result = work(self);
        self.depth -= 1;
        result
    }

    pub(super) fn sum(&mut self) -> Parse<Expr> {
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
    pub(super) fn modulus(&mut self) -> Parse<Option<Expr>> {
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

    pub(super) fn product(&mut self) -> Parse<Expr> {
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
    pub(super) fn times_ten(&mut self) -> bool {
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

    pub(super) fn times(&mut self, left: Expr, right: Expr) -> Parse<Expr> {
        match left {
            Expr::Mul(mut items) => {
                items.push(right);
                self.node(Expr::Mul(items))
            }
            left => self.node(Expr::Mul(vec![left, right])),
        }
    }

    /// `2 1/2` is two and a half; any other two numbers side by side are nothing.
    pub(super) fn mixed(&mut self, whole: Expr) -> Parse<Expr> {
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

    pub(super) fn starts_factor(&self) -> bool {
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

    pub(super) fn signed_power(&mut self) -> Parse<Expr> {
        if self.eat('-') {
            let x = self.deeper(Self::signed_power)?;
            self.node(x.negated())
        } else if self.eat('+') {
            self.deeper(Self::signed_power)
        } else {
            self.power()
        }
    }

    pub(super) fn power(&mut self) -> Parse<Expr> {
        let base = self.atom()?;
        self.postfix(base)
    }

    pub(super) fn postfix(&mut self, mut x: Expr) -> Parse<Expr> {
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

    pub(super) fn exponent(&mut self) -> Parse<Expr> {
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
}
