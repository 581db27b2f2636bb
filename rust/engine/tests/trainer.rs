//! What the trainer promises: the same bits, no leakage, errors that change nothing, exact state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tinsmith_engine::batch::Batch;
use tinsmith_engine::train::random::Random;
use tinsmith_engine::train::{AdamW, Learn, Settings, TrainError, Trainer};
use tinsmith_engine::{Family, ModelConfig, RopeScaling, Weights};

const ADAMW: AdamW = AdamW {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    grad_clip_norm: 1.0,
};

fn config() -> ModelConfig {
    ModelConfig {
        family: Family::Qwen3,
        vocab: 50,
        hidden: 24,
        intermediate: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        rms_eps: 1e-6,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        context: 512,
        qkv_bias: false,
        qk_norm: true,
        tied_head: true,
    }
}

fn low_rank(rank: usize) -> Learn {
    Learn::LowRank {
        rank,
        alpha: 8.0,
        seed: 3,
        attention: true,
        mlp: true,
        unembed: true,
    }
}

fn trainer(learn: Learn, threads: usize, micro_batch_tokens: usize) -> Trainer<f32> {
    let config = config();
    let weights = Arc::new(Weights::random(&config, 1));
    Trainer::new(
        &config,
        weights,
        Settings {
            learn,
            threads,
            micro_batch_tokens,
        },
    )
    .unwrap()
}

struct Data {
    tokens: Vec<i32>,
    offsets: Vec<i64>,
    targets: Vec<i32>,
}

impl Data {
    fn new(lengths: &[usize], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let n: usize = lengths.iter().sum();
        let mut ids = || (0..n).map(|_| random.uniform(0.0, 50.0) as i32).collect();
        let mut offsets = vec![0];
        lengths
            .iter()
            .for_each(|n| offsets.push(offsets[offsets.len() - 1] + *n as i64));
        Self {
            tokens: ids(),
            targets: ids(),
            offsets,
        }
    }
    fn batch(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            offsets: &self.offsets,
            targets: &self.targets,
            per_position: 1,
        }
    }
    /// A step of cross-entropy; gives the logprobs.
    fn step(&self, trainer: &mut Trainer<f32>) -> Vec<f32> {
        let logprobs = self.backward(trainer);
        trainer.optim_step(&ADAMW).unwrap();
        logprobs
    }
    fn backward(&self, trainer: &mut Trainer<f32>) -> Vec<f32> {
        let n = self.tokens.len();
        trainer
            .backward(&self.batch(), &vec![-1.0 / n as f32; n])
            .unwrap()
    }
}

/// Two threads take parts of this batch each, and in another order than that of the rows.
const LENGTHS: [usize; 9] = [40, 7, 0, 33, 100, 64, 1, 90, 170];
/// And share this one, whose last row is most of it.
const LOPSIDED: [usize; 4] = [40, 7, 33, 400];

type Named = Vec<(String, Vec<usize>, Vec<f32>)>;

fn furthest(a: &Named, b: &Named) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut worst = 0f32;
    for ((name, _, a), (other, _, b)) in a.iter().zip(b) {
        assert_eq!(name, other);
        let scale = a.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        worst = a
            .iter()
            .zip(b)
            .fold(worst, |m, (x, y)| m.max((x - y).abs() / scale));
    }
    worst
}

#[test]
fn the_same_calls_give_the_same_bits() {
    for learn in [low_rank(5), Learn::All] {
        for threads in 1..=std::thread::available_parallelism().unwrap().get().min(2) {
            for lengths in [&LENGTHS[..], &LOPSIDED] {
                let data = Data::new(lengths, 1);
                let run = || {
                    let mut trainer = trainer(learn, threads, 200);
                    let logprobs: Vec<Vec<f32>> = (0..3).map(|_| data.step(&mut trainer)).collect();
                    (logprobs, trainer.parameters())
                };
                assert_eq!(run(), run());
            }
        }
    }
}

