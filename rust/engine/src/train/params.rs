//! What is trained: values, AdamW moments, and how a gradient is held while it is summed.
use std::ops::Range;

use crate::tensor::{LANES, Lanes, Real};

/// How the gradient of a parameter is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Column panels `[cols / 32][rows]`.
    Matrix,
    /// Column panels of the transpose, `[rows / 32][cols]`.
    Transposed,
    /// `[rows]`, each lane a partial sum; cols is 1.
    Vector,
}

/// A tensor as files name it: a run of rows of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    /// Elements of the parameter.
    pub range: Range<usize>,
}

/// A trained parameter, `[rows, cols]` row-major.
#[derive(Clone, Debug)]
pub struct Param<T> {
    pub parts: Vec<Part>,
    pub rows: usize,
    pub cols: usize,
    pub form: Form,
    pub value: Vec<T>,
    /// AdamW's first moment.
    pub m: Vec<T>,
    /// AdamW's second moment.
    pub v: Vec<T>,
}

/// A gradient for every parameter.
pub type Grads<T> = Vec<Vec<Lanes<T>>>;

impl<T: Real> Param<T> {
    /// `parts` are (name, rows) from top to bottom.
    pub fn new(parts: Vec<(String, usize)>, cols: usize, form: Form, value: Vec<T>) -> Self {
        let mut first = 0;
        let parts: Vec<Part> = parts
            .into_iter()
            .map(|(name, rows)| {
                let range = first * cols..(first + rows) * cols;
                first += rows;
                let shape = if form == Form::Vector {
                    vec![rows]
                } else {
                    vec![rows, cols]
                };
                Part { name, shape, range }
            })
            .collect();
        assert_eq!(value.len(), first * cols);
        let zeros = vec![T::ZERO; value.len()];
        Self {
            parts,
            rows: first,
            cols,
            form,
            value,
            m: zeros.clone(),
            v: zeros,
        }
    }

    pub fn gradient_len(&self) -> usize {
        match self.form {
            Form::Matrix => self.cols.div_ceil(LANES) * self.rows,
            Form::Transposed => self.rows.div_ceil(LANES) * self.cols,
            Form::Vector => self.rows,
        }
    }

    /// The gradient, row-major as the value.
    pub fn gradient(&self, held: &[Lanes<T>]) -> Vec<T> {
        let (rows, cols) = (self.rows, self.cols);
        let at = |r: usize, c: usize| held[c / LANES * rows + r].0[c % LANES];
        match self.form {
            Form::Matrix => {
                let mut out = Vec::with_capacity(rows * cols);
                for r in 0..rows {
                    out.extend((0..cols).map(|c| at(r, c)));
                }
                out
            }
            Form::Transposed => {
                let mut out = Vec::with_capacity(rows * cols);
                for r in 0..rows {
                    let panel = &held[r / LANES * cols..][..cols];
                    out.extend(panel.iter().map(|lanes| lanes.0[r % LANES]));
                }
                out
            }
            Form::Vector => held.iter().map(Lanes::sum).collect(),
        }
    }
}

/// Zero gradients for `params`.
pub fn zero_grads<T: Real>(params: &[Param<T>]) -> Grads<T> {
    params
        .iter()
        .map(|p| vec![Lanes::ZERO; p.gradient_len()])
        .collect()
}

/// `sum += other`, element by element.
pub fn add_grads<T: Real>(sum: &mut Grads<T>, other: &Grads<T>) {
    for (sum, other) in sum.iter_mut().zip(other) {
        for (sum, other) in sum.iter_mut().zip(other) {
            for (a, &b) in sum.0.iter_mut().zip(&other.0) {
                *a += b;
            }
        }
    }
}
