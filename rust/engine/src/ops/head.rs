//! The output head: logprobs of given targets. Logits exist only for a group of vocabulary rows at a time, or,
//! when a micro-batch's fit a fixed budget, until its backward pass; they are never stored for a batch.
use crate::tensor::kernel::ROWS;
use crate::tensor::lanes::grow;
use crate::tensor::{Act, Exec, LANES, Lanes, Packed, Real, Shared, vectorized};

/// Bytes of logits that a micro-batch may keep between its forward and its backward pass.
const KEEP_BYTES: usize = 64 << 20;
/// Bytes of head weights that stay in cache while the panels pass.
const GROUP_BYTES: usize = 256 << 10;

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Default)]
pub struct HeadState<T> {
    /// `[panels]`
    logsumexp: Vec<Lanes<T>>,
    /// `[panels][vocab]`, when they fit.
    logits: Vec<Lanes<T>>,
    kept: bool,
    group: Vec<Lanes<T>>,
    compact: Compact<T>,
}

/// The positions that have a gradient, moved together.
#[derive(Debug, Default)]
struct Compact<T> {
    hidden: Vec<Lanes<T>>,
    d_hidden: Vec<Lanes<T>>,
    logsumexp: Vec<Lanes<T>>,
}

fn group_rows<T>(head: &Packed<T>) -> usize
where
    T: Real,
{
    let rows = GROUP_BYTES / (head.cols() * size_of::<T>());
    (rows / ROWS * ROWS).clamp(ROWS, 512)
}

/// The logsumexp of the logits so far, of each lane: `max + ln(sum + rest)`. `rest` is what rounding took from `sum`: the
/// many small terms of a large vocabulary would each be lost beside a sum near 1.
#[derive(Clone, Copy)]
struct Running<T> {
    max: Lanes<T>,
    sum: Lanes<T>,
    rest: Lanes<T>,
}

vectorized! {
/// A step of the running logsumexp over more logits.
fn gather_sum<T: Real>(logits: &[Lanes<T>], running: &mut Running<T>) {
    let mut top = running.max.0;
    for row in logits {
        for l in 0..LANES {
            top[l] = top[l].larger(row.0[l]);
        }
    }
    let mut added = [T::ZERO; LANES];
    for row in logits {
        for l in 0..LANES {
            added[l] += (row.0[l] - top[l]).exp();
        }
    }
    for l in 0..LANES {
        let scale = (running.max.0[l] - top[l]).exp();
        let before = running.sum.0[l] * scale;
        let sum = before + added[l];
        // What was added to either, less what came of it (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B).
        let part = sum - before;
        let lost = (before - (sum - part)) + (added[l] - part);
        running.rest.0[l] = running.rest.0[l] * scale + lost;
        running.sum.0[l] = sum;
    }
    running.max.0 = top;
}
}

vectorized! {
/// Logits become `-total * softmax`.
fn spread_gradient<T: Real>(logits: &mut [Lanes<T>], logsumexp: &Lanes<T>, total: &Lanes<T>) {
    for row in logits {
        for l in 0..LANES {
            row.0[l] = -total.0[l] * (row.0[l] - logsumexp.0[l]).exp();
        }
    }
}
}

