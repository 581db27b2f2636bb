//! Equations, inequalities and the regions they describe.

use dashu_base::Sign;

use super::ast::{Answer, Bracket, Const, Expr, Func, Join, NamedSet, RelOp};
use super::compare::{Compare, all};
use super::reason::{Equality, Reason, Tier, Verdict};
use super::value;

/// A side of an equation that only names what the other side is.
fn is_name(side: &Answer) -> bool {
    match side {
        Answer::Text { .. } => true,
        // A point or a pair of names: (x, y) = (1, 2).
        Answer::Tuple(_, _, items) => items
            .iter()
            .all(|i| matches!(i, Answer::Expr(Expr::Var(_)))),
        Answer::Expr(e) => name_like(e),
        _ => false,
    }
}

fn name_like(e: &Expr) -> bool {
    match e {
        Expr::Var(_) | Expr::Const(Const::E | Const::I) => true,
        Expr::Mul(items) => {
            let named = |e: &Expr| matches!(e, Expr::Var(n) if n.starts_with('\\'));
            let capital = |e: &Expr| matches!(e, Expr::Var(n) if n.starts_with(|c: char| c.is_ascii_uppercase()));
            let letter = |e: &Expr| matches!(e, Expr::Var(_) | Expr::Const(_));
            if items
                .iter()
                .all(|i| capital(i) || matches!(i, Expr::Const(Const::E | Const::I)))
            {
                return true; // the segment AB
            }
            if items.iter().all(letter) && items.iter().any(|i| named(i) && matches!(i, Expr::Var(n) if n.starts_with("\\angle") || n.starts_with("\\triangle"))) {
                return true;
            }
            is_call(e)
        }
        Expr::Fn(Func::Abs, args) => name_like(&args[0]),
        // dy/dx
        Expr::Div(a, b) => {
            let differential = |e: &Expr| matches!(e, Expr::Mul(items) if matches!(items.as_slice(), [Expr::Var(d), Expr::Var(_)] if &**d == "d"));
            differential(a) && differential(b)
        }
        _ => false,
    }
}

/// Letters that name functions, and `y`.
const FUNCTIONS: &str = "fghFGHPQRpqryuvsTVNCSAEa";

/// `f(x)`, `f(2)` and `f^{-1}(x)`: products to the parser.
fn is_call(e: &Expr) -> bool {
    let Expr::Mul(items) = e else { return false };
    let [head, arg] = items.as_slice() else {
        return false;
    };
    let head = match head {
        Expr::Pow(f, inverse) if **inverse == Expr::int(1).negated() => f,
        other => other,
    };
    let Expr::Var(name) = head else { return false };
    let letter = name.trim_end_matches('\'').split('_').next();
    let function = letter.is_some_and(|l| l.len() == 1 && FUNCTIONS.contains(l));
    function && (matches!(arg, Expr::Var(_)) || arg.is_constant())
}

/// A side that a model repeats from the question: a name, or a sum or product of names without coefficients.
fn restates(side: &Answer) -> bool {
    fn plain(e: &Expr) -> bool {
        match e {
            Expr::Var(_) => true,
            Expr::Add(items) | Expr::Mul(items) => items.iter().all(plain),
            Expr::Neg(x) => plain(x),
            Expr::Div(a, b) => plain(a) && plain(b),
            Expr::Pow(a, n) => plain(a) && n.is_constant(),
            Expr::Fn(_, args) => args.iter().all(|a| plain(a) || a.is_constant()),
            _ => false,
        }
    }
    is_name(side) || matches!(side, Answer::Expr(e) if plain(e))
}

/// What an equation or a chain of them says the value is: the sides beside the name.
enum Solved<'a> {
    /// The name and the sides that give its value.
    Values(&'a Answer, Vec<&'a Answer>),
    No,
}

fn solved<'a>(sides: &'a [Answer], ops: &[RelOp]) -> Solved<'a> {
    if ops
        .iter()
        .any(|op| !matches!(op, RelOp::Eq | RelOp::Approx | RelOp::In))
    {
        return Solved::No;
    }
    // What follows an approximation sign says nothing new where an exact value stands before it.
    let exact = ops
        .iter()
        .position(|op| *op == RelOp::Approx)
        .map_or(sides.len(), |i| i + 1);
    let names = usize::from(is_name(&sides[0]));
    let end = if exact > names { exact } else { sides.len() };
    if names == 1 {
        return Solved::Values(&sides[0], sides[1..end.max(2)].iter().collect());
    }
    if sides.len() == 2 && is_name(&sides[1]) && ops[0] == RelOp::Eq {
        return Solved::Values(&sides[1], vec![&sides[0]]);
    }
    Solved::No
}

impl Compare {
    /// The value that a solved equation gives; None for any other answer.
    pub fn given(answer: &Answer) -> Option<&Answer> {
        let Answer::Relation(sides, ops) = answer else {
            return None;
        };
        match solved(sides, ops) {
            Solved::Values(_, values) => values.last().copied(),
            Solved::No => None,
        }
    }

