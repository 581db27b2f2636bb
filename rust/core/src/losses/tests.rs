#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;

fn text(s: &str) -> OptionValue {
    OptionValue::Text(s.into())
}

fn loss(name: &str, options: &[(&str, OptionValue)]) -> Loss {
    Loss::parse(name, options.iter().map(|(k, v)| (*k, v))).unwrap()
}

#[derive(Clone, Debug)]
struct Case {
    offsets: Vec<i64>,
    lp: Vec<f32>,
    q: Vec<f32>,
    a: Vec<f32>,
    w: Vec<f32>,
    reference: Vec<f32>,
}

impl Case {
    fn columns(&self) -> Columns<'_> {
        Columns {
            weights: Some(&self.w),
            sampled_logprobs: Some(&self.q),
            advantages: Some(&self.a),
            reference_logprobs: Some(&self.reference),
            targets_per_position: 1,
        }
    }

    /// Rows `from..to` as a batch of their own.
    fn part(&self, from: usize, to: usize) -> Case {
        let (a, b) = (self.offsets[from] as usize, self.offsets[to] as usize);
        Case {
            offsets: self.offsets[from..=to]
                .iter()
                .map(|o| o - a as i64)
                .collect(),
            lp: self.lp[a..b].to_vec(),
            q: self.q[a..b].to_vec(),
            a: self.a[a..b].to_vec(),
            w: self.w[a..b].to_vec(),
            reference: self.reference[a..b].to_vec(),
        }
    }
}

fn cases(low: f32) -> impl Strategy<Value = Case> {
    prop::collection::vec(0usize..6, 1..6).prop_flat_map(move |lengths| {
        let n: usize = lengths.iter().sum();
        let logprobs = || prop::collection::vec(low..0.0f32, n);
        let weights = prop::collection::vec(prop_oneof![Just(0.0f32), Just(1.0), 0.1f32..2.0], n);
        let mut offsets = vec![0i64];
        for l in lengths {
            offsets.push(offsets[offsets.len() - 1] + l as i64);
        }
        (
            Just(offsets),
            logprobs(),
            logprobs(),
            logprobs(),
            weights,
            prop::collection::vec(-2f32..2.0, n),
        )
            .prop_map(|(offsets, lp, q, reference, w, a)| Case {
                offsets,
                lp,
                q,
                a,
                w,
                reference,
            })
    })
}

fn losses() -> impl Strategy<Value = Loss> {
    let reduction = prop::sample::select(vec!["token_sum", "token_mean", "sequence_mean"]);
    let name = prop::sample::select(NAMES_ALL.to_vec());
    let kl = prop::sample::select(vec!["k2", "k3"]);
    (
        name,
        reduction,
        kl,
        prop_oneof![Just(0.0), 0.01f64..0.5],
        prop_oneof![Just(0.0), 0.01f64..0.5],
    )
        .prop_map(|(name, reduction, kl, kl_coef, entropy_coef)| {
            loss(
                name,
                &[
                    ("reduction", text(reduction)),
                    ("kl_estimator", text(kl)),
                    ("kl_coef", OptionValue::Number(kl_coef)),
                    ("entropy_coef", OptionValue::Number(entropy_coef)),
                ],
            )
        })
}

const NAMES_ALL: [&str; 6] = [
    "cross_entropy",
    "importance_sampling",
    "ppo",
    "cispo",
    "dro",
    "gspo",
];