#[test]
fn cutting_differently_changes_only_the_order_of_sums() {
    for lengths in [&LENGTHS[..], &LOPSIDED] {
        let data = Data::new(lengths, 2);
        let threads = std::thread::available_parallelism().unwrap().get().min(2);
        let gradients = |threads, budget| {
            let mut trainer = trainer(low_rank(4), 1.max(threads), budget);
            let logprobs = data.backward(&mut trainer);
            (logprobs, trainer.gradients())
        };
        let (logprobs, wanted) = gradients(1, 1 << 20);
        for (threads, budget) in [
            (1, 1),
            (1, 128),
            (threads, 1),
            (threads, 300),
            (threads, 1 << 20),
        ] {
            let (other, got) = gradients(threads, budget);
            assert!(
                logprobs
                    .iter()
                    .zip(&other)
                    .all(|(a, b)| (a - b).abs() < 1e-5)
            );
            assert!(
                furthest(&wanted, &got) < 1e-4,
                "{threads} threads, {budget} tokens: {}",
                furthest(&wanted, &got)
            );
        }
    }
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut trainer = trainer(low_rank(4), 1, 1 << 20);
    let data = Data::new(&LENGTHS, 3);
    let together = trainer.forward(&data.batch()).unwrap();
    for row in data.offsets.windows(2) {
        let span = row[0] as usize..row[1] as usize;
        let offsets = [0, span.len() as i64];
        let alone = Batch {
            tokens: &data.tokens[span.clone()],
            offsets: &offsets,
            targets: &data.targets[span.clone()],
            per_position: 1,
        };
        let alone = trainer.forward(&alone).unwrap();
        assert!(
            alone
                .iter()
                .zip(&together[span])
                .all(|(a, b)| (a - b).abs() < 1e-5)
        );
    }
}

#[test]
fn gradients_accumulate_until_a_step() {
    let data = Data::new(&LENGTHS, 4);
    let (mut once, mut twice) = (trainer(Learn::All, 1, 200), trainer(Learn::All, 1, 200));
    data.backward(&mut once);
    data.backward(&mut twice);
    data.backward(&mut twice);
    for ((_, _, one), (_, _, two)) in once.gradients().iter().zip(twice.gradients()) {
        assert!(one.iter().zip(&two).all(|(a, b)| a + a == *b));
    }
    twice.optim_step(&ADAMW).unwrap();
    let stepped = (twice.parameters(), twice.step_count());
    assert!(
        matches!(twice.optim_step(&ADAMW), Err(TrainError::NoGradient)),
        "a step uses the gradients up"
    );
    assert_eq!((twice.parameters(), twice.step_count()), stepped);
}

#[test]
fn an_error_changes_nothing() {
    let data = Data::new(&LENGTHS, 5);
    let mut trainer = trainer(low_rank(4), 1, 100);
    data.step(&mut trainer);
    data.backward(&mut trainer);
    let before = (trainer.parameters(), trainer.gradients());
    let n = data.tokens.len();
    let mut bad = vec![-1.0f32; n];
    bad[n - 3] = f32::NAN;
    let error = trainer.backward(&data.batch(), &bad).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 8, position 167: the loss gradient is NaN"
    );
    let refuse = |rows: &Range<usize>, _: &[f32]| -> Result<(Vec<f32>, ()), TrainError> {
        if rows.start == 0 {
            Ok((vec![1.0; data.offsets[rows.end] as usize], ()))
        } else {
            Err(TrainError::Input("no".into()))
        }
    };
    assert!(trainer.forward_backward(&data.batch(), refuse).is_err());
    let flag = trainer.canceller();
    let cancel = |rows: &Range<usize>, logprobs: &[f32]| {
        flag.store(rows.start > 0, Ordering::Relaxed);
        Ok((vec![1.0; logprobs.len()], ()))
    };
    assert!(matches!(
        trainer.forward_backward(&data.batch(), cancel),
        Err(TrainError::Cancelled)
    ));
    assert_eq!((trainer.parameters(), trainer.gradients()), before);

    // A gradient that overflows: only the gradients go.
    trainer.zero_grad();
    trainer.backward(&data.batch(), &vec![3e38; n]).unwrap();
    let error = trainer.optim_step(&ADAMW).unwrap_err();
    assert!(matches!(error, TrainError::NonFinite(_)), "{error}");
    assert_eq!((trainer.parameters(), trainer.step_count()), (before.0, 1));
    assert!(
        trainer
            .gradients()
            .iter()
            .all(|(_, _, g)| g.iter().all(|&x| x == 0.0))
    );
}

