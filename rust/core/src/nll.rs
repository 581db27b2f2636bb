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
        let range = rows.range(row);
        if let Some(sums) = weighted_sums(&logprobs[range.clone()], &weights[range.clone()]) {
            return Ok(sums);
        }
        let (mut nll, mut total) = (0.0, 0.0);
        let start = range.start;
        for at in range {
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

const LANES: usize = 8;

/// The sums of a row in `LANES` running parts, without a branch; `None` where something in the row
/// may have to be refused.
fn weighted_sums(logprobs: &[f32], weights: &[f32]) -> Option<(f64, f64)> {
    let (mut nll, mut total, mut fine) = ([0f64; LANES], [0f64; LANES], true);
    let mut add = |lane: usize, lp: f32, w: f32| {
        let w = f64::from(w);
        nll[lane] -= if w == 0.0 { 0.0 } else { w * f64::from(lp) };
        total[lane] += w;
        fine &= w >= 0.0;
    };
    let (lps, ws) = (logprobs.chunks_exact(LANES), weights.chunks_exact(LANES));
    for (lane, (lp, w)) in lps.remainder().iter().zip(ws.remainder()).enumerate() {
        add(lane, *lp, *w);
    }
    for (lp, w) in lps.zip(ws) {
        for lane in 0..LANES {
            add(lane, lp[lane], w[lane]);
        }
    }
    let (nll, total) = (nll.iter().sum::<f64>(), total.iter().sum::<f64>());
    (fine && nll.is_finite() && total.is_finite()).then_some((nll, total))
}
