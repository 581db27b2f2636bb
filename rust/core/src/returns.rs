//! Returns along a row: discounted sums, generalised advantage estimation, the KL penalty.

use crate::ragged::{Rows, finite, same_length};
use crate::{KernelError, Result};

/// How far apart two positions of a row are, as the exponent of a discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Every position counts, masked ones too: the distance of tokens in the sequence.
    Positions,
    /// Masked positions are skipped as if they were not there: the distance of actions.
    Unmasked,
}

fn read(what: &'static str, row: usize, index: usize, value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(KernelError::Value {
        what,
        row,
        index,
        value,
        why: "must be finite",
    })
}

fn check_mask(mask: Option<&[bool]>, len: usize) -> Result<()> {
    mask.map_or(Ok(()), |m| same_length("mask", m.len(), len, "values"))
}

fn check_factor(name: &'static str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(KernelError::Option {
        option: name,
        value: value.to_string(),
        why: "must be finite",
    })
}

/// y_t = sum over k >= 0 of gamma^k x_{t+k}, along each row, where x is 0 at masked positions and so
/// is the result: nothing leaks onto a token that takes no part. `mask[t]` is true where t takes part;
/// elsewhere `values` is not read. gamma is any finite number (0^0 = 1; above 1 it may overflow, which
/// is refused by row and index); what k counts is `distance`.
pub fn discounted_sums(
    values: &[f64],
    offsets: &[i64],
    mask: Option<&[bool]>,
    gamma: f64,
    distance: Distance,
) -> Result<Vec<f64>> {
    let rows = Rows::new("offsets", offsets, values.len())?;
    check_mask(mask, values.len())?;
    check_factor("gamma", gamma)?;
    let mut out = vec![0.0; values.len()];
    rows.map(&mut out, 1, |row, out| {
        let start = rows.range(row).start;
        let mut sum = 0.0;
        for t in (0..out.len()).rev() {
            if mask.is_none_or(|m| m[start + t]) {
                sum = gamma * sum + read("values", row, t, values[start + t])?;
                out[t] = sum;
                if !sum.is_finite() {
                    let why = "the discounted sum overflows: lower gamma";
                    return Err(KernelError::Value {
                        what: "gamma",
                        row,
                        index: t,
                        value: gamma,
                        why,
                    });
                }
            } else if distance == Distance::Positions {
                sum *= gamma;
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// Generalised advantage estimation (Schulman et al., arXiv:1506.02438, eq. 16), backwards along each
/// row: delta_t = r_t + gamma V_{t'} - V_t and A_t = delta_t + gamma lambda A_{t'}, with t' the next
/// position that takes part. After the last one stand A = 0 and V = `bootstraps[row]`: 0 where the
/// episode ended, the critic's value of the state it reached where it was cut. At masked positions
/// the result is 0 and nothing is read. The critic's targets (returns) are A + V.
pub fn gae(
    rewards: &[f64],
    values: &[f64],
    bootstraps: &[f64],
    offsets: &[i64],
    mask: Option<&[bool]>,
    gamma: f64,
    lambda: f64,
) -> Result<Vec<f64>> {
    let rows = Rows::new("offsets", offsets, rewards.len())?;
    same_length("values", values.len(), rewards.len(), "rewards")?;
    same_length("bootstraps", bootstraps.len(), rows.count(), "rows")?;
    check_mask(mask, rewards.len())?;
    check_factor("gamma", gamma)?;
    check_factor("lambda", lambda)?;
    let mut out = vec![0.0; rewards.len()];
    rows.map(&mut out, 1, |row, out| {
        let start = rows.range(row).start;
        let mut next_value = read("bootstraps", row, 0, bootstraps[row])?;
        let mut advantage = 0.0;
        for t in (0..out.len()).rev() {
            if mask.is_none_or(|m| m[start + t]) {
                let reward = read("rewards", row, t, rewards[start + t])?;
                let value = read("values", row, t, values[start + t])?;
                advantage = reward + gamma * next_value - value + gamma * lambda * advantage;
                next_value = value;
                out[t] = read("advantage", row, t, advantage)?;
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// A penalty on KL(policy || reference), to be added to the advantages, estimated from the policy's own
/// samples by d_t = q_t - ref_t (k1) at tokens that take part: x_t = coef (mean d - d_t), the mean being
/// over all such tokens of the batch so that the penalty moves no baseline; with gamma != 0 it is the
/// sum over k >= 0 of gamma^k x_{t+k} in its stead. At masked tokens it is 0, whatever the discount
/// carried past them. Also gives the sum of d and the number of tokens: their quotient estimates the
/// KL per token.
pub fn kl_penalty(
    sampled_logprobs: &[f32],
    reference_logprobs: &[f32],
    offsets: &[i64],
    mask: &[bool],
    coef: f64,
    gamma: f64,
    distance: Distance,
) -> Result<(Vec<f32>, f64, usize)> {
    let n = sampled_logprobs.len();
    let rows = Rows::new("offsets", offsets, n)?;
    same_length(
        "reference_logprobs",
        reference_logprobs.len(),
        n,
        "logprobs",
    )?;
    check_mask(Some(mask), n)?;
    check_factor("kl_coef", coef)?;
    let mut difference = vec![0.0; n];
    let sums = rows.map(&mut difference, 1, |row, out| {
        let start = rows.range(row).start;
        let (mut sum, mut count) = (0.0, 0usize);
        for (t, d) in out.iter_mut().enumerate() {
            let at = start + t;
            if mask[at] {
                *d = read("logprobs", row, t, f64::from(sampled_logprobs[at]))?
                    - read(
                        "reference_logprobs",
                        row,
                        t,
                        f64::from(reference_logprobs[at]),
                    )?;
                sum += *d;
                count += 1;
            }
        }
        Ok((sum, count))
    })?;
    let (sum, count) = sums
        .iter()
        .fold((0.0, 0), |(s, c), (sum, count)| (s + sum, c + count));
    let mean = if count == 0 { 0.0 } else { sum / count as f64 };
    for d in &mut difference {
        *d = coef * (mean - *d);
    }
    let penalty = discounted_sums(&difference, offsets, Some(mask), gamma, distance)?;
    Ok((penalty.into_iter().map(|x| x as f32).collect(), sum, count))
}

/// Refuses rewards that are not finite, by row and index.
pub(crate) fn finite_rows(what: &'static str, values: &[f64], rows: &Rows) -> Result<()> {
    rows.iter()
        .enumerate()
        .try_for_each(|(row, range)| finite(what, row, &values[range]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn ragged() -> impl Strategy<Value = (Vec<i64>, Vec<f64>, Vec<bool>)> {
        prop::collection::vec(0usize..7, 0..5).prop_flat_map(|lengths| {
            let mut offsets = vec![0i64];
            for n in &lengths {
                offsets.push(offsets[offsets.len() - 1] + *n as i64);
            }
            let n = lengths.iter().sum::<usize>();
            (
                Just(offsets),
                prop::collection::vec(-3.0..3.0f64, n),
                prop::collection::vec(any::<bool>(), n),
            )
        })
    }

    proptest! {
        #[test]
        fn sums_follow_the_definition_and_never_leak(
            (offsets, values, mask) in ragged(), gamma in -1.5..1.5f64, positions in any::<bool>(),
        ) {
            let distance = if positions { Distance::Positions } else { Distance::Unmasked };
            let got = discounted_sums(&values, &offsets, Some(&mask), gamma, distance).unwrap();
            for w in offsets.windows(2) {
                let row = w[0] as usize..w[1] as usize;
                for t in row.clone() {
                    let mut expected = 0.0;
                    for u in t..row.end {
                        let steps = (t..u).filter(|v| positions || mask[*v]).count();
                        if mask[u] { expected += gamma.powi(steps as i32) * values[u]; }
                    }
                    let expected = if mask[t] { expected } else { 0.0 };
                    prop_assert!((got[t] - expected).abs() < 1e-9);
                    if !mask[t] { prop_assert_eq!(got[t], 0.0); }
                }
            }
        }

        #[test]
        fn gae_with_lambda_one_is_return_minus_value(
            (offsets, rewards, mask) in ragged(), gamma in 0.0..1.2f64, bootstrap in -2.0..2.0f64, v in -2.0..2.0f64,
        ) {
            let values = vec![v; rewards.len()];
            let bootstraps = vec![bootstrap; offsets.len() - 1];
            let got = gae(&rewards, &values, &bootstraps, &offsets, Some(&mask), gamma, 1.0).unwrap();
            let sums = discounted_sums(&rewards, &offsets, Some(&mask), gamma, Distance::Unmasked).unwrap();
            for w in offsets.windows(2) {
                let row = w[0] as usize..w[1] as usize;
                for t in row.clone().filter(|t| mask[*t]) {
                    let left = (t..row.end).filter(|u| mask[*u]).count();
                    let expected = sums[t] + gamma.powi(left as i32) * bootstrap - v;
                    prop_assert!((got[t] - expected).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn the_kl_penalty_is_zero_at_masked_tokens_even_when_discounted() {
        let (q, base) = ([-1.0, 0.0, -2.0, -3.0], [-2.0, -9.0, -2.0, -1.0]);
        let mask = [true, false, true, true];
        let run =
            |gamma| kl_penalty(&q, &base, &[0, 4], &mask, 0.5, gamma, Distance::Positions).unwrap();
        let (plain, sum, count) = run(0.0);
        assert_eq!((sum, count), (-1.0, 3));
        let mean = -1.0f64 / 3.0;
        let x = [0.5 * (mean - 1.0), 0.0, 0.5 * mean, 0.5 * (mean + 2.0)];
        for t in [0, 2, 3] {
            assert!((f64::from(plain[t]) - x[t]).abs() < 1e-6);
        }
        let (discounted, _, _) = run(0.5);
        assert_eq!((plain[1], discounted[1]), (0.0, 0.0));
        assert!((f64::from(discounted[0]) - (x[0] + 0.25 * x[2] + 0.125 * x[3])).abs() < 1e-6);
    }

    #[test]
    fn bad_values_and_overflow_are_refused_by_row_and_index() {
        let run = |values: &[f64], gamma| {
            discounted_sums(values, &[0, 1, 3], None, gamma, Distance::Positions)
                .unwrap_err()
                .to_string()
        };
        assert!(run(&[0.0, f64::NAN, 0.0], 1.0).contains("row 1, index 0"));
        assert!(
            run(&[0.0, 1.0, 1e300], 1e300).contains("row 1, index 0: the discounted sum overflows")
        );
        assert!(run(&[0.0; 3], f64::INFINITY).contains("gamma"));
        assert!(
            gae(&[0.0], &[0.0], &[], &[0, 1], None, 1.0, 1.0)
                .unwrap_err()
                .to_string()
                .contains("bootstraps")
        );
    }
}
