//! Advantages of the episodes of a group from their total rewards.
//!
//! All arithmetic is f64 and two-pass: the spread of a set is never computed as E[x^2] - E[x]^2,
//! which leaves a residue for equal rewards. A set (group or batch) whose rewards spread no further
//! than `SPREAD_FLOOR` relative to their size is constant, and its advantages are exactly 0.

use crate::names::unknown;
use crate::ragged::Rows;
use crate::returns::finite_rows;
use crate::{KernelError, Result};

/// max - min of a constant set, relative to max |r|: rounding, not reward.
pub const SPREAD_FLOOR: f64 = 1e-9;

/// Which advantage. r are the rewards of a group of G episodes, m their mean, s their (population)
/// standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Estimator {
    /// r - m (Liu et al., "Dr. GRPO", arXiv:2503.20783; Tinker's default).
    Mean,
    /// (r - m) / (s + eps) (GRPO: Shao et al., arXiv:2402.03300, section 4.1.2).
    MeanStd { eps: f64 },
    /// r minus the mean of the other G - 1 rewards, = G / (G - 1) (r - m); 0 where G = 1
    /// (RLOO: Kool et al. 2019; Ahmadian et al., arXiv:2402.14740).
    LeaveOneOut,
    /// (r - mean of the batch) / (std of the batch + eps), no group (Hu et al., arXiv:2501.03262).
    ReinforcePlusPlus { eps: f64 },
    /// (r - m) / (std of all r - m of the batch + eps): the same paper's variant with a group baseline.
    ReinforcePlusPlusBaseline { eps: f64 },
    /// (r - m) / m for rewards >= 0, and 0 where m = 0 (Tajwar et al., arXiv:2602.02710).
    MaxRl,
    /// Pass@k training (Chen et al., arXiv:2508.10751, section 2.4) for rewards of 0 or 1. Of G
    /// episodes, n failed: R = 1 - C(n, k) / C(G, k), S = sqrt(R (1 - R)); a right episode gets
    /// (1 - R) / S, a wrong one (1 - R - C(n - 1, k - 1) / C(G - 1, k - 1)) / S; all get 0 where S = 0.
    /// k = 1 is MeanStd with eps = 0.
    PassAtK { k: usize },
}

const NAMES: [&str; 7] = [
    "mean",
    "mean_std",
    "leave_one_out",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "maxrl",
    "pass_at_k",
];

impl Estimator {
    /// The names that `parse` knows.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// By name; `eps` is read by those that divide by a deviation, `k` by pass_at_k.
    pub fn parse(name: &str, eps: f64, k: usize) -> Result<Self> {
        if !(eps >= 0.0 && eps.is_finite()) {
            let why = "must be finite and not negative";
            return Err(KernelError::Option {
                option: "eps",
                value: eps.to_string(),
                why,
            });
        }
        Ok(match name {
            "mean" => Self::Mean,
            "mean_std" => Self::MeanStd { eps },
            "leave_one_out" => Self::LeaveOneOut,
            "reinforce_pp" => Self::ReinforcePlusPlus { eps },
            "reinforce_pp_baseline" => Self::ReinforcePlusPlusBaseline { eps },
            "maxrl" => Self::MaxRl,
            "pass_at_k" if k == 0 => {
                return Err(KernelError::Option {
                    option: "k",
                    value: "0".into(),
                    why: "must be at least 1",
                });
            }
            "pass_at_k" => Self::PassAtK { k },
            _ => return Err(unknown("advantage estimator", name, &NAMES)),
        })
    }
}

/// Advantages [sum of G] of P groups, group p being `rewards[offsets[p]..offsets[p + 1]]`.
pub fn group_advantages(
    rewards: &[f64],
    offsets: &[i64],
    estimator: Estimator,
) -> Result<Vec<f64>> {
    let rows = Rows::new("offsets", offsets, rewards.len())?;
    finite_rows("rewards", rewards, &rows)?;
    let mut out = vec![0.0; rewards.len()];
    if let Estimator::ReinforcePlusPlus { eps } = estimator {
        standardise(rewards, eps, &mut out);
        return Ok(out);
    }
    rows.map(&mut out, 1, |row, out| {
        group(row, &rewards[rows.range(row)], estimator, out)
    })?;
    if let Estimator::ReinforcePlusPlusBaseline { eps } = estimator {
        let deviation = (out.iter().map(|a| a * a).sum::<f64>() / out.len().max(1) as f64).sqrt();
        if deviation > 0.0 {
            out.iter_mut().for_each(|a| *a /= deviation + eps);
        }
    }
    Ok(out)
}

