//! Token losses: value, gradient with respect to the target logprobs, metrics.
//!
//! Write lp for the learner's logprob of a target, q for the logprob it was sampled with, A for its
//! advantage, w for its weight and r = exp(lp - q). Position by position:
//!
//! | name                | loss                              | gradient by lp            | source |
//! |---------------------|-----------------------------------|---------------------------|--------|
//! | cross_entropy       | -lp                               | -1                        | |
//! | importance_sampling | -r A                              | -r A                      | |
//! | ppo                 | -min(r A, clip(r, lo, hi) A)      | -r A, or 0 where clipped  | arXiv:1707.06347, eq. 7 |
//! | cispo               | -stop_gradient(clip(r, lo, hi)) A lp | -clip(r, lo, hi) A     | arXiv:2506.13585, eq. 4 |
//! | dro                 | -(A lp - beta/2 (lp - q)^2)       | -A + beta (lp - q)        | arXiv:2405.19107 |
//! | gspo                | -min(s A, clip(s, lo, hi) A)      | see `surrogate::gspo`     | arXiv:2507.18071, eq. 5-7 |
//!
//! with the sequence ratio s = exp(sum w (lp - q) / sum w) of the row. Each is multiplied by w and
//! reduced (`Reduction`). To each position may be added
//!
//! * `kl_coef` times a KL estimate against `reference_logprobs` (`KlEstimator`),
//! * `entropy_coef` times lp^2 / 2, whose gradient lp is, on tokens sampled from the policy, an
//!   unbiased estimate of minus the gradient of the entropy. (The estimate -lp of the entropy is no
//!   loss: the expectation of its gradient is zero.) The entropy itself is reported as a metric.
//!
//! **Masks.** A weight of 0 means that the token has no part: value and gradient are exactly 0 there,
//! and its other columns are not even read. Negative weights exist for cross_entropy with token_sum
//! alone, where they carry the gradient of a loss that was computed elsewhere.
//!
//! **Range.** Exponents are held within +-80, so that a ratio, however far off, is finite in f32 and
//! no inf * 0 arises; `log_ratio_saturated:sum` counts such tokens. Sums are f64; the gradient is f32,
//! held within f32's finite range.

mod spec;
mod surrogate;

use crate::ragged::{Rows, same_length};
use crate::{KernelError, Result};
pub use spec::{KlEstimator, KlTerm, Loss, LossKind, OptionValue, Reduction, ZeroAdvantageRows};

/// The columns a loss reads, each along the same T positions as the offsets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns<'a> {
    /// [T * K]; all ones when absent.
    pub weights: Option<&'a [f32]>,
    /// [T]: q, natural log.
    pub sampled_logprobs: Option<&'a [f32]>,
    /// [T].
    pub advantages: Option<&'a [f32]>,
    /// [T]: logprobs of the targets under the reference policy, natural log.
    pub reference_logprobs: Option<&'a [f32]>,
    /// K, the targets at each position; 0 is read as 1. K > 1 for cross_entropy alone.
    pub targets_per_position: usize,
}

/// What a loss gives back for a batch or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct LossOutput {
    /// The loss of these rows, already divided by the denominator.
    pub value: f64,
    /// [T * K]: derivative of `value` by each logprob.
    pub gradient: Vec<f32>,
    pub metrics: LossMetrics,
}

/// Sums, counts and extremes over the tokens that took part; those of two parts of a batch `merge`
/// to those of the whole. Rates are the caller's: one sum over one count.
#[derive(Clone, Debug, PartialEq)]
pub struct LossMetrics {
    /// The value, as in `LossOutput`.
    pub loss: f64,
    /// Rows that took part.
    pub rows: f64,
    /// Tokens (targets) of non-zero weight.
    pub tokens: f64,
    /// Sum of w.
    pub weights: f64,
    /// Sum of -w lp.
    pub nll: f64,
    /// Sum of -lp: over `tokens`, an estimate of the entropy where tokens were sampled from the policy.
    pub entropy: f64,
    /// Sum of r (of s, for gspo); 0 without sampled logprobs, as are the next ones.
    pub ratio: f64,
    pub ratio_max: f64,
    pub ratio_min: f64,
    /// Tokens below the lower bound whose gradient the clip stopped (cispo: whose ratio it replaced).
    pub clipped_low: f64,
    /// The same above the upper bound.
    pub clipped_high: f64,
    pub log_ratio_saturated: f64,
    /// Sum of q - lp: over `tokens`, the k1 estimate of KL(sampler || learner).
    pub kl_sample_train_v1: f64,
    /// Sum of (q - lp)^2 / 2: the k2 estimate.
    pub kl_sample_train_v2: f64,
    /// Sums of the k1, k2, k3 estimates of KL(learner || reference); 0 without reference logprobs.
    pub kl_reference_k1: f64,
    pub kl_reference_k2: f64,
    pub kl_reference_k3: f64,
}

