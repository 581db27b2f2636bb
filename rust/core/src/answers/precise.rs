//! Values of constants to 256 bits, 77 digits, of which at least 50 are certain or the value is refused.
//!
//! Each value carries the binary order of the largest numbers it was made of; what cancellation took is known from it.
//! Exponents have no practical bound, so `1/2006!` and `2^{2025}` are numbers like any other.

use std::cell::RefCell;

use dashu_base::{Abs, BitTest, Sign, Signed};
use dashu_cmplx::{CBig, CfpResult, Context as Complex};
use dashu_float::round::mode::HalfEven;
use dashu_float::{ConstCache, Context, FBig, FpError, FpResult};
use dashu_int::IBig;
use dashu_ratio::RBig;

use super::ast::{Const, Expr, Func};
use super::exact;
use super::float::{Log, odd_denominator};

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

macro_rules! elementary {
    ($v:expr, $method:ident) => {
        elementary!($v, $method, |_: &Real| true)
    };
    ($v:expr, $method:ident, $domain:expr) => {
        CACHE.with_borrow_mut(|cache| {
            let v: &Value = $v;
            if v.im.is_none() && $domain(&v.re) {
                return Ok((lift(CONTEXT.$method(v.re.repr(), Some(cache)))?, None));
            }
            lift_complex(COMPLEX.$method(&v.complex(), Some(cache))).map(|(re, im)| (re, Some(im)))
        })
    };
}

