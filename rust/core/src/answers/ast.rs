//! What an answer is once it is read: an expression, or a structure of them.

use dashu_int::IBig;
use dashu_ratio::RBig;

/// A number written with a decimal point, as exact as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub value: RBig,
    /// Digits after the point.
    pub places: u32,
}

/// A constant with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Const {
    Pi,
    E,
    I,
    Infinity,
}

macro_rules! functions {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A function with a name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Func { $($variant),* }

        impl Func {
            pub const ALL: &'static [Func] = &[$(Func::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $(Func::$variant => $name),* }
            }
        }
    };
}

functions! {
    Sin = "sin", Cos = "cos", Tan = "tan", Sec = "sec", Csc = "csc", Cot = "cot",
    Asin = "asin", Acos = "acos", Atan = "atan", Asec = "asec", Acsc = "acsc", Acot = "acot",
    Sinh = "sinh", Cosh = "cosh", Tanh = "tanh", Sech = "sech", Csch = "csch", Coth = "coth",
    Asinh = "asinh", Acosh = "acosh", Atanh = "atanh",
    Exp = "exp", Ln = "ln", Log = "log", Abs = "abs", Floor = "floor", Ceil = "ceil", Fact = "fact",
    Binom = "binom", Max = "max", Min = "min", Gcd = "gcd", Lcm = "lcm", Mod = "mod", Re = "re", Im = "im",
    Conj = "conj", Arg = "arg", Sign = "sign", Residue = "residue",
}

/// An expression of numbers, names and functions.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Num(RBig),
    Dec(Decimal),
    Var(Box<str>),
    Const(Const),
    Add(Vec<Expr>),
    Mul(Vec<Expr>),
    Neg(Box<Expr>),
    Div(Box<Expr>, Box<Expr>),
    Pow(Box<Expr>, Box<Expr>),
    /// `log` of one argument is the natural logarithm or the decimal one: the text does not say.
    Fn(Func, Vec<Expr>),
}

/// How a tuple, or an interval, opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bracket {
    Round,
    Square,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Approx,
    Equiv,
    In,
}

impl RelOp {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Approx => "~",
            Self::Equiv => "==",
            Self::In => "in",
        }
    }

    pub const fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            other => other,
        }
    }

    pub const fn is_order(self) -> bool {
        matches!(self, Self::Lt | Self::Le | Self::Gt | Self::Ge)
    }
}

/// Sets with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedSet {
    Empty,
    Reals,
    Integers,
    Naturals,
    Rationals,
    Complex,
}

impl NamedSet {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Reals => "reals",
            Self::Integers => "integers",
            Self::Naturals => "naturals",
            Self::Rationals => "rationals",
            Self::Complex => "complex",
        }
    }
}

/// How the entries of a bare list are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    Comma,
    And,
    Or,
}

/// An answer, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Expr(Expr),
    /// Ordered, in brackets; with two entries it may be an interval.
    Tuple(Bracket, Bracket, Vec<Answer>),
    Set(Vec<Answer>),
    /// What braces with a condition hold: the condition.
    Builder(Box<Answer>),
    List(Join, Vec<Answer>),
    Union(Vec<Answer>),
    Intersection(Vec<Answer>),
    Difference(Box<Answer>, Box<Answer>),
    Named(NamedSet),
    /// `sides[0] ops[0] sides[1] ops[1] ...`
    Relation(Vec<Answer>, Vec<RelOp>),
    Matrix(Vec<Vec<Answer>>),
    /// `a ± b`: the two values.
    PlusMinus(Box<Expr>, Box<Expr>),
    Ratio(Vec<Expr>),
    /// Digits and the base they are written in.
    Based(Box<str>, u32),
    Percent(Expr),
    Measure(Expr, super::units::Unit),
    /// Words, in lower case and without punctuation; `letter` where it is one letter of a multiple choice.
    Text {
        words: Box<str>,
        letter: Option<char>,
    },
}

impl Expr {
    pub fn int(value: i64) -> Self {
        Self::Num(RBig::from(IBig::from(value)))
    }

    pub fn negated(self) -> Self {
        Self::Neg(Box::new(self))
    }

    pub fn pow(self, exponent: Self) -> Self {
        Self::Pow(Box::new(self), Box::new(exponent))
    }

    pub fn over(self, denominator: Self) -> Self {
        Self::Div(Box::new(self), Box::new(denominator))
    }

    /// The parts of an expression, in order.
    pub fn children(&self) -> impl Iterator<Item = &Expr> {
        let (one, two, many): (Option<&Expr>, Option<&Expr>, &[Expr]) = match self {
            Self::Num(_) | Self::Dec(_) | Self::Var(_) | Self::Const(_) => (None, None, &[]),
            Self::Add(items) | Self::Mul(items) | Self::Fn(_, items) => (None, None, items),
            Self::Neg(x) => (Some(x), None, &[]),
            Self::Div(a, b) | Self::Pow(a, b) => (Some(a), Some(b), &[]),
        };
        one.into_iter().chain(two).chain(many)
    }

    /// Whether `test` holds for this expression or a part of it.
    pub fn any(&self, test: &mut impl FnMut(&Expr) -> bool) -> bool {
        test(self) || self.children().any(|c| c.any(test))
    }

    /// Names of the free variables, sorted, each once.
    pub fn variables<'a>(&'a self, into: &mut Vec<&'a str>) {
        if let Self::Var(name) = self
            && let Err(at) = into.binary_search(&&**name)
        {
            into.insert(at, name);
        }
        for child in self.children() {
            child.variables(into);
        }
    }

    /// With `value` in the place of a variable.
    pub fn with(&self, name: &str, value: &Self) -> Self {
        let all = |items: &[Self]| items.iter().map(|i| i.with(name, value)).collect();
        let one = |x: &Self| Box::new(x.with(name, value));
        match self {
            Self::Var(own) if **own == *name => value.clone(),
            Self::Num(_) | Self::Dec(_) | Self::Var(_) | Self::Const(_) => self.clone(),
            Self::Add(items) => Self::Add(all(items)),
            Self::Mul(items) => Self::Mul(all(items)),
            Self::Fn(func, items) => Self::Fn(*func, all(items)),
            Self::Neg(x) => Self::Neg(one(x)),
            Self::Div(a, b) => Self::Div(one(a), one(b)),
            Self::Pow(a, b) => Self::Pow(one(a), one(b)),
        }
    }

    /// Number of parts.
    pub fn size(&self) -> usize {
        1 + self.children().map(Self::size).sum::<usize>()
    }

    pub fn is_constant(&self) -> bool {
        !self.any(&mut |e| matches!(e, Self::Var(_)))
    }
}
