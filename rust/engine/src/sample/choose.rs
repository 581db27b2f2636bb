//! From a row of logits to a token.
//!
//! Order of the filters: temperature, then top-k, then top-p on what top-k left. Of equal logits the lower
//! id comes first, everywhere. The draw is by inversion: a uniform number picks a point on the line on
//! which the kept tokens lie side by side, each as long as it is likely.
use super::kernels::Kernels;
use super::request::TokenLogprob;

/// Logits whose exponentials are summed in f32; the sums are then added in f64.
const BLOCK: usize = 256;

/// How a token is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
}

/// Logits of one position under the model itself.
pub struct Row<'a> {
    kernels: &'a Kernels,
    logits: &'a [f32],
    max: f32,
    log_sum: f64,
}

/// Memory that is used again for each row.
#[derive(Default)]
pub struct Scratch {
    blocks: Vec<f64>,
    likeliest: Vec<TokenLogprob>,
    ids: Vec<u32>,
}

impl<'a> Row<'a> {
    /// None when a logit is NaN or the largest is infinite.
    pub fn new(kernels: &'a Kernels, logits: &'a [f32]) -> Option<Self> {
        // SAFETY: of this and the calls below: `kernels` was detected on this machine.
        let max = unsafe { (kernels.max)(logits) };
        let mut row = Self {
            kernels,
            logits,
            max,
            log_sum: 0.0,
        };
        row.log_sum = (0..logits.len().div_ceil(BLOCK))
            .map(|block| row.block_sum(block, 1.0))
            .sum::<f64>()
            .ln();
        (max.is_finite() && row.log_sum.is_finite()).then_some(row)
    }

    fn block(&self, block: usize) -> &[f32] {
        &self.logits[block * BLOCK..self.logits.len().min((block + 1) * BLOCK)]
    }

    fn block_sum(&self, block: usize, scale: f32) -> f64 {
        // SAFETY: as in `new`.
        f64::from(unsafe { (self.kernels.exp_sum)(self.block(block), self.max, scale) })
    }

    pub fn logprob(&self, token: u32) -> f32 {
        self.logprob_of(self.logits[token as usize])
    }

