//! Whether two expressions have the same value: exactly where they are rational, at points where they are functions,
//! to 50 digits where they are constants.

use dashu_base::Sign;
use dashu_int::IBig;
use dashu_ratio::RBig;
use num_complex::Complex64;

use super::Policy;
use super::ast::{Const, Expr, Func};
use super::exact;
use super::field;
use super::float::{self, Log};
use super::precise::{self, Fault};
use super::reason::{Reason, Tier, Verdict};

use super::rounding::{decimal_of, rounded_rational};

/// Relative distance at which two values in double precision are surely different, beyond what cancellation took.
const APART: f64 = 1e-9;

/// Whether `pred` has the value of `gold`. Decimals may stand for what they round, as the policy says.
pub fn equal(gold: &Expr, pred: &Expr, policy: Policy) -> Verdict {
    if gold == pred {
        return Verdict::equal(Reason::SameText, Tier::Value);
    }
    if let (Expr::Fn(Func::Residue, a), Expr::Fn(Func::Residue, b)) = (gold, pred) {
        return residues(a, b, policy);
    }
    if let Some(verdict) = infinite(gold, pred) {
        return verdict;
    }
    let constant = (gold.is_constant(), pred.is_constant());
    match constant {
        (true, true) => constants(gold, pred, policy),
        _ => functions(gold, pred),
    }
}

/// Classes modulo a number: the same modulus, and values that it takes to the same rest.
fn residues(gold: &[Expr], pred: &[Expr], policy: Policy) -> Verdict {
    let rest = |args: &[Expr]| Expr::Fn(Func::Mod, args.to_vec());
    let modulus = equal(&gold[1], &pred[1], policy);
    if !modulus.is_equal() {
        return modulus;
    }
    let value = equal(&gold[0], &pred[0], policy);
    if value.is_equal() {
        value
    } else {
        equal(&rest(gold), &rest(pred), policy)
    }
}

fn infinite(gold: &Expr, pred: &Expr) -> Option<Verdict> {
    let sign = |e: &Expr| match e {
        Expr::Const(Const::Infinity) => Some(1),
        Expr::Neg(x) if **x == Expr::Const(Const::Infinity) => Some(-1),
        _ => None,
    };
    let has = |e: &Expr| e.any(&mut |x| *x == Expr::Const(Const::Infinity));
    match (sign(gold), sign(pred)) {
        (Some(a), Some(b)) => Some(Verdict::of(a == b, Reason::Constant, Tier::Value)),
        (Some(_), None) if !has(pred) => Some(Verdict::different(Reason::Constant, Tier::Value)),
        (None, Some(_)) if !has(gold) => Some(Verdict::different(Reason::Constant, Tier::Value)),
        _ if has(gold) || has(pred) => Some(Verdict::undecided(Reason::NoPoint)),
        _ => None,
    }
}

fn constants(gold: &Expr, pred: &Expr, policy: Policy) -> Verdict {
    let (a, b) = match (exact::rational(gold), exact::rational(pred)) {
        (Err(_), _) => return Verdict::undecided(Reason::GoldUnparsed),
        (_, Err(_)) => return Verdict::different(Reason::Undefined, Tier::Exact),
        (Ok(a), Ok(b)) => (a, b),
    };
    if let (Some(a), Some(b)) = (&a, &b) {
        if a == b {
            return Verdict::equal(Reason::Number, Tier::Exact);
        }
        return match rounded_rational(gold, a, pred, b, policy) {
            Some(verdict) => verdict,
            None => Verdict::different(Reason::Number, Tier::Exact),
        };
    }
    let logs: &[Log] = if has_bare_log(gold) || has_bare_log(pred) {
        &[Log::Natural, Log::Decimal]
    } else {
        &[Log::Natural]
    };
    let mut last = Verdict::undecided(Reason::NoPoint);
    for &log in logs {
        let verdict = irrational(gold, pred, policy, log);
        if verdict.is_equal() {
            return verdict;
        }
        last = verdict;
    }
    last
}

fn has_bare_log(e: &Expr) -> bool {
    e.any(&mut |x| matches!(x, Expr::Fn(Func::Log, args) if args.len() == 1))
}

