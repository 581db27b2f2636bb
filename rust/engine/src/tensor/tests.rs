//! Products against plain loops, at shapes with ragged edges, for each instruction set this machine has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use proptest::prelude::*;

use super::lanes::transpose;
use super::*;
use crate::train::random::Random;

fn numbers(random: &mut Random, n: usize) -> Vec<f64> {
    (0..n).map(|_| random.normal()).collect()
}

fn lanes(random: &mut Random, n: usize) -> Vec<Lanes<f64>> {
    (0..n)
        .map(|_| Lanes(std::array::from_fn(|_| random.normal())))
        .collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-11 * (1.0 + b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_those_of_plain_loops(
        rows in 1..40usize, cols in 1..40usize, panels in 1..4usize, window in 0..3usize, seed: u64,
    ) {
        let mut random = Random::new(seed);
        let w = numbers(&mut random, rows * cols);
        let packed = Packed::new(rows, cols, &w);
        prop_assert_eq!(packed.row_major(), w.clone());
        let (x, y) = (lanes(&mut random, panels * (cols + window)), lanes(&mut random, panels * (rows + window)));
        let (x, y) = (Act::new(&x, cols + window).from(window), Act::new(&y, rows + window).from(window));
        let init = lanes(&mut random, panels * rows);
        let (mut out, mut out_t) = (init.clone(), vec![Lanes::ZERO; panels * cols]);
        packed.mul(x, &mut out, Some(&init), Exec::Serial);
        packed.mul_t(y, &mut out_t, 0.5, false, Exec::Serial);
        for p in 0..panels {
            for l in 0..LANES {
                for r in 0..rows {
                    let sum: f64 = (0..cols).map(|c| w[r * cols + c] * x.panel(p)[c].0[l]).sum();
                    prop_assert!(close(out[p * rows + r].0[l], sum + init[p * rows + r].0[l]));
                }
                for c in 0..cols {
                    let sum: f64 = (0..rows).map(|r| w[r * cols + c] * y.panel(p)[r].0[l]).sum();
                    prop_assert!(close(out_t[p * cols + c].0[l], 0.5 * sum));
                }
            }
        }
    }

    #[test]
    fn outer_products_are_those_of_plain_loops(n in 1..20usize, panels in 1..4usize, seed: u64) {
        let mut random = Random::new(seed);
        let (a, bt) = (lanes(&mut random, panels * n), lanes(&mut random, panels * LANES));
        let before = lanes(&mut random, n);
        let mut c = before.clone();
        outer(Act::new(&a, n), &bt, &mut c, -2.0);
        for f in 0..n {
            for l in 0..LANES {
                let sum: f64 =
                    (0..panels * LANES).map(|t| a[t / LANES * n + f].0[t % LANES] * bt[t].0[l]).sum();
                prop_assert!(close(c[f].0[l], before[f].0[l] - 2.0 * sum));
            }
        }
    }

    /// Low-rank pairs on parts of a fused matrix that share a block of rows.
    #[test]
    fn merging_adds_the_low_rank_product(first in 1..20usize, second in 1..20usize, cols in 1..70usize,
        rank in 1..40usize, seed: u64) {
        let mut random = Random::new(seed);
        let rows = first + second;
        let base = numbers(&mut random, rows * cols);
        let mut packed = Packed::new(rows, cols, &vec![f64::NAN; rows * cols]);
        let mut wanted = base.clone();
        for (from, n) in [(0, first), (first, second)] {
            let (a, b) = (numbers(&mut random, rank * cols), numbers(&mut random, n * rank));
            let part = &base[from * cols..(from + n) * cols];
            packed.merge(from, part, &Packed::new(n, rank, &b), &panels_of(rank, cols, &a), 0.25, Exec::Serial);
            for r in 0..n {
                for c in 0..cols {
                    let sum: f64 = (0..rank).map(|k| b[r * rank + k] * a[k * cols + c]).sum();
                    wanted[(from + r) * cols + c] += 0.25 * sum;
                }
            }
        }
        for (&got, &want) in packed.row_major().iter().zip(&wanted) {
            prop_assert!(close(got, want));
        }
    }

    #[test]
    fn a_tile_turned_twice_is_itself(rows in 1..=LANES, seed: u64) {
        let tile = lanes(&mut Random::new(seed), rows);
        let (mut once, mut twice) = ([Lanes::ZERO; LANES], [Lanes::ZERO; LANES]);
        transpose(&tile, &mut once);
        transpose(&once, &mut twice);
        for (a, b) in twice.iter().zip(&tile) {
            prop_assert_eq!(a.0, b.0);
        }
        prop_assert!(twice[rows..].iter().all(|row| row.0 == [0.0; LANES]));
    }

    /// Two units in the last place, and the edges.
    #[test]
    fn the_polynomial_exponential_is_the_true_one(x in -87.0f32..88.0) {
        let (got, want) = (Real::exp(x), f64::from(x).exp());
        prop_assert!((f64::from(got) - want).abs() <= 2.5e-7 * want, "{got} {want}");
    }
}

#[test]
fn the_exponential_keeps_nan_and_underflows_to_zero() {
    assert!(Real::exp(f32::NAN).is_nan());
    assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(Real::exp(0.0f32), 1.0);
    assert!(Real::exp(1e30f32) > 1e38);
}

#[test]
fn threads_share_a_product_without_changing_it() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    let mut random = Random::new(1);
    let packed = Packed::new(19, 23, &numbers(&mut random, 19 * 23));
    let x = lanes(&mut random, 5 * 23);
    let run = |exec| {
        let mut out = vec![Lanes::ZERO; 5 * 19];
        packed.mul(Act::new(&x, 23), &mut out, None, exec);
        out
    };
    let (alone, shared) = (run(Exec::Serial), run(Exec::Pool(&pool)));
    assert!(alone.iter().zip(&shared).all(|(a, b)| a.0 == b.0));
}
