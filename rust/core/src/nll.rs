//! Negative log likelihood of rows: what supervised runs report.

use crate::ragged::{Rows, same_length};
use crate::{KernelError, Result};

/// Sum of -w lp and of w over each row, in nats. Tokens of weight 0 are not read; weights must not
/// be negative. The mean NLL of a batch is one sum over the other; bits per byte is
/// `nll.sum() / ln 2 / bytes`, with the bytes of the text that the weighted tokens spell.
pub fn row_nll(offsets: &[i64], logprobs: &[f32], weights: &[f32]) -> Result<(Vec<f64>, Vec<f64>)> {
    let rows = Rows::new("offsets", offsets, logprobs.len())?;
    same_length("weights", weights.len(), logprobs.len(), "logprobs")?;
    let sums = rows.map(&mut [] as &mut [u8], 0, |row, _| {
        let (mut nll, mut total) = (0.0, 0.0);
        let start = rows.range(row).start;
        for at in rows.range(row) {
            let (w, lp) = (f64::from(weights[at]), f64::from(logprobs[at]));
            if w == 0.0 {
                continue;
            }
            let bad = |what, value, why| KernelError::Value {
                what,
                row,
                index: at - start,
                value,
                why,
            };
            if !(w > 0.0 && w.is_finite()) {
                return Err(bad("weights", w, "must be finite and not negative"));
            }
            if !lp.is_finite() {
                return Err(bad("logprobs", lp, "must be finite"));
            }
            nll -= w * lp;
            total += w;
        }
        Ok((nll, total))
    })?;
    Ok(sums.into_iter().unzip())
}