fn mean(r: &[f64]) -> f64 {
    // Around the first reward, so that the mean of equal rewards is exactly that reward.
    r[0] + r.iter().map(|x| x - r[0]).sum::<f64>() / r.len() as f64
}

/// No spread beyond rounding: there is nothing to compare.
fn is_constant(r: &[f64]) -> bool {
    let (low, high) = r
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| {
            (l.min(*x), h.max(*x))
        });
    // Halves, so that the spread of huge rewards of both signs does not overflow.
    r.is_empty() || 0.5 * high - 0.5 * low <= 0.5 * SPREAD_FLOOR * high.abs().max(low.abs())
}

fn standardise(r: &[f64], eps: f64, out: &mut [f64]) {
    if is_constant(r) {
        return;
    }
    let m = mean(r);
    let deviation = (r.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / r.len() as f64).sqrt();
    for (a, x) in out.iter_mut().zip(r) {
        *a = (x - m) / (deviation + eps);
    }
}

/// Fills `out`, which is zero.
fn group(row: usize, r: &[f64], estimator: Estimator, out: &mut [f64]) -> Result<()> {
    match estimator {
        Estimator::MaxRl => check(
            row,
            r,
            |x| x >= 0.0,
            "maxrl needs rewards that are not negative",
        )?,
        Estimator::PassAtK { k } => {
            check(
                row,
                r,
                |x| x == 0.0 || x == 1.0,
                "pass_at_k needs rewards of 0 or 1",
            )?;
            if k > r.len() && !r.is_empty() {
                let why = format!(
                    "pass_at_k with k = {k} needs groups of at least that size, this one has {}",
                    r.len()
                );
                return Err(KernelError::Row { row, why });
            }
        }
        _ => {}
    }
    if is_constant(r) {
        return Ok(());
    }
    let m = mean(r);
    let size = r.len() as f64;
    match estimator {
        Estimator::MeanStd { eps } => standardise(r, eps, out),
        Estimator::PassAtK { k } => pass_at_k(r, k, out),
        Estimator::Mean
        | Estimator::ReinforcePlusPlusBaseline { .. }
        | Estimator::ReinforcePlusPlus { .. } => {
            scale(r, m, 1.0, out);
        }
        Estimator::LeaveOneOut => scale(r, m, size / (size - 1.0), out),
        Estimator::MaxRl => {
            for (a, x) in out.iter_mut().zip(r) {
                *a = (x - m) / m;
            }
        }
    }
    Ok(())
}

fn scale(r: &[f64], m: f64, factor: f64, out: &mut [f64]) {
    for (a, x) in out.iter_mut().zip(r) {
        *a = factor * (x - m);
    }
}

fn check(row: usize, r: &[f64], good: impl Fn(f64) -> bool, why: &'static str) -> Result<()> {
    match r.iter().position(|x| !good(*x)) {
        None => Ok(()),
        Some(index) => Err(KernelError::Value {
            what: "rewards",
            row,
            index,
            value: r[index],
            why,
        }),
    }
}

