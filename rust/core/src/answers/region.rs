//! Sets of real numbers: intervals, unions, and what inequalities that are solved describe.

use super::ast::{Answer, Bracket, Const, Expr, Func, Join, NamedSet, RelOp};
use super::relation::is_call;
use super::value;

/// Real numbers between two bounds.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    pub(super) low: Expr,
    pub(super) low_closed: bool,
    pub(super) high: Expr,
    pub(super) high_closed: bool,
}

pub(super) struct Region {
    pub(super) intervals: Vec<Interval>,
    /// The variable it restricts, where one is named.
    pub(super) name: Option<Box<str>>,
}

pub(super) fn infinity(negative: bool) -> Expr {
    let inf = Expr::Const(Const::Infinity);
    if negative { inf.negated() } else { inf }
}

pub(super) fn is_infinite(e: &Expr) -> bool {
    matches!(e, Expr::Const(Const::Infinity))
        || matches!(e, Expr::Neg(x) if **x == Expr::Const(Const::Infinity))
}

pub(super) fn interval(low: Expr, low_closed: bool, high: Expr, high_closed: bool) -> Interval {
    let low_closed = low_closed && !is_infinite(&low);
    let high_closed = high_closed && !is_infinite(&high);
    Interval {
        low,
        low_closed,
        high,
        high_closed,
    }
}

pub(super) fn region(answer: &Answer) -> Option<Region> {
    let unnamed = |intervals| {
        Some(Region {
            intervals,
            name: None,
        })
    };
    match answer {
        Answer::Tuple(open, close, items) => {
            let [Answer::Expr(a), Answer::Expr(b)] = items.as_slice() else {
                return None;
            };
            unnamed(vec![interval(
                a.clone(),
                *open == Bracket::Square,
                b.clone(),
                *close == Bracket::Square,
            )])
        }
        Answer::Named(NamedSet::Reals) => unnamed(vec![interval(
            infinity(true),
            false,
            infinity(false),
            false,
        )]),
        Answer::Named(NamedSet::Empty) => unnamed(Vec::new()),
        Answer::Set(items) => {
            let mut points = Vec::with_capacity(items.len());
            for item in items {
                let Answer::Expr(e) = item else { return None };
                points.push(interval(e.clone(), true, e.clone(), true));
            }
            unnamed(points)
        }
        Answer::Builder(inner) => region(inner),
        Answer::Union(items) => joined(items),
        Answer::List(Join::Comma, items)
            if items.iter().all(|i| matches!(i, Answer::Relation(..))) =>
        {
            conditions(items)
        }
        Answer::List(Join::Or | Join::Comma, items)
            if items.iter().all(|i| !matches!(i, Answer::Expr(_))) =>
        {
            joined(items)
        }
        Answer::List(Join::And, items) => {
            let mut regions = items.iter().map(region).collect::<Option<Vec<_>>>()?;
            let name = regions.first()?.name.clone();
            let first = regions.pop()?;
            regions
                .into_iter()
                .try_fold(first, |a, b| intersection(&a, &b))
                .map(|r| Region { name, ..r })
        }
        Answer::Intersection(items) => {
            let mut regions = items.iter().map(region).collect::<Option<Vec<_>>>()?;
            let first = regions.pop()?;
            regions
                .into_iter()
                .try_fold(first, |a, b| intersection(&a, &b))
        }
        Answer::Difference(a, b) => {
            let whole = region(a)?;
            let Answer::Set(points) = &**b else {
                return None;
            };
            let mut intervals = whole.intervals;
            for point in points {
                let Answer::Expr(p) = point else { return None };
                intervals = without(intervals, p)?;
            }
            unnamed(intervals)
        }
        Answer::Relation(sides, ops) => solved_order(sides, ops),
        _ => None,
    }
}

pub(super) fn joined(items: &[Answer]) -> Option<Region> {
    let mut intervals = Vec::new();
    let mut name = None;
    for item in items {
        let part = region(item)?;
        intervals.extend(part.intervals);
        name = name.or(part.name);
    }
    Some(Region { intervals, name })
}