fn call(func: Func, args: &[Expr], values: &[Value], log: Log) -> Result<Value> {
    let v = &values[0];
    let one = Value::real(int(1));
    let size = v.order().unwrap_or(0);
    if matches!(
        func,
        Func::Sin
            | Func::Cos
            | Func::Tan
            | Func::Sec
            | Func::Csc
            | Func::Cot
            | Func::Sinh
            | Func::Cosh
            | Func::Tanh
            | Func::Sech
            | Func::Csch
            | Func::Coth
    ) && size > 50
    {
        return Err(Fault::Unknown);
    }
    let within_one = |x: &Real| x.clone().abs() <= int(1);
    let (re, im): (Real, Option<Real>) = match func {
        Func::Sin => elementary!(v, sin)?,
        Func::Cos => elementary!(v, cos)?,
        Func::Tan => {
            return div(
                &call(Func::Sin, args, values, log)?,
                &call(Func::Cos, args, values, log)?,
            );
        }
        Func::Cot => {
            return div(
                &call(Func::Cos, args, values, log)?,
                &call(Func::Sin, args, values, log)?,
            );
        }
        Func::Sec => return div(&one, &call(Func::Cos, args, values, log)?),
        Func::Csc => return div(&one, &call(Func::Sin, args, values, log)?),
        Func::Asin => elementary!(v, asin, within_one)?,
        Func::Acos => elementary!(v, acos, within_one)?,
        Func::Atan => elementary!(v, atan)?,
        Func::Asec => return call(Func::Acos, args, &[div(&one, v)?], log),
        Func::Acsc => return call(Func::Asin, args, &[div(&one, v)?], log),
        Func::Acot if v.is_zero() => return div(&Value::real(pi()), &Value::real(int(2))),
        Func::Acot => return call(Func::Atan, args, &[div(&one, v)?], log),
        Func::Sinh => elementary!(v, sinh)?,
        Func::Cosh => elementary!(v, cosh)?,
        Func::Tanh => elementary!(v, tanh)?,
        Func::Sech => return div(&one, &call(Func::Cosh, args, values, log)?),
        Func::Csch => return div(&one, &call(Func::Sinh, args, values, log)?),
        Func::Coth => return div(&one, &call(Func::Tanh, args, values, log)?),
        Func::Asinh => elementary!(v, asinh)?,
        Func::Acosh => elementary!(v, acosh, |x: &Real| *x >= int(1))?,
        Func::Atanh => {
            if v.im.is_none() && v.re.clone().abs() == int(1) {
                return Err(Fault::Undefined);
            }
            elementary!(v, atanh, within_one)?
        }
        Func::Exp => return exp(v),
        Func::Ln => return ln(v),
        Func::Log => {
            return match (values.get(1), log) {
                (Some(base), _) => div(&ln(v)?, &ln(base)?),
                (None, Log::Natural) => ln(v),
                (None, Log::Decimal) => div(&ln(v)?, &ln(&Value::real(int(10)))?),
            };
        }
        Func::Abs => match &v.im {
            None => (v.re.clone().abs(), None),
            Some(im) => (lift(CONTEXT.hypot(v.re.repr(), im.repr()))?, None),
        },
        Func::Re => (v.re.clone(), None),
        Func::Im => (v.im.clone().unwrap_or_else(zero), None),
        Func::Conj => (v.re.clone(), v.im.clone().map(|im| -im)),
        Func::Arg => {
            let (_, im) = lift_complex(
                CACHE.with_borrow_mut(|cache| COMPLEX.log(&v.complex(), Some(cache))),
            )?;
            (im, None)
        }
        Func::Sign if v.im.is_none() => (
            if v.is_zero() {
                zero()
            } else {
                int(if v.re.is_positive() { 1 } else { -1 })
            },
            None,
        ),
        Func::Floor | Func::Ceil if v.im.is_none() && size < 4096 => {
            // Rounding must not decide the step: a value that is a whole number to the last bits is one.
            let nearest = Value::real(CONTEXT.convert_int::<2>(v.re.to_int().value()).value());
            let off = add(v, &nearest.negated())?;
            let step = i64::from(!off.is_zero() && (off.re.is_positive() == (func == Func::Ceil)));
            let step = if func == Func::Ceil { step } else { -step };
            return add(&nearest, &Value::real(int(step)));
        }
        Func::Max | Func::Min if values.iter().all(|v| v.im.is_none()) => {
            let mut best = v;
            for other in &values[1..] {
                if (other.re > best.re) == (func == Func::Max) {
                    best = other;
                }
            }
            return Ok(best.clone());
        }
        Func::Fact => return factorial(&args[0], v),
        Func::Binom | Func::Gcd | Func::Lcm | Func::Mod => {
            return match exact::rational(&Expr::Fn(func, args.to_vec())) {
                Ok(Some(n)) => Ok(Value::real(from_ratio(&n)?)),
                Ok(None) => Err(Fault::Unknown),
                Err(_) => Err(Fault::Undefined),
            };
        }
        _ => return Err(Fault::Unknown),
    };
    // What the argument lost, the result lost, and at a zero of the function all that it is smaller than its argument.
    let result = order(&re)
        .into_iter()
        .chain(im.as_ref().and_then(order))
        .max()
        .unwrap_or(0);
    let zero_nearby = (-result).max(0);
    let loss = v
        .loss()
        .saturating_add(size.max(0))
        .saturating_add(match func {
            Func::Sin | Func::Cos => zero_nearby.min(if size < 0 { 0 } else { i64::MAX }),
            _ => 0,
        });
    Ok(Value::with(re, im, loss))
}

/// Exact where it can be multiplied out, else by Stirling's series (good to about 60 bits: enough to differ, never
/// enough to be equal).
fn factorial(arg: &Expr, v: &Value) -> Result<Value> {
    let n = match exact::rational(arg) {
        Ok(Some(n)) if n.is_int() && n.sign() == Sign::Positive => n,
        _ => return Err(Fault::Unknown),
    };
    if let Ok(Some(exact)) = exact::rational(&Expr::Fn(Func::Fact, vec![arg.clone()])) {
        return Ok(Value::real(from_ratio(&exact)?));
    }
    if n.numerator().bit_len() < 12 || n.numerator().bit_len() > 4096 {
        return Err(Fault::Overflow);
    }
    let twelfth = div(&Value::real(int(1)), &mul(&Value::real(int(12)), v)?)?;
    let turn = mul(&mul(&Value::real(int(2)), &Value::real(pi()))?, v)?;
    let half = div(&ln(&turn)?, &Value::real(int(2)))?;
    let body = mul(v, &add(&ln(v)?, &Value::real(int(-1)))?)?;
    let mut result = exp(&add(&add(&body, &half)?, &twelfth)?)?;
    result.top = result.top.max(
        result
            .order()
            .unwrap_or(0)
            .saturating_add(BITS - GUARD - 36),
    );
    Ok(result)
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