impl Default for LossMetrics {
    fn default() -> Self {
        Self {
            loss: 0.0,
            rows: 0.0,
            tokens: 0.0,
            weights: 0.0,
            nll: 0.0,
            entropy: 0.0,
            ratio: 0.0,
            ratio_max: f64::NEG_INFINITY,
            ratio_min: f64::INFINITY,
            clipped_low: 0.0,
            clipped_high: 0.0,
            log_ratio_saturated: 0.0,
            kl_sample_train_v1: 0.0,
            kl_sample_train_v2: 0.0,
            kl_reference_k1: 0.0,
            kl_reference_k2: 0.0,
            kl_reference_k3: 0.0,
        }
    }
}

impl LossMetrics {
    /// Adds the metrics of another part of the batch.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.sums_mut().into_iter().zip(other.clone().sums_mut()) {
            *mine += *theirs;
        }
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.ratio_min = self.ratio_min.min(other.ratio_min);
    }

    fn sums_mut(&mut self) -> [&mut f64; 15] {
        [
            &mut self.loss,
            &mut self.rows,
            &mut self.tokens,
            &mut self.weights,
            &mut self.nll,
            &mut self.entropy,
            &mut self.ratio,
            &mut self.clipped_low,
            &mut self.clipped_high,
            &mut self.log_ratio_saturated,
            &mut self.kl_sample_train_v1,
            &mut self.kl_sample_train_v2,
            &mut self.kl_reference_k1,
            &mut self.kl_reference_k2,
            &mut self.kl_reference_k3,
        ]
    }

    /// `(name:reduction, value)`, the reduction being how parts combine: sum, max or min. Extremes
    /// of no ratio at all are left out.
    pub fn entries(&self) -> Vec<(&'static str, f64)> {
        let mut entries = vec![
            ("loss:sum", self.loss),
            ("rows:sum", self.rows),
            ("tokens:sum", self.tokens),
            ("weights:sum", self.weights),
            ("nll:sum", self.nll),
            ("entropy:sum", self.entropy),
            ("ratio:sum", self.ratio),
            ("clipped_low:sum", self.clipped_low),
            ("clipped_high:sum", self.clipped_high),
            ("log_ratio_saturated:sum", self.log_ratio_saturated),
            ("kl_sample_train_v1:sum", self.kl_sample_train_v1),
            ("kl_sample_train_v2:sum", self.kl_sample_train_v2),
            ("kl_reference_k1:sum", self.kl_reference_k1),
            ("kl_reference_k2:sum", self.kl_reference_k2),
            ("kl_reference_k3:sum", self.kl_reference_k3),
        ];
        if self.ratio_max >= self.ratio_min {
            entries.push(("ratio:max", self.ratio_max));
            entries.push(("ratio:min", self.ratio_min));
        }
        entries
    }
}

/// One row, cut out of the columns.
pub(crate) struct Row<'a> {
    pub index: usize,
    pub logprobs: &'a [f32],
    pub weights: Option<&'a [f32]>,
    pub sampled: Option<&'a [f32]>,
    pub advantages: Option<&'a [f32]>,
    pub reference: Option<&'a [f32]>,
    /// Sum of the weights.
    pub weight_sum: f64,
}

impl Row<'_> {
    pub fn weight(&self, t: usize) -> f64 {
        self.weights.map_or(1.0, |w| f64::from(w[t]))
    }
}

impl Loss {
    /// What a batch adds to the denominator of its reduction: the sum of its weights (token_mean), the
    /// number of its rows that take part (sequence_mean), 0 where nothing is divided (token_sum).
    /// Denominators of parts of a batch, cut between rows, add up to that of the whole.
    pub fn denominator(&self, offsets: &[i64], columns: &Columns) -> Result<f64> {
        let (rows, k) = self.check(offsets, None, columns)?;
        let mut total = 0.0;
        for index in 0..rows.count() {
            let row = self.row(&rows, index, k, &[], columns)?;
            if let Some(row) = row {
                total += match self.reduction {
                    Reduction::TokenSum => 0.0,
                    Reduction::TokenMean => row.weight_sum,
                    Reduction::SequenceMean => 1.0,
                };
            }
        }
        Ok(total)
    }