/// Relations with commas between them: all of them where they can hold together, else any.
pub(super) fn conditions(items: &[Answer]) -> Option<Region> {
    let mut regions = items.iter().map(region).collect::<Option<Vec<_>>>()?;
    let name = regions.iter().find_map(|r| r.name.clone());
    if regions.iter().any(|r| r.name.is_some() && r.name != name) {
        return None;
    }
    let first = regions.pop()?;
    let both = regions
        .into_iter()
        .try_fold(first, |a, b| intersection(&b, &a))?;
    if both.intervals.is_empty() {
        joined(items)
    } else {
        Some(Region { name, ..both })
    }
}

pub(super) fn intersection(a: &Region, b: &Region) -> Option<Region> {
    let mut out = Vec::new();
    for x in &a.intervals {
        for y in &b.intervals {
            let (xl, yl) = (value::approximate(&x.low)?, value::approximate(&y.low)?);
            let (xh, yh) = (value::approximate(&x.high)?, value::approximate(&y.high)?);
            let (low, low_closed) = if xl > yl {
                (&x.low, x.low_closed)
            } else if xl < yl {
                (&y.low, y.low_closed)
            } else {
                (&x.low, x.low_closed && y.low_closed)
            };
            let (high, high_closed) = if xh < yh {
                (&x.high, x.high_closed)
            } else if xh > yh {
                (&y.high, y.high_closed)
            } else {
                (&x.high, x.high_closed && y.high_closed)
            };
            let (l, h) = (xl.max(yl), xh.min(yh));
            if l < h || (l - h).abs() < f64::EPSILON && low_closed && high_closed {
                out.push(interval(low.clone(), low_closed, high.clone(), high_closed));
            }
        }
    }
    Some(Region {
        intervals: out,
        name: a.name.clone().or_else(|| b.name.clone()),
    })
}

pub(super) fn without(intervals: Vec<Interval>, point: &Expr) -> Option<Vec<Interval>> {
    let at = value::approximate(point)?;
    let mut out = Vec::with_capacity(intervals.len() + 1);
    for i in intervals {
        let (low, high) = (value::approximate(&i.low)?, value::approximate(&i.high)?);
        if low < at && at < high {
            out.push(interval(i.low, i.low_closed, point.clone(), false));
            out.push(interval(point.clone(), false, i.high, i.high_closed));
        } else {
            let low_closed = i.low_closed && low != at;
            let high_closed = i.high_closed && high != at;
            if low < high || low_closed {
                out.push(Interval {
                    low_closed,
                    high_closed,
                    ..i
                });
            }
        }
    }
    Some(out)
}

/// Intervals in order, those that touch as one; as they are where a bound has no order.
pub(super) fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    let keys: Option<Vec<f64>> = intervals
        .iter()
        .map(|i| value::approximate(&i.low))
        .collect();
    if keys.is_none()
        || intervals
            .iter()
            .any(|i| value::approximate(&i.high).is_none())
    {
        return intervals;
    }
    intervals.sort_by(|a, b| {
        let (x, y) = (value::approximate(&a.low), value::approximate(&b.low));
        x.partial_cmp(&y)
            .unwrap_or(std::cmp::Ordering::Equal)
            .then(b.low_closed.cmp(&a.low_closed))
    });
    let mut out: Vec<Interval> = Vec::with_capacity(intervals.len());
    for next in intervals {
        if let Some(last) = out.last_mut() {
            let (end, start) = (
                value::approximate(&last.high),
                value::approximate(&next.low),
            );
            if let (Some(end), Some(start)) = (end, start) {
                // Exactly the same bound, and one of the two holds it.
                let touch = last.high == next.low && (last.high_closed || next.low_closed);
                if touch || start < end && (end - start) > 1e-9 * end.abs().max(1.0) {
                    let high = value::approximate(&next.high).unwrap_or(f64::NAN);
                    if high > end || high == end && next.high_closed {
                        last.high = next.high;
                        last.high_closed = next.high_closed;
                    }
                    continue;
                }
            }
        }
        out.push(next);
    }
    out
}

