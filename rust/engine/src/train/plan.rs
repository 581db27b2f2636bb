//! How a batch is cut and who takes which part: fixed by the batch and the settings alone, so that the order of
//! every sum is too.
use std::ops::Range;

use crate::batch::Batch;
use crate::config::ModelConfig;

/// Below this many tokens a micro-batch no longer pays for reading the weights.
const LEAST_TOKENS: usize = 256;
/// Gradient copies of all threads may take this much; beyond it one micro-batch at a time uses all threads.
const GRADIENT_BYTES: usize = 1 << 30;

#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Each thread walks its own micro-batches, alone.
    Apart(Vec<Vec<Range<usize>>>),
    /// One micro-batch after the other, each operation shared by all threads.
    Together(Vec<Range<usize>>),
}

impl Plan {
    /// `budget` is the number of tokens whose activations may be alive at a time, over all threads.
    pub fn new(
        batch: &Batch,
        config: &ModelConfig,
        threads: usize,
        budget: usize,
        gradient_bytes: usize,
    ) -> Self {
        let total = batch.tokens.len();
        let together = || Plan::Together(batch.cut(budget));
        if threads == 1 || gradient_bytes.saturating_mul(threads) > GRADIENT_BYTES {
            return together();
        }
        let share = (budget / threads).max(1);
        let parts = batch.cut(
            total
                .div_ceil(4 * threads)
                .max(LEAST_TOKENS)
                .min(total.div_ceil(threads))
                .min(share),
        );
        let mut costs: Vec<(u64, usize)> = parts
            .iter()
            .enumerate()
            .map(|(i, rows)| (cost(batch, config, rows), i))
            .collect();
        // Longest first, to whoever has least: within 4/3 of the best (Graham 1969).
        costs.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut load = vec![0u64; threads];
        let mut lists = vec![Vec::new(); threads];
        for &(cost, part) in &costs {
            let least = (0..threads).min_by_key(|&t| load[t]).unwrap_or(0);
            load[least] += cost;
            lists[least].push(part);
        }
        let (sum, longest) = (
            load.iter().sum::<u64>(),
            load.iter().max().copied().unwrap_or(0),
        );
        if longest * threads as u64 > sum + sum / 3 {
            return together();
        }
        Plan::Apart(
            lists
                .into_iter()
                .map(|mut list| {
                    list.sort_unstable();
                    list.into_iter().map(|part| parts[part].clone()).collect()
                })
                .collect(),
        )
    }
}

/// Multiplications, about: the linear layers for each token, attention for each pair.
fn cost(batch: &Batch, c: &ModelConfig, rows: &Range<usize>) -> u64 {
    let layer = c.hidden * (c.qkv_dim() + c.q_dim() + 3 * c.intermediate);
    let linear = 2 * (c.n_layers * layer + c.vocab * c.hidden);
    let pair = 4 * c.q_dim() * c.n_layers;
    rows.clone()
        .map(|row| {
            let length = batch.span(&(row..row + 1)).len();
            (length * linear + length * length * pair) as u64
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Family, RopeScaling};

    fn config() -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            vocab: 100,
            hidden: 64,
            intermediate: 128,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            rms_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            context: 1 << 20,
            qkv_bias: false,
            qk_norm: false,
            tied_head: true,
        }
    }

    fn plan(
        lengths: &[usize],
        threads: usize,
        budget: usize,
        gradient_bytes: usize,
    ) -> (Plan, Vec<i64>) {
        let mut offsets = vec![0];
        lengths
            .iter()
            .for_each(|&n| offsets.push(offsets[offsets.len() - 1] + n as i64));
        let tokens = vec![0; lengths.iter().sum()];
        let batch = Batch {
            tokens: &tokens,
            offsets: &offsets,
            targets: &tokens,
            per_position: 1,
        };
        (
            Plan::new(&batch, &config(), threads, budget, gradient_bytes),
            offsets,
        )
    }

    proptest! {
        #[test]
        fn each_row_with_a_token_is_in_one_part_and_no_part_of_several_rows_is_over_budget(
            lengths in prop::collection::vec(0..200usize, 0..30), threads in 1..5usize, budget in 1..600usize,
        ) {
            let (plan, offsets) = plan(&lengths, threads, budget, 0);
            let (parts, most) = match plan {
                Plan::Apart(lists) => (lists.concat(), budget / threads),
                Plan::Together(list) => (list, budget),
            };
            let mut seen = vec![0; lengths.len()];
            for rows in parts {
                let tokens = (offsets[rows.end] - offsets[rows.start]) as usize;
                let filled = rows.clone().filter(|&row| lengths[row] > 0).count();
                prop_assert!(filled <= 1 || tokens <= most);
                rows.for_each(|row| seen[row] += 1);
            }
            for (row, &n) in lengths.iter().enumerate() {
                prop_assert!(seen[row] == 1 || (seen[row] == 0 && n == 0));
            }
        }
    }

    #[test]
    fn threads_work_apart_when_that_balances_and_gradients_fit() {
        let even = [100; 8];
        assert!(matches!(plan(&even, 2, 1000, 0).0, Plan::Apart(lists) if lists.len() == 2));
        assert!(matches!(plan(&even, 2, 1000, 1 << 30).0, Plan::Together(_)));
        assert!(matches!(
            plan(&[10, 20, 700], 2, 1000, 0).0,
            Plan::Together(_)
        ));
        assert!(matches!(plan(&even, 1, 1000, 0).0, Plan::Together(_)));
    }
}
