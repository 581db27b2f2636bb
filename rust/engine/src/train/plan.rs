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
