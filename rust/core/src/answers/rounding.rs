//! Decimals that stand for exact values.

use dashu_base::Abs;
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

use super::Policy;
use super::ast::Expr;
use super::exact;
use super::precise;
use super::reason::{Reason, Tier, Verdict};

/// A decimal literal, perhaps signed or times a power of ten.
pub(super) struct Rounded {
    pub(super) value: RBig,
    /// Half a unit in the last place.
    pub(super) tolerance: RBig,
    /// Digits after the point, as if the number were written out.
    pub(super) places: i64,
    /// Digits from the first that is not zero.
    pub(super) significant: i64,
}

impl Rounded {
    /// Enough digits to stand for an exact value: 6 that count, and 6 after the point or 7 that count.
    pub(super) const fn is_long(&self) -> bool {
        self.significant >= 6 && (self.places >= 6 || self.significant >= 7)
    }

    pub(super) fn holds(&self, exact: &precise::Value) -> Option<bool> {
        precise::within(exact, &self.value, &self.tolerance)
    }

    pub(super) fn holds_exactly(&self, exact: &RBig) -> bool {
        (exact - &self.value).abs() <= self.tolerance
    }
}

pub(super) fn decimal_of(expr: &Expr) -> Option<Rounded> {
    match expr {
        Expr::Neg(x) => decimal_of(x).map(|r| Rounded {
            value: -r.value,
            ..r
        }),
        Expr::Dec(d) => Some(rounded(&d.value, i64::from(d.places))),
        Expr::Mul(items) => match items.as_slice() {
            [mantissa, Expr::Pow(ten, exponent)] if **ten == Expr::int(10) => {
                let shift = exact::rational(exponent).ok()??;
                let shift = i64::try_from(shift.numerator())
                    .ok()
                    .filter(|n| shift.is_int() && n.abs() <= 400)?;
                let inner = decimal_of(mantissa)?;
                let size = power_of_ten(shift);
                Some(rounded(&(inner.value * size), inner.places - shift))
            }
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn power_of_ten(n: i64) -> RBig {
    let size = RBig::from(UBig::from(10u8).pow(usize::try_from(n.unsigned_abs()).unwrap_or(0)));
    if n < 0 { RBig::ONE / size } else { size }
}

pub(super) fn rounded(value: &RBig, places: i64) -> Rounded {
    let unit = power_of_ten(-places);
    let count = (value / &unit).abs().to_int().value();
    let significant = if count.is_zero() {
        0
    } else {
        i64::try_from(count.to_string().len()).unwrap_or(i64::MAX)
    };
    Rounded {
        value: value.clone(),
        tolerance: unit / RBig::from(IBig::from(2)),
        places,
        significant,
    }
}

/// What a decimal may stand for: six digits or more for an exact value that is no whole number; an exact value for a
/// gold decimal that rounds it; two decimals for each other only where the shorter is long and rounds the longer.
pub(super) fn rounded_rational(
    gold: &Expr,
    a: &RBig,
    pred: &Expr,
    b: &RBig,
    policy: Policy,
) -> Option<Verdict> {
    if !policy.rounds() || a.is_int() && decimal_of(gold).is_none() {
        return None;
    }
    let verdict = |equal| Some(Verdict::of(equal, Reason::Rounding, Tier::Exact));
    match (decimal_of(gold), decimal_of(pred)) {
        (None, Some(given)) if given.is_long() => verdict(given.holds_exactly(a)),
        (Some(given), None) if given.places >= 2 && !b.is_int() => verdict(given.holds_exactly(b)),
        (Some(x), Some(y)) => {
            let (short, long) = if x.places <= y.places {
                (x, &b)
            } else {
                (y, &a)
            };
            (short.is_long() && short.places >= 6)
                .then(|| verdict(short.holds_exactly(long)))
                .flatten()
        }
        _ => None,
    }
}
