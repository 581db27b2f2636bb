//! The field of integers modulo the Mersenne prime 2^61 - 1. An identity of rational functions holds at every point;
//! two functions that differ agree at a random point with a probability below degree / 2^61 (Schwartz 1980, Zippel
//! 1979).

use dashu_base::{Sign, UnsignedAbs};
use dashu_int::{IBig, UBig};

use super::ast::Expr;
use super::exact::rational;

pub const P: u64 = (1 << 61) - 1;

fn mul(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation)]
    let (low, high) = ((wide as u64) & P, (wide >> 61) as u64);
    add(low, high)
}

const fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= P { sum - P } else { sum }
}

const fn neg(a: u64) -> u64 {
    if a == 0 { 0 } else { P - a }
}

fn pow(mut base: u64, mut n: u64) -> u64 {
    let mut result = 1;
    while n > 0 {
        if n & 1 == 1 {
            result = mul(result, base);
        }
        base = mul(base, base);
        n >>= 1;
    }
    result
}

fn inverse(a: u64) -> Option<u64> {
    (a != 0).then(|| pow(a, P - 2))
}

fn residue(v: &UBig, modulus: u64) -> u64 {
    let rest = v % UBig::from(modulus);
    u64::try_from(&rest).unwrap_or(0)
}

fn signed(v: &IBig, modulus: u64) -> u64 {
    let r = residue(&v.unsigned_abs(), modulus);
    if v.sign() == Sign::Negative && r != 0 {
        modulus - r
    } else {
        r
    }
}

/// Whether an expression is made of rational numbers, names, `+ - * /` and whole powers.
pub fn is_rational_function(expr: &Expr) -> bool {
    match expr {
        Expr::Num(_) | Expr::Dec(_) | Expr::Var(_) => true,
        Expr::Const(_) => false,
        Expr::Fn(..) => matches!(rational(expr), Ok(Some(_))),
        Expr::Pow(base, exponent) => {
            is_rational_function(base) && matches!(rational(exponent), Ok(Some(n)) if n.is_int())
        }
        _ => expr.children().all(is_rational_function),
    }
}

/// The value where each variable has the value that `point` gives it; None where it has none.
pub fn value(expr: &Expr, point: &impl Fn(&str) -> u64) -> Option<u64> {
    Some(match expr {
        Expr::Num(v) => mul(
            signed(v.numerator(), P),
            inverse(residue(v.denominator(), P))?,
        ),
        Expr::Dec(d) => mul(
            signed(d.value.numerator(), P),
            inverse(residue(d.value.denominator(), P))?,
        ),
        Expr::Var(name) => point(name),
        Expr::Const(_) => return None,
        Expr::Neg(x) => neg(value(x, point)?),
        Expr::Add(items) => {
            let mut sum = 0;
            for item in items {
                sum = add(sum, value(item, point)?);
            }
            sum
        }
        Expr::Mul(items) => {
            let mut product = 1;
            for item in items {
                product = mul(product, value(item, point)?);
            }
            product
        }
        Expr::Div(a, b) => mul(value(a, point)?, inverse(value(b, point)?)?),
        Expr::Pow(base, exponent) => {
            let n = rational(exponent).ok()??;
            let base = value(base, point)?;
            if base == 0 {
                return if n.is_zero() {
                    Some(1)
                } else {
                    (n.sign() == Sign::Positive).then_some(0)
                };
            }
            // Fermat: exponents count modulo P - 1.
            pow(base, signed(n.numerator(), P - 1))
        }
        // A factorial, say.
        Expr::Fn(..) => value(&Expr::Num(rational(expr).ok()??), point)?,
    })
}

/// A point for each name, the same every time.
pub fn point(name: &str, salt: u64) -> u64 {
    // FNV-1a over the name, then a finaliser.
    let mut h = 0xcbf2_9ce4_8422_2325_u64 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for b in name.bytes() {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h % P
}