/// `x < a`, `a <= x < b`, `x != a`, and `|x| < a`, with the variable by itself.
pub(super) fn solved_order(sides: &[Answer], ops: &[RelOp]) -> Option<Region> {
    let mut exprs = Vec::with_capacity(sides.len());
    for side in sides {
        match side {
            Answer::Expr(e) => exprs.push(e),
            Answer::Named(_)
            | Answer::Tuple(..)
            | Answer::Union(_)
            | Answer::Set(_)
            | Answer::Difference(..)
                if ops == [RelOp::In] =>
            {
                let mut inner = region(side)?;
                inner.name = variable(exprs.first()?).map(Into::into);
                return Some(inner);
            }
            _ => return None,
        }
    }
    match (exprs.as_slice(), ops) {
        ([a, b], [op]) => {
            if let Some(region) = absolute(a, *op, b).or_else(|| absolute(b, op.flipped(), a)) {
                return Some(region);
            }
            let (name, bound, op) = match (variable(a), variable(b)) {
                (Some(name), None) => (name, *b, *op),
                (None, Some(name)) => (name, *a, op.flipped()),
                // Two names: a bound by another name is solved for the first.
                (Some(name), Some(_)) => (name, *b, *op),
                _ => return None,
            };
            let all = |low, low_closed, high, high_closed| {
                Some(Region {
                    intervals: vec![interval(low, low_closed, high, high_closed)],
                    name: Some(name.into()),
                })
            };
            match op {
                RelOp::Lt => all(infinity(true), false, bound.clone(), false),
                RelOp::Le => all(infinity(true), false, bound.clone(), true),
                RelOp::Gt => all(bound.clone(), false, infinity(false), false),
                RelOp::Ge => all(bound.clone(), true, infinity(false), false),
                RelOp::Ne => Some(Region {
                    intervals: vec![
                        interval(infinity(true), false, bound.clone(), false),
                        interval(bound.clone(), false, infinity(false), false),
                    ],
                    name: Some(name.into()),
                }),
                RelOp::Eq => all(bound.clone(), true, bound.clone(), true),
                _ => None,
            }
        }
        ([a, x, b], [first, second]) => {
            let name = variable(x)?;
            let (low, low_op, high, high_op) = match (first, second) {
                (RelOp::Lt | RelOp::Le, RelOp::Lt | RelOp::Le) => (*a, first, *b, second),
                (RelOp::Gt | RelOp::Ge, RelOp::Gt | RelOp::Ge) => (*b, second, *a, first),
                _ => return None,
            };
            let closed = |op: &RelOp| matches!(op, RelOp::Le | RelOp::Ge);
            Some(Region {
                intervals: vec![interval(
                    low.clone(),
                    closed(low_op),
                    high.clone(),
                    closed(high_op),
                )],
                name: Some(name.into()),
            })
        }
        _ => None,
    }
}

/// `|x| < a` and its like, for a name by itself.
pub(super) fn absolute(a: &Expr, op: RelOp, bound: &Expr) -> Option<Region> {
    let Expr::Fn(Func::Abs, args) = a else {
        return None;
    };
    let name = variable(args.first()?)?;
    if value::approximate(bound)? <= 0.0 {
        return None;
    }
    let (low, high) = (bound.clone().negated(), bound.clone());
    let intervals = match op {
        RelOp::Lt => vec![interval(low, false, high, false)],
        RelOp::Le => vec![interval(low, true, high, true)],
        RelOp::Gt | RelOp::Ge => {
            let closed = op == RelOp::Ge;
            vec![
                interval(infinity(true), false, low, closed),
                interval(high, closed, infinity(false), false),
            ]
        }
        RelOp::Eq => vec![
            interval(low.clone(), true, low, true),
            interval(high.clone(), true, high, true),
        ],
        _ => return None,
    };
    Some(Region {
        intervals,
        name: Some(name.into()),
    })
}

/// The name of a variable or of a function's value, as in `f(x) > 0`.
pub(super) fn variable(e: &Expr) -> Option<&str> {
    match e {
        Expr::Var(name) => Some(name),
        Expr::Mul(items) if is_call(e) => match &items[0] {
            Expr::Var(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}
