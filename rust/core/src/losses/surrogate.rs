//! The loss of one row: a reading pass that checks and counts, then value and gradient.

use super::spec::{KlEstimator, Loss, LossKind};
use super::{LossMetrics, Row};
use crate::{KernelError, Result};

/// Exponents beyond this are held: e^80 = 5.5e34 is still finite in f32.
const EXPONENT: f64 = 80.0;

fn exp(x: f64) -> f64 {
    x.clamp(-EXPONENT, EXPONENT).exp()
}

fn to_f32(x: f64) -> f32 {
    x.clamp(-f64::from(f32::MAX), f64::from(f32::MAX)) as f32
}

/// A column's value at a token that takes part.
fn read(what: &'static str, row: usize, column: &[f32], t: usize) -> Result<f64> {
    let value = f64::from(column[t]);
    if value.is_finite() {
        return Ok(value);
    }
    Err(KernelError::Value {
        what,
        row,
        index: t,
        value,
        why: "must be finite",
    })
}

/// Loss of a token and its derivative by lp, before weight and scale; and which bound stopped it.
struct Term {
    value: f64,
    slope: f64,
    clip: Clip,
}

#[derive(PartialEq)]
enum Clip {
    None,
    Low,
    High,
}

/// -min(r A, clip(r) A); `slope` is the derivative by log r.
fn clipped(ratio: f64, advantage: f64, low: f64, high: f64) -> Term {
    let free = ratio * advantage;
    let bound = ratio.clamp(low, high) * advantage;
    if free <= bound {
        return Term {
            value: -free,
            slope: -free,
            clip: Clip::None,
        };
    }
    let clip = if ratio < low { Clip::Low } else { Clip::High };
    Term {
        value: -bound,
        slope: 0.0,
        clip,
    }
}

/// Fills `gradient`, which is zero, and gives the row's metrics with `loss` its scaled value.
pub(super) fn row(loss: &Loss, row: &Row, scale: f64, gradient: &mut [f32]) -> Result<LossMetrics> {
    let mut m = LossMetrics {
        rows: 1.0,
        weights: row.weight_sum,
        ..LossMetrics::default()
    };
    let sequence_ratio = match loss.kind {
        LossKind::Gspo { low, high } => Some(gspo(row, low, high)?),
        _ => None,
    };
    for (t, out) in gradient.iter_mut().enumerate() {
        let w = row.weight(t);
        if w == 0.0 {
            continue;
        }
        let lp = read("logprobs", row.index, row.logprobs, t)?;
        m.tokens += 1.0;
        m.nll -= w * lp;
        m.entropy -= lp;

        let mut log_ratio = 0.0;
        if let Some(q) = row.sampled {
            log_ratio = lp - read("sampled logprobs", row.index, q, t)?;
            m.kl_sample_train_v1 -= log_ratio;
            m.kl_sample_train_v2 += 0.5 * log_ratio * log_ratio;
        }
        let advantage = match row.advantages {
            Some(a) if loss.kind != LossKind::CrossEntropy => read("advantages", row.index, a, t)?,
            _ => 0.0,
        };
        let saturated = match &sequence_ratio {
            Some(s) => s.log_ratio.abs() > EXPONENT,
            None => log_ratio.abs() > EXPONENT,
        };
        let ratio = sequence_ratio
            .as_ref()
            .map_or_else(|| exp(log_ratio), |s| s.ratio);
        if row.sampled.is_some() {
            m.ratio += ratio;
            m.ratio_max = m.ratio_max.max(ratio);
            m.ratio_min = m.ratio_min.min(ratio);
            m.log_ratio_saturated += f64::from(u8::from(saturated));
        }

        let term = match loss.kind {
            LossKind::CrossEntropy => Term {
                value: -lp,
                slope: -1.0,
                clip: Clip::None,
            },
            LossKind::ImportanceSampling => {
                let value = -ratio * advantage;
                Term {
                    value,
                    slope: value,
                    clip: Clip::None,
                }
            }
            LossKind::Ppo { low, high } => clipped(ratio, advantage, low, high),
            LossKind::Cispo { low, high } => {
                let clip = if ratio < low {
                    Clip::Low
                } else if ratio > high {
                    Clip::High
                } else {
                    Clip::None
                };
                let slope = -ratio.clamp(low, high) * advantage;
                Term {
                    value: slope * lp,
                    slope,
                    clip,
                }
            }
            LossKind::Dro { beta } => Term {
                value: -(advantage * lp - 0.5 * beta * log_ratio * log_ratio),
                slope: -advantage + beta * log_ratio,
                clip: Clip::None,
            },
            LossKind::Gspo { low, high } => Term {
                slope: sequence_ratio.as_ref().map_or(0.0, |s| s.slope),
                ..clipped(ratio, advantage, low, high)
            },
        };
        m.clipped_low += f64::from(u8::from(term.clip == Clip::Low));
        m.clipped_high += f64::from(u8::from(term.clip == Clip::High));
        let (mut value, mut slope) = (term.value, term.slope);

        if let Some(reference) = row.reference {
            let d = lp - read("reference_logprobs", row.index, reference, t)?;
            let minus_one = (-d).clamp(-EXPONENT, EXPONENT).exp_m1(); // exp(-d) - 1, exact for small d
            let (k2, k3) = (0.5 * d * d, (minus_one + d).max(0.0));
            m.kl_reference_k1 += d;
            m.kl_reference_k2 += k2;
            m.kl_reference_k3 += k3;
            if let Some(kl) = &loss.kl {
                let (v, s) = match kl.estimator {
                    KlEstimator::K2 => (k2, d),
                    KlEstimator::K3 => (k3, -minus_one),
                };
                value += kl.coef * v;
                slope += kl.coef * s;
            }
        }
        value += loss.entropy_coef * 0.5 * lp * lp;
        slope += loss.entropy_coef * lp;

        m.loss += scale * w * value;
        *out = to_f32(scale * w * slope);
    }
    Ok(m)
}

struct SequenceRatio {
    log_ratio: f64,
    ratio: f64,
    /// Derivative of the row's loss by lp at any of its tokens, over that token's weight.
    slope: f64,
}

/// The row's ratio s = exp(sum w (lp - q) / W), W = sum w. The row's loss is
/// sum_u w_u l(s, A_u), and d log s / d lp_t = w_t / W, hence the gradient at t is
/// w_t * (sum_u w_u dl/dlog s (A_u)) / W. Where all A_u are one A and nothing is clipped, that is
/// -w_t s A: token_sum is |y| times the paper's objective, sequence_mean is the paper's objective.
fn gspo(row: &Row, low: f64, high: f64) -> Result<SequenceRatio> {
    let (Some(q), Some(a)) = (row.sampled, row.advantages) else {
        return Ok(SequenceRatio {
            log_ratio: 0.0,
            ratio: 1.0,
            slope: 0.0,
        });
    };
    let mut log_ratio = 0.0;
    for t in 0..row.logprobs.len() {
        let w = row.weight(t);
        if w != 0.0 {
            let lp = read("logprobs", row.index, row.logprobs, t)?;
            log_ratio += w * (lp - read("sampled logprobs", row.index, q, t)?);
        }
    }
    log_ratio /= row.weight_sum;
    let ratio = exp(log_ratio);
    let mut slope = 0.0;
    for t in 0..row.logprobs.len() {
        let w = row.weight(t);
        if w != 0.0 {
            slope += w * clipped(ratio, read("advantages", row.index, a, t)?, low, high).slope;
        }
    }
    slope /= row.weight_sum;
    Ok(SequenceRatio {
        log_ratio,
        ratio,
        slope,
    })
}