proptest! {
    /// The gradient is the derivative of the value. CISPO's ratio is a constant to it by definition,
    /// so there the surrogate itself is differentiated. Points where a clip bends are left out.
    #[test]
    fn gradient_is_the_derivative_of_the_value(case in cases(-2.0), loss in losses()) {
        let d = loss.denominator(&case.offsets, &case.columns()).unwrap();
        prop_assume!(loss.reduction == Reduction::TokenSum || d > 0.0);
        prop_assume!(!matches!(loss.kind, LossKind::Cispo { .. }));
        let got = loss.evaluate(&case.offsets, &case.lp, &case.columns(), d).unwrap();
        let h = 1f32 / 1024.0;
        for t in 0..case.lp.len() {
            let at = |x: f32| {
                let mut lp = case.lp.clone();
                lp[t] += x;
                loss.evaluate(&case.offsets, &lp, &case.columns(), d).unwrap()
            };
            let (up, down) = (at(h), at(-h));
            let bends = up.metrics.clipped_low != down.metrics.clipped_low
                || up.metrics.clipped_high != down.metrics.clipped_high;
            if !bends {
                let span = f64::from(case.lp[t] + h) - f64::from(case.lp[t] - h);
                let numeric = (up.value - down.value) / span;
                let scale = 1.0 + numeric.abs();
                prop_assert!((numeric - f64::from(got.gradient[t])).abs() < 2e-3 * scale,
                    "t={} numeric={} analytic={}", t, numeric, got.gradient[t]);
            }
        }
    }

    /// Cut between rows in any way, the gradient stays the same bits and the sums the same.
    #[test]
    fn micro_batches_give_the_gradient_of_the_whole(case in cases(-6.0), loss in losses(), cut in 0usize..6) {
        let rows = case.offsets.len() - 1;
        let cut = cut.min(rows);
        let whole = loss.denominator(&case.offsets, &case.columns()).unwrap();
        let parts = [case.part(0, cut), case.part(cut, rows)];
        let sum: f64 = parts.iter().map(|p| loss.denominator(&p.offsets, &p.columns()).unwrap()).sum();
        prop_assert!((whole - sum).abs() < 1e-9);
        prop_assume!(loss.reduction == Reduction::TokenSum || whole > 0.0);
        let expected = loss.evaluate(&case.offsets, &case.lp, &case.columns(), whole).unwrap();
        let (mut gradient, mut metrics) = (Vec::new(), LossMetrics::default());
        for p in &parts {
            let out = loss.evaluate(&p.offsets, &p.lp, &p.columns(), whole).unwrap();
            gradient.extend(out.gradient);
            metrics.merge(&out.metrics);
        }
        prop_assert_eq!(gradient, expected.gradient);
        for (a, b) in metrics.entries().iter().zip(expected.metrics.entries()) {
            prop_assert!((a.1 - b.1).abs() <= 1e-9 * (1.0 + b.1.abs()), "{:?} {:?}", a, b);
        }
    }

    /// Whatever lies at tokens of weight 0, NaN too, changes nothing and receives nothing.
    #[test]
    fn tokens_of_weight_zero_have_no_part(case in cases(-6.0), loss in losses(), noise in prop::num::f32::ANY) {
        let mut noisy = case.clone();
        for t in 0..case.w.len() {
            if case.w[t] == 0.0 {
                for column in [&mut noisy.lp, &mut noisy.q, &mut noisy.a, &mut noisy.reference] {
                    column[t] = noise;
                }
            }
        }
        let d = loss.denominator(&case.offsets, &case.columns()).unwrap();
        prop_assume!(loss.reduction == Reduction::TokenSum || d > 0.0);
        let clean = loss.evaluate(&case.offsets, &case.lp, &case.columns(), d).unwrap();
        prop_assert_eq!(&loss.evaluate(&noisy.offsets, &noisy.lp, &noisy.columns(), d).unwrap(), &clean);
        for t in 0..case.w.len() {
            if case.w[t] == 0.0 { prop_assert_eq!(clean.gradient[t], 0.0); }
        }
    }

    /// However far apart two policies are, everything stays finite.
    #[test]
    fn extreme_log_ratios_stay_finite(case in cases(-3e38), loss in losses()) {
        let d = loss.denominator(&case.offsets, &case.columns()).unwrap();
        prop_assume!(loss.reduction == Reduction::TokenSum || d > 0.0);
        let out = loss.evaluate(&case.offsets, &case.lp, &case.columns(), d).unwrap();
        prop_assert!(out.value.is_finite());
        prop_assert!(out.gradient.iter().all(|g| g.is_finite()));
        prop_assert!(out.metrics.entries().iter().all(|(_, v)| v.is_finite()));
    }

    /// Where learner and sampler agree, every surrogate has the policy gradient -w A.
    #[test]
    fn on_policy_the_gradient_is_minus_the_advantage(mut case in cases(-6.0), name in prop::sample::select(NAMES_ALL[1..].to_vec())) {
        case.q = case.lp.clone();
        for row in case.offsets.windows(2) {
            let (a, b) = (row[0] as usize, row[1] as usize);
            if a < b { let first = case.a[a]; case.a[a..b].fill(first); }
        }
        let out = loss(name, &[]).evaluate(&case.offsets, &case.lp, &case.columns(), 1.0).unwrap();
        for t in 0..case.lp.len() {
            let expected = -case.w[t] * case.a[t];
            prop_assert!((out.gradient[t] - expected).abs() <= 1e-5 * (1.0 + expected.abs()));
        }
    }
}