    fn logprob_of(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - self.log_sum) as f32
    }

    /// The k likeliest tokens, likeliest first.
    pub fn top(&self, k: usize, scratch: &mut Scratch) -> Vec<TokenLogprob> {
        self.likeliest(k, scratch);
        scratch
            .likeliest
            .iter()
            .map(|(id, logit)| (*id, self.logprob_of(*logit)))
            .collect()
    }

    /// The token that `filter` and the uniform number `u` pick.
    pub fn pick(&self, filter: Filter, u: f64, scratch: &mut Scratch) -> u32 {
        let scale = (1.0 / filter.temperature) as f32;
        if !scale.is_finite() {
            return self.logits.iter().position(|x| *x == self.max).unwrap_or(0) as u32;
        }
        let k = if filter.top_k == 0 {
            self.logits.len()
        } else {
            filter.top_k.min(self.logits.len())
        };
        if k == self.logits.len() && filter.top_p >= 1.0 {
            return self.pick_of_all(scale, u, scratch);
        }
        let kept = self.kept(k, scale, filter.top_p, scratch);
        let total: f64 = kept.iter().sum();
        let at = point(&kept, u * total);
        scratch.likeliest[at].0
    }

    /// Weights of the tokens that the filters keep: the first of `scratch.likeliest`.
    fn kept(&self, k: usize, scale: f32, top_p: f64, scratch: &mut Scratch) -> Vec<f64> {
        let all = k == self.logits.len();
        let mut enough = if all { 32.min(k) } else { k };
        loop {
            self.likeliest(enough, scratch);
            let mut weights = vec![0.0; enough];
            let logits: Vec<f32> = scratch.likeliest.iter().map(|(_, logit)| *logit).collect();
            // SAFETY: as in `new`.
            unsafe { (self.kernels.exp)(&logits, self.max, scale, &mut weights) };
            let mut weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = if all {
                (0..self.logits.len().div_ceil(BLOCK))
                    .map(|block| self.block_sum(block, scale))
                    .sum()
            } else {
                weights.iter().sum()
            };
            let mut mass = 0.0;
            let reached = weights.iter().position(|weight| {
                mass += weight;
                mass >= top_p * total
            });
            if let Some(last) = reached {
                weights.truncate(last + 1);
                return weights;
            }
            if enough == k {
                return weights;
            }
            enough = (enough * 16).min(k);
        }
    }

    fn pick_of_all(&self, scale: f32, u: f64, scratch: &mut Scratch) -> u32 {
        let blocks = &mut scratch.blocks;
        blocks.clear();
        blocks.extend(
            (0..self.logits.len().div_ceil(BLOCK)).map(|block| self.block_sum(block, scale)),
        );
        let mut target = u * blocks.iter().sum::<f64>();
        let at = point(blocks, target);
        target -= blocks[..at].iter().sum::<f64>();
        let block = self.block(at);
        let mut weights = [0.0; BLOCK];
        // SAFETY: as in `new`.
        unsafe { (self.kernels.exp)(block, self.max, scale, &mut weights[..block.len()]) };
        let weights = weights.map(f64::from);
        (at * BLOCK + point(&weights[..block.len()], target)) as u32
    }

    /// The k largest logits into `scratch.likeliest`, largest first, of equal ones the lower id.
    fn likeliest(&self, k: usize, scratch: &mut Scratch) {
        let Scratch { likeliest, ids, .. } = scratch;
        likeliest.clear();
        if k == 0 {
            return;
        }
        if k <= 256 {
            for block in 0..self.logits.len().div_ceil(64) {
                let start = block * 64;
                let logits = &self.logits[start..self.logits.len().min(start + 64)];
                let full = likeliest.len() == k;
                // SAFETY: as in `new`.
                if full && unsafe { (self.kernels.max)(logits) } <= likeliest[k - 1].1 {
                    continue;
                }
                for (i, logit) in logits.iter().enumerate() {
                    if likeliest.len() == k {
                        if *logit <= likeliest[k - 1].1 {
                            continue;
                        }
                        likeliest.pop();
                    }
                    let at = likeliest.partition_point(|(_, other)| other >= logit);
                    likeliest.insert(at, ((start + i) as u32, *logit));
                }
            }
            return;
        }
        let order = |a: &u32, b: &u32| {
            let (x, y) = (self.logits[*a as usize], self.logits[*b as usize]);
            y.partial_cmp(&x)
                .unwrap_or(std::cmp::Ordering::Equal)
                .then(a.cmp(b))
        };
        ids.clear();
        ids.extend(0..self.logits.len() as u32);
        if k < ids.len() {
            ids.select_nth_unstable_by(k, order);
            ids.truncate(k);
        }
        ids.sort_unstable_by(order);
        likeliest.extend(ids.iter().map(|id| (*id, self.logits[*id as usize])));
    }
}

