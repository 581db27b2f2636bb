//! Verdicts and the codes that say why. Codes are appended to, never changed: they are written to files.

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant),* }

        impl $name {
            /// In the order of their codes.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

codes! {
    /// Why a verdict is what it is.
    Reason {
        /// The same text but for spacing and delimiters.
        SameText = "same_text",
        /// Exact rational numbers.
        Number = "number",
        /// A decimal that rounds the exact value correctly, or fails to.
        Rounding = "rounding",
        /// One side is a percentage.
        Percent = "percent",
        /// Constants, evaluated to more than 50 digits where they are close.
        Constant = "constant",
        /// Rational functions, compared at points of a prime field.
        Identity = "identity",
        /// Expressions, compared at several points.
        Sampled = "sampled",
        /// Entries of a tuple, list, set, interval or matrix.
        Entries = "entries",
        /// One of another kind than the other: a number and a tuple, an equation and a value.
        Kind = "kind",
        /// Equations or inequalities.
        Relation = "relation",
        /// Words.
        Words = "words",
        /// A letter of a multiple choice.
        Choice = "choice",
        /// Units that differ.
        Unit = "unit",
        /// Digits in a base.
        Base = "base",
        /// More than one answer where one was asked for.
        Hedge = "hedge",
        /// No value: a division by zero, say.
        Undefined = "undefined",
        /// Nothing was answered.
        Empty = "empty",
        /// The gold answer is empty: an error of the data.
        GoldEmpty = "gold_empty",
        /// The gold answer could not be read: an error of the data, or a form that is not known here.
        GoldUnparsed = "gold_unparsed",
        /// The answer could not be read.
        Unparsed = "unparsed",
        /// A command that is not known here.
        UnknownCommand = "unknown_command",
        /// Brackets or braces that do not match.
        Unbalanced = "unbalanced",
        /// Longer than 4,096 bytes.
        TooLong = "too_long",
        TooDeep = "too_deep",
        TooManyDigits = "too_many_digits",
        TooManyItems = "too_many_items",
        /// Numbers too large to write out, too close to tell apart otherwise.
        TooLarge = "too_large",
        /// No point was found at which both sides have a value.
        NoPoint = "no_point",
        /// Words beside mathematics: not read.
        Prose = "prose",
        /// No answer was found in the response.
        NotFound = "not_found",
    }
}

codes! {
    /// What decided.
    Tier {
        /// The text.
        Text = "text",
        /// Exact numbers.
        Exact = "exact",
        /// The structure: entries, relations, units, words.
        Structure = "structure",
        /// The value of expressions.
        Value = "value",
        /// Nothing: undecided, or refused by a limit.
        None = "none",
    }
}

/// Whether two answers are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    Equal,
    Different,
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub equality: Equality,
    pub reason: Reason,
    pub tier: Tier,
}

impl Verdict {
    pub const fn equal(reason: Reason, tier: Tier) -> Self {
        Self {
            equality: Equality::Equal,
            reason,
            tier,
        }
    }

    pub const fn different(reason: Reason, tier: Tier) -> Self {
        Self {
            equality: Equality::Different,
            reason,
            tier,
        }
    }

    pub const fn undecided(reason: Reason) -> Self {
        Self {
            equality: Equality::Undecided,
            reason,
            tier: Tier::None,
        }
    }

    pub const fn of(equal: bool, reason: Reason, tier: Tier) -> Self {
        if equal {
            Self::equal(reason, tier)
        } else {
            Self::different(reason, tier)
        }
    }

    pub const fn is_equal(self) -> bool {
        matches!(self.equality, Equality::Equal)
    }

    pub const fn is_different(self) -> bool {
        matches!(self.equality, Equality::Different)
    }
}
