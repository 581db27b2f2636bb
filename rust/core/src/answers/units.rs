//! Units after a number: known ones convert (`60` minutes are `1` hour), other words are labels.

use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

/// Length, mass, time, angle, and one for each currency or scale that does not convert.
const NUM_DIMENSIONS: usize = 10;
const LENGTH: usize = 0;
const MASS: usize = 1;
const TIME: usize = 2;
const ANGLE: usize = 3;
const DOLLAR: usize = 4;
const EURO: usize = 5;
const YUAN: usize = 6;
const MONTH: usize = 7;
const CELSIUS: usize = 8;
const FAHRENHEIT: usize = 9;

/// A unit of measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// As it was written.
    pub name: Box<str>,
    /// What it measures and its size; None for a label such as "apples".
    pub scale: Option<Scale>,
}

/// Powers of the base dimensions, and the size in base units.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub dimensions: [i8; NUM_DIMENSIONS],
    pub factor: RBig,
}

impl Unit {
    pub fn is_degree(&self) -> bool {
        self.scale.as_ref().is_some_and(|s| {
            s.factor.is_one()
                && s.dimensions[ANGLE] == 1
                && s.dimensions.iter().map(|d| d.abs()).sum::<i8>() == 1
        })
    }

    pub fn degree() -> Self {
        let mut dimensions = [0; NUM_DIMENSIONS];
        dimensions[ANGLE] = 1;
        Self {
            name: "degree".into(),
            scale: Some(Scale {
                dimensions,
                factor: RBig::ONE,
            }),
        }
    }
}

// Names in the singular, dimension, power of it, and size as a fraction of the base unit.
type Row = (&'static [&'static str], usize, i8, i64, i64);
const TABLE: &[Row] = &[
    (&["m", "meter", "metre"], LENGTH, 1, 1, 1),
    (&["km", "kilometer", "kilometre"], LENGTH, 1, 1000, 1),
    (&["dm", "decimeter"], LENGTH, 1, 1, 10),
    (&["cm", "centimeter", "centimetre"], LENGTH, 1, 1, 100),
    (&["mm", "millimeter", "millimetre"], LENGTH, 1, 1, 1000),
    (&["mile", "mi"], LENGTH, 1, 1_609_344, 1000),
    (&["inch", "inche", "in"], LENGTH, 1, 254, 10_000),
    (&["foot", "feet", "ft"], LENGTH, 1, 3048, 10_000),
    (&["yard", "yd"], LENGTH, 1, 9144, 10_000),
    (&["g", "gram"], MASS, 1, 1, 1),
    (&["kg", "kilogram"], MASS, 1, 1000, 1),
    (&["mg", "milligram"], MASS, 1, 1, 1000),
    (&["lb", "pound"], MASS, 1, 45_359_237, 100_000),
    (&["oz", "ounce"], MASS, 1, 28_349_523_125, 1_000_000_000),
    (&["ton", "tonne"], MASS, 1, 1_000_000, 1),
    (&["s", "sec", "second"], TIME, 1, 1, 1),
    (&["min", "minute"], TIME, 1, 60, 1),
    (&["h", "hr", "hour"], TIME, 1, 3600, 1),
    (&["day"], TIME, 1, 86_400, 1),
    (&["week"], TIME, 1, 604_800, 1),
    (&["month"], MONTH, 1, 1, 1),
    (&["year", "yr"], MONTH, 1, 12, 1),
    (&["degree", "deg", "°"], ANGLE, 1, 1, 1),
    (&["L", "l", "liter", "litre"], LENGTH, 3, 1, 1000),
    (
        &["mL", "ml", "milliliter", "millilitre", "cc"],
        LENGTH,
        3,
        1,
        1_000_000,
    ),
    (
        &["gallon", "gal"],
        LENGTH,
        3,
        3_785_411_784,
        1_000_000_000_000,
    ),
    (&["dollar", "usd", "buck"], DOLLAR, 1, 1, 1),
    (&["cent"], DOLLAR, 1, 1, 100),
    (&["euro", "eur"], EURO, 1, 1, 1),
    (&["yuan", "rmb"], YUAN, 1, 1, 1),
    (&["celsius", "°C"], CELSIUS, 1, 1, 1),
    (&["fahrenheit", "°F"], FAHRENHEIT, 1, 1, 1),
];

// Speeds with a name of their own.
const SPEEDS: &[(&str, &str, &str)] = &[
    ("mph", "mile", "hour"),
    ("kmph", "km", "hour"),
    ("kph", "km", "hour"),
    ("kmh", "km", "hour"),
    ("mps", "m", "s"),
];

fn power(base: &RBig, n: i8) -> RBig {
    base.pow(isize::from(n))
}

fn one_word(word: &str) -> Option<Scale> {
    let found = lookup(word).or_else(|| {
        let singular = word.strip_suffix('s').filter(|w| w.len() > 1)?;
        lookup(singular)
    });
    if found.is_some() {
        return found;
    }
    let (_, over, under) = SPEEDS
        .iter()
        .find(|(name, ..)| name.eq_ignore_ascii_case(word))?;
    let (mut over, under) = (lookup(over)?, lookup(under)?);
    multiply(&mut over, &under, -1);
    Some(over)
}

