//! The sampler against a plain forward pass in f64 over whole sequences, and the laws of its batching.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::{Family, LayerWeights, RopeScaling};

/// A small model of a family; widths are chosen so that panels, pages and lanes have odd ends.
pub fn config(family: Family, rope_scaling: RopeScaling, tied_head: bool) -> ModelConfig {
    ModelConfig {
        family,
        vocab: 83,
        hidden: 36,
        intermediate: 44,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 20,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling,
        context: 96,
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        tied_head,
    }
}

/// Random weights that keep activations near 1 and make distributions far from flat.
pub fn random_weights(cfg: &ModelConfig, seed: u64) -> Arc<Weights<f32>> {
    let mut drawn = 0;
    let mut draw = |len: usize, scale: f64, shift: f64| -> Vec<f32> {
        drawn += 1;
        (0..len)
            .map(|i| (shift + scale * (2.0 * rng::uniform(seed, drawn, i as u64) - 1.0)) as f32)
            .collect()
    };
    let by = |inputs: usize| (3.0 / inputs as f64).sqrt();
    let embed = draw(cfg.vocab * cfg.hidden, 1.0, 0.0);
    let layers = (0..cfg.n_layers)
        .map(|_| LayerWeights {
            attn_norm: draw(cfg.hidden, 0.5, 1.0),
            qkv: draw(cfg.qkv_dim() * cfg.hidden, 1.5 * by(cfg.hidden), 0.0),
            qkv_bias: cfg.qkv_bias.then(|| draw(cfg.qkv_dim(), 0.5, 0.0)),
            q_norm: cfg.qk_norm.then(|| draw(cfg.head_dim, 0.5, 1.0)),
            k_norm: cfg.qk_norm.then(|| draw(cfg.head_dim, 0.5, 1.0)),
            o: draw(cfg.hidden * cfg.q_dim(), by(cfg.q_dim()), 0.0),
            mlp_norm: draw(cfg.hidden, 0.5, 1.0),
            gate_up: draw(2 * cfg.intermediate * cfg.hidden, by(cfg.hidden), 0.0),
            down: draw(cfg.hidden * cfg.intermediate, by(cfg.intermediate), 0.0),
        })
        .collect();
    let final_norm = draw(cfg.hidden, 0.5, 1.0);
    let head = (!cfg.tied_head).then(|| draw(cfg.vocab * cfg.hidden, 0.7, 0.0));
    Arc::new(Weights {
        embed,
        layers,
        final_norm,
        head,
    })
}

/// Log-probabilities `[T][vocab]` of the next token after each prefix, by the formulas, in f64.
fn reference(cfg: &ModelConfig, weights: &Weights<f32>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let f = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let norm = |x: &[f64], w: &[f32]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter()
            .zip(w)
            .map(|(x, w)| x / (mean + cfg.rms_eps).sqrt() * f64::from(*w))
            .collect()
    };
    let product = |w: &[f32], x: &[f64]| -> Vec<f64> {
        w.chunks(x.len())
            .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
            .collect()
    };
    let rope = crate::rope::Rope::new(cfg);
    let (dim, half, group) = (cfg.head_dim, cfg.head_dim / 2, cfg.n_heads / cfg.n_kv_heads);
    let turn = |head: &[f64], norm_by: &Option<Vec<f32>>, position: usize| -> Vec<f64> {
        let head = norm_by.as_ref().map_or(head.to_vec(), |w| norm(head, w));
        let angle = |i: usize| (position as f64 * rope.frequencies[i]).sin_cos();
        (0..dim)
            .map(|i| {
                let (sin, cos) = angle(i % half);
                let other = if i < half {
                    -head[i + half]
                } else {
                    head[i - half]
                };
                (head[i] * cos + other * sin) * rope.scale
            })
            .collect()
    };
    let mut xs: Vec<Vec<f64>> = tokens
        .iter()
        .map(|t| f(&weights.embed[*t as usize * cfg.hidden..][..cfg.hidden]))
        .collect();
    for layer in &weights.layers {
        let mut keys: Vec<Vec<Vec<f64>>> = Vec::new();
        let mut values: Vec<Vec<f64>> = Vec::new();
        for (position, x) in xs.iter_mut().enumerate() {
            let mut qkv = product(&layer.qkv, &norm(x, &layer.attn_norm));
            if let Some(bias) = &layer.qkv_bias {
                qkv.iter_mut()
                    .zip(bias)
                    .for_each(|(x, b)| *x += f64::from(*b));
            }
            let (q, kv) = qkv.split_at(cfg.q_dim());
            let (k, v) = kv.split_at(cfg.kv_dim());
            keys.push(
                k.chunks(dim)
                    .map(|head| turn(head, &layer.k_norm, position))
                    .collect(),
            );
            values.push(v.to_vec());
            let mut out = Vec::new();
            for (head, q) in q.chunks(dim).enumerate() {
                let (q, kv_head) = (turn(q, &layer.q_norm, position), head / group);
                let dot =
                    |k: &Vec<Vec<f64>>| k[kv_head].iter().zip(&q).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<f64> = keys.iter().map(|k| dot(k) / (dim as f64).sqrt()).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let p: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = p.iter().sum();
                out.extend((0..dim).map(|i| {
                    p.iter()
                        .zip(&values)
                        .map(|(p, v)| p * v[kv_head * dim + i])
                        .sum::<f64>()
                        / total
                }));
            }
            x.iter_mut()
                .zip(product(&layer.o, &out))
                .for_each(|(x, y)| *x += y);
            let both = product(&layer.gate_up, &norm(x, &layer.mlp_norm));
            let (gate, up) = both.split_at(cfg.intermediate);
            let inner: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            x.iter_mut()
                .zip(product(&layer.down, &inner))
                .for_each(|(x, y)| *x += y);
        }
    }
    xs.iter()
        .map(|x| {
            let logits = product(weights.head(), &norm(x, &weights.final_norm));
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum = logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            logits.iter().map(|l| l - max - sum).collect()
        })
        .collect()
}

