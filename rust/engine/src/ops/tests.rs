//! Each operation: its forward pass against plain loops, its backward pass against finite differences, in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::attention::{Heads, attend, attend_back};
use super::head::{HeadState, LogitGradient, target_logprobs, target_logprobs_back};
use super::norm::{rms_norm, rms_norm_again, rms_norm_back, rms_norm_weight_gradient};
use super::project::{LowRank, LowRankScratch, low_rank_gradient, weight_gradient};
use super::rope::rotate;
use super::swiglu::{swiglu, swiglu_back};
use crate::batch::{Batch, Layout};
use crate::tensor::{Act, Exec, LANES, Lanes, Packed};
use crate::train::random::Random;

type Panel = Vec<Lanes<f64>>;

fn lanes(random: &mut Random, n: usize) -> Panel {
    (0..n)
        .map(|_| Lanes(std::array::from_fn(|_| random.normal())))
        .collect()
}

fn dot(a: &[Lanes<f64>], b: &[Lanes<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .flat_map(|(a, b)| a.0.iter().zip(&b.0))
        .map(|(a, b)| a * b)
        .sum()
}

/// `gradient` against central differences of `f` at `x`, along random directions and at single places.
fn slopes(x: &Panel, gradient: &[Lanes<f64>], random: &mut Random, f: impl Fn(&Panel) -> f64) {
    for trial in 0..12 {
        let direction = if trial < 6 {
            lanes(random, x.len())
        } else {
            let mut one = vec![Lanes::ZERO; x.len()];
            let at = random.uniform(0.0, x.len() as f64) as usize;
            one[at].0[random.uniform(0.0, LANES as f64) as usize] = 1.0;
            one
        };
        let moved = |step: f64| {
            let mut moved = x.clone();
            for (x, d) in moved.iter_mut().zip(&direction) {
                x.0.iter_mut().zip(&d.0).for_each(|(x, d)| *x += step * d);
            }
            f(&moved)
        };
        let h = 1e-5;
        let (slope, given) = (
            (moved(h) - moved(-h)) / (2.0 * h),
            dot(gradient, &direction),
        );
        assert!(
            (slope - given).abs() <= 1e-6 * (1.0 + slope.abs()),
            "{given}, by differences {slope}"
        );
    }
}

#[test]
fn rms_norm_and_its_gradient() {
    let mut random = Random::new(1);
    let (x, c) = (lanes(&mut random, 11), lanes(&mut random, 11));
    let w: Vec<f64> = (0..11).map(|_| random.normal()).collect();
    let run = |x: &Panel, w: &[f64]| {
        let mut out = vec![Lanes::ZERO; 11];
        let scale = rms_norm(x, w, 1e-3, &mut out);
        (out, scale)
    };
    let (out, scale) = run(&x, &w);
    for l in 0..LANES {
        let rms = (x.iter().map(|row| row.0[l].powi(2)).sum::<f64>() / 11.0 + 1e-3).sqrt();
        for f in 0..11 {
            assert!((out[f].0[l] - x[f].0[l] / rms * w[f]).abs() < 1e-12);
        }
    }
    let mut again = vec![Lanes::ZERO; 11];
    rms_norm_again(&x, &w, &scale, &mut again);
    assert!(again.iter().zip(&out).all(|(a, b)| a.0 == b.0));

    let (mut dx, mut dw) = (vec![Lanes::ZERO; 11], vec![Lanes::ZERO; 11]);
    rms_norm_back(&x, &w, &scale, &c, &mut dx, false);
    slopes(&x, &dx, &mut random, |x| dot(&run(x, &w).0, &c));
    rms_norm_back(&x, &w, &scale, &c, &mut dx, true);
    rms_norm_back(&x, &w, &scale, &c, &mut again, false);
    assert!(dx.iter().zip(&again).all(|(twice, once)| {
        twice
            .0
            .iter()
            .zip(&once.0)
            .all(|(t, o)| (t - 2.0 * o).abs() < 1e-12)
    }));
    rms_norm_weight_gradient(&x, &scale, &c, &mut dw);
    for f in 0..11 {
        let side = |h: f64| {
            let mut w = w.clone();
            w[f] += h;
            dot(&run(&x, &w).0, &c)
        };
        assert!(((side(1e-4) - side(-1e-4)) / 2e-4 - dw[f].sum()).abs() < 1e-7);
    }
}

#[test]
fn swiglu_and_its_gradient() {
    let mut random = Random::new(2);
    let (x, c) = (lanes(&mut random, 14), lanes(&mut random, 7));
    let run = |x: &Panel| {
        let mut act = vec![Lanes::ZERO; 7];
        swiglu(x, &mut act);
        act
    };
    let (mut act, mut d) = (c.clone(), vec![Lanes::ZERO; 14]);
    swiglu_back(&x, &mut act, &mut d);
    slopes(&x, &d, &mut random, |x| dot(&run(x), &c));
    for (again, first) in act.iter().zip(run(&x)) {
        assert!(
            again
                .0
                .iter()
                .zip(&first.0)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
    }
}

#[test]
fn turning_back_is_the_gradient_of_turning() {
    let mut random = Random::new(3);
    let (x, c, turn) = (
        lanes(&mut random, 12),
        lanes(&mut random, 12),
        lanes(&mut random, 6),
    );
    let mut d = c.clone();
    rotate(&mut d, &turn, true);
    slopes(&x, &d, &mut random, |x| {
        let mut out = x.clone();
        rotate(&mut out, &turn, false);
        dot(&out, &c)
    });
}

fn layout(lengths: &[i64]) -> Layout {
    let mut offsets = vec![0];
    lengths
        .iter()
        .for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
    let tokens = vec![0; offsets[lengths.len()] as usize];
    let batch = Batch {
        tokens: &tokens,
        offsets: &offsets,
        targets: &tokens,
        per_position: 1,
    };
    Layout::new(&batch, &(0..lengths.len()))
}

#[test]
fn attention_and_its_gradient() {
    let heads = Heads {
        n: 4,
        n_kv: 2,
        dim: 6,
    };
    // Rows within a panel, over panels, and longer than the keys held at once (256).
    for lengths in [&[7, 1, 30, 12][..], &[300, 3], &[33, 70, 0, 2]] {
        let mut random = Random::new(4);
        let layout = layout(lengths);
        let panels = layout.panels();
        let qkv = lanes(&mut random, panels * heads.features());
        let c = lanes(&mut random, panels * 24);
        let run = |qkv: &Panel| {
            let (mut out, mut lse) = (
                vec![Lanes::ZERO; panels * 24],
                vec![Lanes::ZERO; panels * 4],
            );
            attend(heads, qkv, &layout, &mut out, &mut lse, Exec::Serial);
            (out, lse)
        };
        let (out, lse) = run(&qkv);
        let at = |t: usize, f: usize| qkv[t / LANES * heads.features() + f].0[t % LANES];
        let mut t = 0;
        for &length in lengths {
            for i in t..t + length as usize {
                for h in 0..4 {
                    let kv = 24 + h / 2 * 6;
                    let score = |j: usize| {
                        (0..6)
                            .map(|d| at(i, h * 6 + d) * at(j, kv + d))
                            .sum::<f64>()
                            / 6f64.sqrt()
                    };
                    let sum: f64 = (t..=i).map(|j| score(j).exp()).sum();
                    assert!((lse[i / LANES * 4 + h].0[i % LANES] - sum.ln()).abs() < 1e-10);
                    for d in 0..6 {
                        let want: f64 = (t..=i)
                            .map(|j| score(j).exp() / sum * at(j, kv + 12 + d))
                            .sum();
                        assert!(
                            (out[i / LANES * 24 + h * 6 + d].0[i % LANES] - want).abs() < 1e-10
                        );
                    }
                }
            }
            t += length as usize;
        }
        let mut d = lanes(&mut random, qkv.len());
        attend_back(heads, &qkv, &layout, (&out, &c), &lse, &mut d, Exec::Serial);
        slopes(&qkv, &d, &mut random, |qkv| dot(&run(qkv).0, &c));
    }
}

/// Learns nothing.
struct Frozen;
impl LogitGradient<f64> for Frozen {
    fn group(&mut self, _: std::ops::Range<usize>, _: &[Lanes<f64>], _: &[Lanes<f64>], _: Exec) {}
    fn finish(&mut self, _: &[Lanes<f64>], _: Exec) {}
}

#[test]
fn target_logprobs_and_their_gradient() {
    let (vocab, width, tokens, k) = (700, 5, 77, 2);
    let mut random = Random::new(5);
    let w: Vec<f64> = (0..vocab * width).map(|_| random.normal()).collect();
    let head = Packed::new(vocab, width, &w);
    let hidden = lanes(&mut random, 3 * width);
    let targets: Vec<i32> = (0..tokens * k)
        .map(|_| random.uniform(0.0, vocab as f64) as i32)
        .collect();
    let run = |hidden: &Panel, keep: bool, state: &mut HeadState<f64>| {
        let mut logprobs = vec![0.0; tokens * k];
        target_logprobs(
            &head,
            hidden,
            &targets,
            k,
            keep,
            state,
            &mut logprobs,
            Exec::Serial,
        );
        logprobs
    };
    let logprobs = run(&hidden, false, &mut HeadState::default());
    for t in 0..tokens {
        let logit = |v: usize| {
            (0..width)
                .map(|f| w[v * width + f] * hidden[t / LANES * width + f].0[t % LANES])
                .sum::<f64>()
        };
        let sum: f64 = (0..vocab).map(|v| logit(v).exp()).sum();
        for i in t * k..(t + 1) * k {
            assert!((logprobs[i] - (logit(targets[i] as usize) - sum.ln())).abs() < 1e-10);
        }
    }
    // All positions, a few of them (moved together), none; with logits kept and made again.
    for (active, keep) in [
        (1.0, true),
        (1.0, false),
        (0.2, true),
        (0.2, false),
        (0.0, true),
    ] {
        let grads: Vec<f64> = (0..tokens)
            .flat_map(|_| {
                let on = random.unit() < active;
                [(); 2].map(|()| if on { random.normal() } else { 0.0 })
            })
            .collect();
        let mut state = HeadState::default();
        run(&hidden, keep, &mut state);
        let mut d = lanes(&mut random, hidden.len());
        let given = (&targets[..], &grads[..], k);
        target_logprobs_back(
            &head,
            &hidden,
            given,
            &mut state,
            &mut d,
            &mut Frozen,
            Exec::Serial,
        );
        slopes(&hidden, &d, &mut random, |hidden| {
            let logprobs = run(hidden, false, &mut HeadState::default());
            logprobs.iter().zip(&grads).map(|(l, g)| l * g).sum()
        });
    }
}

/// One likely token beside many that are each lost when added to 1 in single precision, but not together.
#[test]
fn a_large_vocabulary_rounds_nothing_away() {
    let (vocab, tail) = (60_000, -17.0f64);
    let logits: Vec<f32> = (0..vocab)
        .map(|v| if v == 0 { 0.0 } else { tail as f32 })
        .collect();
    let head = Packed::new(vocab, 1, &logits);
    let hidden = [Lanes([1.0f32; LANES])];
    let expected = -((vocab - 1) as f64 * tail.exp()).ln_1p();
    let group = 512.0 * tail.exp(); // of at most so many rows, which are simply added up
    assert!(expected < -100.0 * group);
    for keep in [false, true] {
        let mut logprobs = [0.0f32; LANES];
        let targets = [0; LANES];
        let mut state = HeadState::default();
        target_logprobs(
            &head,
            &hidden,
            &targets,
            1,
            keep,
            &mut state,
            &mut logprobs,
            Exec::Serial,
        );
        for found in logprobs {
            assert!(
                (f64::from(found) - expected).abs() < group + 1e-6,
                "{found} {expected}"
            );
        }
    }
}

#[test]
fn gradients_of_a_linear_layer() {
    let mut random = Random::new(6);
    for (rows, cols, rank, panels) in [(13, 40, 3, 2), (9, 5, 40, 1), (64, 32, 32, 3)] {
        let (x, dy) = (
            lanes(&mut random, panels * cols),
            lanes(&mut random, panels * rows),
        );
        // d_w is held in column panels, summed over tokens.
        let mut held = vec![Lanes::ZERO; cols.div_ceil(LANES) * rows];
        weight_gradient(
            Act::new(&x, cols),
            cols,
            Act::new(&dy, rows),
            rows,
            &mut held,
            Exec::Serial,
        );
        let mut d_w = vec![0.0; rows * cols];
        for r in 0..rows {
            for c in 0..cols {
                let want = (0..panels).map(|p| {
                    x[p * cols + c]
                        .0
                        .iter()
                        .zip(&dy[p * rows + r].0)
                        .map(|(x, dy)| x * dy)
                        .sum::<f64>()
                });
                d_w[r * cols + c] = want.sum();
                assert!(
                    (held[c / LANES * rows + r].0[c % LANES] - d_w[r * cols + c]).abs() < 1e-10
                );
            }
        }
        // With W + s B A: dB = s dW A^T, dA = s B^T dW.
        let a: Vec<f64> = (0..rank * cols).map(|_| random.normal()).collect();
        let b: Vec<f64> = (0..rows * rank).map(|_| random.normal()).collect();
        let pair = LowRank {
            a: &Packed::new(rank, cols, &a),
            b: &Packed::new(rows, rank, &b),
            scale: 0.3,
        };
        let (mut d_a, mut d_b) = (
            vec![Lanes::ZERO; rank.div_ceil(LANES) * cols],
            vec![Lanes::ZERO; rank.div_ceil(LANES) * rows],
        );
        let scratch = &mut LowRankScratch::default();
        low_rank_gradient(
            pair,
            Act::new(&x, cols),
            Act::new(&dy, rows),
            (&mut d_a, &mut d_b),
            scratch,
            Exec::Serial,
        );
        for k in 0..rank {
            for r in 0..rows {
                let want: f64 = (0..cols)
                    .map(|c| 0.3 * d_w[r * cols + c] * a[k * cols + c])
                    .sum();
                assert!((d_b[k / LANES * rows + r].0[k % LANES] - want).abs() < 1e-8);
            }
            for c in 0..cols {
                let want: f64 = (0..rows)
                    .map(|r| 0.3 * b[r * rank + k] * d_w[r * cols + c])
                    .sum();
                assert!((d_a[k / LANES * cols + c].0[k % LANES] - want).abs() < 1e-8);
            }
        }
    }
}
