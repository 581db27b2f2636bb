//! Sampling: prompts read and tokens drawn, at the shapes of the issue. `cargo bench --bench sample`.
#![allow(clippy::unwrap_used)]
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tinsmith_engine::sample::{Options, Request, Sampler};
use tinsmith_engine::{Family, LayerWeights, ModelConfig, RopeScaling, Weights};

struct Shape {
    name: &'static str,
    cfg: ModelConfig,
    prompts: usize,
    new: usize,
}

fn shape(name: &'static str, sizes: [usize; 6], prompts: usize, new: usize) -> Shape {
    let [vocab, hidden, intermediate, n_layers, n_heads, n_kv_heads] = sizes;
    let cfg = ModelConfig {
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
    };
    Shape {
        name,
        cfg,
        prompts,
        new,
    }
}

/// Numbers that look random; what they are does not matter for time.
fn weights(cfg: &ModelConfig) -> Arc<Weights<f32>> {
    let mut state = 1u64;
    let mut draw = |len: usize| -> Vec<f32> {
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
        };
        std::iter::repeat_with(next).take(len).collect()
    };
    let ones = |len: usize| vec![1.0; len];
    let layers = (0..cfg.n_layers).map(|_| LayerWeights {
        attn_norm: ones(cfg.hidden),
        qkv: draw(cfg.qkv_dim() * cfg.hidden),
        qkv_bias: None,
        q_norm: None,
        k_norm: None,
        o: draw(cfg.hidden * cfg.q_dim()),
        mlp_norm: ones(cfg.hidden),
        gate_up: draw(2 * cfg.intermediate * cfg.hidden),
        down: draw(cfg.hidden * cfg.intermediate),
    });
    let layers = layers.collect();
    Arc::new(Weights {
        embed: draw(cfg.vocab * cfg.hidden),
        layers,
        final_norm: ones(cfg.hidden),
        head: None,
    })
}

fn sampling(c: &mut Criterion) {
    let shapes = [
        shape("tiny", [2048, 192, 512, 6, 6, 2], 32, 64),
        shape("135M", [49152, 576, 1536, 30, 9, 3], 8, 16),
    ];
    let options = Options {
        threads: 2,
        kv_tokens: 1 << 16,
    };
    for Shape {
        name,
        cfg,
        prompts,
        new,
    } in shapes
    {
        let weights = weights(&cfg);
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        group.bench_function("pack the weights", |b| {
            b.iter(|| Sampler::new(cfg.clone(), Arc::clone(&weights), options, None).unwrap());
        });
        let sampler = Sampler::new(cfg.clone(), weights, options, None).unwrap();
        group.throughput(Throughput::Elements((prompts * new) as u64));
        group.bench_function(format!("{prompts} prompts of 32, {new} new each"), |b| {
            b.iter(|| {
                for i in 0..prompts {
                    let prompt = (0..32)
                        .map(|t| ((i * 32 + t) * 7919 % cfg.vocab) as u32)
                        .collect();
                    sampler.submit(Request::new(prompt, new, i as u64)).unwrap();
                }
                let mut done = 0;
                while done < prompts {
                    done += black_box(sampler.run(usize::MAX).unwrap()).len();
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, sampling);
criterion_main!(benches);
