//! The inner loops, compiled for each instruction set and chosen when a sampler is made.
//!
//! Every element of a product is one chain of fused multiply-adds over k, from the first to the last,
//! whatever tile it falls in. So a row's result does not depend on the rows beside it, and a token's
//! logits are the same bits alone, in any batch, in a prompt or while decoding.
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

pub use super::register::LANES;
use super::register::{self, Plain, Register};

/// Rows of a tile, at most.
pub const ROWS: usize = 8;
/// Columns of a tile: two panels of LANES.
pub const COLS: usize = 2 * LANES;

/// A cache line, so that buffers are aligned for whole-register loads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LANES]);

impl Line {
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// Lines as plain numbers.
pub fn flat(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a Line is LANES f32 without padding, and its alignment is stricter.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

/// Where a tile's result goes: `[ROWS][COLS]`.
#[repr(C, align(64))]
pub struct Tile(pub [[f32; COLS]; ROWS]);

/// The rows of a product: `rows` of them, `stride` numbers from one to the next.
#[derive(Clone, Copy)]
pub struct Rows {
    pub first: *const f32,
    pub stride: usize,
    pub rows: usize,
}

/// Safety of all of them: the machine has the instruction set, pointers cover what the shapes say, and
/// `rows <= ROWS`.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// `out[r][0..16] = sum_i a[r][i] * b0[i * 16 ..]`, the same with b1 for columns 16 to 32.
    pub tile: unsafe fn(a: Rows, b: [*const f32; 2], k: usize, out: &mut Tile),
    /// The same, step i of B being at `pages[i / 16] + offset + i % 16 * 16`.
    pub paged:
        unsafe fn(a: Rows, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile),
    /// exp(x - max) in place over the first `valid` numbers of whole lines, zero after them; gives the sum.
    pub softmax: unsafe fn(scores: &mut [f32], valid: usize) -> f32,
    /// RMSNorm of one row (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4).
    pub norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    /// silu(gate) * up of one panel (Shazeer 2020, arXiv:2002.05202, equation 6).
    pub swiglu: unsafe fn(gate_up: &[f32; COLS], out: &mut [f32; LANES]),
    pub max: unsafe fn(x: &[f32]) -> f32,
    /// sum exp((x - shift) * scale)
    pub exp_sum: unsafe fn(x: &[f32], shift: f32, scale: f32) -> f32,
    /// exp((x - shift) * scale), element by element as `exp_sum` takes them.
    pub exp: unsafe fn(x: &[f32], shift: f32, scale: f32, out: &mut [f32]),
}

impl Kernels {
    /// The best that this machine runs.
    pub fn detect() -> Self {
        *Self::all().last().unwrap_or(&PORTABLE)
    }