    /// Value, gradient and metrics of these rows.
    ///
    /// `logprobs` is [T * K]. `denominator` is that of the *whole* batch (`denominator`, summed over its
    /// parts), so that a batch cut in micro-batches gives each token the same gradient; it is not read
    /// under token_sum. NaN or infinite input at a token that takes part is refused by row and index.
    pub fn evaluate(
        &self,
        offsets: &[i64],
        logprobs: &[f32],
        columns: &Columns,
        denominator: f64,
    ) -> Result<LossOutput> {
        let (rows, k) = self.check(offsets, Some(logprobs.len()), columns)?;
        if self.reduction != Reduction::TokenSum && !(denominator > 0.0 && denominator.is_finite())
        {
            return Err(KernelError::Argument(format!(
                "the denominator of {} is {denominator}: there is nothing to average over",
                self.reduction.name()
            )));
        }
        let mut gradient = vec![0f32; logprobs.len()];
        let parts = rows.map(&mut gradient, k, |index, gradient| {
            let Some(row) = self.row(&rows, index, k, logprobs, columns)? else {
                return Ok(None);
            };
            let scale = match self.reduction {
                Reduction::TokenSum => 1.0,
                Reduction::TokenMean => 1.0 / denominator,
                Reduction::SequenceMean => 1.0 / (row.weight_sum * denominator),
            };
            surrogate::row(self, &row, scale, gradient).map(Some)
        })?;
        let mut metrics = LossMetrics::default();
        for part in parts.iter().flatten() {
            metrics.merge(part);
        }
        Ok(LossOutput {
            value: metrics.loss,
            gradient,
            metrics,
        })
    }

    /// Lengths and presence of the columns.
    fn check<'o>(
        &self,
        offsets: &'o [i64],
        logprobs: Option<usize>,
        columns: &Columns,
    ) -> Result<(Rows<'o>, usize)> {
        let positions = usize::try_from(offsets.last().copied().unwrap_or(0)).unwrap_or(0);
        let rows = Rows::new("offsets", offsets, positions)?;
        let k = columns.targets_per_position.max(1);
        if k > 1
            && (self.kind != LossKind::CrossEntropy
                || self.kl.is_some()
                || self.entropy_coef != 0.0)
        {
            return Err(KernelError::Argument(format!(
                "{k} targets at each position are for plain cross_entropy alone, not for {}",
                self.kind.name()
            )));
        }
        if let Some(got) = logprobs {
            same_length(
                "logprobs",
                got,
                positions * k,
                "positions times targets per position",
            )?;
        }
        if let Some(w) = columns.weights {
            same_length(
                "weights",
                w.len(),
                positions * k,
                "positions times targets per position",
            )?;
        }
        let needs_ratio = self.kind != LossKind::CrossEntropy;
        let wanted = [
            (
                "logprobs",
                columns.sampled_logprobs,
                needs_ratio,
                "the loss compares with the policy that sampled",
            ),
            (
                "advantages",
                columns.advantages,
                needs_ratio,
                "the loss weighs tokens by advantage",
            ),
            (
                "reference_logprobs",
                columns.reference_logprobs,
                self.kl.is_some(),
                "kl_coef needs a reference policy",
            ),
        ];
        for (column, values, needed, why) in wanted {
            match values {
                Some(v) => same_length(column, v.len(), positions, "positions")?,
                None if needed => return Err(KernelError::MissingColumn { column, why }),
                None => {}
            }
        }
        Ok((rows, k))
    }

    /// The row with its weights checked, or None when it takes no part: nothing weighs in it, or its
    /// advantages are all zero and such rows are dropped.
    fn row<'a>(
        &self,
        rows: &Rows,
        index: usize,
        k: usize,
        logprobs: &'a [f32],
        columns: &Columns<'a>,
    ) -> Result<Option<Row<'a>>> {
        let range = rows.range(index);
        let targets = range.start * k..range.end * k;
        let weights = columns.weights.map(|w| &w[targets.clone()]);
        let negative_allowed =
            self.kind == LossKind::CrossEntropy && self.reduction == Reduction::TokenSum;
        let (mut weight_sum, mut any) = (targets.len() as f64, !targets.is_empty());
        if let Some(weights) = weights {
            (weight_sum, any) = (0.0, false);
            for (t, &w) in weights.iter().enumerate() {
                let why = if !w.is_finite() {
                    "must be finite"
                } else if w < 0.0 && !negative_allowed {
                    "is negative, which only cross_entropy with token_sum gives a meaning"
                } else {
                    weight_sum += f64::from(w);
                    any |= w != 0.0;
                    continue;
                };
                let value = f64::from(w);
                return Err(KernelError::Value {
                    what: "weights",
                    row: index,
                    index: t,
                    value,
                    why,
                });
            }
        }
        let advantages = columns.advantages.map(|a| &a[range.clone()]);
        if any
            && self.zero_advantage_rows == ZeroAdvantageRows::Drop
            && let Some(a) = advantages
        {
            any = (0..a.len()).any(|t| a[t] != 0.0 && weights.is_none_or(|w| w[t] != 0.0));
        }
        Ok(any.then(|| Row {
            index,
            logprobs: logprobs.get(targets).unwrap_or(&[]),
            weights,
            // Supervised tokens were mostly rendered: a ratio would compare with nothing.
            sampled: columns
                .sampled_logprobs
                .filter(|_| self.kind != LossKind::CrossEntropy)
                .map(|q| &q[range.clone()]),
            advantages,
            reference: columns
                .reference_logprobs
                .filter(|_| k == 1)
                .map(|r| &r[range.clone()]),
            weight_sum,
        }))
    }
}

#[cfg(test)]
mod tests;
