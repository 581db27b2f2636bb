//! The inner loops, compiled for each instruction set and chosen when a sampler is made.
//!
//! Every element of a product is one chain of fused multiply-adds over k, from the first to the last,
//! whatever tile it falls in. So a row's result does not depend on the rows beside it, and a token's
//! logits are the same bits alone, in any batch, in a prompt or while decoding.

/// Rows of a tile, at most.
pub const ROWS: usize = 8;
/// Columns of a panel.
pub const LANES: usize = 16;
/// Columns of a tile: two panels.
pub const COLS: usize = 2 * LANES;

/// A cache line, so that buffers are aligned for whole-register loads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LANES]);

impl Line {
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// Where a tile's result goes: `[ROWS][COLS]`.
#[repr(C, align(64))]
pub struct Tile(pub [[f32; COLS]; ROWS]);

/// `out[r][0..16] = sum_i a[r * lda + i] * b0[i * 16 ..]`, the same with b1 for columns 16 to 32.
type TileFn = unsafe fn(
    rows: usize,
    a: *const f32,
    lda: usize,
    b0: *const f32,
    b1: *const f32,
    k: usize,
    &mut Tile,
);
/// The same, step i of B being at `pages[i / 16] + offset + i % 16 * 16`.
type PagedFn = unsafe fn(
    rows: usize,
    a: *const f32,
    lda: usize,
    &[*const f32],
    offsets: [usize; 2],
    k: usize,
    &mut Tile,
);

/// Safety of all of them: the machine has the instruction set, pointers cover what the shapes say, and
/// `rows <= ROWS`.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub tile: TileFn,
    pub paged: PagedFn,
    /// exp(x - max) in place over the first `valid` of whole lines, zero after them; gives the sum.
    pub softmax: unsafe fn(scores: &mut [Line], valid: usize) -> f32,
    /// RMSNorm of one row.
    pub norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    /// silu(gate) * up of one panel.
    pub swiglu: unsafe fn(gate_up: &[f32; COLS], out: &mut [f32]),
    pub max: unsafe fn(x: &[f32]) -> f32,
    /// sum exp((x - shift) * scale)
    pub exp_sum: unsafe fn(x: &[f32], shift: f32, scale: f32) -> f32,
    /// exp((x - shift) * scale), element by element as `exp_sum` takes them.
    pub exp: unsafe fn(x: &[f32], shift: f32, scale: f32, out: &mut [f32]),
}

impl Kernels {
    /// The best that this machine runs.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if avx512() {
                return AVX512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return AVX2;
            }
        }
        PORTABLE
    }

    /// All that this machine runs.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(AVX2);
            }
            if avx512() {
                all.push(AVX512);
            }
        }
        all
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Sixteen lanes that the compiler turns into registers of whatever width the caller was compiled for.
/// FUSED: the machine has fused multiply-add (elsewhere `mul_add` would be a slow library call).
#[derive(Clone, Copy)]
struct Lanes<const FUSED: bool>([f32; LANES]);

impl<const FUSED: bool> Lanes<FUSED> {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(&x[..LANES]);
        Self(lanes)
    }

    /// The last, partial group: `fill` where there is nothing.
    #[inline(always)]
    fn load_part(x: &[f32], fill: f32) -> Self {
        let mut lanes = [fill; LANES];
        lanes[..x.len()].copy_from_slice(x);
        Self(lanes)
    }

    #[inline(always)]
    fn map2(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(out)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.map2(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.map2(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.map2(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.map2(other, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.map2(other, |a, b| if a > b { a } else { b })
    }

    /// `self + a * b`
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        let mut out = self.0;
        for ((c, a), b) in out.iter_mut().zip(a.0).zip(b.0) {
            *c = if FUSED { a.mul_add(b, *c) } else { a * b + *c };
        }
        Self(out)
    }

    #[inline(always)]
    fn reduce(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut x = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = f(x[i], x[i + half]);
            }
        }
        x[0]
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.reduce(|a, b| a + b)
    }

    /// e^x to about 1 ulp by range reduction and the polynomial of Cephes' expf; 0 below -87.3.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
        const MAGIC: f32 = 12_582_912.0;
        let low = Self::splat(-87.3);
        let x = self
            .max(low)
            .map2(Self::splat(88.0), |a, b| if a < b { a } else { b });
        let shifted = Self::splat(MAGIC).fma(x, Self::splat(std::f32::consts::LOG2_E));
        let n = shifted.sub(Self::splat(MAGIC));
        let r = x
            .fma(n, Self::splat(-0.693_359_4))
            .fma(n, Self::splat(2.121_944_4e-4));
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            0.166_666_66,
            0.5,
        ] {
            p = Self::splat(c).fma(p, r);
        }
        let y = r.add(Self::splat(1.0)).fma(p, r.mul(r));
        let mut out = y.0;
        for ((y, bits), x) in out.iter_mut().zip(shifted.0).zip(self.0) {
            let power = f32::from_bits((bits.to_bits() << 23).wrapping_add(0x3F80_0000));
            // Written so that NaN stays NaN.
            *y = if x < -87.3 {
                0.0
            } else if x.is_nan() {
                x
            } else {
                *y * power
            };
        }
        Self(out)
    }
}

