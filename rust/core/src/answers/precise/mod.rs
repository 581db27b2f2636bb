//! Values of constants to 256 bits, 77 digits, of which at least 50 are certain or the value is refused.
//!
//! Each value carries the binary order of the largest numbers it was made of; what cancellation took is known from it.
//! Exponents have no practical bound, so `1/2006!` and `2^{2025}` are numbers like any other.

mod functions;

use std::cell::RefCell;

use dashu_base::{Abs, BitTest, Sign};
use dashu_cmplx::{CBig, CfpResult, Context as Complex};
use dashu_float::round::mode::HalfEven;
use dashu_float::{ConstCache, Context, FBig, FpError, FpResult};
use dashu_int::IBig;
use dashu_ratio::RBig;

use crate::answers::ast::{Const, Expr};
use crate::answers::exact;
use crate::answers::float::{Log, odd_denominator};

use functions::call;

type Real = FBig<HalfEven, 2>;

const PRECISION: usize = 256;
const CONTEXT: Context<HalfEven> = Context::new(PRECISION);
const COMPLEX: Complex<HalfEven> = Complex::new(PRECISION);
const BITS: i64 = PRECISION as i64;
/// Bits at the end that rounding may have touched.
const GUARD: i64 = 48;
/// Bits that must be left to call two values equal: 50 digits are 167 bits.
const NEEDED: i64 = 168;

thread_local! {
    static CACHE: RefCell<ConstCache> = const { RefCell::new(ConstCache::new()) };
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A division by zero, or a logarithm of it.
    Undefined,
    /// Beyond every exponent.
    Overflow,
    /// Not computed here.
    Unknown,
}

type Result<T> = std::result::Result<T, Fault>;

/// A complex number, and the binary order of the largest numbers it was made of.
#[derive(Clone, Debug)]
pub struct Value {
    re: Real,
    im: Option<Real>,
    top: i64,
}

fn lift<T>(result: FpResult<T>) -> Result<T> {
    result.map(dashu_base::Approximation::value).map_err(fault)
}

fn lift_complex(result: CfpResult<HalfEven, 2>) -> Result<(Real, Real)> {
    result.map(|z| z.value().into_parts()).map_err(fault)
}

const fn fault(error: FpError) -> Fault {
    match error {
        FpError::Overflow(_) => Fault::Overflow,
        FpError::Indeterminate | FpError::OutOfDomain => Fault::Undefined,
        _ => Fault::Unknown,
    }
}

/// The binary order of a number; None for zero.
fn order(x: &Real) -> Option<i64> {
    let repr = x.repr();
    if repr.significand().is_zero() {
        return None;
    }
    let bits = i64::try_from(repr.significand().bit_len()).unwrap_or(i64::MAX);
    Some(bits.saturating_add(i64::try_from(repr.exponent()).unwrap_or(i64::MAX)))
}

fn int(n: i64) -> Real {
    CONTEXT.convert_int::<2>(IBig::from(n)).value()
}

fn zero() -> Real {
    int(0)
}

fn from_ratio(v: &RBig) -> Result<Real> {
    let over = CONTEXT.convert_int::<2>(v.numerator().clone()).value();
    if v.is_int() {
        return Ok(over);
    }
    let under = CONTEXT
        .convert_int::<2>(IBig::from(v.denominator().clone()))
        .value();
    lift(CONTEXT.div(over.repr(), under.repr()))
}

fn pi() -> Real {
    CACHE.with_borrow_mut(|cache| CONTEXT.pi::<2>(Some(cache)).value())
}

impl Value {
    fn real(re: Real) -> Self {
        let top = order(&re).unwrap_or(i64::MIN / 4);
        Self { re, im: None, top }
    }

    fn order(&self) -> Option<i64> {
        match &self.im {
            None => order(&self.re),
            Some(im) => order(&self.re).max(order(im)),
        }
    }

    /// Bits that cancellation took.
    fn loss(&self) -> i64 {
        self.order()
            .map_or(0, |own| self.top.saturating_sub(own).max(0))
    }

    /// With parts that are rounding alone made zero.
    fn settled(mut self) -> Self {
        let floor = self.top.saturating_sub(BITS - GUARD);
        if order(&self.re).is_some_and(|o| o < floor) {
            self.re = zero();
        }
        if self
            .im
            .as_ref()
            .is_some_and(|im| order(im).is_none_or(|o| o < floor))
        {
            self.im = None;
        }
        self
    }

