//! The number types the engine computes in (f32 for work, f64 for proofs), the instruction set chosen at
//! run time, and the macro that compiles one plain function for each of them.
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::OnceLock;

use super::kernel::Kernels;

pub trait Real:
    Copy
    + Debug
    + Default
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;

    fn of(value: f64) -> Self;
    fn f64(self) -> f64;
    fn sqrt(self) -> Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn ln(self) -> Self;
    /// e^x; a NaN stays a NaN. In f32 a branch-free polynomial (2 ulp) that the compiler can vectorise.
    fn exp(self) -> Self;
    fn is_finite(self) -> bool;
    fn kernels() -> &'static Kernels<Self>;

    /// The larger one; `self` when either is a NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }
    /// Range reduction x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 for e^r (the Cephes
    /// coefficients), and 2^n built from bits.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOW: f32 = -87.33;
        const HIGH: f32 = 88.37;
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let x = if self < LOW { LOW } else { self };
        let x = if x > HIGH { HIGH } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
        let mut p = 1.987_569_1e-4;
        p = p * r + 1.398_199_9e-3;
        p = p * r + 8.333_452e-3;
        p = p * r + 4.166_579_6e-2;
        p = p * r + 1.666_666_5e-1;
        p = p * r + 5e-1;
        let p = p * r * r + r + 1.0;
        let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if self < LOW { 0.0 } else { p * scale }
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
    fn kernels() -> &'static Kernels<Self> {
        static TABLE: OnceLock<Kernels<f32>> = OnceLock::new();
        TABLE.get_or_init(Kernels::<f32>::detect)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
    fn kernels() -> &'static Kernels<Self> {
        static TABLE: OnceLock<Kernels<f64>> = OnceLock::new();
        TABLE.get_or_init(Kernels::<f64>::detect)
    }
}

/// What the processor can do, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    Portable,
}

/// The best instruction set of this machine. `TINSMITH_ISA=avx2|portable` lowers it (tests, comparisons).
pub fn isa() -> Isa {
    static CHOICE: OnceLock<Isa> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let limit = std::env::var("TINSMITH_ISA").unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match limit.as_str() {
                "" | "avx512" if avx512 => return Isa::Avx512,
                "" | "avx512" | "avx2" if avx2 => return Isa::Avx2,
                _ => {}
            }
        }
        let _ = limit;
        Isa::Portable
    })
}

/// Defines a generic function whose body is compiled once for each instruction set; the plain loops over
/// [`Lanes`](super::Lanes) inside become vector code, and the choice is made at run time.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<T: Real>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<T: Real>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<T: Real>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512<T: Real>($($arg: $ty),*) $(-> $ret)? {
                    body::<T>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<T: Real>($($arg: $ty),*) $(-> $ret)? {
                    body::<T>($($arg),*)
                }
                match $crate::tensor::isa() {
                    // SAFETY: `isa` returns a level only after detecting its features.
                    $crate::tensor::Isa::Avx512 => return unsafe { avx512::<T>($($arg),*) },
                    // SAFETY: as above.
                    $crate::tensor::Isa::Avx2 => return unsafe { avx2::<T>($($arg),*) },
                    $crate::tensor::Isa::Portable => {}
                }
            }
            body::<T>($($arg),*)
        }
    };
}
pub(crate) use vectorized;