#[inline(always)]
fn softmax<const FUSED: bool>(scores: &mut [Line], valid: usize) -> f32 {
    scores.flat_mut()[valid..].fill(f32::NEG_INFINITY);
    let mut max = Lanes::<FUSED>::splat(f32::NEG_INFINITY);
    for line in scores.iter() {
        max = max.max(Lanes(line.0));
    }
    let max = Lanes::<FUSED>::splat(max.reduce(|a, b| if a > b { a } else { b }));
    let mut sum = Lanes::<FUSED>::splat(0.0);
    for line in scores {
        let e = Lanes::<FUSED>(line.0).sub(max).exp();
        line.0 = e.0;
        sum = sum.add(e);
    }
    sum.sum()
}

/// Lines as plain numbers.
pub trait Flat {
    fn flat_mut(&mut self) -> &mut [f32];
}

impl Flat for [Line] {
    #[inline(always)]
    fn flat_mut(&mut self) -> &mut [f32] {
        // SAFETY: a Line is LANES f32 without padding, and its alignment is stricter.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len() * LANES) }
    }
}

#[inline(always)]
fn norm<const FUSED: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let groups = x.chunks_exact(LANES);
    let rest = Lanes::<FUSED>::load_part(groups.remainder(), 0.0);
    let mut squares = rest.mul(rest);
    for group in groups {
        let v = Lanes::<FUSED>::load(group);
        squares = squares.fma(v, v);
    }
    let scale = 1.0 / (squares.sum() / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
fn swiglu<const FUSED: bool>(gate_up: &[f32; COLS], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(LANES);
    let (gate, one) = (Lanes::<FUSED>::load(gate), Lanes::<FUSED>::splat(1.0));
    let denominator = Lanes::<FUSED>::splat(0.0).sub(gate).exp().add(one);
    let y = gate.div(denominator).mul(Lanes::load(up));
    out[..LANES].copy_from_slice(&y.0);
}

#[inline(always)]
fn max<const FUSED: bool>(x: &[f32]) -> f32 {
    let groups = x.chunks_exact(LANES);
    let mut max = Lanes::<FUSED>::load_part(groups.remainder(), f32::NEG_INFINITY);
    for group in groups {
        max = max.max(Lanes::load(group));
    }
    max.reduce(|a, b| if a > b { a } else { b })
}

#[inline(always)]
fn exp_sum<const FUSED: bool>(x: &[f32], shift: f32, scale: f32) -> f32 {
    let (shift, scale) = (Lanes::<FUSED>::splat(shift), Lanes::<FUSED>::splat(scale));
    let groups = x.chunks_exact(LANES);
    let mut sum = Lanes::load_part(groups.remainder(), f32::NEG_INFINITY)
        .sub(shift)
        .mul(scale)
        .exp();
    for group in groups {
        sum = sum.add(Lanes::load(group).sub(shift).mul(scale).exp());
    }
    sum.sum()
}

#[inline(always)]
fn exp<const FUSED: bool>(x: &[f32], shift: f32, scale: f32, out: &mut [f32]) {
    let (shift, scale) = (Lanes::<FUSED>::splat(shift), Lanes::<FUSED>::splat(scale));
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let e = Lanes::load_part(x, f32::NEG_INFINITY)
            .sub(shift)
            .mul(scale)
            .exp();
        out.copy_from_slice(&e.0[..out.len()]);
    }
}