    fn with(re: Real, im: Option<Real>, loss: i64) -> Self {
        let mut v = Self {
            re,
            im,
            top: i64::MIN / 4,
        };
        v.top = v
            .order()
            .map_or(i64::MIN / 4, |own| own.saturating_add(loss));
        v.settled()
    }

    fn is_zero(&self) -> bool {
        self.order().is_none()
    }

    fn complex(&self) -> CBig<HalfEven, 2> {
        CBig::from_parts(self.re.clone(), self.im.clone().unwrap_or_else(zero))
    }

    fn negated(&self) -> Self {
        Self {
            re: -self.re.clone(),
            im: self.im.clone().map(|im| -im),
            top: self.top,
        }
    }
}

fn add_real(a: &Real, b: &Real) -> Result<Real> {
    // Far apart, the smaller one is below the last bit.
    match (order(a), order(b)) {
        (None, _) => Ok(b.clone()),
        (_, None) => Ok(a.clone()),
        (Some(x), Some(y)) if x.saturating_sub(y) > 2 * BITS => Ok(a.clone()),
        (Some(x), Some(y)) if y.saturating_sub(x) > 2 * BITS => Ok(b.clone()),
        _ => lift(CONTEXT.add(a.repr(), b.repr())),
    }
}

fn add(a: &Value, b: &Value) -> Result<Value> {
    let re = add_real(&a.re, &b.re)?;
    let im = match (&a.im, &b.im) {
        (None, None) => None,
        (Some(x), None) | (None, Some(x)) => Some(x.clone()),
        (Some(x), Some(y)) => Some(add_real(x, y)?),
    };
    Ok(Value {
        re,
        im,
        top: a.top.max(b.top),
    }
    .settled())
}

fn mul(a: &Value, b: &Value) -> Result<Value> {
    let loss = a.loss().max(b.loss());
    if a.im.is_none() && b.im.is_none() {
        return Ok(Value::with(
            lift(CONTEXT.mul(a.re.repr(), b.re.repr()))?,
            None,
            loss,
        ));
    }
    let (re, im) = lift_complex(COMPLEX.mul(&a.complex(), &b.complex()))?;
    Ok(Value::with(re, Some(im), loss))
}

fn div(a: &Value, b: &Value) -> Result<Value> {
    if b.is_zero() {
        return Err(Fault::Undefined);
    }
    let loss = a.loss().max(b.loss());
    if a.im.is_none() && b.im.is_none() {
        return Ok(Value::with(
            lift(CONTEXT.div(a.re.repr(), b.re.repr()))?,
            None,
            loss,
        ));
    }
    let (re, im) = lift_complex(COMPLEX.div(&a.complex(), &b.complex()))?;
    Ok(Value::with(re, Some(im), loss))
}

fn ln(a: &Value) -> Result<Value> {
    if a.is_zero() {
        return Err(Fault::Undefined);
    }
    CACHE.with_borrow_mut(|cache| {
        if a.im.is_none() && a.re.sign() == Sign::Positive {
            let re = lift(CONTEXT.ln(a.re.repr(), Some(cache)))?;
            // Near one the logarithm is as small as the distance to one.
            let near = order(&re).map_or(0, |o| (-o).max(0));
            return Ok(Value::with(re, None, a.loss().saturating_add(near)));
        }
        let (re, im) = lift_complex(COMPLEX.log(&a.complex(), Some(cache)))?;
        Ok(Value::with(re, Some(im), a.loss()))
    })
}

fn exp(a: &Value) -> Result<Value> {
    let size = a.order().unwrap_or(0);
    if size > 50 {
        return if a.re.sign() == Sign::Positive {
            Err(Fault::Overflow)
        } else {
            Err(Fault::Unknown)
        };
    }
    let loss = a.loss().saturating_add(size.max(0));
    CACHE.with_borrow_mut(|cache| {
        if a.im.is_none() {
            return Ok(Value::with(
                lift(CONTEXT.exp(a.re.repr(), Some(cache)))?,
                None,
                loss,
            ));
        }
        let (re, im) = lift_complex(COMPLEX.exp(&a.complex(), Some(cache)))?;
        Ok(Value::with(re, Some(im), loss))
    })
}

/// The value of a constant expression.
pub fn value(expr: &Expr, log: Log) -> Result<Value> {
    at(expr, &|_| Err(Fault::Unknown), log)
}

