//! Numbers and the names that mean something.

use std::str::FromStr;

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::Parse;
use crate::answers::ast::{Decimal, Expr, Func};
use crate::answers::reason::Reason;

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

pub(super) const GREEK: &[&str] = &[
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
pub(super) const ACCENTS: &[&str] = &[
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

/// A function, root or constant at the start of a run of letters; the longest.
pub(super) fn known_prefix(letters: &str) -> Option<(&'static str, Option<Func>)> {
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
pub(super) fn has_known(word: &str) -> bool {
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

pub(super) fn repeating(whole: &str, fraction: &str, repeated: &str) -> Parse<RBig> {
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