/// A register, as the product kernel needs it.
trait Register: Copy {
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn fma(self, a: Self, b: Self) -> Self;
}

/// `acc[r][v] += sum_i a[r * lda + i] * b(v)[i]`, where V registers make up the columns of the tile.
#[inline(always)]
unsafe fn accumulate<T: Register, const R: usize, const V: usize>(
    acc: &mut [[T; V]; R],
    a: *const f32,
    lda: usize,
    b: [*const f32; V],
    k: usize,
) {
    for i in 0..k {
        // SAFETY: the caller's shapes: k steps of LANES columns in b, R rows of k in a.
        unsafe {
            let columns = b.map(|b| T::load(b.add(i * LANES)));
            for (r, row) in acc.iter_mut().enumerate() {
                let x = T::splat(*a.add(r * lda + i));
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
            // SAFETY: `out` has R rows of COLS left.
            unsafe { register.store(out.add(r * COLS + v * T::WIDTH)) };
        }
    }
}

/// R rows of V registers from one B.
#[inline(always)]
unsafe fn dense<T: Register, const R: usize, const V: usize>(
    a: *const f32,
    lda: usize,
    b: [*const f32; V],
    k: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[T::zero(); V]; R];
        accumulate(&mut acc, a, lda, b, k);
        store(&acc, out);
    }
}

/// R rows of V registers, B in pages of LANES steps.
#[inline(always)]
unsafe fn in_pages<T: Register, const R: usize, const V: usize>(
    a: *const f32,
    lda: usize,
    pages: &[*const f32],
    offsets: [usize; V],
    k: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[T::zero(); V]; R];
        for (i, page) in pages[..k / LANES].iter().enumerate() {
            accumulate(
                &mut acc,
                a.add(i * LANES),
                lda,
                offsets.map(|offset| page.add(offset)),
                LANES,
            );
        }
        if !k.is_multiple_of(LANES) {
            let (i, page) = (k / LANES, pages[k / LANES]);
            accumulate(
                &mut acc,
                a.add(i * LANES),
                lda,
                offsets.map(|offset| page.add(offset)),
                k % LANES,
            );
        }
        store(&acc, out);
    }
}

/// Call `$body` with R a constant.
macro_rules! rows {
    ($rows:expr, [$($n:literal)*], $r:ident => $body:expr) => {
        match $rows {
            $($n => { const $r: usize = $n; $body })*
            _ => unreachable!("a tile has at most {ROWS} rows"),
        }
    };
}

/// Both panels at once, all rows at once: for 32 registers of 16 lanes.
#[cfg(target_arch = "x86_64")]
macro_rules! wide {
    ($register:ty) => {
        #[inline(always)]
        unsafe fn tile_body(rows: usize, a: *const f32, lda: usize, b0: *const f32, b1: *const f32, k: usize, out: &mut Tile) {
            let out = out.0.as_mut_ptr().cast();
            // SAFETY: the caller's.
            unsafe { rows!(rows, [1 2 3 4 5 6 7 8], R => dense::<$register, R, 2>(a, lda, [b0, b1], k, out)) }
        }

        #[inline(always)]
        unsafe fn paged_body(rows: usize, a: *const f32, lda: usize, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile) {
            let out = out.0.as_mut_ptr().cast();
            // SAFETY: the caller's.
            unsafe { rows!(rows, [1 2 3 4 5 6 7 8], R => in_pages::<$register, R, 2>(a, lda, pages, offsets, k, out)) }
        }
    };
}