#[test]
fn bad_input_is_refused_by_row_and_position() {
    let mut trainer = trainer(low_rank(4), 1, 100);
    let good = Data::new(&[3, 2], 6);
    let mut refused = |change: fn(&mut Data), message: &str| {
        let mut data = Data::new(&[3, 2], 6);
        change(&mut data);
        assert_eq!(
            trainer.forward(&data.batch()).unwrap_err().to_string(),
            message
        );
    };
    refused(
        |d| d.tokens[4] = 50,
        "row 1, position 1: token id 50 is outside the vocabulary of 50",
    );
    refused(
        |d| d.targets[0] = -1,
        "row 0, position 0: target id -1 is outside the vocabulary of 50",
    );
    refused(|d| d.offsets[1] = 6, "offsets fall at row 1: from 6 to 5");
    refused(
        |d| d.offsets[2] = 4,
        "offsets must run from 0 to the number of tokens, 5; they are Some(0) to Some(4)",
    );
    refused(
        |d| d.targets.truncate(4),
        "4 targets for 5 tokens at 1 targets a position",
    );
    let long = Data::new(&[513], 6);
    let error = trainer.forward(&long.batch()).unwrap_err().to_string();
    assert_eq!(error, "row 0 has 513 tokens; the model's context is 512");
    assert!(trainer.forward(&good.batch()).is_ok());
    assert!(
        trainer
            .forward(&Batch {
                tokens: &[],
                offsets: &[0],
                targets: &[],
                per_position: 1
            })
            .unwrap()
            .is_empty()
    );
    for (threads, tokens, learn) in [
        (0, 1, low_rank(4)),
        (10_000, 1, low_rank(4)),
        (1, 0, low_rank(4)),
        (1, 1, low_rank(0)),
    ] {
        let settings = Settings {
            learn,
            threads,
            micro_batch_tokens: tokens,
        };
        let made =
            Trainer::<f32>::new(&config(), Arc::new(Weights::random(&config(), 1)), settings);
        assert!(matches!(made, Err(TrainError::Setting(_))));
    }
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    let directory = std::env::temp_dir().join(format!("tinsmith-state-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("state.safetensors");
    for learn in [low_rank(4), Learn::All] {
        let data = Data::new(&[30, 50, 12], 7);
        let mut straight = trainer(learn, 1, 100);
        (0..3).for_each(|_| drop(data.step(&mut straight)));
        straight.save_state(&path).unwrap();
        let mut resumed = trainer(learn, 1, 100);
        data.backward(&mut resumed);
        resumed.load_state(&path).unwrap();
        assert_eq!(resumed.step_count(), 3);
        for _ in 0..2 {
            assert_eq!(data.step(&mut straight), data.step(&mut resumed));
        }
        assert_eq!(straight.parameters(), resumed.parameters());
    }
    // The file is now of a trainer of all weights.
    let mut other = trainer(low_rank(4), 1, 100);
    let before = other.parameters();
    let error = other.load_state(&path).unwrap_err().to_string();
    assert!(
        error.contains("layers.0.self_attn.q_proj.lora_A.weight\" is missing"),
        "{error}"
    );
    let bytes = std::fs::read(&path).unwrap();
    let mut whole = trainer(Learn::All, 1, 100);
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(
            whole.load_state(&path),
            Err(TrainError::State { .. })
        ));
    }
    assert!(matches!(
        whole.load_state(&directory.join("none")),
        Err(TrainError::Io { .. })
    ));
    assert!(matches!(
        whole.save_state(&directory.join("no/where")),
        Err(TrainError::Io { .. })
    ));
    assert_eq!(other.parameters(), before);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_snapshot_is_what_the_trainer_computes_with_and_stays() {
    let data = Data::new(&[30, 50], 8);
    for learn in [low_rank(4), Learn::All] {
        let mut trainer = trainer(learn, 1, 100);
        data.step(&mut trainer);
        let (config, weights) = trainer.snapshot();
        let copy = weights.clone();
        let logprobs = trainer.forward(&data.batch()).unwrap();
        data.step(&mut trainer);
        assert!(weights == copy && weights != trainer.snapshot().1);
        let settings = Settings {
            learn: low_rank(1),
            threads: 1,
            micro_batch_tokens: 100,
        };
        let mut again = Trainer::new(&config, weights, settings).unwrap();
        assert_eq!(again.forward(&data.batch()).unwrap(), logprobs);
    }
}

#[test]
fn training_lowers_the_loss() {
    let data = Data::new(&[20, 20], 9);
    for learn in [low_rank(8), Learn::All] {
        let mut trainer = trainer(learn, 1, 100);
        let nll = |logprobs: &[f32]| -logprobs.iter().sum::<f32>() / logprobs.len() as f32;
        let first = nll(&data.step(&mut trainer));
        (0..30).for_each(|_| drop(data.step(&mut trainer)));
        let last = nll(&trainer.forward(&data.batch()).unwrap());
        assert!(last < 0.8 * first, "{first} to {last}");
    }
}