/// Logprobs of `targets` (`[tokens * k]`) into `logprobs` (the same shape). `hidden` is `[panels][hidden]`, normed.
#[allow(clippy::too_many_arguments)]
pub fn target_logprobs<T: Real>(
    head: &Packed<T>,
    hidden: &[Lanes<T>],
    targets: &[i32],
    k: usize,
    keep: bool,
    state: &mut HeadState<T>,
    logprobs: &mut [T],
    exec: Exec,
) {
    let (vocab, width) = (head.rows(), head.cols());
    let panels = hidden.len() / width;
    state.kept = keep && panels * vocab * size_of::<Lanes<T>>() <= KEEP_BYTES;
    let kept = state.kept;
    let logits = Shared::new(grow(
        &mut state.logits,
        if kept { panels * vocab } else { 0 },
    ));
    let group = group_rows(head);
    let logprobs = Shared::new(logprobs);
    let x = Act::new(hidden, width);
    exec.runs(
        grow(&mut state.logsumexp, panels),
        1,
        |panel0, logsumexp| {
            let n = logsumexp.len();
            let mut scratch = vec![Lanes::ZERO; if kept { 0 } else { group }];
            let none = Running {
                max: Lanes([T::NEG_INFINITY; LANES]),
                sum: Lanes::ZERO,
                rest: Lanes::ZERO,
            };
            let mut running = vec![none; n];
            let first = panel0 * LANES * k;
            let last = ((panel0 + n) * LANES * k).min(targets.len());
            let targets = &targets[first..last];
            // SAFETY: the targets of different panels are disjoint.
            let picked = unsafe { logprobs.slice(first, targets.len()) };
            for g0 in (0..vocab).step_by(group) {
                let g1 = (g0 + group).min(vocab);
                for p in 0..n {
                    let rows = if kept {
                        // SAFETY: rows g0..g1 of one panel, whose only task this is.
                        unsafe { logits.slice((panel0 + p) * vocab + g0, g1 - g0) }
                    } else {
                        &mut scratch[..g1 - g0]
                    };
                    head.mul_rows(
                        g0..g1,
                        x.slice(panel0 + p..panel0 + p + 1),
                        rows,
                        None,
                        Exec::Serial,
                    );
                    gather_sum(rows, &mut running[p]);
                    let own = p * LANES * k..((p + 1) * LANES * k).min(targets.len());
                    for (i, (&id, out)) in targets[own.clone()]
                        .iter()
                        .zip(&mut picked[own])
                        .enumerate()
                    {
                        if (g0..g1).contains(&(id as usize)) {
                            *out = rows[id as usize - g0].0[i / k];
                        }
                    }
                }
            }
            for (logsumexp, run) in logsumexp.iter_mut().zip(&running) {
                for l in 0..LANES {
                    logsumexp.0[l] = run.max.0[l] + (run.sum.0[l] + run.rest.0[l]).ln();
                }
            }
            for (i, out) in picked.iter_mut().enumerate() {
                let token = i / k;
                *out -= logsumexp[token / LANES].0[token % LANES];
            }
        },
    );
}

/// What is done with the gradient of a group of logits, beside handing it to the hidden state.
pub trait LogitGradient<T> {
    /// `d_logits` is `[panels][rows of the group]`, `hidden` `[panels][hidden]` at the same positions.
    fn group(
        &mut self,
        rows: std::ops::Range<usize>,
        d_logits: &[Lanes<T>],
        hidden: &[Lanes<T>],
        exec: Exec,
    );
    /// After the last group.
    fn finish(&mut self, hidden: &[Lanes<T>], exec: Exec);
}

