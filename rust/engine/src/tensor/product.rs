//! Products of weights and activations, as walks of kernel tiles.
use super::exec::Exec;
use super::kernel::{ROWS, Tile};
use super::lanes::{Act, LANES, Lanes};
use super::real::Real;

/// Bytes of a weight kept in the second-level cache while the panels of a batch pass by.
const GROUP_BYTES: usize = 256 << 10;

/// A row-major matrix `[rows, cols]` cut in blocks of [`ROWS`] rows, column after column inside a block. One
/// copy serves `W x` and `W^T y`, both at strides known when compiled. Rows are padded with zeros.
#[derive(Clone, Debug)]
pub struct Packed<T> {
    rows: usize,
    cols: usize,
    data: Vec<Column<T>>,
}

/// One column of a block of rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct Column<T>(pub [T; ROWS]);

impl<T: Real> Packed<T> {
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: vec![Column([T::ZERO; ROWS]); rows.div_ceil(ROWS) * cols],
        }
    }

    pub fn new(rows: usize, cols: usize, row_major: &[T]) -> Self {
        let mut packed = Self::zeros(rows, cols);
        packed.fill(row_major);
        packed
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Replaces the contents by `row_major`, `[rows, cols]`.
    pub fn fill(&mut self, row_major: &[T]) {
        assert_eq!(row_major.len(), self.rows * self.cols);
        let cols = self.cols;
        for (block, rows) in self
            .data
            .chunks_mut(cols)
            .zip(row_major.chunks(ROWS * cols))
        {
            for (r, row) in rows.chunks(cols).enumerate() {
                for (column, &x) in block.iter_mut().zip(row) {
                    column.0[r] = x;
                }
            }
        }
    }

    /// The contents, row-major.
    pub fn row_major(&self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.rows * self.cols];
        for (block, rows) in self
            .data
            .chunks(self.cols)
            .zip(out.chunks_mut(ROWS * self.cols))
        {
            for (r, row) in rows.chunks_mut(self.cols).enumerate() {
                for (x, column) in row.iter_mut().zip(block) {
                    *x = column.0[r];
                }
            }
        }
        out
    }

    /// Sets rows `first..` to `base + scale * b a`: `base` row-major `[b.rows, cols]`, `b` packed
    /// `[rows', r]`, `a` in column panels (see [`panels_of`]) of `r` rows. `first` is a multiple of ROWS or
    /// the call is made on a matrix whose parts share blocks, which the element-wise store allows.
    pub fn merge(
        &mut self,
        first: usize,
        base: &[T],
        b: &Packed<T>,
        a: &[Lanes<T>],
        scale: T,
        exec: Exec,
    ) {
        let (cols, rank) = (self.cols, b.cols);
        let first_block = first / ROWS;
        let last_block = (first + b.rows).div_ceil(ROWS);
        let blocks = &mut self.data[first_block * cols..last_block * cols];
        let kernel = T::kernels().adjacent;
        // A part that starts inside a block would need two blocks of b; the element-wise store below handles it
        // as long as one task owns all blocks.
        let exec = if first.is_multiple_of(ROWS) {
            exec
        } else {
            Exec::Serial
        };
        exec.runs(blocks, cols, |block0, run| {
            let b0 = block0.min(b.rows.div_ceil(ROWS));
            let b1 = if matches!(exec, Exec::Serial) {
                b.rows.div_ceil(ROWS)
            } else {
                (block0 + run.len() / cols).min(b.rows.div_ceil(ROWS))
            };
            let mut out = [Lanes::<T>::ZERO; ROWS];
            for bb in b0..b1 {
                let rows = ROWS.min(b.rows - bb * ROWS);
                for (cp, panel) in a.chunks(rank).enumerate() {
                    // SAFETY: the block holds `rank` columns of ROWS, the panel `rank` rows, `out` ROWS rows.
                    unsafe {
                        kernel(&Tile {
                            a: b.data[bb * rank..].as_ptr().cast(),
                            block: ROWS,
                            blocks: rank,
                            rest: 0,
                            b: panel.as_ptr().cast(),
                            init: std::ptr::null(),
                            c: out.as_mut_ptr().cast(),
                            rows,
                            alpha: scale,
                        });
                    }
                    let c0 = cp * LANES;
                    let width = LANES.min(cols - c0);
                    for (r, sums) in out[..rows].iter().enumerate() {
                        let row = bb * ROWS + r;
                        let at = first % ROWS + row - block0 * ROWS;
                        let dest = &mut run[at / ROWS * cols + c0..][..width];
                        let from = &base[row * cols + c0..][..width];
                        for ((column, &x), &sum) in dest.iter_mut().zip(from).zip(&sums.0) {
                            column.0[at % ROWS] = x + sum;
                        }
                    }
                }
            }
        });
    }

    /// `out = W x (+ init)`: x has `cols` features a panel (a window), out and init `rows`.
    pub fn mul(&self, x: Act<T>, out: &mut [Lanes<T>], init: Option<&[Lanes<T>]>, exec: Exec) {
        self.mul_rows(0..self.rows, x, out, init, exec);
    }

    /// Rows `range` of the product, `range.start` a multiple of ROWS.
    pub fn mul_rows(
        &self,
        range: std::ops::Range<usize>,
        x: Act<T>,
        out: &mut [Lanes<T>],
        init: Option<&[Lanes<T>]>,
        exec: Exec,
    ) {
        assert!(range.start.is_multiple_of(ROWS) && range.end <= self.rows);
        let (rows, cols) = (range.len(), self.cols);
        assert_eq!(out.len(), x.panels() * rows);
        let kernel = T::kernels().adjacent;
        let group = (GROUP_BYTES / (cols * size_of::<T>()) / ROWS).max(1) * ROWS;
        exec.runs(out, rows, |panel0, out| {
            for g0 in (0..rows).step_by(group) {
                let g1 = (g0 + group).min(rows);
                for (p, out) in out.chunks_mut(rows).enumerate() {
                    let b = &x.panel(panel0 + p)[..cols];
                    for r0 in (g0..g1).step_by(ROWS) {
                        let a = &self.data[(range.start + r0) / ROWS * cols..][..cols];
                        let n = ROWS.min(rows - r0);
                        let init = init.map_or(std::ptr::null(), |init| {
                            init[(panel0 + p) * rows + r0..][..n].as_ptr().cast()
                        });
                        // SAFETY: the slices above are exactly the extents of the tile.
                        unsafe {
                            kernel(&Tile {
                                a: a.as_ptr().cast(),
                                block: ROWS,
                                blocks: cols,
                                rest: 0,
                                b: b.as_ptr().cast(),
                                init,
                                c: out[r0..r0 + n].as_mut_ptr().cast(),
                                rows: n,
                                alpha: T::ONE,
                            });
                        }
                    }
                }
            }
        });
    }

    /// `out = alpha W^T y (+ out)`: y has `rows` features a panel (a window), out `cols`.
    pub fn mul_t(&self, y: Act<T>, out: &mut [Lanes<T>], alpha: T, add: bool, exec: Exec) {
        self.mul_t_rows(0..self.rows, y, out, alpha, add, exec);
    }

    /// The same with rows `range` of W only, `range.start` a multiple of ROWS.
    pub fn mul_t_rows(
        &self,
        range: std::ops::Range<usize>,
        y: Act<T>,
        out: &mut [Lanes<T>],
        alpha: T,
        add: bool,
        exec: Exec,
    ) {
        assert!(range.start.is_multiple_of(ROWS) && range.end <= self.rows);
        let (rows, cols) = (range.len(), self.cols);
        assert_eq!(out.len(), y.panels() * cols);
        let kernel = T::kernels().weight_t;
        let group = (GROUP_BYTES / (rows * size_of::<T>()) / ROWS).max(1) * ROWS;
        exec.runs(out, cols, |panel0, out| {
            for g0 in (0..cols).step_by(group) {
                let g1 = (g0 + group).min(cols);
                for (p, out) in out.chunks_mut(cols).enumerate() {
                    let b = &y.panel(panel0 + p)[..rows];
                    for c0 in (g0..g1).step_by(ROWS) {
                        let a = &self.data[range.start / ROWS * cols + c0..];
                        let n = ROWS.min(cols - c0);
                        let c = out[c0..c0 + n].as_mut_ptr().cast::<T>();
                        let strip = Tile {
                            a: a.as_ptr().cast(),
                            block: cols * ROWS,
                            blocks: rows / ROWS,
                            rest: rows % ROWS,
                            b: b.as_ptr().cast(),
                            init: if add {
                                c.cast_const()
                            } else {
                                std::ptr::null()
                            },
                            c,
                            rows: n,
                            alpha,
                        };
                        self.strip(&strip, c0, n, kernel);
                    }
                }
            }
        });
    }

    /// A tile reads ROWS columns; the last ones of the last block may not exist, so a ragged edge goes
    /// through a padded copy.
    fn strip(&self, tile: &Tile<T>, c0: usize, n: usize, kernel: super::kernel::TileFn<T>) {
        if n == ROWS {
            // SAFETY: columns c0..c0 + ROWS exist in each block, B and C as checked by the caller.
            unsafe { kernel(tile) };
            return;
        }
        let blocks = tile.blocks + usize::from(tile.rest > 0);
        let mut copy = vec![[T::ZERO; ROWS * ROWS]; blocks];
        for (i, edge) in copy.iter_mut().enumerate() {
            for j in 0..n {
                // SAFETY: block i and column c0 + j < cols lie inside the packed data that `tile.a` points into.
                let column = unsafe { &*tile.a.add(i * tile.block + j * ROWS).cast::<[T; ROWS]>() };
                edge[j * ROWS..(j + 1) * ROWS].copy_from_slice(column);
            }
        }
        debug_assert!(c0 + n == self.cols);
        // SAFETY: the copy holds whole blocks of ROWS columns.
        unsafe {
            kernel(&Tile {
                a: copy.as_ptr().cast(),
                block: ROWS * ROWS,
                ..*tile
            })
        };
    }
}