fn prompt(cfg: &ModelConfig, len: usize, seed: u64) -> Vec<u32> {
    (0..len)
        .map(|i| (rng::uniform(seed, 0, i as u64) * cfg.vocab as f64) as u32)
        .collect()
}

fn sampler(cfg: &ModelConfig, threads: usize, kv_tokens: usize) -> Sampler {
    let table = Arc::new(
        (0..cfg.vocab)
            .map(|id| vec![b'a' + (id % 26) as u8; 1 + id % 2])
            .collect(),
    );
    Sampler::new(
        cfg.clone(),
        random_weights(cfg, 5),
        Options { threads, kv_tokens },
        Some(table),
    )
    .unwrap()
}

/// Run until nothing is left; answers by id.
fn drain(sampler: &Sampler) -> Vec<Finished> {
    let mut all = Vec::new();
    while sampler.stats().unwrap().pending > 0 {
        all.extend(sampler.run(usize::MAX).unwrap());
    }
    all.sort_by_key(|finished| finished.id);
    assert_eq!(sampler.stats().unwrap().pages_in_use, 0, "pages leaked");
    all
}

fn close(found: f32, expected: f64) {
    assert!(
        (f64::from(found) - expected).abs() < 1e-4,
        "{found} for {expected}"
    );
}

/// Every logprob that comes out, of prompt and completion, against the reference.
fn check_against_reference(
    cfg: &ModelConfig,
    sampler: &Sampler,
    request: &Request,
    finished: &Finished,
) {
    let weights = &sampler.model.weights;
    for completion in &finished.completions {
        let mut tokens = request.prompt.clone();
        tokens.extend(&completion.tokens);
        let expected = reference(cfg, weights, &tokens);
        let len = request.prompt.len();
        for (i, (token, logprob)) in completion
            .tokens
            .iter()
            .zip(&completion.logprobs)
            .enumerate()
        {
            close(*logprob, expected[len + i - 1][*token as usize]);
        }
        for (i, top) in completion.top_logprobs.iter().enumerate() {
            assert_eq!(top.len(), request.top_logprobs);
            top.iter()
                .for_each(|(id, logprob)| close(*logprob, expected[len + i - 1][*id as usize]));
            let best = expected[len + i - 1]
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max);
            close(top[0].1, best);
        }
        for (i, logprob) in finished
            .prompt_logprobs
            .iter()
            .flatten()
            .enumerate()
            .skip(1)
        {
            close(*logprob, expected[i - 1][tokens[i] as usize]);
        }
    }
}

#[test]
fn cached_equals_uncached_for_every_family_and_scaling() {
    let scalings = [
        RopeScaling::None,
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 32,
        },
        RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 24,
            attention_factor: 1.139,
        },
    ];
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        for (i, scaling) in scalings.into_iter().enumerate() {
            let cfg = config(family, scaling, i % 2 == 0);
            let sampler = sampler(&cfg, 2, 4096);
            let requests: Vec<Request> = (0..4u64)
                .map(|i| Request {
                    n: 2,
                    prompt_logprobs: true,
                    top_logprobs: 3,
                    top_prompt_logprobs: 2,
                    ..Request::new(prompt(&cfg, 1 + 15 * i as usize, i), 40, i)
                })
                .collect();
            for request in &requests {
                sampler.submit(request.clone()).unwrap();
            }
            for (request, finished) in requests.iter().zip(drain(&sampler)) {
                assert_eq!(finished.error, None);
                let logprobs = finished.prompt_logprobs.as_ref().unwrap();
                if request.prompt.len() > 1 {
                    assert_eq!(logprobs.len(), request.prompt.len());
                    assert!(logprobs[0].is_nan());
                    assert_eq!(finished.top_prompt_logprobs.len(), request.prompt.len());
                }
                check_against_reference(&cfg, &sampler, request, &finished);
            }
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_the_reference() {
    let cfg = config(Family::Qwen3, RopeScaling::None, false);
    for kernels in Kernels::all() {
        let options = Options {
            threads: 1,
            kv_tokens: 4096,
        };
        let sampler =
            Sampler::with_kernels(cfg.clone(), random_weights(&cfg, 5), options, None, kernels)
                .unwrap();
        let request = Request {
            prompt_logprobs: true,
            n: 3,
            ..Request::new(prompt(&cfg, 37, 1), 12, 1)
        };
        sampler.submit(request.clone()).unwrap();
        check_against_reference(&cfg, &sampler, &request, &drain(&sampler)[0]);
    }
}