#[test]
fn large_batches_run_in_parallel_and_give_the_same_bits() {
    let n = 200_000usize;
    let lp: Vec<f32> = (0..n)
        .map(|i| -((i * 7919 % 1000) as f32) / 500.0)
        .collect();
    let a: Vec<f32> = (0..n).map(|i| ((i * 31 % 17) as f32) - 8.0).collect();
    let q: Vec<f32> = lp.iter().map(|x| x * 0.9).collect();
    let offsets: Vec<i64> = (0..=1000).map(|i| i * 200).collect();
    let columns = Columns {
        sampled_logprobs: Some(&q),
        advantages: Some(&a),
        ..Columns::default()
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            loss("ppo", &[])
                .evaluate(&offsets, &lp, &columns, 1.0)
                .unwrap()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_refused_by_row_and_index() {
    let l = loss("ppo", &[]);
    let nan = [0.0, f32::NAN, 0.0];
    let zeros = [0.0; 3];
    let full = |q, a| Columns {
        sampled_logprobs: Some(q),
        advantages: Some(a),
        ..Columns::default()
    };
    let message =
        |lp: &[f32], c: &Columns| l.evaluate(&[0, 1, 3], lp, c, 1.0).unwrap_err().to_string();
    assert_eq!(
        message(&nan, &full(&zeros, &zeros)),
        "logprobs: NaN at row 1, index 0: must be finite"
    );
    assert!(
        message(&zeros, &full(&nan, &zeros)).starts_with("sampled logprobs: NaN at row 1, index 0")
    );
    assert!(message(&zeros, &full(&zeros, &nan)).starts_with("advantages: NaN at row 1, index 0"));
    assert!(
        message(&zeros[..2], &full(&zeros, &zeros)).contains("logprobs has length 2, expected 3")
    );
    assert!(
        message(
            &zeros,
            &Columns {
                advantages: Some(&zeros),
                ..Columns::default()
            }
        )
        .contains("missing")
    );
    let negative = Columns {
        weights: Some(&[1.0, 1.0, -1.0]),
        ..full(&zeros, &zeros)
    };
    assert!(message(&zeros, &negative).contains("row 1, index 1: is negative"));
    let soft = Columns {
        targets_per_position: 2,
        ..full(&zeros, &zeros)
    };
    assert!(message(&[0.0; 6], &soft).contains("cross_entropy alone"));
    let mean = loss("cross_entropy", &[("reduction", text("token_mean"))]);
    let nothing = Columns {
        weights: Some(&zeros),
        ..Columns::default()
    };
    let d = mean.denominator(&[0, 3], &nothing).unwrap();
    assert!(
        mean.evaluate(&[0, 3], &zeros, &nothing, d)
            .unwrap_err()
            .to_string()
            .contains("nothing to average")
    );
}

#[test]
fn unknown_names_and_bad_options_say_what_is_known() {
    let error = |name: &str, options: &[(&str, OptionValue)]| {
        Loss::parse(name, options.iter().map(|(k, v)| (*k, v)))
            .unwrap_err()
            .to_string()
    };
    assert!(error("pppo", &[]).contains("did you mean \"ppo\""));
    let one = OptionValue::Number(1.0);
    assert!(
        error("ppo", &[("clip_hi_threshold", one.clone())])
            .contains("did you mean \"clip_high_threshold\"")
    );
    assert!(error("ppo", &[("beta", one.clone())]).contains("unknown"));
    assert!(error("cross_entropy", &[("zero_advantage_rows", text("drop"))]).contains("unknown"));
    assert!(error("dro", &[("beta", OptionValue::Number(f64::NAN))]).contains("finite"));
    assert!(
        error("ppo", &[("clip_low_threshold", OptionValue::Number(3.0))])
            .contains("0 <= low <= high")
    );
    assert!(error("ppo", &[("kl_estimator", text("k1"))]).contains("trains nothing"));
    assert!(error("ppo", &[("reduction", one)]).contains("must be a name"));
    assert!(error("ppo", &[("reduction", text("token_men"))]).contains("token_mean"));
}

#[test]
fn soft_targets_are_weighted_sums_over_k() {
    let columns = Columns {
        weights: Some(&[0.75, 0.25, 0.0, 1.0]),
        targets_per_position: 2,
        ..Columns::default()
    };
    let out = loss("cross_entropy", &[])
        .evaluate(&[0, 2], &[-1.0, -2.0, -3.0, -4.0], &columns, 0.0)
        .unwrap();
    assert_eq!(out.value, 0.75 + 0.5 + 4.0);
    assert_eq!(out.gradient, vec![-0.75, -0.25, 0.0, -1.0]);
    assert_eq!(out.metrics.tokens, 3.0);
}

#[test]
fn rows_of_zero_advantage_count_or_not_as_asked() {
    let lp = [-1.0f32; 4];
    let a = [1.0, 1.0, 0.0, 0.0];
    let reference = [-2.0; 4];
    let columns = Columns {
        sampled_logprobs: Some(&lp),
        advantages: Some(&a),
        reference_logprobs: Some(&reference),
        ..Columns::default()
    };
    for (choice, rows) in [("keep", 2.0), ("drop", 1.0)] {
        let l = loss(
            "importance_sampling",
            &[
                ("reduction", text("sequence_mean")),
                ("kl_coef", OptionValue::Number(0.5)),
                ("zero_advantage_rows", text(choice)),
            ],
        );
        let d = l.denominator(&[0, 2, 4], &columns).unwrap();
        assert_eq!(d, rows);
        let out = l.evaluate(&[0, 2, 4], &lp, &columns, d).unwrap();
        assert_eq!(out.gradient[2] != 0.0, choice == "keep");
        assert_eq!(out.metrics.rows, rows);
    }
}