fn irrational(gold: &Expr, pred: &Expr, policy: Policy, log: Log) -> Verdict {
    // Numbers too large to write out are still told apart by what a prime leaves of them.
    if field::is_rational_function(gold)
        && field::is_rational_function(pred)
        && identical(gold, pred) == Some(false)
    {
        return Verdict::different(Reason::Number, Tier::Exact);
    }
    let decimal = decimal_of(gold).is_some() != decimal_of(pred).is_some();
    if !decimal {
        // Most answers that differ are told apart in double precision.
        let nowhere = |_: &str| Complex64::new(f64::NAN, 0.0);
        if let (Some(a), Some(b)) = (
            float::value(gold, &nowhere, log),
            float::value(pred, &nowhere, log),
        ) && apart(a, b)
        {
            return Verdict::different(Reason::Constant, Tier::Value);
        }
    }
    let (a, b) = match (precise::value(gold, log), precise::value(pred, log)) {
        (Ok(a), Ok(b)) => (a, b),
        // One is beyond every exponent, the other is not.
        (Err(Fault::Overflow), Ok(_)) | (Ok(_), Err(Fault::Overflow)) => {
            return Verdict::different(Reason::Constant, Tier::Value);
        }
        (Err(Fault::Overflow), Err(Fault::Overflow)) => {
            return Verdict::undecided(Reason::TooLarge);
        }
        (Ok(_), Err(Fault::Undefined)) => {
            return Verdict::different(Reason::Undefined, Tier::Value);
        }
        _ => return Verdict::undecided(Reason::NoPoint),
    };
    match precise::equal(&a, &b) {
        Some(true) => return Verdict::equal(Reason::Constant, Tier::Value),
        None => return Verdict::undecided(Reason::TooLarge),
        Some(false) => {}
    }
    let near = match (decimal_of(gold), decimal_of(pred)) {
        (None, Some(given)) if policy.rounds() && given.is_long() => given.holds(&a),
        (Some(given), None) if policy.rounds() && given.places >= 2 => given.holds(&b),
        _ => None,
    };
    match near {
        Some(true) => Verdict::equal(Reason::Rounding, Tier::Value),
        Some(false) => Verdict::different(Reason::Rounding, Tier::Value),
        None => Verdict::different(Reason::Constant, Tier::Value),
    }
}

fn apart(a: float::Value, b: float::Value) -> bool {
    let scale = a.scale.max(b.scale);
    (a.z - b.z).norm() > APART * scale
}

/// Points at which functions are compared: positive first, then of either sign.
const SAMPLES: u64 = 12;
const ENOUGH: usize = 4;

fn functions(gold: &Expr, pred: &Expr) -> Verdict {
    let mut names = Vec::new();
    gold.variables(&mut names);
    pred.variables(&mut names);
    if names.len() > 64 {
        return Verdict::undecided(Reason::TooManyItems);
    }
    if field::is_rational_function(gold)
        && field::is_rational_function(pred)
        && let Some(equal) = identical(gold, pred)
    {
        return Verdict::of(equal, Reason::Identity, Tier::Value);
    }
    let logs: &[Log] = if has_bare_log(gold) || has_bare_log(pred) {
        &[Log::Natural, Log::Decimal]
    } else {
        &[Log::Natural]
    };
    let mut last = Verdict::undecided(Reason::NoPoint);
    for &log in logs {
        last = sampled(gold, pred, log);
        if last.is_equal() {
            return last;
        }
    }
    last
}

/// Whether two rational functions are the same, at three points of a prime field. None where no point has a value.
pub fn identical(gold: &Expr, pred: &Expr) -> Option<bool> {
    let mut found = 0;
    for salt in 1..12 {
        let at = |name: &str| field::point(name, salt);
        let (Some(a), Some(b)) = (field::value(gold, &at), field::value(pred, &at)) else {
            continue;
        };
        if a != b {
            return Some(false);
        }
        found += 1;
        if found == 3 {
            return Some(true);
        }
    }
    None
}

/// A rational for a name, the same every time: between 1/4 and 9/4, farther out at some points, where roots and logarithms
/// of differences have real values; every third point is negative in some names, the fifth in all.
pub fn sample(name: &str, k: u64) -> (i64, i64) {
    let h = field::point(name, k + 101);
    let reach = match k {
        3 => 4,
        6 => 20,
        9 => 300,
        _ => 1,
    };
    let over = (250 + i64::try_from(h % 2000).unwrap_or(0)) * reach;
    let negative = k == 5 || k % 3 == 2 && (h >> 20).is_multiple_of(2);
    (if negative { -over } else { over }, 1000)
}

fn float_point(name: &str, k: u64) -> Complex64 {
    let (over, under) = sample(name, k);
    #[allow(clippy::cast_precision_loss)]
    Complex64::new(over as f64 / under as f64, 0.0)
}