/// `d_hidden` (`[panels][hidden]`) is overwritten, given `d logprob` in `grads`, `[tokens * k]`: with G the sum of a
/// position's gradients, `d logit_v = sum_k g_k [v = target_k] - G softmax_v`. Positions without a gradient cost
/// nothing.
pub fn target_logprobs_back<T: Real>(
    head: &Packed<T>,
    hidden: &[Lanes<T>],
    (targets, grads, k): (&[i32], &[T], usize),
    state: &mut HeadState<T>,
    d_hidden: &mut [Lanes<T>],
    learner: &mut dyn LogitGradient<T>,
    exec: Exec,
) {
    let (vocab, width) = (head.rows(), head.cols());
    let active: Vec<usize> = (0..targets.len() / k)
        .filter(|&t| grads[t * k..(t + 1) * k].iter().any(|&g| g != T::ZERO))
        .collect();
    if active.is_empty() {
        d_hidden.fill(Lanes::ZERO);
        return;
    }
    let panels = active.len().div_ceil(LANES);
    // With nearly all panels still needed, positions stay where they are.
    let moved = panels < hidden.len() / width;
    let Compact {
        hidden: h,
        d_hidden: d,
        logsumexp: lse,
    } = &mut state.compact;
    let (h, d, lse) = if moved {
        let (h, lse) = (grow(h, panels * width), grow(lse, panels));
        for i in 0..panels * LANES {
            // Lanes left over repeat the last position; their gradient is zero.
            let from = active[i.min(active.len() - 1)];
            lse[i / LANES].0[i % LANES] = state.logsumexp[from / LANES].0[from % LANES];
            let source = &hidden[from / LANES * width..][..width];
            for (to, source) in h[i / LANES * width..][..width].iter_mut().zip(source) {
                to.0[i % LANES] = source.0[from % LANES];
            }
        }
        (&*h, grow(d, panels * width), &*lse)
    } else {
        (
            hidden,
            &mut *d_hidden,
            &state.logsumexp[..hidden.len() / width],
        )
    };
    let lanes: Vec<Option<usize>> = if moved {
        (0..panels * LANES)
            .map(|i| active.get(i).copied())
            .collect()
    } else {
        (0..panels * LANES)
            .map(|i| (i < targets.len() / k).then_some(i))
            .collect()
    };
    let total: Vec<Lanes<T>> = lanes
        .chunks(LANES)
        .map(|lanes| {
            let mut total = Lanes::ZERO;
            for (l, token) in lanes.iter().enumerate() {
                total.0[l] =
                    token.map_or(T::ZERO, |t| grads[t * k..(t + 1) * k].iter().copied().sum());
            }
            total
        })
        .collect();
    let group = group_rows(head);
    let x = Act::new(h, width);
    for g0 in (0..vocab).step_by(group) {
        let g1 = (g0 + group).min(vocab);
        let rows = g1 - g0;
        let logits = grow(&mut state.group, panels * rows);
        let kept = state.kept.then_some(&state.logits);
        exec.runs(logits, rows, |panel0, out| {
            for (p, out) in (panel0..).zip(out.chunks_mut(rows)) {
                let lanes = &lanes[p * LANES..(p + 1) * LANES];
                match kept {
                    Some(kept) if moved => {
                        for (l, token) in lanes.iter().enumerate() {
                            let t = token.unwrap_or(active[active.len() - 1]);
                            let from = &kept[t / LANES * vocab + g0..][..rows];
                            for (out, from) in out.iter_mut().zip(from) {
                                out.0[l] = from.0[t % LANES];
                            }
                        }
                    }
                    Some(kept) => out.copy_from_slice(&kept[p * vocab + g0..][..rows]),
                    None => head.mul_rows(g0..g1, x.slice(p..p + 1), out, None, Exec::Serial),
                }
                spread_gradient(out, &lse[p], &total[p]);
                for (l, token) in lanes.iter().enumerate() {
                    let Some(t) = *token else { continue };
                    for (&id, &g) in targets[t * k..(t + 1) * k]
                        .iter()
                        .zip(&grads[t * k..(t + 1) * k])
                    {
                        if (g0..g1).contains(&(id as usize)) {
                            out[id as usize - g0].0[l] += g;
                        }
                    }
                }
            }
        });
        head.mul_t_rows(g0..g1, Act::new(logits, rows), d, T::ONE, g0 > 0, exec);
        learner.group(g0..g1, logits, h, exec);
    }
    learner.finish(h, exec);
    if moved {
        let d: &[Lanes<T>] = &state.compact.d_hidden[..panels * width];
        d_hidden.fill(Lanes::ZERO);
        for (i, &to) in active.iter().enumerate() {
            let source = &d[i / LANES * width..][..width];
            for (out, source) in d_hidden[to / LANES * width..][..width]
                .iter_mut()
                .zip(source)
            {
                out.0[to % LANES] = source.0[i % LANES];
            }
        }
    }
}
