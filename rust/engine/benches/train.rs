//! A training step, forward, backward and AdamW, at the shapes of the issue, beside the products' own rate.
//! `cargo bench --bench train`.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tinsmith_engine::batch::Batch;
use tinsmith_engine::tensor::{Act, Exec, Lanes, Packed, outer};
use tinsmith_engine::train::{AdamW, Learn, Settings, Trainer};
use tinsmith_engine::{Family, ModelConfig, RopeScaling, Weights};

const ADAMW: AdamW = AdamW {
    learning_rate: 1e-4,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.0,
    grad_clip_norm: 1.0,
};

fn config([vocab, hidden, intermediate, n_layers, n_heads, n_kv_heads]: [usize; 6]) -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        vocab,
        hidden,
        intermediate,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim: hidden / n_heads,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: 2048,
        qkv_bias: false,
        qk_norm: false,
        tied_head: true,
    }
}

fn steps(c: &mut Criterion) {
    let low_rank = Learn::LowRank {
        rank: 32,
        alpha: 32.0,
        seed: 0,
        attention: true,
        mlp: true,
        unembed: false,
    };
    let tiny = config([2048, 192, 512, 6, 6, 2]);
    let smollm2 = config([49152, 576, 1536, 30, 9, 3]);
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(2);
    for (name, config, learn, rows) in [
        ("tiny, LoRA", &tiny, low_rank, 32),
        ("tiny, all weights", &tiny, Learn::All, 32),
        ("135M, LoRA", &smollm2, low_rank, 4),
    ] {
        let tokens: Vec<i32> = (0..rows * 128)
            .map(|i| ((i * 7919) % config.vocab) as i32)
            .collect();
        let offsets: Vec<i64> = (0..=rows as i64).map(|row| row * 128).collect();
        let batch = Batch {
            tokens: &tokens,
            offsets: &offsets,
            targets: &tokens,
            per_position: 1,
        };
        let settings = Settings {
            learn,
            threads,
            micro_batch_tokens: 1024,
        };
        let mut trainer = Trainer::new(
            config,
            Arc::new(Weights::<f32>::random(config, 0)),
            settings,
        )
        .unwrap();
        let gradient = vec![-1.0; tokens.len()];
        let mut group = c.benchmark_group("training step");
        group
            .throughput(Throughput::Elements(tokens.len() as u64))
            .sample_size(10);
        group.bench_function(name, |b| {
            b.iter(|| {
                trainer.backward(&batch, &gradient).unwrap();
                trainer.optim_step(&ADAMW).unwrap()
            });
        });
        group.finish();
    }
}

/// Each kind of product, one thread; elements are floating-point operations.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (rows, cols, panels) in [(1024, 192, 8), (3072, 576, 4), (32, 576, 4)] {
        let weight = Packed::new(rows, cols, &vec![0.5f32; rows * cols]);
        let mut x = vec![Lanes([0.5f32; 32]); panels * cols];
        let mut y = vec![Lanes([0.5f32; 32]); panels * rows];
        let turned = vec![Lanes([0.5f32; 32]); panels * 32];
        let mut sum = vec![Lanes([0.0f32; 32]); rows];
        group.throughput(Throughput::Elements((2 * rows * cols * panels * 32) as u64));
        group.bench_function(format!("W x, {rows} x {cols} x {}", panels * 32), |b| {
            b.iter(|| weight.mul(Act::new(&x, cols), &mut y, None, Exec::Serial));
        });
        group.bench_function(format!("W^T y, {rows} x {cols} x {}", panels * 32), |b| {
            b.iter(|| weight.mul_t(Act::new(&y, rows), &mut x, 1e-3, false, Exec::Serial));
        });
        group.throughput(Throughput::Elements((2 * rows * 32 * panels * 32) as u64));
        group.bench_function(format!("y x^T, {rows} x 32 x {}", panels * 32), |b| {
            b.iter(|| outer(Act::new(&y, rows), &turned, &mut sum, 1e-3));
        });
    }
    group.finish();
}

criterion_group!(benches, steps, products);
criterion_main!(benches);