fn sampled(gold: &Expr, pred: &Expr, log: Log) -> Verdict {
    let complex = |e: &Expr| e.any(&mut |x| *x == Expr::Const(Const::I));
    let inherent = complex(gold) || complex(pred);
    let (mut good, mut bad) = (0, 0);
    let mut certified = None;
    for k in 0..SAMPLES {
        let at = |name: &str| float_point(name, k);
        let (Some(a), Some(b)) = (float::value(gold, &at, log), float::value(pred, &at, log))
        else {
            continue;
        };
        if apart(a, b) {
            // Outside the reals a difference may be one of branches; not one that is there at every point.
            if a.is_real() && b.is_real() || inherent {
                return Verdict::different(Reason::Sampled, Tier::Value);
            }
            bad += 1;
            continue;
        }
        good += 1;
        if certified.is_none() && k % 3 != 2 {
            certified = certify(gold, pred, k, log);
            if certified == Some(false) {
                return Verdict::different(Reason::Sampled, Tier::Value);
            }
        }
        if good >= ENOUGH && k >= 5 {
            break;
        }
    }
    if good >= 3 && certified != Some(false) {
        return Verdict::equal(Reason::Sampled, Tier::Value);
    }
    // Too large or too small for doubles everywhere: the same points to 256 bits.
    if good + bad == 0
        && [0, 1, 3]
            .iter()
            .all(|&k| certify(gold, pred, k, log) == Some(false))
    {
        return Verdict::different(Reason::Sampled, Tier::Value);
    }
    if good == 0 && bad >= 8 {
        return Verdict::different(Reason::Sampled, Tier::Value);
    }
    Verdict::undecided(Reason::NoPoint)
}

/// The same point again, to 50 digits.
fn certify(gold: &Expr, pred: &Expr, k: u64, log: Log) -> Option<bool> {
    let at = |name: &str| {
        let (over, under) = sample(name, k);
        Ok(RBig::from_parts_signed(IBig::from(over), IBig::from(under)))
    };
    let a = precise::at(gold, &at, log).ok()?;
    let b = precise::at(pred, &at, log).ok()?;
    precise::equal(&a, &b)
}

/// Whether `pred = factor * gold` for one constant factor other than zero: its sign, or None for no such factor.
/// Outer None: it could not be told.
pub fn proportional(gold: &Expr, pred: &Expr) -> Option<Option<Sign>> {
    let mut factor: Option<Complex64> = None;
    let mut exact_pairs: Vec<(u64, u64)> = Vec::new();
    let rational = field::is_rational_function(gold) && field::is_rational_function(pred);
    if rational {
        for salt in 1..12 {
            let at = |name: &str| field::point(name, salt);
            if let (Some(a), Some(b)) = (field::value(gold, &at), field::value(pred, &at)) {
                exact_pairs.push((a, b));
            }
            if exact_pairs.len() == 4 {
                break;
            }
        }
        let (a0, b0) = *exact_pairs.first()?;
        let product = |x: u64, y: u64| u128::from(x) * u128::from(y) % u128::from(field::P);
        if exact_pairs.len() < 3
            || (a0 == 0) != (b0 == 0)
            || exact_pairs
                .iter()
                .any(|&(a, b)| product(a, b0) != product(b, a0))
        {
            return if exact_pairs.len() < 3 {
                None
            } else {
                Some(None)
            };
        }
        if exact_pairs.iter().all(|&(a, b)| a == 0 || b == 0) {
            return Some(None);
        }
    }
    let mut good = 0;
    for k in 0..SAMPLES {
        let at = |name: &str| float_point(name, k);
        let (Some(a), Some(b)) = (
            float::value(gold, &at, Log::Natural),
            float::value(pred, &at, Log::Natural),
        ) else {
            continue;
        };
        let (zero_a, zero_b) = (a.z.norm() <= a.scale * 1e-11, b.z.norm() <= b.scale * 1e-11);
        if zero_a && zero_b {
            continue;
        }
        if zero_a || zero_b {
            return Some(None);
        }
        let ratio = b.z / a.z;
        match factor {
            None => factor = Some(ratio),
            Some(f) if (ratio - f).norm() > 1e-8 * f.norm() => {
                if !(rational || a.is_real() && b.is_real()) {
                    continue;
                }
                return Some(None);
            }
            Some(_) => {}
        }
        good += 1;
        if rational || good >= ENOUGH {
            break;
        }
    }
    let f = factor?;
    if !rational && good < 3 {
        return None;
    }
    if f.im.abs() > 1e-9 * f.norm() {
        return Some(None);
    }
    Some(Some(if f.re < 0.0 {
        Sign::Negative
    } else {
        Sign::Positive
    }))
}

/// The value of a constant as a double, for ordering.
pub fn approximate(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Const(Const::Infinity) => return Some(f64::INFINITY),
        Expr::Neg(x) if **x == Expr::Const(Const::Infinity) => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let nowhere = |_: &str| Complex64::new(f64::NAN, 0.0);
    float::value(expr, &nowhere, Log::Natural)
        .filter(|v| v.is_real())
        .map(|v| v.z.re)
}
