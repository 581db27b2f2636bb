//! Exact values: rational numbers of bounded size, and rational functions at points of a prime field.

use dashu_base::{Abs, BitTest, Gcd, Sign, UnsignedAbs};
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::ast::{Expr, Func};
use super::limits::{MAX_BITS, MAX_FACTORIAL};

/// The value of a constant expression if it is rational and of bounded size. `Err` where it has no value at all.
pub fn rational(expr: &Expr) -> Result<Option<RBig>, Undefined> {
    let value = match expr {
        Expr::Num(v) => Some(v.clone()),
        Expr::Dec(d) => Some(d.value.clone()),
        Expr::Var(_) | Expr::Const(_) => None,
        Expr::Neg(x) => rational(x)?.map(|v| -v),
        Expr::Add(items) => {
            let mut sum = RBig::ZERO;
            let mut all = true;
            for item in items {
                match rational(item)? {
                    Some(v) => sum += v,
                    None => all = false,
                }
                if !small(&sum) {
                    return Ok(None);
                }
            }
            all.then_some(sum)
        }
        Expr::Mul(items) => {
            let mut product = RBig::ONE;
            let mut all = true;
            for item in items {
                match rational(item)? {
                    Some(v) => product *= v,
                    None => all = false,
                }
                if !small(&product) {
                    return Ok(None);
                }
            }
            all.then_some(product)
        }
        Expr::Div(a, b) => {
            let (a, b) = (rational(a)?, rational(b)?);
            if b.as_ref().is_some_and(RBig::is_zero) {
                return Err(Undefined);
            }
            match (a, b) {
                (Some(a), Some(b)) => Some(a / b),
                _ => None,
            }
        }
        Expr::Pow(a, b) => match (rational(a)?, rational(b)?) {
            (Some(a), Some(b)) => power(&a, &b)?,
            _ => None,
        },
        Expr::Fn(func, args) => {
            let mut values = Vec::with_capacity(args.len());
            for arg in args {
                match rational(arg)? {
                    Some(v) => values.push(v),
                    None => return Ok(None),
                }
            }
            call(*func, &values)?
        }
    };
    Ok(value.filter(small))
}

/// An expression without a value: a division by zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undefined;

fn bits(v: &RBig) -> usize {
    v.numerator().bit_len() + v.denominator().bit_len()
}

fn small(v: &RBig) -> bool {
    bits(v) <= MAX_BITS
}

fn power(base: &RBig, exponent: &RBig) -> Result<Option<RBig>, Undefined> {
    if base.is_zero() && exponent.sign() == Sign::Negative {
        return Err(Undefined);
    }
    if exponent.is_int() {
        if base.is_zero() || base.is_one() {
            let zeroth = exponent.is_zero();
            return Ok(Some(if zeroth { RBig::ONE } else { base.clone() }));
        }
        let Ok(n) = isize::try_from(exponent.numerator()) else {
            return Ok(minus_one(base, exponent));
        };
        let size = bits(base).saturating_mul(n.unsigned_abs());
        if size > MAX_BITS {
            return Ok(minus_one(base, exponent));
        }
        return Ok(Some(integer_power(base, n)));
    }
    // A root: exact where numerator and denominator are perfect powers.
    let Ok(degree) = usize::try_from(exponent.denominator()) else {
        return Ok(None);
    };
    if degree > 64 || (base.sign() == Sign::Negative && degree % 2 == 0) {
        return Ok(None);
    }
    let (negative, over) = base.numerator().clone().into_parts();
    let (Some(over), Some(under)) = (
        perfect_root(&over, degree),
        perfect_root(base.denominator(), degree),
    ) else {
        return Ok(None);
    };
    let root = RBig::from_parts(IBig::from_parts(negative, over), under);
    power(&root, &RBig::from(exponent.numerator().clone()))
}

/// Powers of -1 of any size.
fn minus_one(base: &RBig, exponent: &RBig) -> Option<RBig> {
    (-base).is_one().then(|| {
        if exponent.numerator().bit(0) {
            -RBig::ONE
        } else {
            RBig::ONE
        }
    })
}

fn integer_power(base: &RBig, n: isize) -> RBig {
    let size = n.unsigned_abs();
    let over = base.numerator().pow(size);
    let under = base.denominator().pow(size);
    if n < 0 {
        RBig::from_parts_signed(IBig::from(under), over)
    } else {
        RBig::from_parts(over, under)
    }
}

fn perfect_root(value: &UBig, degree: usize) -> Option<UBig> {
    if value.is_zero() || value.is_one() {
        return Some(value.clone());
    }
    let root = value.nth_root(degree);
    (root.pow(degree) == *value).then_some(root)
}

