//! Causal grouped-query attention within rows, in tiles of 32 queries by 32 keys with a running softmax
//! (Milakov and Gimelshein 2018; Dao et al. 2022). Only the attended values and the logsumexp of each query
//! are kept; the backward pass computes the scores again, so memory grows with T and not with T^2.
use std::ops::Range;

use crate::batch::Layout;
use crate::config::ModelConfig;
use crate::tensor::kernel::{ROWS, Tile};
use crate::tensor::lanes::transpose;
use crate::tensor::{Exec, LANES, Lanes, Real, Shared, vectorized};

/// Panels of keys whose scores are held at once.
const CHUNK: usize = 8;

/// Where the heads lie in the fused projection.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub n: usize,
    pub n_kv: usize,
    pub dim: usize,
}

impl Heads {
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            n: config.n_heads,
            n_kv: config.n_kv_heads,
            dim: config.head_dim,
        }
    }
    pub fn features(&self) -> usize {
        (self.n + 2 * self.n_kv) * self.dim
    }
    fn group(&self) -> usize {
        self.n / self.n_kv
    }
    fn q(&self, head: usize) -> Range<usize> {
        head * self.dim..(head + 1) * self.dim
    }
    fn k(&self, kv: usize) -> Range<usize> {
        self.q(self.n + kv)
    }
    fn v(&self, kv: usize) -> Range<usize> {
        self.q(self.n + self.n_kv + kv)
    }
    fn scale<T: Real>(&self) -> T {
        T::of(1.0 / (self.dim as f64).sqrt())
    }
}

/// `out[j][q] = alpha * sum over features of keys[f][j] * queries[f][q]` for the 32 keys of a panel.
fn scores<T: Real>(keys: &[Lanes<T>], queries: &[Lanes<T>], alpha: T, out: &mut [Lanes<T>]) {
    assert!(keys.len() == queries.len() && out.len() == LANES);
    let kernel = T::kernels().adjacent;
    for j in (0..LANES).step_by(ROWS) {
        // SAFETY: each of `keys.len()` features has LANES tokens, read at j..j + ROWS; B has as many rows.
        unsafe {
            kernel(&Tile {
                a: keys.as_ptr().cast::<T>().add(j),
                block: LANES,
                blocks: keys.len(),
                rest: 0,
                b: queries.as_ptr().cast(),
                init: std::ptr::null(),
                c: out[j..j + ROWS].as_mut_ptr().cast(),
                rows: ROWS,
                alpha,
            });
        }
    }
}

/// `out[f][q] += sum over keys of values[f][j] * weights[j][q]`, the keys running over panels that lie
/// `stride` features apart, `values` being the first one's features and whatever follows.
fn mix<T: Real>(values: &[Lanes<T>], stride: usize, weights: &[Lanes<T>], out: &mut [Lanes<T>]) {
    let blocks = weights.len() / LANES;
    assert!(blocks > 0 && values.len() >= (blocks - 1) * stride + out.len());
    let kernels = T::kernels();
    let mut f = 0;
    while f < out.len() {
        let (rows, kernel) = if out.len() - f >= ROWS {
            (ROWS, kernels.features)
        } else {
            (1, kernels.feature)
        };
        let c = out[f..f + rows].as_mut_ptr().cast::<T>();
        // SAFETY: features f..f + rows exist in all blocks by the assertion, B has LANES rows a block.
        unsafe {
            kernel(&Tile {
                a: values[f..].as_ptr().cast(),
                block: stride * LANES,
                blocks,
                rest: 0,
                b: weights.as_ptr().cast(),
                init: c.cast_const(),
                c,
                rows,
                alpha: T::ONE,
            });
        }
        f += rows;
    }
}

vectorized! {
/// Sets the scores of keys that a query may not see to minus infinity. `first_key` is the token of row 0,
/// `query` that of lane 0, `starts` the first token of each query's row.
fn mask<T: Real>(scores: &mut [Lanes<T>], first_key: u32, query: u32, starts: &[u32]) {
    let mut from = [0u32; LANES];
    from.copy_from_slice(starts);
    for (j, row) in scores.iter_mut().enumerate() {
        let key = first_key + j as u32;
        for l in 0..LANES {
            let seen = key <= query + l as u32 && key >= from[l];
            row.0[l] = if seen { row.0[l] } else { T::NEG_INFINITY };
        }
    }
}
}