    /// Compares where one side at least is a relation.
    pub fn relations(&mut self, gold: &Answer, pred: &Answer) -> Verdict {
        match (gold, pred) {
            (Answer::Relation(gs, go), Answer::Relation(ps, po)) => self.both(gs, go, ps, po),
            (Answer::Relation(sides, ops), other) => {
                if let Solved::Values(name, values) = solved(sides, ops) {
                    let last = self.last_of(&values);
                    let verdict = self.answers(last, other);
                    // "x" does not answer "x = 5".
                    return if verdict.is_equal() && *other == *name {
                        Verdict::different(Reason::Kind, Tier::Structure)
                    } else {
                        verdict
                    };
                }
                self.regions(gold, pred)
            }
            (other, Answer::Relation(sides, ops)) => {
                if let Solved::Values(_, values) = solved(sides, ops) {
                    return self.every(other, &values);
                }
                let equality = ops.iter().all(|op| matches!(op, RelOp::Eq | RelOp::Approx));
                if equality {
                    // What follows an approximation sign says nothing new.
                    let exact = ops
                        .iter()
                        .position(|op| *op == RelOp::Approx)
                        .map_or(sides.len(), |i| i + 1);
                    let sides = &sides[..exact];
                    if let [only] = sides {
                        return self.answers(other, only);
                    }
                    let constant = |a: &Answer| matches!(a, Answer::Expr(e) if e.is_constant());
                    if matches!(other, Answer::Expr(e) if e.is_constant()) && restates(&sides[0]) {
                        return self.every(other, &sides[1..].iter().collect::<Vec<_>>());
                    }
                    if sides.iter().all(constant) {
                        return self.every(other, &sides.iter().collect::<Vec<_>>());
                    }
                    return Verdict::different(Reason::Kind, Tier::Structure);
                }
                self.regions(gold, pred)
            }
            _ => Verdict::undecided(Reason::Kind),
        }
    }

    fn last_of<'a>(&self, values: &[&'a Answer]) -> &'a Answer {
        values[values.len() - 1]
    }

    /// A chain answers where its last side does and no other side is something else.
    fn every(&mut self, gold: &Answer, values: &[&Answer]) -> Verdict {
        let verdict = self.answers(gold, self.last_of(values));
        if !verdict.is_equal() {
            return verdict;
        }
        for value in &values[..values.len() - 1] {
            if self.answers(gold, value).is_different() {
                return Verdict::different(Reason::Hedge, Tier::Structure);
            }
        }
        verdict
    }

    fn both(&mut self, gs: &[Answer], go: &[RelOp], ps: &[Answer], po: &[RelOp]) -> Verdict {
        if let (Solved::Values(gn, gv), Solved::Values(pn, pv)) = (solved(gs, go), solved(ps, po)) {
            let call = |a: &Answer| matches!(a, Answer::Expr(e) if is_call(e));
            let y = |a: &Answer| matches!(a, Answer::Expr(Expr::Var(n)) if &**n == "y");
            let wordy = |a: &Answer| matches!(a, Answer::Text { .. });
            let same =
                gn == pn || (call(gn) && y(pn)) || (y(gn) && call(pn)) || wordy(gn) || wordy(pn);
            let verdict = self.every(self.last_of(&gv), &pv);
            if same && !verdict.is_different() {
                return verdict;
            }
            let values = |vs: &[&Answer]| {
                vs.iter()
                    .all(|v| matches!(v, Answer::Expr(e) if e.is_constant()))
            };
            if same && values(&gv) && values(&pv) {
                return verdict;
            }
            if !same && values(&gv) && values(&pv) {
                return Verdict::different(Reason::Relation, Tier::Structure);
            }
        }
        let order = |ops: &[RelOp]| ops.iter().any(|op| op.is_order() || *op == RelOp::Ne);
        if let ([op], [other]) = (go, po)
            && let (Some(g), Some(p)) = (difference(gs), difference(ps))
            && let Some(verdict) = proportional(&g, *op, &p, *other)
        {
            return verdict;
        }
        if order(go) || order(po) {
            // Elementwise, forwards or backwards.
            if gs.len() == ps.len() {
                let forwards =
                    go == po && all(gs.iter().zip(ps).map(|(g, p)| self.answers(g, p))).is_equal();
                let flipped: Vec<RelOp> = po.iter().rev().map(|op| op.flipped()).collect();
                let backwards = !forwards
                    && *go == *flipped
                    && all(gs
                        .iter()
                        .zip(ps.iter().rev())
                        .map(|(g, p)| self.answers(g, p)))
                    .is_equal();
                if forwards || backwards {
                    return Verdict::equal(Reason::Relation, Tier::Structure);
                }
            }
            return self.regions(
                &Answer::Relation(gs.to_vec(), go.to_vec()),
                &Answer::Relation(ps.to_vec(), po.to_vec()),
            );
        }
        if go == po && gs.len() == ps.len() {
            let sides = all(gs.iter().zip(ps).map(|(g, p)| self.answers(g, p)));
            if sides.is_equal() || sides.equality == Equality::Undecided {
                return sides;
            }
        }
        Verdict::different(Reason::Relation, Tier::Structure)
    }

    /// Compares as sets of real numbers.
    pub fn regions(&mut self, gold: &Answer, pred: &Answer) -> Verdict {
        let (Some(g), Some(p)) = (region(gold), region(pred)) else {
            let unsolved =
                matches!(gold, Answer::Relation(..)) != matches!(pred, Answer::Relation(..));
            return if unsolved {
                Verdict::different(Reason::Kind, Tier::Structure)
            } else {
                Verdict::undecided(Reason::Relation)
            };
        };
        if let (Some(a), Some(b)) = (&g.name, &p.name)
            && a != b
        {
            return Verdict::different(Reason::Relation, Tier::Structure);
        }
        let (g, p) = (merged(g.intervals), merged(p.intervals));
        if g.len() != p.len() {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        let mut left: Vec<&Interval> = p.iter().collect();
        let mut undecided = None;
        for interval in &g {
            let mut hit = None;
            for (k, other) in left.iter().enumerate() {
                let verdict = self.interval(interval, other);
                if verdict.is_equal() {
                    hit = Some(k);
                    break;
                }
                if verdict.equality == Equality::Undecided {
                    undecided = Some(verdict);
                }
            }
            match hit {
                Some(k) => drop(left.swap_remove(k)),
                None => {
                    return undecided
                        .unwrap_or(Verdict::different(Reason::Entries, Tier::Structure));
                }
            }
        }
        Verdict::equal(Reason::Entries, Tier::Structure)
    }

    fn interval(&mut self, a: &Interval, b: &Interval) -> Verdict {
        if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed) {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        all([
            self.expressions(&a.low, &b.low),
            self.expressions(&a.high, &b.high),
        ])
    }
}

