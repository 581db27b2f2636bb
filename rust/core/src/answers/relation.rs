//! Equations and inequalities.

use dashu_base::Sign;

use super::ast::{Answer, Const, Expr, Func, RelOp};
use super::compare::{Compare, all};
use super::reason::{Equality, Reason, Tier, Verdict};
use super::region::{Interval, merged, region};
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
pub(super) fn is_call(e: &Expr) -> bool {
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
        let equations = |ops: &[RelOp]| ops.iter().all(|op| *op == RelOp::Eq);
        if order(go) && equations(po) || equations(go) && order(po) {
            let (g, p) = (
                Answer::Relation(gs.to_vec(), go.to_vec()),
                Answer::Relation(ps.to_vec(), po.to_vec()),
            );
            let verdict = self.regions(&g, &p);
            return if verdict.is_equal() {
                verdict
            } else {
                Verdict::different(Reason::Kind, Tier::Structure)
            };
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
