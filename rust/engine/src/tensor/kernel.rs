//! The one product kernel: a tile `C[R x 32] = alpha * A[R x k] B[k x 32] (+ init)`, where B and C are
//! rows of [`Lanes`](super::Lanes) and A is read as broadcast scalars at strides known when compiled.
//! Every product of the engine, attention included, is a walk of such tiles.
use super::lanes::LANES;
use super::real::{Real, isa};

/// Rows of a full tile.
pub const ROWS: usize = 8;

/// One call of the kernel. Row `r`, step `k` of A lies at
/// `a + (k / KI) * block + (k % KI) * KS + r * RS`; KI, KS and RS are fixed by the kind of walk.
pub struct Tile<T> {
    pub a: *const T,
    /// Elements from one block of A to the next.
    pub block: usize,
    /// Whole blocks of KI steps.
    pub blocks: usize,
    /// Steps in the last, partial block.
    pub rest: usize,
    /// `[k][32]`.
    pub b: *const T,
    /// Added to the product, `[rows][32]`; null for nothing. May equal `c`.
    pub init: *const T,
    /// `[rows][32]`.
    pub c: *mut T,
    /// Rows to store, at most the tile's R.
    pub rows: usize,
    pub alpha: T,
}

pub type TileFn<T> = unsafe fn(&Tile<T>);

/// The kernel for each way A is walked.
pub struct Kernels<T> {
    /// The rows of A are adjacent: a packed weight (a block of ROWS a step) or tokens (32 a step). RS 1, KI 1.
    pub adjacent: TileFn<T>,
    /// A is a packed weight transposed: rows are its columns, blocks are its row blocks (RS 8, KS 1, KI 8).
    pub weight_t: TileFn<T>,
    /// A is activations, rows are features, steps are tokens, a block a panel (RS 32, KS 1, KI 32).
    pub features: TileFn<T>,
    /// The same for a single row.
    pub feature: TileFn<T>,
}

/// A SIMD register.
trait Vector: Copy {
    type T: Real;
    const N: usize;
    unsafe fn load(p: *const Self::T) -> Self;
    unsafe fn store(self, p: *mut Self::T);
    unsafe fn splat(x: Self::T) -> Self;
    /// `self + a * b`
    unsafe fn fma(self, a: Self, b: Self) -> Self;
}

/// Registers for machines without a kernel of their own: arrays that the compiler vectorises as it can.
#[derive(Clone, Copy)]
struct Plain<T>([T; 4]);

impl<T: Real> Vector for Plain<T> {
    type T = T;
    const N: usize = 4;
    #[inline(always)]
    unsafe fn load(p: *const T) -> Self {
        // SAFETY: the caller hands a pointer to at least N elements.
        Self(unsafe { p.cast::<[T; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut T) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<[T; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: T) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| {
            // Fused where that is an instruction; elsewhere it would be a call.
            if cfg!(target_arch = "aarch64") {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                self.0[i] + a.0[i] * b.0[i]
            }
        }))
    }
}

/// SR rows by NV registers at a time, so that the sums stay in registers.
///
/// SAFETY: the caller guarantees the extents described at [`Tile`].
#[inline(always)]
unsafe fn tile<
    V: Vector,
    const R: usize,
    const SR: usize,
    const NV: usize,
    const RS: usize,
    const KS: usize,
    const KI: usize,
>(
    t: &Tile<V::T>,
) {
    let width = NV * V::N;
    for r0 in (0..R).step_by(SR) {
        if r0 >= t.rows {
            break;
        }
        for v0 in (0..LANES).step_by(width) {
            // SAFETY: r0 + SR <= R rows of A are readable (weights are padded to whole tiles), as are k rows of
            // B; only `rows` rows of init and C are touched.
            unsafe {
                let mut acc = [[V::splat(V::T::ZERO); NV]; SR];
                let mut a = t.a.add(r0 * RS);
                let mut b = t.b.add(v0);
                for _ in 0..t.blocks {
                    for k in 0..KI {
                        step::<V, SR, NV, RS>(&mut acc, a.add(k * KS), b.add(k * LANES));
                    }
                    a = a.wrapping_add(t.block);
                    b = b.wrapping_add(KI * LANES);
                }
                for k in 0..t.rest {
                    step::<V, SR, NV, RS>(&mut acc, a.add(k * KS), b.add(k * LANES));
                }
                let alpha = V::splat(t.alpha);
                for (r, row) in acc.iter().enumerate() {
                    if r0 + r >= t.rows {
                        break;
                    }
                    for (v, &sum) in row.iter().enumerate() {
                        let at = (r0 + r) * LANES + v0 + v * V::N;
                        let init = if t.init.is_null() {
                            V::splat(V::T::ZERO)
                        } else {
                            V::load(t.init.add(at))
                        };
                        init.fma(sum, alpha).store(t.c.add(at));
                    }
                }
            }
        }
    }
}

/// One step of k.
///
/// SAFETY: SR rows of A at stride RS and NV registers of B are readable.
#[inline(always)]
unsafe fn step<V: Vector, const SR: usize, const NV: usize, const RS: usize>(
    acc: &mut [[V; NV]; SR],
    a: *const V::T,
    b: *const V::T,
) {
    // SAFETY: by the contract of this function.
    unsafe {
        let b: [V; NV] = std::array::from_fn(|v| V::load(b.add(v * V::N)));
        for (r, row) in acc.iter_mut().enumerate() {
            let x = V::splat(a.add(r * RS).read());
            for (sum, &b) in row.iter_mut().zip(&b) {
                *sum = sum.fma(x, b);
            }
        }
    }
}