fn difference(sides: &[Answer]) -> Option<Expr> {
    let [Answer::Expr(a), Answer::Expr(b)] = sides else {
        return None;
    };
    Some(Expr::Add(vec![a.clone(), b.clone().negated()]))
}

/// Relations of one sign between proportional expressions. None where the signs of the operators do not go together.
fn proportional(g: &Expr, op: RelOp, p: &Expr, other: RelOp) -> Option<Verdict> {
    let factor = value::proportional(g, p)?;
    let same = match factor {
        None => false,
        Some(Sign::Positive) => op == other,
        Some(Sign::Negative) => op == other.flipped(),
    };
    if same {
        return Some(Verdict::equal(Reason::Relation, Tier::Value));
    }
    // Equations that are not proportional differ; inequalities may still describe one region.
    (op == RelOp::Eq && other == RelOp::Eq)
        .then_some(Verdict::different(Reason::Relation, Tier::Value))
}

/// Real numbers between two bounds.
#[derive(Clone, Debug)]
struct Interval {
    low: Expr,
    low_closed: bool,
    high: Expr,
    high_closed: bool,
}

struct Region {
    intervals: Vec<Interval>,
    /// The variable it restricts, where one is named.
    name: Option<Box<str>>,
}

fn infinity(negative: bool) -> Expr {
    let inf = Expr::Const(Const::Infinity);
    if negative { inf.negated() } else { inf }
}

fn is_infinite(e: &Expr) -> bool {
    matches!(e, Expr::Const(Const::Infinity))
        || matches!(e, Expr::Neg(x) if **x == Expr::Const(Const::Infinity))
}

fn interval(low: Expr, low_closed: bool, high: Expr, high_closed: bool) -> Interval {
    let low_closed = low_closed && !is_infinite(&low);
    let high_closed = high_closed && !is_infinite(&high);
    Interval {
        low,
        low_closed,
        high,
        high_closed,
    }
}

fn region(answer: &Answer) -> Option<Region> {
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

fn joined(items: &[Answer]) -> Option<Region> {
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
fn conditions(items: &[Answer]) -> Option<Region> {
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

fn intersection(a: &Region, b: &Region) -> Option<Region> {
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

fn without(intervals: Vec<Interval>, point: &Expr) -> Option<Vec<Interval>> {
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
fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
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
fn solved_order(sides: &[Answer], ops: &[RelOp]) -> Option<Region> {
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
fn absolute(a: &Expr, op: RelOp, bound: &Expr) -> Option<Region> {
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
fn variable(e: &Expr) -> Option<&str> {
    match e {
        Expr::Var(name) => Some(name),
        Expr::Mul(items) if is_call(e) => match &items[0] {
            Expr::Var(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}