fn pass_at_k(r: &[f64], k: usize, out: &mut [f64]) {
    let total = r.len();
    let failed = r.iter().filter(|x| **x == 0.0).count();
    // C(n, j) / C(N, j), a product of quotients: no factorial, so no overflow.
    let quotient = |n: usize, big: usize, j: usize| -> f64 {
        if j > n {
            0.0
        } else {
            (0..j).map(|i| (n - i) as f64 / (big - i) as f64).product()
        }
    };
    let all_fail = quotient(failed, total, k);
    let deviation = (all_fail * (1.0 - all_fail)).sqrt();
    if deviation == 0.0 {
        return;
    }
    let wrong = all_fail - quotient(failed - 1, total - 1, k - 1);
    for (a, x) in out.iter_mut().zip(r) {
        *a = if *x == 1.0 { all_fail } else { wrong } / deviation;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn all() -> impl Strategy<Value = Estimator> {
        prop::sample::select(vec![
            Estimator::Mean,
            Estimator::MeanStd { eps: 1e-6 },
            Estimator::LeaveOneOut,
            Estimator::ReinforcePlusPlus { eps: 1e-6 },
            Estimator::ReinforcePlusPlusBaseline { eps: 1e-6 },
            Estimator::MaxRl,
            Estimator::PassAtK { k: 1 },
        ])
    }

    proptest! {
        #[test]
        fn a_constant_group_gives_exact_zeros(reward in -10.0..10.0f64, size in 1usize..30, estimator in all()) {
            let reward = match estimator {
                Estimator::MaxRl => reward.abs(),
                Estimator::PassAtK { .. } => f64::from(u8::from(reward > 0.0)),
                _ => reward,
            };
            let got = group_advantages(&vec![reward; size], &[0, size as i64], estimator).unwrap();
            prop_assert!(got.iter().all(|a| *a == 0.0));
        }

        #[test]
        fn advantages_of_a_group_sum_to_zero(
            wins in prop::collection::vec(any::<bool>(), 1..20), k in 1usize..5, estimator in all(),
        ) {
            let r: Vec<f64> = wins.iter().map(|w| f64::from(u8::from(*w))).collect();
            let estimator = match estimator {
                Estimator::PassAtK { .. } => Estimator::PassAtK { k: k.min(r.len()) },
                other => other,
            };
            let got = group_advantages(&r, &[0, r.len() as i64], estimator).unwrap();
            prop_assert!(got.iter().sum::<f64>().abs() < 1e-9 * r.len() as f64 * 1e3);
        }

        #[test]
        fn pass_at_one_is_mean_std(wins in prop::collection::vec(any::<bool>(), 1..20)) {
            let r: Vec<f64> = wins.iter().map(|w| f64::from(u8::from(*w))).collect();
            let o = [0, r.len() as i64];
            let a = group_advantages(&r, &o, Estimator::PassAtK { k: 1 }).unwrap();
            let b = group_advantages(&r, &o, Estimator::MeanStd { eps: 0.0 }).unwrap();
            prop_assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-9));
        }
    }

    #[test]
    fn equal_rewards_that_are_not_dyadic_have_no_spread() {
        for n in 2..50 {
            let r = vec![0.1f64; n];
            let got =
                group_advantages(&r, &[0, n as i64], Estimator::MeanStd { eps: 0.0 }).unwrap();
            assert!(got.iter().all(|a| *a == 0.0));
        }
        let rounding = [0.3, 0.1 + 0.2];
        let got = group_advantages(&rounding, &[0, 2], Estimator::MeanStd { eps: 0.0 }).unwrap();
        assert_eq!(got, [0.0, 0.0]);
    }

    #[test]
    fn unsuitable_rewards_are_refused_by_row_and_index() {
        let message = |r: &[f64], e| {
            group_advantages(r, &[0, 1, r.len() as i64], e)
                .unwrap_err()
                .to_string()
        };
        assert!(message(&[1.0, f64::NAN], Estimator::Mean).contains("row 1, index 0"));
        assert!(message(&[1.0, 0.0, -1.0], Estimator::MaxRl).contains("row 1, index 1"));
        assert!(message(&[1.0, 0.5], Estimator::PassAtK { k: 1 }).contains("row 1, index 0"));
        assert!(
            message(&[1.0, 0.0, 1.0], Estimator::PassAtK { k: 2 })
                .contains("row 0: pass_at_k with k = 2")
        );
        assert!(
            Estimator::parse("mean_sdt", 0.0, 1)
                .unwrap_err()
                .to_string()
                .contains("mean_std")
        );
        assert!(Estimator::parse("mean", -1.0, 1).is_err());
    }
}
