//! Activations in memory. Tokens are grouped in panels of [`LANES`]; inside a panel the features are the
//! outer axis and the tokens the inner one, so one feature of a panel is one [`Lanes`] value: a few SIMD
//! registers. Reductions over features (norms, softmax over keys or vocabulary) are then plain vertical
//! sums, and a panel is already the packed operand that the product kernel wants: nothing is ever repacked.
use super::real::Real;

/// Tokens in a panel.
pub const LANES: usize = 32;

/// One feature of the tokens of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct Lanes<T>(pub [T; LANES]);

impl<T: Real> Lanes<T> {
    pub const ZERO: Self = Self([T::ZERO; LANES]);

    pub fn sum(&self) -> T {
        let mut sum = T::ZERO;
        for &x in &self.0 {
            sum += x;
        }
        sum
    }
}

/// A read-only window of features `first..` on activations with `stride` features a panel.
#[derive(Clone, Copy)]
pub struct Act<'a, T> {
    data: &'a [Lanes<T>],
    stride: usize,
    first: usize,
}

impl<'a, T: Real> Act<'a, T> {
    pub fn new(data: &'a [Lanes<T>], stride: usize) -> Self {
        debug_assert!(stride > 0 && data.len().is_multiple_of(stride));
        Self {
            data,
            stride,
            first: 0,
        }
    }

    /// The window that starts `first` features further on.
    pub fn from(self, first: usize) -> Self {
        Self {
            first: self.first + first,
            ..self
        }
    }

    pub fn panels(&self) -> usize {
        self.data.len() / self.stride
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The features of one panel, from the window's first to the panel's last.
    #[inline]
    pub fn panel(&self, panel: usize) -> &'a [Lanes<T>] {
        &self.data[panel * self.stride + self.first..(panel + 1) * self.stride]
    }

    /// The part of the window that covers `panels`.
    pub fn slice(self, panels: std::ops::Range<usize>) -> Self {
        Self {
            data: &self.data[panels.start * self.stride..panels.end * self.stride],
            ..self
        }
    }
}

/// `out[t][r] = rows[r][t]` for up to [`LANES`] rows; lanes without a row become zero.
pub fn transpose<T: Real>(rows: &[Lanes<T>], out: &mut [Lanes<T>; LANES]) {
    if rows.len() < LANES {
        out.fill(Lanes::ZERO);
    }
    // Blocks of 8 x 8 keep both sides in a few cache lines.
    for (r8, block) in rows.chunks(8).enumerate() {
        for t8 in (0..LANES).step_by(8) {
            for (r, row) in block.iter().enumerate() {
                for (out, &x) in out[t8..t8 + 8].iter_mut().zip(&row.0[t8..t8 + 8]) {
                    out.0[r8 * 8 + r] = x;
                }
            }
        }
    }
}

/// Grows `buffer` to at least `len` and returns exactly `len` of it; old contents stay, they are scratch.
pub fn grow<T: Real>(buffer: &mut Vec<Lanes<T>>, len: usize) -> &mut [Lanes<T>] {
    if buffer.len() < len {
        buffer.clear();
        buffer.resize(len, Lanes::ZERO);
    }
    &mut buffer[..len]
}
