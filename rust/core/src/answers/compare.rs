//! Whether two answers that were read are equal.

use dashu_ratio::RBig;

use super::Policy;
use super::ast::{Answer, Bracket, Expr, Join, NamedSet};
use super::limits::MAX_COMPARISONS;
use super::reason::{Equality, Reason, Tier, Verdict};
use super::units::Unit;
use super::value;

/// One comparison, with the work it may still do.
pub struct Compare {
    policy: Policy,
    left: usize,
}

/// Equal where all are; else the first that is different, else the first that is undecided.
pub fn all(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut undecided = None;
    for verdict in verdicts {
        match verdict.equality {
            Equality::Equal => {}
            Equality::Different => return Verdict::different(Reason::Entries, Tier::Structure),
            Equality::Undecided => undecided = undecided.or(Some(verdict)),
        }
    }
    undecided.unwrap_or(Verdict::equal(Reason::Entries, Tier::Structure))
}

const fn kind() -> Verdict {
    Verdict::different(Reason::Kind, Tier::Structure)
}

impl Compare {
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            left: MAX_COMPARISONS,
        }
    }

    pub fn expressions(&mut self, gold: &Expr, pred: &Expr) -> Verdict {
        value::equal(gold, pred, self.policy)
    }

    pub fn answers(&mut self, gold: &Answer, pred: &Answer) -> Verdict {
        if self.left == 0 {
            return Verdict::undecided(Reason::TooManyItems);
        }
        self.left -= 1;
        if let (Answer::Expr(g), Answer::Expr(p)) = (gold, pred) {
            return self.expressions(g, p);
        }
        if gold == pred {
            return Verdict::equal(Reason::SameText, Tier::Structure);
        }
        // A list answers "x = ±1" and "(x, y) = (1, 2)" by their values.
        match (is_list(gold), is_list(pred)) {
            (true, false) => {
                if let Some(value) = Self::given(pred) {
                    return self.answers(gold, value);
                }
            }
            (false, true) => {
                if let Some(value) = Self::given(gold) {
                    return self.answers(value, pred);
                }
            }
            _ => {}
        }
        match (gold, pred) {
            (Answer::Text { .. }, _) | (_, Answer::Text { .. }) => self.words(gold, pred),
            (Answer::Relation(..), _) | (_, Answer::Relation(..))
                if !is_list(gold) && !is_list(pred) =>
            {
                self.relations(gold, pred)
            }
            (Answer::Builder(inner), other) => self.answers(inner, other),
            (other, Answer::Builder(inner)) => self.answers(other, inner),
            (Answer::Percent(a), Answer::Percent(b)) => self.expressions(a, b),
            (Answer::Percent(_), Answer::Measure(_, unit))
            | (Answer::Measure(_, unit), Answer::Percent(_))
                if unit.scale.is_some() =>
            {
                Verdict::different(Reason::Unit, Tier::Structure)
            }
            (Answer::Percent(a), Answer::Expr(b) | Answer::Measure(b, _)) => {
                self.percent(a, b, false)
            }
            (Answer::Expr(a) | Answer::Measure(a, _), Answer::Percent(b)) => {
                self.percent(b, a, true)
            }
            (Answer::Measure(a, u), Answer::Measure(b, v)) => self.measures(a, u, b, v),
            (Answer::Measure(a, unit), Answer::Expr(b)) => self.measure(a, b, unit, false),
            (Answer::Expr(a), Answer::Measure(b, unit)) => self.measure(a, b, unit, true),
            (Answer::Based(a, base), Answer::Based(b, other)) => {
                let same = base == other
                    && a.trim_start_matches('0')
                        .eq_ignore_ascii_case(b.trim_start_matches('0'));
                Verdict::of(same, Reason::Base, Tier::Structure)
            }
            (Answer::Based(a, _), Answer::Expr(Expr::Num(v)))
            | (Answer::Expr(Expr::Num(v)), Answer::Based(a, _)) => {
                let same = self.policy.forgives() && v.is_int() && v.numerator().to_string() == **a;
                Verdict::of(same, Reason::Base, Tier::Structure)
            }
            (Answer::Ratio(a), Answer::Ratio(b)) => self.ratios(a, b),
            (Answer::Ratio(parts), Answer::Expr(e)) => match parts.as_slice() {
                [a, b] => self.expressions(&a.clone().over(b.clone()), e),
                _ => kind(),
            },
            (Answer::Expr(e), Answer::Ratio(parts)) => match parts.as_slice() {
                [a, b] => self.expressions(e, &a.clone().over(b.clone())),
                _ => kind(),
            },
            (Answer::Matrix(a), Answer::Matrix(b)) => {
                if a.len() != b.len() || a[0].len() != b[0].len() {
                    return Verdict::different(Reason::Entries, Tier::Structure);
                }
                let cells: Vec<_> = a.iter().flatten().zip(b.iter().flatten()).collect();
                all(cells.into_iter().map(|(x, y)| self.answers(x, y)))
            }
            (Answer::Matrix(rows), Answer::Tuple(_, _, items)) => self.vector(rows, items, false),
            (Answer::Tuple(_, _, items), Answer::Matrix(rows)) => self.vector(rows, items, true),
            (Answer::Matrix(rows), other) if rows.len() == 1 && rows[0].len() == 1 => {
                self.answers(&rows[0][0], other)
            }
            (other, Answer::Matrix(rows)) if rows.len() == 1 && rows[0].len() == 1 => {
                self.answers(other, &rows[0][0])
            }
            (Answer::Tuple(a, b, gold), Answer::Tuple(c, d, pred)) => {
                let ends = gold.len() == 2
                    && pred.len() == 2
                    && [gold, pred].iter().all(|items| has_infinity(items));
                if (a, b) != (c, d) && !ends {
                    return Verdict::different(Reason::Entries, Tier::Structure);
                }
                if ends {
                    return self.regions(
                        &Answer::Tuple(*a, *b, gold.clone()),
                        &Answer::Tuple(*c, *d, pred.clone()),
                    );
                }
                self.ordered(gold, pred)
            }
            (Answer::Tuple(Bracket::Round, Bracket::Round, items), Answer::List(_, list))
                if self.policy.forgives() && !related(list) =>
            {
                self.ordered(items, list)
            }
            (Answer::List(_, list), Answer::Tuple(Bracket::Round, Bracket::Round, items))
                if self.policy.forgives() && !related(list) =>
            {
                self.ordered(list, items)
            }
            (Answer::Tuple(_, _, items), Answer::List(_, list)) if list.iter().all(is_equation) => {
                self.ordered(items, list)
            }
            (Answer::List(_, list), Answer::Tuple(_, _, items)) if list.iter().all(is_equation) => {
                self.ordered(list, items)
            }
            (Answer::PlusMinus(a, b), _) => {
                let both = Answer::List(
                    Join::Or,
                    vec![Answer::Expr((**a).clone()), Answer::Expr((**b).clone())],
                );
                self.answers(&both, pred)
            }
            (_, Answer::PlusMinus(a, b)) => {
                let both = Answer::List(
                    Join::Or,
                    vec![Answer::Expr((**a).clone()), Answer::Expr((**b).clone())],
                );
                self.answers(gold, &both)
            }
            (Answer::Set(a), Answer::Set(b)) => {
                let (a, b) = (self.distinct(a), self.distinct(b));
                self.unordered(&a, &b)
            }
            (Answer::Set(a) | Answer::List(_, a), Answer::Set(b) | Answer::List(_, b)) => {
                self.lists(a, b, gold, pred)
            }
            (Answer::Set(a), other) if a.len() == 1 && !is_region(other) => {
                self.answers(&a[0], other)
            }
            (other, Answer::Set(b)) if b.len() == 1 && !is_region(other) => {
                self.answers(other, &b[0])
            }
            _ if is_region(gold) && is_region(pred) => self.regions(gold, pred),
            (Answer::List(..), Answer::Expr(_) | Answer::Measure(..)) => {
                Verdict::different(Reason::Entries, Tier::Structure)
            }
            (Answer::Expr(_) | Answer::Measure(..), Answer::List(..)) => {
                Verdict::different(Reason::Hedge, Tier::Structure)
            }
            _ => kind(),
        }
    }

    fn lists(&mut self, a: &[Answer], b: &[Answer], gold: &Answer, pred: &Answer) -> Verdict {
        // Inequalities joined by "or" are one region.
        if related(a) || related(b) {
            let verdict = self.unordered(a, b);
            return if verdict.is_equal() {
                verdict
            } else {
                self.regions_or(gold, pred, verdict)
            };
        }
        // Several names on one side only: in the order of the question.
        if a.iter().all(is_equation) != b.iter().all(is_equation) && !(one_name(a) || one_name(b)) {
            return self.ordered(a, b);
        }
        self.unordered(a, b)
    }

    fn regions_or(&mut self, gold: &Answer, pred: &Answer, otherwise: Verdict) -> Verdict {
        let verdict = self.regions(gold, pred);
        if verdict.equality == Equality::Undecided {
            otherwise
        } else {
            verdict
        }
    }

    fn words(&mut self, gold: &Answer, pred: &Answer) -> Verdict {
        let single = |a: &Answer| match a {
            Answer::Text { letter, .. } => *letter,
            Answer::Expr(Expr::Var(name)) if name.len() == 1 => name.chars().next(),
            Answer::Expr(Expr::Const(super::ast::Const::E)) => Some('E'),
            Answer::Expr(Expr::Const(super::ast::Const::I)) => Some('I'),
            _ => None,
        };
        let is_choice = |a: &Answer| {
            matches!(
                a,
                Answer::Text {
                    letter: Some(_),
                    ..
                }
            )
        };
        match (gold, pred) {
            _ if is_choice(gold) || is_choice(pred) => match (single(gold), single(pred)) {
                (Some(a), Some(b)) => Verdict::of(a == b, Reason::Choice, Tier::Structure),
                _ => Verdict::different(Reason::Choice, Tier::Structure),
            },
            (Answer::Text { words: a, .. }, Answer::Text { words: b, .. }) => {
                let glued = |w: &str| w.replace(' ', "");
                Verdict::of(
                    a == b || glued(a) == glued(b),
                    Reason::Words,
                    Tier::Structure,
                )
            }
            (Answer::Expr(e), Answer::Text { words, .. })
            | (Answer::Text { words, .. }, Answer::Expr(e))
                if letters(e).is_some_and(|l| l.eq_ignore_ascii_case(words)) =>
            {
                Verdict::equal(Reason::Words, Tier::Structure)
            }
            (_, Answer::Text { words, .. }) => {
                const WAYS_OUT: &[&str] = &[
                    "or", "maybe", "either", "perhaps", "possibly", "not", "least", "most", "more",
                    "less", "fewer", "than", "except", "between", "neither",
                ];
                let hedges = words.split(' ').any(|w| WAYS_OUT.contains(&w));
                if hedges {
                    Verdict::different(Reason::Hedge, Tier::Structure)
                } else if digits_within(gold, words) {
                    Verdict::undecided(Reason::Prose)
                } else {
                    Verdict::different(Reason::Words, Tier::Structure)
                }
            }
            (Answer::Text { words, .. }, _) if digits_within(pred, words) => {
                Verdict::undecided(Reason::Prose)
            }
            _ => Verdict::different(Reason::Words, Tier::Structure),
        }
    }

    /// `percent` per cent against a plain number: a hundredth of it, or by the relaxed policy the number itself.
    fn percent(&mut self, percent: &Expr, plain: &Expr, percent_is_pred: bool) -> Verdict {
        let hundredth = percent.clone().over(Expr::int(100));
        let mut sides = |a: &Expr, b: &Expr| {
            if percent_is_pred {
                self.expressions(b, a)
            } else {
                self.expressions(a, b)
            }
        };
        let exact = sides(&hundredth, plain);
        if exact.is_equal() || !self.policy.forgives() {
            return exact;
        }
        let mut sides = |a: &Expr, b: &Expr| {
            if percent_is_pred {
                self.expressions(b, a)
            } else {
                self.expressions(a, b)
            }
        };
        let number = sides(percent, plain);
        Verdict {
            reason: Reason::Percent,
            ..number
        }
    }

    fn measures(&mut self, a: &Expr, u: &Unit, b: &Expr, v: &Unit) -> Verdict {
        match (&u.scale, &v.scale) {
            (Some(x), Some(y)) if x == y => self.expressions(a, b),
            (Some(x), Some(y)) if x.dimensions == y.dimensions => {
                self.expressions(&scaled(a, &x.factor), &scaled(b, &y.factor))
            }
            (Some(x), Some(y))
                if x.dimensions.iter().any(|d| *d != 0) && y.dimensions.iter().any(|d| *d != 0) =>
            {
                let verdict = self.expressions(a, b);
                if verdict.is_different() {
                    verdict
                } else {
                    Verdict::different(Reason::Unit, Tier::Structure)
                }
            }
            _ if !self.policy.forgives() && !u.name.eq_ignore_ascii_case(&v.name) => {
                Verdict::different(Reason::Unit, Tier::Structure)
            }
            _ => self.expressions(a, b),
        }
    }

    fn measure(&mut self, a: &Expr, b: &Expr, unit: &Unit, unit_is_pred: bool) -> Verdict {
        if !self.policy.forgives() && !unit.is_degree() {
            return Verdict::different(Reason::Unit, Tier::Structure);
        }
        // `90 m^2` in plain text has letters where its unit is.
        let plain = if unit_is_pred { a } else { b };
        if let Some((value, other)) = in_letters(plain).filter(|_| unit.scale.is_some()) {
            return if unit_is_pred {
                self.measures(&value, &other, b, unit)
            } else {
                self.measures(a, unit, &value, &other)
            };
        }
        let verdict = self.expressions(a, b);
        if verdict.is_equal() || !unit.is_degree() {
            return verdict;
        }
        let radians = |e: &Expr| {
            Expr::Mul(vec![e.clone(), Expr::Const(super::ast::Const::Pi)]).over(Expr::int(180))
        };
        let converted = if unit_is_pred {
            self.expressions(a, &radians(b))
        } else {
            self.expressions(&radians(a), b)
        };
        if converted.is_equal() {
            converted
        } else {
            verdict
        }
    }

    fn ratios(&mut self, a: &[Expr], b: &[Expr]) -> Verdict {
        if a.len() != b.len() {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        let is_zero = |e: &Expr| *e == Expr::int(0);
        if a.iter().chain(b).any(is_zero) {
            // A time of day: 12:00 is not 1:00.
            return all(a.iter().zip(b).map(|(x, y)| self.expressions(x, y)));
        }
        let cross = |x: &Expr, y: &Expr| Expr::Mul(vec![x.clone(), y.clone()]);
        all((1..a.len()).map(|i| self.expressions(&cross(&a[i], &b[0]), &cross(&b[i], &a[0]))))
    }

    fn vector(&mut self, rows: &[Vec<Answer>], items: &[Answer], matrix_is_pred: bool) -> Verdict {
        let flat: Vec<&Answer> = rows.iter().flatten().collect();
        if !(rows.len() == 1 || rows[0].len() == 1) || flat.len() != items.len() {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        all(flat.into_iter().zip(items).map(|(m, i)| {
            if matrix_is_pred {
                self.answers(i, m)
            } else {
                self.answers(m, i)
            }
        }))
    }

    fn ordered(&mut self, gold: &[Answer], pred: &[Answer]) -> Verdict {
        if gold.len() != pred.len() {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        all(gold.iter().zip(pred).map(|(g, p)| self.answers(g, p)))
    }

    fn unordered(&mut self, gold: &[Answer], pred: &[Answer]) -> Verdict {
        if gold.len() != pred.len() {
            return Verdict::different(Reason::Entries, Tier::Structure);
        }
        let mut left: Vec<&Answer> = pred.iter().collect();
        let mut undecided: Option<Verdict> = None;
        for g in gold {
            let mut hit = None;
            for (k, p) in left.iter().enumerate() {
                let verdict = self.answers(g, p);
                match verdict.equality {
                    Equality::Equal => {
                        hit = Some(k);
                        break;
                    }
                    Equality::Undecided => undecided = undecided.or(Some(verdict)),
                    Equality::Different => {}
                }
            }
            match hit {
                Some(k) => drop(left.remove(k)),
                None => {
                    return undecided
                        .unwrap_or(Verdict::different(Reason::Entries, Tier::Structure));
                }
            }
        }
        Verdict::equal(Reason::Entries, Tier::Structure)
    }

    /// The entries of a set, each once.
    fn distinct(&mut self, items: &[Answer]) -> Vec<Answer> {
        let mut out: Vec<Answer> = Vec::with_capacity(items.len());
        for item in items {
            if !out.iter().any(|o| self.answers(o, item).is_equal()) {
                out.push(item.clone());
            }
        }
        out
    }
}

/// Whether the words hold numbers, and all those of the other answer: it may be what they say.
fn digits_within(other: &Answer, words: &str) -> bool {
    let numbers = |text: &str| -> Vec<String> {
        let runs = text.split(|c: char| !c.is_ascii_digit());
        runs.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let (own, said) = (numbers(&other.to_string()), numbers(words));
    !own.is_empty() && own.iter().all(|n| said.contains(n))
}

/// The word that a product of letters was written as; None for anything else.
fn letters(e: &Expr) -> Option<String> {
    let Expr::Mul(items) = e else { return None };
    items
        .iter()
        .map(|i| match i {
            Expr::Var(name) if name.len() == 1 => Some(&**name),
            Expr::Const(super::ast::Const::E) => Some("e"),
            Expr::Const(super::ast::Const::I) => Some("i"),
            _ => None,
        })
        .collect()
}

/// A product of a number and the letters of a known unit.
fn in_letters(e: &Expr) -> Option<(Expr, Unit)> {
    let Expr::Mul(items) = e else { return None };
    let letters = items
        .iter()
        .position(|i| !i.is_constant())
        .filter(|&n| n > 0)?;
    let mut name = String::new();
    for item in &items[letters..] {
        match item {
            Expr::Var(letter) => name.push_str(letter),
            Expr::Pow(base, n) => match (&**base, &**n) {
                (Expr::Var(letter), Expr::Num(n)) => {
                    name.push_str(letter);
                    name.push('^');
                    name.push_str(&n.to_string());
                }
                _ => return None,
            },
            _ => return None,
        }
        name.push(' ');
    }
    let unit = super::units::parse(&name).filter(|u| u.scale.is_some())?;
    Some((Expr::Mul(items[..letters].to_vec()), unit))
}

fn scaled(e: &Expr, factor: &RBig) -> Expr {
    Expr::Mul(vec![e.clone(), Expr::Num(factor.clone())])
}

fn is_list(a: &Answer) -> bool {
    matches!(a, Answer::List(..) | Answer::PlusMinus(..))
        || matches!(a, Answer::Set(items) if items.len() != 1)
}

fn is_equation(a: &Answer) -> bool {
    matches!(a, Answer::Relation(_, ops) if ops.iter().all(|op| matches!(op, super::ast::RelOp::Eq | super::ast::RelOp::Approx)))
}

/// Whether all entries are equations for the same name.
fn one_name(items: &[Answer]) -> bool {
    let name = |a: &Answer| match a {
        Answer::Relation(sides, _) => sides.first().cloned(),
        _ => None,
    };
    let first = items.first().and_then(name);
    first.is_some() && items.iter().all(|i| name(i) == first)
}

fn related(items: &[Answer]) -> bool {
    items.iter().any(|i| matches!(i, Answer::Relation(_, ops) if ops.iter().any(|op| op.is_order() || *op == super::ast::RelOp::Ne)))
}

fn has_infinity(items: &[Answer]) -> bool {
    items.iter().any(|i| matches!(i, Answer::Expr(e) if e.any(&mut |x| *x == Expr::Const(super::ast::Const::Infinity))))
}

fn is_region(a: &Answer) -> bool {
    match a {
        Answer::Tuple(_, _, items) => items.len() == 2,
        Answer::Union(_)
        | Answer::Intersection(_)
        | Answer::Difference(..)
        | Answer::Builder(_)
        | Answer::Set(_) => true,
        Answer::Named(set) => matches!(set, NamedSet::Reals | NamedSet::Empty),
        Answer::Relation(..) => true,
        Answer::List(_, items) => related(items),
        _ => false,
    }
}
