//! RMSNorm (Zhang and Sennrich 2019, eq. 4): `y = x / rms(x) * w`, `rms(x) = sqrt(mean(x^2) + eps)`.
use std::hint::black_box;

use crate::tensor::{LANES, Lanes, Real, vectorized};

vectorized! {
/// Writes the normed features of a panel to `out` and returns `1 / rms` of each token.
pub fn rms_norm<T: Real>(x: &[Lanes<T>], weight: &[T], eps: T, out: &mut [Lanes<T>]) -> Lanes<T> {
    let mut squares = [T::ZERO; LANES];
    for row in x {
        for l in 0..LANES {
            squares[l] += row.0[l] * row.0[l];
        }
    }
    let n = T::of(x.len() as f64);
    let mut scale = Lanes::ZERO;
    for l in 0..LANES {
        scale.0[l] = T::ONE / (squares[l] / n + eps).sqrt();
    }
    scale_rows(x, weight, &scale, out);
    scale
}
}

vectorized! {
/// The forward pass again, from a known `1 / rms`.
pub fn rms_norm_again<T: Real>(x: &[Lanes<T>], weight: &[T], scale: &Lanes<T>, out: &mut [Lanes<T>]) {
    scale_rows(x, weight, scale, out);
}
}

#[inline(always)]
fn scale_rows<T: Real>(x: &[Lanes<T>], weight: &[T], scale: &Lanes<T>, out: &mut [Lanes<T>]) {
    for ((row, out), &w) in x.iter().zip(out).zip(weight) {
        // Opaque, or the compiler makes vectors across rows, with gathers, rather than along lanes.
        let w = black_box(w);
        for l in 0..LANES {
            out.0[l] = row.0[l] * scale.0[l] * w;
        }
    }
}

vectorized! {
/// With `s = 1 / rms`: `dx (+)= s w dy - x s^3 mean(w dy x)`.
pub fn rms_norm_back<T: Real>(
    x: &[Lanes<T>],
    weight: &[T],
    scale: &Lanes<T>,
    dy: &[Lanes<T>],
    dx: &mut [Lanes<T>],
    add: bool,
) {
    let mut dot = [T::ZERO; LANES];
    for ((row, dy), &w) in x.iter().zip(dy).zip(weight) {
        for l in 0..LANES {
            dot[l] += row.0[l] * dy.0[l] * w;
        }
    }
    let n = T::of(x.len() as f64);
    for l in 0..LANES {
        dot[l] = dot[l] / n * scale.0[l] * scale.0[l] * scale.0[l];
    }
    for (((row, dy), &w), dx) in x.iter().zip(dy).zip(weight).zip(dx) {
        for l in 0..LANES {
            let before = if add { dx.0[l] } else { T::ZERO };
            dx.0[l] = before + dy.0[l] * w * scale.0[l] - row.0[l] * dot[l];
        }
    }
}
}

vectorized! {
/// `dw += dy x / rms`, lane by lane.
pub fn rms_norm_weight_gradient<T: Real>(x: &[Lanes<T>], scale: &Lanes<T>, dy: &[Lanes<T>], dw: &mut [Lanes<T>]) {
    for ((row, dy), dw) in x.iter().zip(dy).zip(dw) {
        for l in 0..LANES {
            dw.0[l] += dy.0[l] * row.0[l] * scale.0[l];
        }
    }
}
}