/// A panel at a time, four rows at a time: for 16 registers of 8 lanes, or what the compiler makes of arrays.
macro_rules! narrow {
    ($register:ty, $v:literal) => {
        #[inline(always)]
        unsafe fn tile_body(rows: usize, a: *const f32, lda: usize, b0: *const f32, b1: *const f32, k: usize, out: &mut Tile) {
            for (panel, b) in [b0, b1].into_iter().enumerate() {
                for row in (0..rows).step_by(4) {
                    // SAFETY: the caller's.
                    unsafe {
                        let out = out.0.as_mut_ptr().cast::<f32>().add(row * COLS + panel * LANES);
                        let b: [*const f32; $v] = std::array::from_fn(|v| b.add(v * <$register>::WIDTH));
                        let a = a.add(row * lda);
                        rows!((rows - row).min(4), [1 2 3 4], R => dense::<$register, R, $v>(a, lda, b, k, out))
                    }
                }
            }
        }

        #[inline(always)]
        unsafe fn paged_body(rows: usize, a: *const f32, lda: usize, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile) {
            for (panel, offset) in offsets.into_iter().enumerate() {
                for row in (0..rows).step_by(4) {
                    // SAFETY: the caller's.
                    unsafe {
                        let out = out.0.as_mut_ptr().cast::<f32>().add(row * COLS + panel * LANES);
                        let offsets: [usize; $v] = std::array::from_fn(|v| offset + v * <$register>::WIDTH);
                        let a = a.add(row * lda);
                        rows!((rows - row).min(4), [1 2 3 4], R => in_pages::<$register, R, $v>(a, lda, pages, offsets, k, out))
                    }
                }
            }
        }
    };
}

/// The functions of one instruction set.
macro_rules! instruction_set {
    ($name:ident, $module:ident, $fused:literal, $body:ident!($($args:tt)*) $(, $feature:literal)?) => {
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

            $body!($($args)*);

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn tile(rows: usize, a: *const f32, lda: usize, b0: *const f32, b1: *const f32, k: usize, out: &mut Tile) {
                // SAFETY: the caller's.
                unsafe { tile_body(rows, a, lda, b0, b1, k, out) }
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn paged(rows: usize, a: *const f32, lda: usize, pages: &[*const f32], offsets: [usize; 2], k: usize, out: &mut Tile) {
                // SAFETY: the caller's.
                unsafe { paged_body(rows, a, lda, pages, offsets, k, out) }
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn softmax(scores: &mut [Line], valid: usize) -> f32 {
                super::softmax::<$fused>(scores, valid)
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                super::norm::<$fused>(x, weight, eps, out);
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn swiglu(gate_up: &[f32; COLS], out: &mut [f32]) {
                super::swiglu::<$fused>(gate_up, out);
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn max(x: &[f32]) -> f32 {
                super::max::<$fused>(x)
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn exp_sum(x: &[f32], shift: f32, scale: f32) -> f32 {
                super::exp_sum::<$fused>(x, shift, scale)
            }

            $(#[target_feature(enable = $feature)])?
            pub unsafe fn exp(x: &[f32], shift: f32, scale: f32, out: &mut [f32]) {
                super::exp::<$fused>(x, shift, scale, out);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Register;

    macro_rules! register {
        ($type:ty, $width:literal, $zero:ident, $load:ident, $store:ident, $splat:ident, $fma:ident) => {
            // SAFETY: of all of these: called only from functions compiled for the instruction set.
            impl Register for $type {
                const WIDTH: usize = $width;
                #[inline(always)]
                unsafe fn zero() -> Self {
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self {
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut f32) {
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    unsafe { $fma(a, b, self) }
                }
            }
        };
    }

    register!(
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
    register!(
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );
}

impl<const FUSED: bool> Register for Lanes<FUSED> {
    const WIDTH: usize = LANES;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self::splat(0.0)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's: LANES numbers at p.
        Self(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's: room for LANES numbers at p.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self::splat(x)
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        self.fma(a, b)
    }
}

#[cfg(target_arch = "x86_64")]
instruction_set!(
    AVX512,
    avx512,
    true,
    wide!(std::arch::x86_64::__m512),
    "avx512f,avx512vl,avx512dq,fma"
);
#[cfg(target_arch = "x86_64")]
instruction_set!(
    AVX2,
    avx2,
    true,
    narrow!(std::arch::x86_64::__m256, 2),
    "avx2,fma"
);
#[cfg(target_arch = "aarch64")]
instruction_set!(PORTABLE, portable, true, narrow!(Lanes<true>, 1));
#[cfg(not(target_arch = "aarch64"))]
instruction_set!(PORTABLE, portable, false, narrow!(Lanes<false>, 1));