fn lookup(word: &str) -> Option<Scale> {
    let fits = |name: &&str| {
        // One letter means another thing in capitals.
        if name.len() <= 2 {
            **name == *word
        } else {
            name.eq_ignore_ascii_case(word)
        }
    };
    let &(_, dimension, exponent, num, den) =
        TABLE.iter().find(|(names, ..)| names.iter().any(&fits))?;
    let mut dimensions = [0; NUM_DIMENSIONS];
    dimensions[dimension] = exponent;
    Some(Scale {
        dimensions,
        factor: RBig::from_parts_signed(IBig::from(num), IBig::from(den)),
    })
}

fn multiply(into: &mut Scale, other: &Scale, n: i8) {
    for (a, b) in into.dimensions.iter_mut().zip(other.dimensions) {
        *a = a.saturating_add(b.saturating_mul(n));
    }
    into.factor = &into.factor * power(&other.factor, n);
}

/// Words that are a unit by themselves even without `\text`: known ones of two letters or more.
pub fn is_plain_unit_word(word: &str) -> bool {
    word.len() >= 2
        && (one_word(word).is_some()
            || matches!(
                word,
                "square" | "cubic" | "sq" | "cu" | "per" | "units" | "unit"
            ))
}

/// Words that no label holds: an answer with them says more than a quantity.
const NOT_LABELS: &[&str] = &[
    "or",
    "and",
    "not",
    "maybe",
    "if",
    "when",
    "no",
    "is",
    "are",
    "the",
    "but",
    "either",
    "both",
    "than",
    "where",
    "for",
    "any",
    "all",
    "none",
    "undefined",
    "mod",
    "million",
    "billion",
    "thousand",
    "trillion",
    "hundred",
    "pi",
    "with",
    "answer",
    "to",
    "base",
    "pm",
    "am",
];

/// Reads `square centimeters`, `cm^2`, `miles per hour`, `m/s`, `apples`. None for what cannot be a unit.
pub fn parse(text: &str) -> Option<Unit> {
    let text = text.trim().trim_end_matches('.');
    if text.is_empty() || text.len() > 60 || !text.chars().any(|c| c.is_alphabetic() || c == '°') {
        return None;
    }
    let name: Box<str> = text.into();
    if let Some(scale) = known(text) {
        return Some(Unit {
            name,
            scale: Some(scale),
        });
    }
    let words: Vec<&str> = text
        .split([' ', '-', '/', '~'])
        .filter(|w| !w.is_empty())
        .collect();
    let plain = |w: &&str| {
        w.chars()
            .all(|c| c.is_alphabetic() || c == '.' || c == '\'')
    };
    let label = words.len() <= 4
        && words
            .iter()
            .all(|w| plain(w) && !NOT_LABELS.contains(&w.to_ascii_lowercase().as_str()));
    label.then_some(Unit { name, scale: None })
}

fn known(text: &str) -> Option<Scale> {
    let mut scale = Scale {
        dimensions: [0; NUM_DIMENSIONS],
        factor: RBig::ONE,
    };
    let mut sign = 1;
    let mut next_power = 1;
    let mut any = false;
    let spaced = text
        .replace('/', " per ")
        .replace(['\u{2009}', '~', '*', '·'], " ");
    for word in spaced.split_whitespace() {
        match word.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "per" | "a" | "an" if any => {
                sign = -1;
                continue;
            }
            "square" | "sq" => {
                next_power = 2;
                continue;
            }
            "cubic" | "cu" => {
                next_power = 3;
                continue;
            }
            "squared" if any => return None,
            "unit" | "units" => {
                // A unit of nothing in particular, of any power.
                any = true;
                next_power = 1;
                continue;
            }
            _ => {}
        }
        let (word, exponent) = match word.split_once('^') {
            Some((w, e)) => (
                w,
                e.trim_matches(['{', '}'])
                    .parse::<i8>()
                    .ok()
                    .filter(|n| n.abs() <= 4)?,
            ),
            None => (word.trim_end_matches('.'), next_power),
        };
        let one = if matches!(word, "unit" | "units") {
            any = true;
            continue;
        } else {
            one_word(word)?
        };
        multiply(&mut scale, &one, sign * exponent);
        next_power = 1;
        any = true;
    }
    (any && next_power == 1).then_some(scale)
}

/// Words for powers of ten after a number.
pub fn magnitude(word: &str) -> Option<RBig> {
    let n = match word.to_ascii_lowercase().as_str() {
        "hundred" => 2,
        "thousand" => 3,
        "million" | "millions" => 6,
        "billion" | "billions" => 9,
        "trillion" | "trillions" => 12,
        _ => return None,
    };
    Some(RBig::from(UBig::from(10u8).pow(n)))
}

/// Small whole numbers in words.
pub fn number_word(word: &str) -> Option<i64> {
    const SMALL: &[&str] = &[
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    SMALL
        .iter()
        .position(|w| w.eq_ignore_ascii_case(word))
        .and_then(|i| i64::try_from(i).ok())
}