vectorized! {
/// One step of the running softmax: the scores become weights relative to the new maximum; returns what the
/// old sums must be multiplied with.
fn soften<T: Real>(scores: &mut [Lanes<T>], max: &mut Lanes<T>, sum: &mut Lanes<T>) -> Lanes<T> {
    let mut top = max.0;
    for row in scores.iter() {
        for l in 0..LANES {
            top[l] = top[l].larger(row.0[l]);
        }
    }
    let mut correct = Lanes::ZERO;
    let mut shift = [T::ZERO; LANES];
    for l in 0..LANES {
        // No key seen yet: any finite shift keeps exp(-inf - shift) = 0.
        shift[l] = if top[l] == T::NEG_INFINITY { T::ZERO } else { top[l] };
        correct.0[l] = (max.0[l] - shift[l]).exp();
    }
    let mut total = [T::ZERO; LANES];
    for row in scores.iter_mut() {
        for l in 0..LANES {
            let w = (row.0[l] - shift[l]).exp();
            row.0[l] = w;
            total[l] += w;
        }
    }
    for l in 0..LANES {
        sum.0[l] = sum.0[l] * correct.0[l] + total[l];
    }
    max.0 = top;
    correct
}
}

vectorized! {
fn scale_rows<T: Real>(rows: &mut [Lanes<T>], by: &Lanes<T>) {
    for row in rows {
        // Opaque, or the compiler makes vectors across rows, with gathers, rather than along lanes.
        let row = std::hint::black_box(row);
        for l in 0..LANES {
            row.0[l] *= by.0[l];
        }
    }
}
}

vectorized! {
/// `scores -> weights`, and `d_weights -> d_scores = scale * weights * (d_weights - delta)`.
fn soften_back<T: Real>(
    scores: &mut [Lanes<T>],
    d: &mut [Lanes<T>],
    logsumexp: &Lanes<T>,
    delta: &Lanes<T>,
    scale: T,
) {
    for (row, d) in scores.iter_mut().zip(d) {
        for l in 0..LANES {
            let w = (row.0[l] - logsumexp.0[l]).exp();
            row.0[l] = w;
            d.0[l] = w * (d.0[l] - delta.0[l]) * scale;
        }
    }
}
}

vectorized! {
fn dot_rows<T: Real>(a: &[Lanes<T>], b: &[Lanes<T>]) -> Lanes<T> {
    let mut out = Lanes::ZERO;
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            out.0[l] += a.0[l] * b.0[l];
        }
    }
    out
}
}

/// Scores of the queries of a panel against key panels `chunk`, masked where a row or the causal order cuts.
fn masked_scores<T: Real>(
    heads: Heads,
    qkv: &[Lanes<T>],
    layout: &Layout,
    (query_panel, head): (usize, usize),
    chunk: Range<usize>,
    out: &mut [Lanes<T>],
) {
    let stride = heads.features();
    let kv = head / heads.group();
    let queries = &qkv[query_panel * stride..][heads.q(head)];
    let starts = &layout.starts()[query_panel * LANES..][..LANES];
    let last_start = starts[LANES - 1] as usize;
    for (j, out) in chunk.zip(out.chunks_mut(LANES)) {
        scores(&qkv[j * stride..][heads.k(kv)], queries, heads.scale(), out);
        if j == query_panel || last_start > j * LANES {
            mask(
                out,
                (j * LANES) as u32,
                (query_panel * LANES) as u32,
                starts,
            );
        }
    }
}

/// Key panels a query panel can see.
fn seen(layout: &Layout, query_panel: usize) -> Range<usize> {
    layout.starts()[query_panel * LANES] as usize / LANES..query_panel + 1
}