macro_rules! table {
    ($module:ident, $T:ty, $V:ty, $rows:literal, $regs:literal $(, $features:literal)?) => {
        mod $module {
            use super::*;
            /// SAFETY: the processor has the features; extents as at [`Tile`].
            $(#[target_feature(enable = $features)])?
            unsafe fn run<const R: usize, const SR: usize, const RS: usize, const KS: usize, const KI: usize>(
                t: &Tile<$T>,
            ) {
                // SAFETY: by the contract of this function.
                unsafe { tile::<$V, R, SR, $regs, RS, KS, KI>(t) }
            }
            pub const KERNELS: Kernels<$T> = Kernels {
                adjacent: run::<ROWS, $rows, 1, 0, 1>,
                weight_t: run::<ROWS, $rows, ROWS, 1, ROWS>,
                features: run::<ROWS, $rows, LANES, 1, LANES>,
                feature: run::<1, 1, LANES, 1, LANES>,
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($V:ty, $T:ty, $n:literal, $load:ident, $store:ident, $splat:ident, $fma:ident) => {
            impl Vector for $V {
                type T = $T;
                const N: usize = $n;
                #[inline(always)]
                unsafe fn load(p: *const $T) -> Self {
                    // SAFETY: only kernels compiled for these features call this, with N readable elements.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut $T) {
                    // SAFETY: as in `load`, N writable elements.
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn splat(x: $T) -> Self {
                    // SAFETY: as in `load`.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: as in `load`.
                    unsafe { $fma(a, b, self) }
                }
            }
        };
    }
    vector!(
        __m512,
        f32,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );
    vector!(
        __m512d,
        f64,
        8,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_set1_pd,
        _mm512_fmadd_pd
    );
    vector!(
        __m256,
        f32,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
    vector!(
        __m256d,
        f64,
        4,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_set1_pd,
        _mm256_fmadd_pd
    );
}

#[cfg(target_arch = "x86_64")]
table!(avx512_f32, f32, std::arch::x86_64::__m512, 8, 2, "avx512f");
#[cfg(target_arch = "x86_64")]
table!(avx512_f64, f64, std::arch::x86_64::__m512d, 8, 2, "avx512f");
#[cfg(target_arch = "x86_64")]
table!(avx2_f32, f32, std::arch::x86_64::__m256, 4, 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
table!(avx2_f64, f64, std::arch::x86_64::__m256d, 4, 2, "avx2,fma");
table!(plain_f32, f32, Plain<f32>, 4, 2);
table!(plain_f64, f64, Plain<f64>, 4, 2);

macro_rules! detect {
    ($T:ty, $avx512:ident, $avx2:ident, $plain:ident) => {
        impl Kernels<$T> {
            pub(super) fn detect() -> Self {
                match isa() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::tensor::Isa::Avx512 => $avx512::KERNELS,
                    #[cfg(target_arch = "x86_64")]
                    $crate::tensor::Isa::Avx2 => $avx2::KERNELS,
                    _ => $plain::KERNELS,
                }
            }
        }
    };
}
detect!(f32, avx512_f32, avx2_f32, plain_f32);
detect!(f64, avx512_f64, avx2_f64, plain_f64);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every walk of every table, for tables that this machine can run, gives what the portable one gives.
    fn tables_agree<T: Real>(tables: &[Kernels<T>], plain: &Kernels<T>, tolerance: f64) {
        let number = |i: usize| T::of(((i * 7919) % 1013) as f64 / 500.0 - 1.0);
        let a: Vec<T> = (0..64 * LANES * ROWS).map(number).collect();
        let b: Vec<T> = (0..64 * LANES).map(|i| number(i + 5)).collect();
        let init: Vec<T> = (0..ROWS * LANES).map(|i| number(i + 11)).collect();
        type Pick<T> = fn(&Kernels<T>) -> TileFn<T>;
        let walks: [(Pick<T>, usize, usize, usize, usize); 4] = [
            (|k| k.adjacent, ROWS, 37, 0, 5),
            (|k| k.weight_t, 3 * ROWS * ROWS, 4, 3, ROWS),
            (|k| k.features, ROWS * LANES, 2, 0, ROWS),
            (|k| k.feature, ROWS * LANES, 2, 0, 1),
        ];
        for (pick, block, blocks, rest, rows) in walks {
            let run = |kernels: &Kernels<T>| {
                let mut c = vec![T::ZERO; ROWS * LANES];
                let tile = Tile {
                    a: a.as_ptr(),
                    block,
                    blocks,
                    rest,
                    b: b.as_ptr(),
                    init: init.as_ptr(),
                    c: c.as_mut_ptr(),
                    rows,
                    alpha: T::of(0.5),
                };
                // SAFETY: a, b, init and c are longer than any walk above reaches.
                unsafe { pick(kernels)(&tile) };
                c
            };
            let wanted = run(plain);
            for table in tables {
                for (got, want) in run(table).iter().zip(&wanted) {
                    assert!(
                        (got.f64() - want.f64()).abs() <= tolerance,
                        "{got:?} {want:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_instruction_set_gives_the_same_tiles() {
        let (mut f32s, mut f64s) = (Vec::new(), Vec::new());
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                f32s.push(avx2_f32::KERNELS);
                f64s.push(avx2_f64::KERNELS);
            }
            if is_x86_feature_detected!("avx512f") {
                f32s.push(avx512_f32::KERNELS);
                f64s.push(avx512_f64::KERNELS);
            }
        }
        tables_agree::<f32>(&f32s, &plain_f32::KERNELS, 1e-4);
        tables_agree::<f64>(&f64s, &plain_f64::KERNELS, 1e-12);
    }
}
