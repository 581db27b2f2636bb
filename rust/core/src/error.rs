//! What a kernel refuses, and where in its input.

use thiserror::Error;

/// Bad input to a kernel. The message says what, where (row and index inside the row) and, where
/// there is one, the way out. Python sees each of these as a `ValueError`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum KernelError {
    #[error("{what}: offsets {why} (at offsets[{index}])")]
    Offsets {
        what: &'static str,
        index: usize,
        why: String,
    },

    #[error("{what} has length {got}, expected {expected} ({of})")]
    Length {
        what: &'static str,
        got: usize,
        expected: usize,
        of: &'static str,
    },

    #[error("{what}: {value} at row {row}, index {index}: {why}")]
    Value {
        what: &'static str,
        row: usize,
        index: usize,
        value: f64,
        why: &'static str,
    },

    #[error("row {row}: {why}")]
    Row { row: usize, why: String },

    #[error("{what} {given:?} is unknown{}; known: {known}", nearest.as_ref().map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
    Unknown {
        what: &'static str,
        given: String,
        nearest: Option<String>,
        known: String,
    },

    #[error("option {option} = {value}: {why}")]
    Option {
        option: &'static str,
        value: String,
        why: &'static str,
    },

    #[error("column {column:?} is missing: {why}")]
    MissingColumn {
        column: &'static str,
        why: &'static str,
    },

    #[error(
        "item {index} has {tokens} tokens, more than the budget of {budget}: shorten it, drop it, or raise the budget"
    )]
    OverBudget {
        index: usize,
        tokens: i64,
        budget: i64,
    },

    #[error("{0}")]
    Argument(String),
}