    /// All that this machine runs, the best last.
    pub fn all() -> Vec<Self> {
        let mut all = vec![PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(AVX2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                all.push(AVX512);
            }
        }
        all
    }
}

// SAFETY: of all blocks from here on: the caller's, as `Kernels` says.

// No closures in here: they would not be compiled for the caller's instruction set.

/// The register of `x` that begins at `at`, filled up with `fill` past its end.
#[inline(always)]
unsafe fn part<T: Register>(x: &[f32], at: usize, fill: f32) -> T {
    unsafe {
        if at + T::WIDTH <= x.len() {
            return T::load(x.as_ptr().add(at));
        }
        let mut last = [fill; LANES];
        last[..x.len() - at].copy_from_slice(&x[at..]);
        T::load(last.as_ptr())
    }
}

#[inline(always)]
unsafe fn softmax<T: Register>(scores: &mut [f32], valid: usize) -> f32 {
    unsafe {
        scores[valid..].fill(f32::NEG_INFINITY);
        let max = T::splat(max::<T>(scores));
        let mut sum = T::splat(0.0);
        let mut at = 0;
        while at < scores.len() {
            let e = register::exp(part::<T>(scores, at, 0.0).sub(max));
            e.store(scores.as_mut_ptr().add(at));
            sum = sum.add(e);
            at += T::WIDTH;
        }
        sum.sum()
    }
}

#[inline(always)]
unsafe fn norm<T: Register>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    unsafe {
        let mut squares = T::splat(0.0);
        let mut at = 0;
        while at < x.len() {
            let v = part::<T>(x, at, 0.0);
            squares = squares.fma(v, v);
            at += T::WIDTH;
        }
        let scale = 1.0 / (squares.sum() / x.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[inline(always)]
unsafe fn swiglu<T: Register>(gate_up: &[f32; COLS], out: &mut [f32; LANES]) {
    unsafe {
        let mut at = 0;
        while at < LANES {
            let (gate, up) = (
                part::<T>(gate_up, at, 0.0),
                part::<T>(gate_up, LANES + at, 0.0),
            );
            let denominator = register::exp(T::splat(0.0).sub(gate)).add(T::splat(1.0));
            gate.div(denominator)
                .mul(up)
                .store(out.as_mut_ptr().add(at));
            at += T::WIDTH;
        }
    }
}

#[inline(always)]
unsafe fn max<T: Register>(x: &[f32]) -> f32 {
    unsafe {
        let mut max = T::splat(f32::NEG_INFINITY);
        let mut at = 0;
        while at < x.len() {
            max = max.max(part(x, at, f32::NEG_INFINITY));
            at += T::WIDTH;
        }
        max.largest()
    }
}

#[inline(always)]
unsafe fn exp_sum<T: Register>(x: &[f32], shift: f32, scale: f32) -> f32 {
    unsafe {
        let (shift, scale) = (T::splat(shift), T::splat(scale));
        let mut sum = T::splat(0.0);
        let mut at = 0;
        while at < x.len() {
            sum = sum.add(register::exp(
                part::<T>(x, at, f32::NEG_INFINITY).sub(shift).mul(scale),
            ));
            at += T::WIDTH;
        }
        sum.sum()
    }
}

#[inline(always)]
unsafe fn exp<T: Register>(x: &[f32], shift: f32, scale: f32, out: &mut [f32]) {
    unsafe {
        let (shift, scale) = (T::splat(shift), T::splat(scale));
        let mut e = [0.0; LANES];
        let mut at = 0;
        while at < x.len() {
            register::exp(part::<T>(x, at, f32::NEG_INFINITY).sub(shift).mul(scale))
                .store(e.as_mut_ptr());
            let width = T::WIDTH.min(x.len() - at);
            out[at..at + width].copy_from_slice(&e[..width]);
            at += T::WIDTH;
        }
    }
}

/// `acc[r][v] += sum_i a[r][i] * b[v][i]`, where V registers make up the columns of the tile.
#[inline(always)]
unsafe fn accumulate<T: Register, const R: usize, const V: usize>(
    acc: &mut [[T; V]; R],
    a: *const f32,
    stride: usize,
    b: [*const f32; V],
    k: usize,
) {
    for i in 0..k {
        unsafe {
            let mut columns = [T::splat(0.0); V];
            for (column, b) in columns.iter_mut().zip(b) {
                *column = T::load(b.add(i * LANES));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let x = T::splat(*a.add(r * stride + i));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = sum.fma(x, column);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn store<T: Register, const R: usize, const V: usize>(acc: &[[T; V]; R], out: *mut f32) {
    for (r, row) in acc.iter().enumerate() {
        for (v, register) in row.iter().enumerate() {
            unsafe { register.store(out.add(r * COLS + v * T::WIDTH)) };
        }
    }
}

/// R rows of V registers from one B.
#[inline(always)]
unsafe fn dense<T: Register, const R: usize, const V: usize>(
    a: Rows,
    b: [*const f32; V],
    k: usize,
    out: *mut f32,
) {
    unsafe {
        let mut acc = [[T::splat(0.0); V]; R];
        accumulate(&mut acc, a.first, a.stride, b, k);
        store(&acc, out);
    }
}

/// R rows of V registers, B in pages of LANES steps.
#[inline(always)]
unsafe fn in_pages<T: Register, const R: usize, const V: usize>(
    a: Rows,
    pages: &[*const f32],
    offsets: [usize; V],
    k: usize,
    out: *mut f32,
) {
    unsafe {
        let mut acc = [[T::splat(0.0); V]; R];
        for (i, page) in pages[..k / LANES].iter().enumerate() {
            let b = offsets.map(|offset| page.add(offset));
            accumulate(&mut acc, a.first.add(i * LANES), a.stride, b, LANES);
        }
        if !k.is_multiple_of(LANES) {
            let i = k / LANES;
            let b = offsets.map(|offset| pages[i].add(offset));
            accumulate(&mut acc, a.first.add(i * LANES), a.stride, b, k % LANES);
        }
        store(&acc, out);
    }
}

/// `$body` with R a constant.
macro_rules! rows {
    ($rows:expr, [$($n:literal)*], $r:ident => $body:expr) => {
        match $rows {
            $($n => { const $r: usize = $n; $body })*
            _ => unreachable!("a tile has at most {ROWS} rows"),
        }
    };
}

/// A tile in one go: for 32 registers of LANES.
#[cfg(target_arch = "x86_64")]
macro_rules! whole {
    ($register:ty) => {
        #[inline(always)]
        unsafe fn tile_body(a: Rows, b: [*const f32; 2], k: usize, out: &mut Tile) {
            let out = out.0.as_mut_ptr().cast();
            unsafe { rows!(a.rows, [1 2 3 4 5 6 7 8], R => dense::<$register, R, 2>(a, b, k, out)) }
        }

        #[inline(always)]
        unsafe fn paged_body(a: Rows, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile) {
            let out = out.0.as_mut_ptr().cast();
            unsafe { rows!(a.rows, [1 2 3 4 5 6 7 8], R => in_pages::<$register, R, 2>(a, pages, offsets, k, out)) }
        }
    };
}

/// A tile in parts of four rows and one panel, $v registers wide: for 16 registers, or what the compiler makes of arrays.
macro_rules! parts {
    ($register:ty, $v:literal) => {
        /// The parts of a tile: rows, panel, where the result goes.
        fn parts(a: Rows, out: &mut Tile) -> impl Iterator<Item = (Rows, usize, *mut f32)> {
            let out: *mut f32 = out.0.as_mut_ptr().cast();
            let part = move |row: usize, panel: usize| {
                let first = a.first.wrapping_add(row * a.stride);
                let rows = (a.rows - row).min(4);
                (Rows { first, rows, ..a }, panel, out.wrapping_add(row * COLS + panel * LANES))
            };
            (0..2).flat_map(move |panel| (0..a.rows).step_by(4).map(move |row| part(row, panel)))
        }

        #[inline(always)]
        unsafe fn tile_body(a: Rows, b: [*const f32; 2], k: usize, out: &mut Tile) {
            for (a, panel, out) in parts(a, out) {
                unsafe {
                    let b: [*const f32; $v] = std::array::from_fn(|v| b[panel].add(v * <$register>::WIDTH));
                    rows!(a.rows, [1 2 3 4], R => dense::<$register, R, $v>(a, b, k, out))
                }
            }
        }

        #[inline(always)]
        unsafe fn paged_body(a: Rows, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile) {
            for (a, panel, out) in parts(a, out) {
                unsafe {
                    let offsets: [usize; $v] = std::array::from_fn(|v| offsets[panel] + v * <$register>::WIDTH);
                    rows!(a.rows, [1 2 3 4], R => in_pages::<$register, R, $v>(a, pages, offsets, k, out))
                }
            }
        }
    };
}

/// A function for one instruction set: the generic one, inlined into a caller that is compiled for it.
macro_rules! compiled {
    ($(#[$feature:meta])? $name:ident, $body:expr, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$feature])?
        pub unsafe fn $name($($arg: $type),*) $(-> $result)? {
            unsafe { $body($($arg),*) }
        }
    };
}

macro_rules! instruction_set {
    ($name:ident, $module:ident, $register:ty, $tiles:ident!($($args:tt)*) $(, #[$feature:meta])?) => {
        pub const $name: Kernels = Kernels {
            tile: $module::tile,
            paged: $module::paged,
            softmax: $module::softmax,
            norm: $module::norm,
            swiglu: $module::swiglu,
            max: $module::max,
            exp_sum: $module::exp_sum,
            exp: $module::exp,
        };

        mod $module {
            use super::*;
            $tiles!($($args)*);
            compiled!($(#[$feature])? tile, tile_body, (a: Rows, b: [*const f32; 2], k: usize, out: &mut Tile));
            compiled!($(#[$feature])? paged, paged_body, (a: Rows, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile));
            compiled!($(#[$feature])? softmax, super::softmax::<$register>, (scores: &mut [f32], valid: usize) -> f32);
            compiled!($(#[$feature])? norm, super::norm::<$register>, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));
            compiled!($(#[$feature])? swiglu, super::swiglu::<$register>, (gate_up: &[f32; COLS], out: &mut [f32; LANES]));
            compiled!($(#[$feature])? max, super::max::<$register>, (x: &[f32]) -> f32);
            compiled!($(#[$feature])? exp_sum, super::exp_sum::<$register>, (x: &[f32], shift: f32, scale: f32) -> f32);
            compiled!($(#[$feature])? exp, super::exp::<$register>, (x: &[f32], shift: f32, scale: f32, out: &mut [f32]));
        }
    };
}

#[cfg(target_arch = "x86_64")]
instruction_set!(AVX512, avx512, __m512, whole!(__m512), #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
instruction_set!(AVX2, avx2, __m256, parts!(__m256, 2), #[target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "aarch64")]
instruction_set!(PORTABLE, portable, Plain<true>, parts!(Plain<true>, 1));
#[cfg(not(target_arch = "aarch64"))]
instruction_set!(PORTABLE, portable, Plain<false>, parts!(Plain<false>, 1));