/// A row-major `[rows, cols]` matrix in column panels: `[cols / 32][rows]` of [`Lanes`], zero-padded.
pub fn panels_of<T: Real>(rows: usize, cols: usize, row_major: &[T]) -> Vec<Lanes<T>> {
    let mut out = vec![Lanes::ZERO; cols.div_ceil(LANES) * rows];
    for (cp, panel) in out.chunks_mut(rows.max(1)).enumerate() {
        let width = LANES.min(cols - cp * LANES);
        for (r, lanes) in panel.iter_mut().enumerate() {
            lanes.0[..width].copy_from_slice(&row_major[r * cols + cp * LANES..][..width]);
        }
    }
    out
}

/// `c[f] += alpha * sum over tokens of a[f] * bt`: the outer product of a gradient. `a` is a window of
/// activations, `bt` the other operand token by token (`[tokens][32]`, see [`super::lanes::transpose`]),
/// `c` a panel of `c.len()` features.
pub fn outer<T: Real>(a: Act<T>, bt: &[Lanes<T>], c: &mut [Lanes<T>], alpha: T) {
    assert_eq!(bt.len(), a.panels() * LANES);
    let kernels = T::kernels();
    let n = c.len();
    assert!(a.panels() == 0 || n <= a.panel(0).len());
    if a.panels() == 0 {
        return;
    }
    let first = a.panel(0);
    let mut r = 0;
    while r < n {
        let (rows, kernel) = if n - r >= ROWS {
            (ROWS, kernels.features)
        } else {
            (1, kernels.feature)
        };
        let c = c[r..r + rows].as_mut_ptr().cast::<T>();
        // SAFETY: `rows` features from r exist in every panel (checked above for the first, and all are
        // alike), bt has a row for each token, c has `rows` rows.
        unsafe {
            kernel(&Tile {
                a: first[r..].as_ptr().cast(),
                block: a.stride() * LANES,
                blocks: a.panels(),
                rest: 0,
                b: bt.as_ptr().cast(),
                init: c.cast_const(),
                c,
                rows,
                alpha,
            });
        }
        r += rows;
    }
}

/// Floating-point operations a second that `threads` threads do in products, each of its own: the best of a few
/// moments. The bound that a training step is measured against.
pub fn product_rate(threads: usize) -> f64 {
    const N: usize = 512;
    let moment = || -> f64 {
        let weight = Packed::new(N, N, &vec![0.5f32; N * N]);
        let x = vec![Lanes([0.5f32; LANES]); 8 * N];
        let mut out = x.clone();
        let start = std::time::Instant::now();
        let mut done = 0.0;
        while start.elapsed().as_secs_f64() < 0.01 {
            weight.mul(Act::new(&x, N), &mut out, None, Exec::Serial);
            done += (2 * N * N * 8 * LANES) as f64;
        }
        std::hint::black_box(&out);
        done / start.elapsed().as_secs_f64()
    };
    let together = || -> f64 {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(moment)).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        })
    };
    (0..5).map(|_| together()).fold(0.0, f64::max)
}
