//! Registers of each instruction set behind one trait, and what is computed in them alone.

/// Lanes of the widest register.
pub const LANES: usize = 16;

/// A register of numbers. Safety of all functions: the machine has the instructions, pointers have room
/// for WIDTH numbers, and the caller is compiled for the instruction set, or it is slow.
pub trait Register: Copy {
    const WIDTH: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// The other when either is NaN; so is `min`.
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self + a * b`
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// 2^n for the integer n in the low bits of 1.5 * 2^23 + n.
    unsafe fn power(self) -> Self;
    /// Zero where `self < bound`, else `other`.
    unsafe fn zero_below(self, bound: Self, other: Self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
}

/// e^x to about 1 ulp by range reduction and the polynomial of Cephes' expf; 0 below -87.3, NaN for NaN.
///
/// # Safety
/// As for all functions of a register.
#[inline(always)]
pub unsafe fn exp<T: Register>(raw: T) -> T {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    // SAFETY: the caller's.
    unsafe {
        let low = T::splat(-87.3);
        let x = T::splat(88.0).min(low.max(raw));
        let shifted = T::splat(MAGIC).fma(x, T::splat(std::f32::consts::LOG2_E));
        let n = shifted.sub(T::splat(MAGIC));
        let r = x
            .fma(n, T::splat(-0.693_359_4))
            .fma(n, T::splat(2.121_944_4e-4));
        let mut p = T::splat(1.987_569_1e-4);
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            0.166_666_66,
            0.5,
        ] {
            p = T::splat(c).fma(p, r);
        }
        let y = r.add(T::splat(1.0)).fma(p, r.mul(r));
        raw.zero_below(low, y.mul(shifted.power()))
    }
}

/// What every instruction set has an instruction for.
#[cfg(target_arch = "x86_64")]
macro_rules! plain {
    ($splat:ident $load:ident $store:ident $add:ident $sub:ident $mul:ident $div:ident $max:ident $min:ident $fma:ident) => {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { $splat(x) }
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
        unsafe fn add(self, other: Self) -> Self {
            unsafe { $add(self, other) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { $sub(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { $mul(self, other) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { $div(self, other) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { $max(self, other) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { $min(self, other) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            unsafe { $fma(a, b, self) }
        }
    };
}

/// SAFETY of all blocks: the caller's, as the trait says.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Register;

    impl Register for __m512 {
        const WIDTH: usize = 16;
        #[inline(always)]
        unsafe fn power(self) -> Self {
            unsafe {
                let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(self));
                _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3F80_0000)))
            }
        }
        #[inline(always)]
        unsafe fn zero_below(self, bound: Self, other: Self) -> Self {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self, bound), other) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self) }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self) }
        }
        plain!(_mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_add_ps _mm512_sub_ps _mm512_mul_ps
               _mm512_div_ps _mm512_max_ps _mm512_min_ps _mm512_fmadd_ps);
    }

    impl Register for __m256 {
        const WIDTH: usize = 8;
        #[inline(always)]
        unsafe fn power(self) -> Self {
            unsafe {
                let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(self));
                _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3F80_0000)))
            }
        }
        #[inline(always)]
        unsafe fn zero_below(self, bound: Self, other: Self) -> Self {
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(self, bound), other) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { lanes(self).iter().sum() }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe {
                lanes(self)
                    .into_iter()
                    .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
            }
        }
        plain!(_mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
               _mm256_div_ps _mm256_max_ps _mm256_min_ps _mm256_fmadd_ps);
    }

    #[inline(always)]
    unsafe fn lanes(x: __m256) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        unsafe { x.store(lanes.as_mut_ptr()) };
        lanes
    }
}

/// Numbers that the compiler puts in registers of whatever width the target has.
/// FUSED: the machine has fused multiply-add (elsewhere `mul_add` would be a slow library call).
#[derive(Clone, Copy)]
pub struct Plain<const FUSED: bool>([f32; LANES]);

impl<const FUSED: bool> Plain<FUSED> {
    #[inline(always)]
    fn map(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: of both blocks: the caller's, as the trait says.
impl<const FUSED: bool> Register for Plain<FUSED> {
    const WIDTH: usize = LANES;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.map(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.map(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.map(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.map(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.map(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.map(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        let one = |i: usize| {
            if FUSED {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                a.0[i] * b.0[i] + self.0[i]
            }
        };
        Self(std::array::from_fn(one))
    }
    #[inline(always)]
    unsafe fn power(self) -> Self {
        Self(
            self.0
                .map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3F80_0000))),
        )
    }
    #[inline(always)]
    unsafe fn zero_below(self, bound: Self, other: Self) -> Self {
        Self(std::array::from_fn(|i| {
            if self.0[i] < bound.0[i] {
                0.0
            } else {
                other.0[i]
            }
        }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}
