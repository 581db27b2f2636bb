//! The gradient of a linear layer with respect to what is trained of it: a low-rank pair or the matrix.
use std::ops::Range;

use crate::tensor::kernel::ROWS;
use crate::tensor::lanes::{grow, transpose};
use crate::tensor::{Act, Exec, LANES, Lanes, Packed, Real, Shared, outer};

/// Transposes features `first..first + n` (at most 32) of all panels: `out` is `[panels * 32]`, token by token.
pub fn turn<T: Real>(x: Act<T>, n: usize, out: &mut [Lanes<T>]) {
    let (tiles, _) = out.as_chunks_mut::<LANES>();
    for (p, tile) in tiles.iter_mut().enumerate() {
        transpose(&x.panel(p)[..n], tile);
    }
}

/// `d_w[o][i] += sum over tokens of dy[o] x[i]`, `d_w` in column panels: `[cols / 32][rows]`.
pub fn weight_gradient<T: Real>(
    x: Act<T>,
    cols: usize,
    dy: Act<T>,
    rows: usize,
    d_w: &mut [Lanes<T>],
    exec: Exec,
) {
    let d_w = Shared::new(d_w);
    exec.each(cols.div_ceil(LANES), |c| {
        let mut xt = vec![Lanes::ZERO; x.panels() * LANES];
        turn(x.from(c * LANES), LANES.min(cols - c * LANES), &mut xt);
        // SAFETY: each task has a column panel of its own.
        outer(dy, &xt, unsafe { d_w.slice(c * rows, rows) }, T::ONE);
    });
}

/// Room for the rank-r activations of a low-rank gradient.
#[derive(Debug, Default)]
pub struct LowRankScratch<T> {
    u: Vec<Lanes<T>>,
    v: Vec<Lanes<T>>,
    turned: Vec<Lanes<T>>,
}

/// A low-rank pair: the layer's weight is `W + scale * B A`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a, T> {
    /// `[r, in]`
    pub a: &'a Packed<T>,
    /// `[out, r]`
    pub b: &'a Packed<T>,
    pub scale: T,
}

/// With `u = A x` and `v = scale B^T dy`: `dB += scale dy u^T`, `dA += v x^T`; both are four products as thin as
/// the rank, cheaper than the whole `dy x^T` while 2 r (in + out) < in * out. `d_a` is kept transposed,
/// `[r / 32][in]`, and `d_b` is `[r / 32][out]`, so that only the thin operands are ever turned.
pub fn low_rank_gradient<T: Real>(
    pair: LowRank<T>,
    x: Act<T>,
    dy: Act<T>,
    (d_a, d_b): (&mut [Lanes<T>], &mut [Lanes<T>]),
    scratch: &mut LowRankScratch<T>,
    exec: Exec,
) {
    low_rank_outputs(pair, true, x, dy, 0..pair.b.rows(), d_b, scratch, exec);
    low_rank_inputs(pair, x, d_a, scratch, exec);
}

/// The half that needs `dy`, for output rows `rows` alone: adds to `d_b` and to v. `first`: u and v are of
/// another x.
#[allow(clippy::too_many_arguments)]
pub fn low_rank_outputs<T: Real>(
    pair: LowRank<T>,
    first: bool,
    x: Act<T>,
    dy: Act<T>,
    rows: Range<usize>,
    d_b: &mut [Lanes<T>],
    scratch: &mut LowRankScratch<T>,
    exec: Exec,
) {
    let (rank, n_out, panels) = (pair.a.rows(), pair.b.rows(), x.panels());
    let turned_len = rank.div_ceil(LANES) * panels * LANES;
    let v = grow(&mut scratch.v, panels * rank);
    let turned = grow(&mut scratch.turned, turned_len);
    if first {
        let u = grow(&mut scratch.u, panels * rank);
        pair.a.mul(x, u, None, exec);
        for (r, turned) in turned.chunks_mut(panels * LANES).enumerate() {
            turn(
                Act::new(u, rank).from(r * LANES),
                LANES.min(rank - r * LANES),
                turned,
            );
        }
    }
    pair.b
        .mul_t_rows(rows.clone(), dy, v, pair.scale, !first, exec);
    for (turned, d_b) in turned.chunks(panels * LANES).zip(d_b.chunks_mut(n_out)) {
        spread(dy, turned, &mut d_b[rows.clone()], pair.scale, exec);
    }
}

/// The half that needs only x, after `low_rank_outputs` has seen all rows.
pub fn low_rank_inputs<T: Real>(
    pair: LowRank<T>,
    x: Act<T>,
    d_a: &mut [Lanes<T>],
    scratch: &mut LowRankScratch<T>,
    exec: Exec,
) {
    let (rank, n_in, panels) = (pair.a.rows(), pair.a.cols(), x.panels());
    let v = Act::new(&scratch.v[..panels * rank], rank);
    let turned = grow(&mut scratch.turned, panels * LANES);
    for (r, d_a) in d_a.chunks_mut(n_in).enumerate() {
        turn(v.from(r * LANES), LANES.min(rank - r * LANES), turned);
        spread(x, turned, d_a, T::ONE, exec);
    }
}

/// `outer`, its rows shared out.
fn spread<T: Real>(a: Act<T>, bt: &[Lanes<T>], c: &mut [Lanes<T>], alpha: T, exec: Exec) {
    exec.runs(c, ROWS, |block, c| {
        outer(a.from(block * ROWS), bt, c, alpha)
    });
}