/// `qkv` is rotated and normed, `[panels][features]`; `out` is `[panels][n * dim]`, `logsumexp` `[panels][n]`.
pub fn attend<T: Real>(
    heads: Heads,
    qkv: &[Lanes<T>],
    layout: &Layout,
    out: &mut [Lanes<T>],
    logsumexp: &mut [Lanes<T>],
    exec: Exec,
) {
    let (stride, width) = (heads.features(), heads.n * heads.dim);
    let (out, logsumexp) = (Shared::new(out), Shared::new(logsumexp));
    exec.each(layout.panels(), |i| {
        // SAFETY: each panel is one task's.
        let (out, logsumexp) = unsafe {
            (
                out.slice(i * width, width),
                logsumexp.slice(i * heads.n, heads.n),
            )
        };
        let mut buffer = [Lanes::<T>::ZERO; CHUNK * LANES];
        for h in 0..heads.n {
            let out = &mut out[heads.q(h)];
            out.fill(Lanes::ZERO);
            let mut max = Lanes([T::NEG_INFINITY; LANES]);
            let mut sum = Lanes::ZERO;
            let seen = seen(layout, i);
            for j0 in seen.clone().step_by(CHUNK) {
                let chunk = j0..(j0 + CHUNK).min(seen.end);
                let weights = &mut buffer[..chunk.len() * LANES];
                masked_scores(heads, qkv, layout, (i, h), chunk, weights);
                let correct = soften(weights, &mut max, &mut sum);
                if j0 != seen.start {
                    scale_rows(out, &correct);
                }
                mix(
                    &qkv[j0 * stride + heads.v(h / heads.group()).start..],
                    stride,
                    weights,
                    out,
                );
            }
            let mut inverse = Lanes::ZERO;
            for l in 0..LANES {
                inverse.0[l] = T::ONE / sum.0[l];
                logsumexp[h].0[l] = max.0[l] + sum.0[l].ln();
            }
            scale_rows(out, &inverse);
        }
    });
}

/// `d_qkv` is overwritten with the gradient of the rotated, normed `qkv`. With P the weights (FlashAttention,
/// Dao et al. 2022, section B.4): dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = dS K, dK = dS^T Q.
pub fn attend_back<T: Real>(
    heads: Heads,
    qkv: &[Lanes<T>],
    layout: &Layout,
    (out, d_out): (&[Lanes<T>], &[Lanes<T>]),
    logsumexp: &[Lanes<T>],
    d_qkv: &mut [Lanes<T>],
    exec: Exec,
) {
    let (stride, width) = (heads.features(), heads.n * heads.dim);
    d_qkv.fill(Lanes::ZERO);
    let d_qkv = Shared::new(d_qkv);
    exec.each(heads.n_kv, |kv| {
        let mut weights = [Lanes::<T>::ZERO; CHUNK * LANES];
        let mut d_scores = [Lanes::<T>::ZERO; CHUNK * LANES];
        let mut turned = [Lanes::<T>::ZERO; LANES];
        // SAFETY: a task touches only the queries, keys and values of its own key-value head, one slice at a time.
        let part = |panel: usize, range: Range<usize>| unsafe {
            d_qkv.slice(panel * stride + range.start, range.len())
        };
        for i in 0..layout.panels() {
            for h in kv * heads.group()..(kv + 1) * heads.group() {
                let queries = &qkv[i * stride..][heads.q(h)];
                let d_out = &d_out[i * width..][heads.q(h)];
                let delta = dot_rows(d_out, &out[i * width..][heads.q(h)]);
                let seen = seen(layout, i);
                for j0 in seen.clone().step_by(CHUNK) {
                    let chunk = j0..(j0 + CHUNK).min(seen.end);
                    let weights = &mut weights[..chunk.len() * LANES];
                    let d_scores = &mut d_scores[..chunk.len() * LANES];
                    masked_scores(heads, qkv, layout, (i, h), chunk.clone(), weights);
                    for (j, d) in chunk.clone().zip(d_scores.chunks_mut(LANES)) {
                        scores(&qkv[j * stride..][heads.v(kv)], d_out, T::ONE, d);
                    }
                    soften_back(
                        weights,
                        d_scores,
                        &logsumexp[i * heads.n + h],
                        &delta,
                        heads.scale(),
                    );
                    mix(
                        &qkv[j0 * stride + heads.k(kv).start..],
                        stride,
                        d_scores,
                        part(i, heads.q(h)),
                    );
                    let tiles = weights.chunks(LANES).zip(d_scores.chunks(LANES));
                    for (j, (weights, d_scores)) in chunk.zip(tiles) {
                        transpose(weights, &mut turned);
                        mix(d_out, width, &turned, part(j, heads.v(kv)));
                        transpose(d_scores, &mut turned);
                        mix(queries, stride, &turned, part(j, heads.k(kv)));
                    }
                }
            }
        }
    });
}
