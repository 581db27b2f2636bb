//! Values in double precision, with a bound on their error: quick, and enough to tell most expressions apart.

use num_complex::Complex64;

use super::ast::{Const, Expr, Func};

/// A value, and the size of the largest numbers that it was made of: what was lost by cancellation is below
/// `scale * 1e-12`.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub z: Complex64,
    pub scale: f64,
}

impl Value {
    fn new(z: Complex64) -> Self {
        Self { z, scale: z.norm() }
    }

    pub fn is_real(self) -> bool {
        self.z.im.abs() <= 1e-12 * self.scale.max(self.z.norm())
    }
}

/// How a `log` without a base is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Natural,
    Decimal,
}

/// None where the expression has no value in double precision: undefined, or too large.
pub fn value(expr: &Expr, at: &impl Fn(&str) -> Complex64, log: Log) -> Option<Value> {
    let v = match expr {
        Expr::Num(v) => Value::new(Complex64::new(v.to_f64().value(), 0.0)),
        Expr::Dec(d) => Value::new(Complex64::new(d.value.to_f64().value(), 0.0)),
        Expr::Var(name) => Value::new(at(name)),
        Expr::Const(Const::Pi) => Value::new(Complex64::new(std::f64::consts::PI, 0.0)),
        Expr::Const(Const::E) => Value::new(Complex64::new(std::f64::consts::E, 0.0)),
        Expr::Const(Const::I) => Value::new(Complex64::i()),
        Expr::Const(Const::Infinity) => return None,
        Expr::Neg(x) => {
            let v = value(x, at, log)?;
            Value {
                // Adding zero makes a negative zero positive: the branch of a root must not hang on it.
                z: -v.z + Complex64::ZERO,
                scale: v.scale,
            }
        }
        Expr::Add(items) => {
            let mut sum = Value {
                z: Complex64::ZERO,
                scale: 0.0,
            };
            for item in items {
                let v = value(item, at, log)?;
                sum = Value {
                    z: sum.z + v.z,
                    scale: sum.scale.max(v.scale),
                };
            }
            sum
        }
        Expr::Mul(items) => {
            let mut product = Value::new(Complex64::ONE);
            for item in items {
                let v = value(item, at, log)?;
                product = times(product, v);
            }
            product
        }
        Expr::Div(a, b) => {
            let (a, b) = (value(a, at, log)?, value(b, at, log)?);
            // A divisor that is nothing but rounding.
            if b.z.norm() <= b.scale * 1e-12 {
                return None;
            }
            let z = a.z / b.z;
            Value {
                z,
                scale: widened(z, loss(a).max(loss(b))),
            }
        }
        Expr::Pow(a, b) => power(a, b, at, log)?,
        Expr::Fn(func, args) => {
            let mut values = Vec::with_capacity(args.len());
            for arg in args {
                values.push(value(arg, at, log)?);
            }
            call(*func, &values, log)?
        }
    };
    (v.z.re.is_finite() && v.z.im.is_finite() && v.scale.is_finite()).then_some(v)
}

/// How much larger than the value the numbers were that it was made of.
fn loss(v: Value) -> f64 {
    let size = v.z.norm();
    if size > 0.0 {
        (v.scale / size).max(1.0)
    } else {
        1.0
    }
}

fn widened(z: Complex64, loss: f64) -> f64 {
    z.norm() * loss
}

fn times(a: Value, b: Value) -> Value {
    let z = a.z * b.z;
    let scale = if z.norm() > 0.0 {
        widened(z, loss(a).max(loss(b)))
    } else {
        a.scale * b.scale
    };
    Value { z, scale }
}

fn power(base: &Expr, exponent: &Expr, at: &impl Fn(&str) -> Complex64, log: Log) -> Option<Value> {
    let (a, b) = (value(base, at, log)?, value(exponent, at, log)?);
    let grown = loss(a) * b.z.norm().max(1.0);
    if a.z.norm() == 0.0 {
        return match b.z.re {
            r if r > 0.0 => Some(Value {
                z: Complex64::ZERO,
                scale: if a.scale > 0.0 { a.scale.powf(r) } else { 0.0 },
            }),
            0.0 => Some(Value::new(Complex64::ONE)),
            _ => None,
        };
    }
    #[allow(clippy::cast_possible_truncation)]
    let z = if b.z.im == 0.0 && b.z.re.fract() == 0.0 && b.z.re.abs() < 1e6 {
        a.z.powi(b.z.re as i32)
    } else if let Some(root) = real_odd_root(exponent, a.z, b.z.re) {
        root
    } else if a.z.im == 0.0 && a.z.re > 0.0 && b.z.im == 0.0 {
        Complex64::new(a.z.re.powf(b.z.re), 0.0)
    } else {
        (a.z.ln() * b.z).exp()
    };
    Some(Value {
        z,
        scale: widened(z, grown),
    })
}

/// The real root of a negative number where the exponent is written with an odd denominator: school's convention.
fn real_odd_root(exponent: &Expr, base: Complex64, value: f64) -> Option<Complex64> {
    if base.im != 0.0 || base.re >= 0.0 {
        return None;
    }
    let (odd_numerator, odd) = odd_denominator(exponent)?;
    odd.then(|| {
        let size = (-base.re).powf(value);
        Complex64::new(if odd_numerator { -size } else { size }, 0.0)
    })
}

