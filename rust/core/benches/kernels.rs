//! The kernels on the shapes of a step: 16 groups of 8 episodes of 1,000 tokens. Beside each group stands its physical
//! limit, a copy of the bytes that it reads and writes.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use tinsmith_core::advantages::{Estimator, group_advantages};
use tinsmith_core::assembly::{Advantages, Episodes, assemble};
use tinsmith_core::losses::{Columns, Loss};
use tinsmith_core::packing::{Packing, minibatches, pack};
use tinsmith_core::returns::{Distance, discounted_sums, gae};
use tinsmith_core::utf8::{Decoder, decode_rows};

const EPISODES: usize = 128;
const LENGTH: usize = 1000;
const TOKENS: usize = EPISODES * LENGTH;

/// Numbers that look random and never change.
fn noise(i: usize) -> u64 {
    let x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32
}

fn unit(i: usize) -> f64 {
    noise(i) as f64 / f64::from(u32::MAX)
}

fn offsets(rows: usize, length: usize) -> Vec<i64> {
    (0..=rows).map(|i| (i * length) as i64).collect()
}

fn limit(group: &mut BenchmarkGroup<WallTime>, bytes: usize) {
    let from = vec![1u8; bytes];
    group.bench_function("limit: a copy of its bytes", |b| {
        b.iter(|| black_box(&from).clone())
    });
}

fn bench_assembly(c: &mut Criterion) {
    for turns in [1, 10] {
        let mut group = c.benchmark_group(format!("assembly, {turns} turns"));
        group.throughput(Throughput::Elements(TOKENS as u64));
        let half = LENGTH / turns / 2;
        let mut observations: Vec<Vec<i32>> = Vec::new();
        let (mut actions, mut action_offsets) = (Vec::new(), vec![0i64]);
        for episode in 0..EPISODES {
            let mut running: Vec<i32> = Vec::new();
            for turn in 0..turns {
                let fresh = |salt: usize| (0..half).map(move |i| noise(i + salt) as i32 & 0xFFFF);
                running.extend(fresh(episode * 7919 + turn * 31));
                observations.push(running.clone());
                let action: Vec<i32> = fresh(episode * 104_729 + turn * 37).collect();
                running.extend_from_slice(&action);
                actions.extend(action);
                action_offsets.push(actions.len() as i64);
            }
        }
        let logprobs = vec![-1f32; actions.len()];
        let advantages = vec![1f64; EPISODES];
        let episodes = Episodes {
            observations: &observations.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            actions: &actions,
            action_offsets: &action_offsets,
            logprobs: &logprobs,
            episode_offsets: &offsets(EPISODES, turns),
            advantages: Advantages::PerEpisode(&advantages),
            masked: &vec![false; EPISODES * turns],
            policy_versions: &vec![0; EPISODES * turns],
        };
        group.bench_function("assemble", |b| {
            b.iter(|| assemble(black_box(&episodes)).unwrap())
        });
        let seen: usize = observations.iter().map(Vec::len).sum();
        limit(&mut group, seen * 4 + TOKENS * 29);
        group.finish();
    }
}

fn bench_returns(c: &mut Criterion) {
    let mut group = c.benchmark_group("returns");
    group.throughput(Throughput::Elements(TOKENS as u64));
    let x: Vec<f64> = (0..TOKENS).map(unit).collect();
    let mask: Vec<bool> = (0..TOKENS).map(|i| noise(i).is_multiple_of(2)).collect();
    let o = offsets(EPISODES, LENGTH);
    group.bench_function("discounted_sums", |b| {
        b.iter(|| {
            discounted_sums(black_box(&x), &o, Some(&mask), 0.99, Distance::Positions).unwrap()
        });
    });
    let bootstraps = vec![0.0; EPISODES];
    group.bench_function("gae", |b| {
        b.iter(|| gae(black_box(&x), &x, &bootstraps, &o, Some(&mask), 1.0, 0.95).unwrap());
    });
    limit(&mut group, TOKENS * 17);
    group.finish();
}

fn bench_advantages(c: &mut Criterion) {
    let mut group = c.benchmark_group("advantages, 1,024 groups of 16");
    let rewards: Vec<f64> = (0..1024 * 16).map(|i| (noise(i) % 2) as f64).collect();
    let o = offsets(1024, 16);
    group.throughput(Throughput::Elements(rewards.len() as u64));
    for name in Estimator::names() {
        let estimator = Estimator::parse(name, 1e-6, 4).unwrap();
        group.bench_function(*name, |b| {
            b.iter(|| group_advantages(black_box(&rewards), &o, estimator).unwrap())
        });
    }
    limit(&mut group, rewards.len() * 16);
    group.finish();
}

fn bench_losses(c: &mut Criterion) {
    let mut group = c.benchmark_group("losses");
    group.throughput(Throughput::Elements(TOKENS as u64));
    let lp: Vec<f32> = (0..TOKENS).map(|i| -3.0 * unit(i) as f32).collect();
    let q: Vec<f32> = (0..TOKENS)
        .map(|i| lp[i] + 0.2 * (unit(i + 7) as f32 - 0.5))
        .collect();
    let a: Vec<f32> = (0..TOKENS)
        .map(|i| (unit(i / LENGTH) - 0.5) as f32)
        .collect();
    let w: Vec<f32> = (0..TOKENS)
        .map(|i| f32::from(u8::from(i % LENGTH > 200)))
        .collect();
    let o = offsets(EPISODES, LENGTH);
    let columns = Columns {
        weights: Some(&w),
        sampled_logprobs: Some(&q),
        advantages: Some(&a),
        ..Columns::default()
    };
    for name in Loss::names() {
        let loss = Loss::parse(name, []).unwrap();
        group.bench_function(*name, |b| {
            b.iter(|| loss.evaluate(&o, black_box(&lp), &columns, 1.0).unwrap())
        });
    }
    limit(&mut group, TOKENS * 20);
    group.finish();
}

fn bench_packing(c: &mut Criterion) {
    let mut group = c.benchmark_group("packing, 10,000 datums");
    let lengths: Vec<i64> = (0..10_000).map(|i| 16 + (noise(i) % 2000) as i64).collect();
    group.throughput(Throughput::Elements(lengths.len() as u64));
    for (name, packing) in [
        ("in_order", Packing::InOrder),
        ("best_fit", Packing::BestFit),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| pack(black_box(&lengths), 4096, packing).unwrap())
        });
    }
    group.bench_function("minibatches by tokens", |b| {
        b.iter(|| minibatches(black_box(&lengths), 8, true).unwrap())
    });
    group.finish();
}

fn bench_utf8(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    let text = "The answer is 42 – obviously 😀. "
        .repeat(4000)
        .into_bytes();
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("pieces of 4 bytes", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new();
            let n: usize = black_box(&text)
                .chunks(4)
                .map(|p| decoder.push(p).len())
                .sum();
            n + decoder.finish().len()
        });
    });
    let rows = [0, text.len() as i64];
    group.bench_function("one row", |b| {
        b.iter(|| decode_rows(black_box(&text), &rows).unwrap())
    });
    limit(&mut group, text.len());
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = bench_assembly, bench_returns, bench_advantages, bench_losses, bench_packing, bench_utf8
}
criterion_main!(kernels);
