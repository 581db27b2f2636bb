//! Memory that the threads of a step write together, and weights packed for the product kernel.
use std::cell::UnsafeCell;

use rayon::prelude::*;

use super::kernels::{LANES, Line};

/// Numbers that several threads write at once, each its own part.
pub struct Buffer(Box<[UnsafeCell<Line>]>);

// SAFETY: all access goes through raw pointers whose users keep to disjoint parts between barriers.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeros; `len` numbers at least.
    pub fn new(len: usize) -> Self {
        Self(
            (0..len.div_ceil(LANES))
                .map(|_| UnsafeCell::new(Line::ZERO))
                .collect(),
        )
    }

    /// Make room for `len` numbers; what was in it is lost when it grows.
    pub fn reserve(&mut self, len: usize) {
        if self.0.len() * LANES < len {
            *self = Self::new(len);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len() * LANES
    }

    pub fn ptr(&self) -> *mut f32 {
        UnsafeCell::raw_get(self.0.as_ptr()).cast()
    }

    /// # Safety
    /// Nobody writes to `start..start + len` while the slice lives.
    pub unsafe fn slice(&self, start: usize, len: usize) -> &[f32] {
        debug_assert!(start + len <= self.len());
        // SAFETY: in bounds; not written, says the caller.
        unsafe { std::slice::from_raw_parts(self.ptr().add(start), len) }
    }

    /// # Safety
    /// Nobody else reads or writes `start..start + len` while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn slice_mut(&self, start: usize, len: usize) -> &mut [f32] {
        debug_assert!(start + len <= self.len());
        // SAFETY: in bounds; not shared, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().add(start), len) }
    }
}

/// A matrix `[out, in]` as panels of LANES output columns, `[panel][in][LANES]`, in pairs: a tile of the
/// product reads each panel of a pair as one stream.
pub struct Packed {
    lines: Vec<Line>,
    /// Inputs.
    pub k: usize,
    pub pairs: usize,
}

impl Packed {
    /// Columns in their order; missing ones of the last pair are zero.
    pub fn new(matrix: &[f32], k: usize) -> Self {
        let panels = (matrix.len() / k).div_ceil(LANES).next_multiple_of(2);
        Self::from_panels(k, panels, |panel| {
            &matrix[(panel * LANES * k).min(matrix.len())..]
        })
    }

    /// The two halves of `matrix` side by side: panel 2p holds columns of the first, 2p + 1 of the second.
    pub fn interleaved(matrix: &[f32], k: usize) -> Self {
        let halves = matrix.split_at(matrix.len() / 2);
        let pairs = (halves.0.len() / k).div_ceil(LANES);
        Self::from_panels(k, 2 * pairs, |panel| {
            let half = if panel % 2 == 0 { halves.0 } else { halves.1 };
            &half[panel / 2 * LANES * k..]
        })
    }

    fn from_panels<'a>(
        k: usize,
        panels: usize,
        rows_of: impl Fn(usize) -> &'a [f32] + Sync,
    ) -> Self {
        let mut lines = Vec::with_capacity(panels * k);
        let fill = |panel: usize, out: &mut [std::mem::MaybeUninit<Line>]| {
            let rows = rows_of(panel);
            let mut columns = rows.chunks_exact(k).take(LANES);
            let columns: [&[f32]; LANES] = std::array::from_fn(|_| columns.next().unwrap_or(&[]));
            for (i, line) in out.iter_mut().enumerate() {
                line.write(Line(std::array::from_fn(|c| {
                    columns[c].get(i).copied().unwrap_or(0.0)
                })));
            }
        };
        lines.spare_capacity_mut()[..panels * k]
            .par_chunks_mut(k)
            .enumerate()
            .for_each(|(p, out)| fill(p, out));
        // SAFETY: every line of every panel was written above.
        unsafe { lines.set_len(panels * k) };
        Self {
            lines,
            k,
            pairs: panels / 2,
        }
    }

    /// The two panels of a pair.
    pub fn pair(&self, pair: usize) -> [*const f32; 2] {
        let panels = &self.lines[2 * pair * self.k..][..2 * self.k];
        [panels.as_ptr().cast(), panels[self.k..].as_ptr().cast()]
    }
}