/// Of an exact exponent: whether its numerator and its denominator, in lowest terms, are odd.
pub fn odd_denominator(exponent: &Expr) -> Option<(bool, bool)> {
    use dashu_base::BitTest;
    let exact = super::exact::rational(exponent).ok()??;
    (!exact.is_int()).then(|| (exact.numerator().bit(0), exact.denominator().bit(0)))
}

fn call(func: Func, args: &[Value], log: Log) -> Option<Value> {
    let v = args[0];
    let z = v.z;
    let one = Complex64::ONE;
    let real = |x: f64| Complex64::new(x, 0.0);
    let result = match func {
        Func::Sin => z.sin(),
        Func::Cos => z.cos(),
        Func::Tan => pole(z.sin(), z.cos())?,
        Func::Sec => pole(one, z.cos())?,
        Func::Csc => pole(one, z.sin())?,
        Func::Cot => pole(z.cos(), z.sin())?,
        Func::Asin => z.asin(),
        Func::Acos => z.acos(),
        Func::Atan => z.atan(),
        Func::Asec => pole(one, z)?.acos(),
        Func::Acsc => pole(one, z)?.asin(),
        Func::Acot => {
            if z.norm() == 0.0 {
                real(std::f64::consts::FRAC_PI_2)
            } else {
                (one / z).atan()
            }
        }
        Func::Sinh => z.sinh(),
        Func::Cosh => z.cosh(),
        Func::Tanh => z.tanh(),
        Func::Sech => one / z.cosh(),
        Func::Csch => pole(one, z.sinh())?,
        Func::Coth => pole(z.cosh(), z.sinh())?,
        Func::Asinh => z.asinh(),
        Func::Acosh => z.acosh(),
        Func::Atanh => z.atanh(),
        Func::Exp => z.exp(),
        Func::Ln => nonzero(v)?.ln(),
        Func::Log => {
            let natural = nonzero(v)?.ln();
            match (args.get(1), log) {
                (Some(base), _) => pole(natural, nonzero(*base)?.ln())?,
                (None, Log::Natural) => natural,
                (None, Log::Decimal) => natural / std::f64::consts::LN_10,
            }
        }
        Func::Abs => real(z.norm()),
        Func::Floor | Func::Ceil => {
            if !v.is_real() {
                return None;
            }
            let nearest = z.re.round();
            // Rounding must not decide the step.
            if (z.re - nearest).abs() <= 1e-9 * v.scale.max(1.0) {
                if v.scale > 1e9 {
                    return None;
                }
                real(nearest)
            } else {
                real(if func == Func::Floor {
                    z.re.floor()
                } else {
                    z.re.ceil()
                })
            }
        }
        Func::Fact => {
            let n = natural(v).filter(|n| *n <= 170)?;
            real((1..=n).map(f64::from).product())
        }
        Func::Binom => {
            let (n, k) = (natural(v)?, natural(args[1])?);
            if k > n {
                Complex64::ZERO
            } else {
                let k = k.min(n - k);
                if k > 1000 {
                    return None;
                }
                real(
                    (1..=k)
                        .map(|j| f64::from(n - k + j) / f64::from(j))
                        .product(),
                )
            }
        }
        Func::Max | Func::Min => {
            if !args.iter().all(|a| a.is_real()) {
                return None;
            }
            let reals = args.iter().map(|a| a.z.re);
            real(if func == Func::Max {
                reals.fold(f64::NEG_INFINITY, f64::max)
            } else {
                reals.fold(f64::INFINITY, f64::min)
            })
        }
        Func::Re => real(z.re),
        Func::Im => real(z.im),
        Func::Conj => z.conj(),
        Func::Arg => real(nonzero(v)?.arg()),
        Func::Sign => {
            if !v.is_real() {
                return None;
            }
            real(if z.norm() == 0.0 { 0.0 } else { z.re.signum() })
        }
        Func::Mod => {
            if !v.is_real() || !args[1].is_real() || args[1].z.re == 0.0 {
                return None;
            }
            real(z.re - args[1].z.re * (z.re / args[1].z.re).floor())
        }
        Func::Gcd | Func::Lcm | Func::Residue => return None,
    };
    // What the argument lost, the result lost too, as far as its slope allows; near a branch more.
    let scale = result.norm().max(1e-300) * loss(v) * (1.0 + slope(func, z));
    Some(Value { z: result, scale })
}

/// How much larger the relative error of the result may be than that of the argument.
fn slope(func: Func, z: Complex64) -> f64 {
    match func {
        Func::Sin | Func::Cos | Func::Tan | Func::Sec | Func::Csc | Func::Cot => {
            let (s, c) = (z.sin().norm(), z.cos().norm());
            let near = s.min(c).max(1e-17);
            z.norm() / near
        }
        Func::Exp | Func::Sinh | Func::Cosh => z.norm(),
        Func::Ln | Func::Log => {
            let l = z.ln().norm();
            1.0 / l.max(1e-17)
        }
        _ => 1.0,
    }
}

fn pole(over: Complex64, under: Complex64) -> Option<Complex64> {
    (under.norm() > 1e-13).then(|| over / under)
}

fn nonzero(v: Value) -> Option<Complex64> {
    (v.z.norm() > v.scale * 1e-13).then_some(v.z)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn natural(v: Value) -> Option<u32> {
    let x = v.z.re;
    (v.is_real() && (0.0..1e9).contains(&x) && (x - x.round()).abs() < 1e-9)
        .then(|| x.round() as u32)
}