fn call(func: Func, args: &[RBig]) -> Result<Option<RBig>, Undefined> {
    let ints = || -> Option<Vec<IBig>> {
        args.iter()
            .map(|v| v.is_int().then(|| v.numerator().clone()))
            .collect()
    };
    let first = &args[0];
    Ok(match func {
        Func::Abs => Some(first.clone().abs()),
        Func::Floor => Some(RBig::from(first.floor())),
        Func::Ceil => Some(RBig::from(first.ceil())),
        Func::Max => args.iter().max().cloned(),
        Func::Min => args.iter().min().cloned(),
        Func::Sign => Some(first.signum()),
        Func::Re | Func::Conj => Some(first.clone()),
        Func::Im => Some(RBig::ZERO),
        Func::Exp if first.is_zero() => Some(RBig::ONE),
        Func::Ln if first.is_one() => Some(RBig::ZERO),
        Func::Ln | Func::Log if first.is_zero() => return Err(Undefined),
        Func::Sin | Func::Tan | Func::Sinh | Func::Tanh | Func::Asin | Func::Atan
            if first.is_zero() =>
        {
            Some(RBig::ZERO)
        }
        Func::Cos | Func::Cosh | Func::Sec if first.is_zero() => Some(RBig::ONE),
        Func::Fact => match usize::try_from(first.numerator()) {
            Ok(n) if first.is_int() && n <= MAX_FACTORIAL => Some(RBig::from(product(1, n))),
            _ => None,
        },
        Func::Binom => {
            let n = usize::try_from(args[0].numerator())
                .ok()
                .filter(|_| args[0].is_int());
            let k = usize::try_from(args[1].numerator())
                .ok()
                .filter(|_| args[1].is_int());
            match (n, k) {
                (Some(n), Some(k)) if k > n => Some(RBig::ZERO),
                (Some(n), Some(k)) => binomial(n, k.min(n - k)),
                _ => None,
            }
        }
        Func::Gcd => {
            ints().map(|v| RBig::from(v.iter().fold(UBig::ZERO, |a, b| gcd(&a, &b.unsigned_abs()))))
        }
        Func::Lcm => ints().and_then(|v| {
            v.iter()
                .try_fold(UBig::ONE, |a, b| {
                    let b = b.unsigned_abs();
                    let g = gcd(&a, &b);
                    (!g.is_zero()).then(|| a * b / g)
                })
                .map(RBig::from)
        }),
        Func::Mod => {
            if args[1].is_zero() {
                return Err(Undefined);
            }
            let quotient = (&args[0] / &args[1]).floor();
            Some(&args[0] - &args[1] * RBig::from(quotient))
        }
        Func::Log if args.len() == 2 => logarithm(&args[0], &args[1]),
        _ => None,
    })
}

fn gcd(a: &UBig, b: &UBig) -> UBig {
    if a.is_zero() {
        b.clone()
    } else if b.is_zero() {
        a.clone()
    } else {
        a.gcd(b)
    }
}

/// `from * ... * to`, halves multiplied together so that the factors grow alike.
fn product(from: usize, to: usize) -> UBig {
    if from > to {
        UBig::ONE
    } else if to - from < 8 {
        (from..=to).fold(UBig::ONE, |a, b| a * UBig::from(b))
    } else {
        let middle = from + (to - from) / 2;
        product(from, middle) * product(middle + 1, to)
    }
}

fn binomial(n: usize, k: usize) -> Option<RBig> {
    // n^k bounds it, and k! bounds the work below.
    let size = k.saturating_mul(n.checked_ilog2().map_or(1, |b| b as usize + 1));
    (size <= MAX_BITS && k <= MAX_FACTORIAL)
        .then(|| RBig::from(product(n - k + 1, n) / product(1, k)))
}

/// `log` of a rational power of the base.
fn logarithm(value: &RBig, base: &RBig) -> Option<RBig> {
    let positive =
        value.is_int() && base.is_int() && value.sign() == Sign::Positive && *base > RBig::ONE;
    if !positive {
        return None;
    }
    let base = usize::try_from(base.numerator()).ok()?;
    let (mut rest, mut n) = (value.numerator().unsigned_abs(), 0_i64);
    if rest.bit_len() > 4096 {
        return None;
    }
    let divisor = UBig::from(base);
    while !rest.is_one() {
        let quotient = &rest / &divisor;
        if &quotient * &divisor != rest {
            return None;
        }
        rest = quotient;
        n += 1;
    }
    Some(RBig::from(IBig::from(n)))
}