/// The piece of a line of `lengths` that `target` falls on; rounding past the end gives the last piece
/// that has a length.
fn point(lengths: &[f64], target: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (i, length) in lengths.iter().enumerate() {
        sum += length;
        if *length > 0.0 {
            last = i;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::super::rng::uniform;
    use super::*;

    fn logits(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values too, so that ties are common.
        prop_oneof![
            prop::collection::vec((-40i8..40).prop_map(|x| f32::from(x) / 8.0), sizes.clone()),
            prop::collection::vec(-20f32..20.0, sizes),
        ]
    }

    /// The definition, in f64 over sorted tokens: (id, probability) of what is kept.
    fn reference(logits: &[f32], filter: Filter) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        });
        if filter.top_k > 0 {
            order.truncate(filter.top_k);
        }
        let max = f64::from(logits[order[0] as usize]);
        let weight =
            |id: &u32| ((f64::from(logits[*id as usize]) - max) / filter.temperature).exp();
        let total: f64 = order.iter().map(weight).sum();
        let mut mass = 0.0;
        let mut kept = Vec::new();
        for id in &order {
            kept.push((*id, weight(id)));
            mass += weight(id);
            if mass >= filter.top_p * total {
                break;
            }
        }
        kept.iter().map(|(id, w)| (*id, w / mass)).collect()
    }

    proptest! {
        #[test]
        fn the_filtered_set_is_minimal_and_draws_stay_in_it(
            logits in logits(1..700),
            temperature in 0.1f64..3.0,
            top_k in 0usize..700,
            top_p in 0.01f64..=1.0,
            seed: u64,
        ) {
            let filter = Filter { temperature, top_k, top_p };
            let expected = reference(&logits, filter);
            for kernels in Kernels::all() {
                let row = Row::new(&kernels, &logits).unwrap();
                let mut scratch = Scratch::default();
                let k = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
                let weights = row.kept(k, (1.0 / temperature) as f32, top_p, &mut scratch);
                let total: f64 = weights.iter().sum();
                // f32 rounding may move the border by a token only where the mass is at the border.
                let mut mass = 0.0;
                let masses: Vec<f64> = expected.iter().map(|(_, p)| { mass += p; mass }).collect();
                let kept = weights.len();
                if kept != expected.len() {
                    let all: f64 = reference(&logits, Filter { top_p: 1.0, ..filter }).iter().take(kept.min(expected.len())).map(|(_, p)| p).sum();
                    prop_assert!((all - top_p).abs() < 1e-4, "{kept} kept, {} expected, {all}", expected.len());
                } else {
                    for ((i, (id, p)), w) in expected.iter().enumerate().zip(&weights) {
                        prop_assert_eq!(scratch.likeliest[i].0, *id);
                        prop_assert!((w / total - p).abs() < 1e-5);
                    }
                    prop_assert!((masses[kept - 1] - 1.0).abs() < 1e-9);
                }
                let kept: Vec<u32> = scratch.likeliest[..kept].iter().map(|t| t.0).collect();
                for i in 0..8 {
                    prop_assert!(kept.contains(&row.pick(filter, uniform(seed, 0, i), &mut scratch)));
                }
            }
        }

        #[test]
        fn the_likeliest_are_those_of_a_full_sort(logits in logits(1..900), k in 0usize..900) {
            let k = k.min(logits.len());
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            let kernels = Kernels::detect();
            let row = Row::new(&kernels, &logits).unwrap();
            let top = row.top(k, &mut Scratch::default());
            prop_assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), order[..k].to_vec());
            for (id, logprob) in top {
                prop_assert_eq!(logprob, row.logprob(id));
            }
        }

        #[test]
        fn probabilities_sum_to_one(logits in logits(1..900)) {
            for kernels in Kernels::all() {
                let row = Row::new(&kernels, &logits).unwrap();
                let sum: f64 = (0..logits.len() as u32).map(|id| f64::from(row.logprob(id)).exp()).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            }
        }

        #[test]
        fn zero_temperature_takes_the_first_of_the_largest(logits in logits(1..300), u in 0.0f64..1.0) {
            let kernels = Kernels::detect();
            let row = Row::new(&kernels, &logits).unwrap();
            let filter = Filter { temperature: 0.0, top_k: 3, top_p: 0.5 };
            let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            prop_assert_eq!(row.pick(filter, u, &mut Scratch::default()), best as u32);
        }
    }

    /// Pearson's chi-square of draws against the probabilities that were meant, seed fixed.
    #[test]
    fn draws_follow_the_distribution() {
        let logits: Vec<f32> = (0..600).map(|i| ((i * 37 % 101) as f32) / 25.0).collect();
        let kernels = Kernels::detect();
        let row = Row::new(&kernels, &logits).unwrap();
        let mut scratch = Scratch::default();
        for (top_k, top_p, temperature) in [
            (0, 1.0, 1.0),
            (0, 1.0, 0.7),
            (20, 1.0, 1.3),
            (0, 0.6, 1.0),
            (50, 0.5, 1.0),
        ] {
            let filter = Filter {
                temperature,
                top_k,
                top_p,
            };
            let expected = reference(&logits, filter);
            let draws = 20_000;
            let mut counts = vec![0u32; logits.len()];
            for i in 0..draws {
                counts[row.pick(filter, uniform(11, 5, i), &mut scratch) as usize] += 1;
            }
            let chi: f64 = expected
                .iter()
                .map(|(id, p)| {
                    (f64::from(counts[*id as usize]) - p * draws as f64).powi(2)
                        / (p * draws as f64)
                })
                .sum();
            let freedom = expected.len() as f64 - 1.0;
            assert!(
                (chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(),
                "{filter:?}: {chi} for {freedom} degrees"
            );
        }
    }

    #[test]
    fn rows_with_nan_or_infinity_are_refused() {
        for kernels in Kernels::all() {
            for bad in [f32::NAN, f32::INFINITY] {
                for at in [0, 17, 39] {
                    let mut logits = vec![0.5; 40];
                    logits[at] = bad;
                    assert!(Row::new(&kernels, &logits).is_none());
                }
            }
        }
    }
}
