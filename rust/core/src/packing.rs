//! Packing datums into bins of a token budget, and cutting a batch into minibatches.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::{KernelError, Result};

/// How items are put into bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Next fit: items keep their order; a bin is closed when the next item does not fit.
    InOrder,
    /// Best fit decreasing: longest first, each into the fullest bin that still holds it. Uses at
    /// most 11/9 of the fewest possible bins, plus one (Johnson 1974).
    BestFit,
}

/// Packs items of these lengths into bins whose lengths sum to at most `budget`. Gives the items, bin
/// after bin, and the offsets of the bins: every item is in exactly one bin. Within a bin items are
/// in index order; bins are in the order in which they were opened; ties go to the lower index.
/// An item longer than the budget is refused by index.
pub fn pack(lengths: &[i64], budget: i64, packing: Packing) -> Result<(Vec<i64>, Vec<i64>)> {
    check(lengths)?;
    if let Some(index) = lengths.iter().position(|n| *n > budget) {
        return Err(KernelError::OverBudget {
            index,
            tokens: lengths[index],
            budget,
        });
    }
    let bins = match packing {
        Packing::InOrder => next_fit(lengths, budget),
        Packing::BestFit => best_fit(lengths, budget),
    };
    let mut items = Vec::with_capacity(lengths.len());
    let mut offsets = vec![0];
    for bin in bins {
        items.extend(bin);
        offsets.push(items.len() as i64);
    }
    Ok((items, offsets))
}

fn next_fit(lengths: &[i64], budget: i64) -> Vec<Vec<i64>> {
    let mut bins: Vec<Vec<i64>> = Vec::new();
    let mut room = -1;
    for (i, n) in lengths.iter().enumerate() {
        if *n > room {
            bins.push(Vec::new());
            room = budget;
        }
        room -= n;
        if let Some(bin) = bins.last_mut() {
            bin.push(i as i64);
        }
    }
    bins
}

fn best_fit(lengths: &[i64], budget: i64) -> Vec<Vec<i64>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(lengths[*i]), *i));
    let mut bins: Vec<Vec<i64>> = Vec::new();
    let mut rooms: BTreeSet<(i64, usize)> = BTreeSet::new(); // (room left, bin)
    for i in order {
        let n = lengths[i];
        let best = rooms
            .range((Bound::Included((n, 0)), Bound::Unbounded))
            .next()
            .copied();
        let (room, bin) = best.unwrap_or_else(|| {
            bins.push(Vec::new());
            (budget, bins.len() - 1)
        });
        rooms.remove(&(room, bin));
        rooms.insert((room - n, bin));
        bins[bin].push(i as i64);
    }
    bins.iter_mut().for_each(|bin| bin.sort_unstable());
    bins
}

/// Cuts a batch of items of these lengths into n runs (one for each item, if those are fewer), none
/// empty, every item in exactly one. Gives the offsets of the runs. By count, sizes differ by at most one, the larger first; by tokens, the most
/// tokens that any run has are as few as contiguous runs allow.
pub fn minibatches(lengths: &[i64], n: usize, by_tokens: bool) -> Result<Vec<i64>> {
    check(lengths)?;
    let count = lengths.len();
    if n == 0 {
        let why = "a batch is cut into at least one minibatch";
        return Err(KernelError::Option {
            option: "n",
            value: "0".into(),
            why,
        });
    }
    let n = n.min(count);
    if count == 0 {
        return Ok(vec![0]);
    }
    if !by_tokens {
        return Ok((0..=n)
            .map(|i| (i * (count / n) + i.min(count % n)) as i64)
            .collect());
    }
    let total: i64 = lengths.iter().sum();
    let (mut low, mut high) = (lengths.iter().copied().max().unwrap_or(0), total);
    while low < high {
        let middle = low + (high - low) / 2;
        if runs_needed(lengths, middle) <= n {
            high = middle
        } else {
            low = middle + 1
        }
    }
    let mut offsets = vec![0];
    let mut sum = 0;
    for (i, length) in lengths.iter().enumerate() {
        let unopened = n - offsets.len();
        let open_next = sum + length > low || count - i <= unopened;
        if i > 0 && unopened > 0 && open_next {
            offsets.push(i as i64);
            sum = 0;
        }
        sum += length;
    }
    offsets.push(count as i64);
    Ok(offsets)
}

/// Contiguous runs of at most `cap` tokens, filled greedily.
fn runs_needed(lengths: &[i64], cap: i64) -> usize {
    let (mut runs, mut sum) = (1, 0);
    for n in lengths {
        if sum + n > cap {
            runs += 1;
            sum = 0;
        }
        sum += n;
    }
    runs
}

fn check(lengths: &[i64]) -> Result<()> {
    let mut total = 0i64;
    for (index, n) in lengths.iter().enumerate() {
        total = total.saturating_add(*n);
        if *n < 0 || total == i64::MAX {
            let why = "lengths must not be negative, nor their sum overflow";
            return Err(KernelError::Value {
                what: "lengths",
                row: 0,
                index,
                value: *n as f64,
                why,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bins_hold_every_item_once_within_budget(
            lengths in prop::collection::vec(0i64..20, 0..40), extra in 0i64..40, best in any::<bool>(),
        ) {
            let budget = lengths.iter().max().copied().unwrap_or(0) + extra;
            let packing = if best { Packing::BestFit } else { Packing::InOrder };
            let (items, offsets) = pack(&lengths, budget, packing).unwrap();
            let mut sorted = items.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..lengths.len() as i64).collect::<Vec<_>>());
            for w in offsets.windows(2) {
                let bin = &items[w[0] as usize..w[1] as usize];
                prop_assert!(!bin.is_empty());
                prop_assert!(bin.iter().map(|i| lengths[*i as usize]).sum::<i64>() <= budget);
                prop_assert!(bin.is_sorted());
            }
            if !best { prop_assert!(items.is_sorted()); }
        }

        #[test]
        fn minibatches_partition_and_balance(lengths in prop::collection::vec(0i64..20, 1..12), n in 1usize..12) {
            let n = n.min(lengths.len());
            for by_tokens in [false, true] {
                let o = minibatches(&lengths, n, by_tokens).unwrap();
                prop_assert_eq!(o.len(), n + 1);
                prop_assert_eq!((o[0], o[n]), (0, lengths.len() as i64));
                prop_assert!(o.windows(2).all(|w| w[0] < w[1]));
                let sums: Vec<i64> = o.windows(2)
                    .map(|w| lengths[w[0] as usize..w[1] as usize].iter().sum()).collect();
                if by_tokens {
                    // No contiguous cut has a smaller largest run: greedy runs of less need more than n.
                    let most = *sums.iter().max().unwrap();
                    let longest = *lengths.iter().max().unwrap();
                    if most > longest { prop_assert!(runs_needed(&lengths, most - 1) > n); }
                }
            }
        }
    }

    #[test]
    fn bad_items_are_refused_by_index() {
        let message = |l: &[i64], b| pack(l, b, Packing::BestFit).unwrap_err().to_string();
        assert!(
            message(&[1, 9, 2], 8).starts_with("item 1 has 9 tokens, more than the budget of 8")
        );
        assert!(message(&[1, -1], 8).contains("index 1"));
        assert!(message(&[1], -3).contains("item 0"));
        assert!(message(&[1, i64::MAX], i64::MAX).contains("overflow"));
        assert_eq!(minibatches(&[1, 2], 3, true), Ok(vec![0, 1, 2]));
        assert_eq!(minibatches(&[], 3, true), Ok(vec![0]));
        assert!(minibatches(&[1, 2], 0, true).is_err());
    }
}
