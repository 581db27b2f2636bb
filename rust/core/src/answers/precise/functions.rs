//! The functions, by the real one where the argument allows, else by the complex one.

use dashu_base::{Abs, BitTest, Sign, Signed};

use super::{
    BITS, CACHE, COMPLEX, CONTEXT, Fault, GUARD, Real, Result, Value, add, div, exp, from_ratio,
    int, lift, lift_complex, ln, mul, order, pi, zero,
};
use crate::answers::ast::{Expr, Func};
use crate::answers::exact;
use crate::answers::float::Log;

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

pub(super) fn call(func: Func, args: &[Expr], values: &[Value], log: Log) -> Result<Value> {
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
pub(super) fn factorial(arg: &Expr, v: &Value) -> Result<Value> {
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
