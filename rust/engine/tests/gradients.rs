//! The whole model's gradient against finite differences, in f64, for each family and scaling.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::Arc;

use tinsmith_engine::batch::Batch;
use tinsmith_engine::train::random::Random;
use tinsmith_engine::train::{Learn, Settings, Trainer};
use tinsmith_engine::{Family, ModelConfig, RopeScaling, Weights};

fn config(family: Family, rope_scaling: RopeScaling) -> ModelConfig {
    ModelConfig {
        family,
        vocab: 45,
        hidden: 20,
        intermediate: 27,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 6,
        rms_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling,
        context: 128,
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        tied_head: family != Family::Llama,
    }
}

/// Weights far from their start, so that no term is close to zero.
fn weights(config: &ModelConfig) -> Arc<Weights<f64>> {
    let mut random = Random::new(7);
    let mut weights = Weights::<f64>::random(config, 3);
    let mut shake =
        |values: &mut [f64], by: f64| values.iter_mut().for_each(|x| *x += by * random.normal());
    shake(&mut weights.embed, 0.5);
    shake(&mut weights.final_norm, 0.2);
    if let Some(head) = &mut weights.head {
        shake(head, 0.3);
    }
    for layer in &mut weights.layers {
        for matrix in [
            &mut layer.qkv,
            &mut layer.o,
            &mut layer.gate_up,
            &mut layer.down,
        ] {
            shake(matrix, 0.3);
        }
        for vector in [&mut layer.attn_norm, &mut layer.mlp_norm] {
            shake(vector, 0.2);
        }
        for vector in [&mut layer.q_norm, &mut layer.k_norm, &mut layer.qkv_bias]
            .into_iter()
            .flatten()
        {
            shake(vector, 0.2);
        }
    }
    Arc::new(weights)
}

struct Data {
    tokens: Vec<i32>,
    offsets: Vec<i64>,
    targets: Vec<i32>,
    k: usize,
    grads: Vec<f64>,
}

impl Data {
    fn new(config: &ModelConfig, lengths: &[usize], k: usize, active: f64) -> Self {
        let mut random = Random::new(11);
        let n: usize = lengths.iter().sum();
        let mut ids = |n: usize| -> Vec<i32> {
            (0..n)
                .map(|_| random.uniform(0.0, config.vocab as f64) as i32)
                .collect()
        };
        let (tokens, targets) = (ids(n), ids(n * k));
        let mut offsets = vec![0];
        for &length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length as i64);
        }
        let grads = (0..n)
            .flat_map(|_| {
                let on = random.unit() < active;
                (0..k)
                    .map(|_| if on { random.normal() } else { 0.0 })
                    .collect::<Vec<_>>()
            })
            .collect();
        Self {
            tokens,
            offsets,
            targets,
            k,
            grads,
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            offsets: &self.offsets,
            targets: &self.targets,
            per_position: self.k,
        }
    }

    fn loss(&self, trainer: &mut Trainer<f64>) -> f64 {
        let logprobs = trainer.forward(&self.batch()).unwrap();
        logprobs.iter().zip(&self.grads).map(|(l, g)| l * g).sum()
    }
}

fn check(config: &ModelConfig, settings: Settings, data: &Data) {
    let mut trainer = Trainer::new(config, weights(config), settings).unwrap();
    let mut random = Random::new(5);
    if matches!(settings.learn, Learn::LowRank { .. }) {
        // B starts at zero, where A has no gradient.
        let shaken: Vec<(String, Vec<f64>)> = trainer
            .parameters()
            .into_iter()
            .map(|(name, _, values)| {
                (
                    name,
                    values.iter().map(|x| x + 0.2 * random.normal()).collect(),
                )
            })
            .collect();
        trainer.set_parameters(&shaken).unwrap();
    }
    trainer.backward(&data.batch(), &data.grads).unwrap();
    let gradients = trainer.gradients();
    let values = trainer.parameters();
    for ((name, _, gradient), (_, _, value)) in gradients.iter().zip(&values) {
        let scale = gradient.iter().fold(1e-3f64, |a, g| a.max(g.abs()));
        for _ in 0..3 {
            let at = random.uniform(0.0, value.len() as f64) as usize;
            let h = 1e-5;
            let mut side = |step: f64| {
                let mut moved = value.clone();
                moved[at] += step;
                trainer.set_parameters(&[(name.clone(), moved)]).unwrap();
                data.loss(&mut trainer)
            };
            let slope = (side(h) - side(-h)) / (2.0 * h);
            trainer
                .set_parameters(&[(name.clone(), value.clone())])
                .unwrap();
            assert!(
                (slope - gradient[at]).abs() < 2e-6 * scale,
                "{name}[{at}]: {} by finite differences {slope}",
                gradient[at]
            );
        }
    }
}

fn all(micro_batch_tokens: usize, threads: usize) -> Settings {
    Settings {
        learn: Learn::All,
        threads,
        micro_batch_tokens,
    }
}

#[test]
fn each_family_and_scaling_learns_all_its_weights() {
    let scalings = [
        (Family::Llama, RopeScaling::None),
        (Family::Llama, RopeScaling::Linear { factor: 2.0 }),
        (
            Family::Llama,
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 64,
            },
        ),
        (Family::Qwen2, RopeScaling::None),
        (
            Family::Qwen2,
            RopeScaling::Yarn {
                factor: 4.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                original_context: 32,
                attention_factor: 1.1386,
            },
        ),
        (Family::Qwen3, RopeScaling::None),
    ];
    for (family, scaling) in scalings {
        let config = config(family, scaling);
        check(
            &config,
            all(64, 1),
            &Data::new(&config, &[5, 0, 37, 1, 20], 1, 1.0),
        );
    }
}

#[test]
fn low_rank_pairs_learn_on_every_layer() {
    for (rank, unembed) in [(3, true), (40, false)] {
        let config = config(Family::Qwen2, RopeScaling::None);
        let learn = Learn::LowRank {
            rank,
            alpha: 6.0,
            seed: 1,
            attention: true,
            mlp: true,
            unembed,
        };
        let settings = Settings {
            learn,
            threads: 1,
            micro_batch_tokens: 64,
        };
        check(
            &config,
            settings,
            &Data::new(&config, &[33, 12, 40], 1, 0.3),
        );
    }
}

#[test]
fn a_subset_of_layers_learns() {
    for (attention, mlp, unembed) in [
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let config = config(Family::Llama, RopeScaling::None);
        let learn = Learn::LowRank {
            rank: 4,
            alpha: 4.0,
            seed: 1,
            attention,
            mlp,
            unembed,
        };
        let settings = Settings {
            learn,
            threads: 1,
            micro_batch_tokens: 64,
        };
        check(&config, settings, &Data::new(&config, &[40, 9], 1, 1.0));
    }
}

#[test]
fn several_targets_a_position_and_positions_without_gradient() {
    let config = config(Family::Llama, RopeScaling::None);
    check(
        &config,
        all(1 << 20, 1),
        &Data::new(&config, &[50, 30, 45], 3, 0.2),
    );
}

#[test]
fn one_long_row_shared_by_all_threads() {
    let config = config(Family::Qwen3, RopeScaling::None);
    let threads = std::thread::available_parallelism().unwrap().get().min(2);
    check(
        &config,
        all(64, threads),
        &Data::new(&config, &[128], 1, 0.7),
    );
}
