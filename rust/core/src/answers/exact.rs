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

/// The field of integers modulo the Mersenne prime 2^61 - 1. An identity of rational functions holds at every point;
/// two functions that differ agree at a random point with a probability below degree / 2^61 (Schwartz 1980, Zippel
/// 1979).
pub mod field {
    use super::{Expr, Func, IBig, Sign, UBig, UnsignedAbs};

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
            Expr::Const(_) | Expr::Fn(..) => false,
            Expr::Pow(base, exponent) => {
                is_rational_function(base)
                    && matches!(super::rational(exponent), Ok(Some(n)) if n.is_int())
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
                let n = super::rational(exponent).ok()??;
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
            Expr::Fn(Func::Re | Func::Conj, args) => value(args.first()?, point)?,
            Expr::Fn(..) => return None,
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
}