/// The value with the variables at rational points.
pub fn at(expr: &Expr, point: &impl Fn(&str) -> Result<RBig>, log: Log) -> Result<Value> {
    Ok(match expr {
        Expr::Num(v) => Value::real(from_ratio(v)?),
        Expr::Dec(d) => Value::real(from_ratio(&d.value)?),
        Expr::Var(name) => Value::real(from_ratio(&point(name)?)?),
        Expr::Const(Const::Pi) => Value::real(pi()),
        Expr::Const(Const::E) => exp(&Value::real(int(1)))?,
        Expr::Const(Const::I) => Value {
            re: zero(),
            im: Some(int(1)),
            top: 1,
        },
        Expr::Const(Const::Infinity) => return Err(Fault::Unknown),
        Expr::Neg(x) => at(x, point, log)?.negated(),
        Expr::Add(items) => {
            let mut sum = Value::real(zero());
            for item in items {
                sum = add(&sum, &at(item, point, log)?)?;
            }
            sum
        }
        Expr::Mul(items) => {
            let mut product = Value::real(int(1));
            for item in items {
                product = mul(&product, &at(item, point, log)?)?;
            }
            product
        }
        Expr::Div(a, b) => div(&at(a, point, log)?, &at(b, point, log)?)?,
        Expr::Pow(a, b) => power(&at(a, point, log)?, b, point, log)?,
        Expr::Fn(func, args) => {
            let mut values = Vec::with_capacity(args.len());
            for arg in args {
                values.push(at(arg, point, log)?);
            }
            call(*func, args, &values, log)?
        }
    })
}

fn power(
    base: &Value,
    exponent: &Expr,
    point: &impl Fn(&str) -> Result<RBig>,
    log: Log,
) -> Result<Value> {
    let whole = match exact::rational(exponent) {
        Ok(Some(n)) if n.is_int() => Some(n),
        Ok(_) => None,
        Err(_) => return Err(Fault::Undefined),
    };
    if base.is_zero() {
        let exponent = at(exponent, point, log)?;
        return match exponent.re.sign() {
            _ if exponent.is_zero() => Ok(Value::real(int(1))),
            Sign::Positive => Ok(Value::real(zero())),
            Sign::Negative => Err(Fault::Undefined),
        };
    }
    if let Some(n) = whole.filter(|n| n.numerator().bit_len() <= 31) {
        let size = i64::try_from(n.numerator().bit_len()).unwrap_or(64);
        let loss = base
            .loss()
            .saturating_add(if n.is_one() { 0 } else { size });
        if base.im.is_none() {
            return Ok(Value::with(
                lift(CONTEXT.powi(base.re.repr(), n.numerator().clone()))?,
                None,
                loss,
            ));
        }
        let (re, im) = lift_complex(COMPLEX.powi(&base.complex(), n.numerator().clone()))?;
        return Ok(Value::with(re, Some(im), loss));
    }
    let positive = base.im.is_none() && base.re.sign() == Sign::Positive;
    if let Ok(Some(e)) = exact::rational(exponent) {
        // Square roots are exact to the last bit; others go by the logarithm.
        if e.numerator().is_one()
            && positive
            && let Ok(n) = usize::try_from(e.denominator())
            && n <= 64
        {
            return Ok(Value::with(
                lift(CONTEXT.nth_root(n, base.re.repr()))?,
                None,
                base.loss(),
            ));
        }
        if base.im.is_none()
            && !positive
            && let Some((odd_numerator, true)) = odd_denominator(exponent)
        {
            let size = power(&base.negated(), exponent, point, log)?;
            return Ok(if odd_numerator { size.negated() } else { size });
        }
    }
    let exponent = at(exponent, point, log)?;
    exp(&mul(&exponent, &ln(base)?)?)
}

/// Whether two constants are equal: to 50 digits, or not at all.
pub fn equal(a: &Value, b: &Value) -> Option<bool> {
    let difference = add(a, &b.negated()).ok()?;
    if !difference.is_zero() {
        return Some(false);
    }
    // Nothing but rounding is left; enough bits must have gone into it.
    let own = a.order().max(b.order());
    let certain = match own {
        None => true,
        Some(own) => BITS - GUARD - difference.top.saturating_sub(own).max(0) >= NEEDED - 32,
    };
    certain.then_some(true)
}

/// Whether the value is within `tolerance` of `target`.
pub fn within(value: &Value, target: &RBig, tolerance: &RBig) -> Option<bool> {
    if value.im.is_some() {
        return Some(false);
    }
    let difference = add_real(&value.re, &-from_ratio(target).ok()?).ok()?;
    Some(difference.abs() <= from_ratio(tolerance).ok()?)
}
