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

fn llama() -> ModelConfig {
    config(Family::Llama, RopeScaling::None, true)
}

/// All of an answer but its id, with NaN made comparable.
fn content(finished: &Finished) -> impl PartialEq + std::fmt::Debug + use<> {
    let bits = |x: &Vec<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    (
        finished.completions.clone(),
        finished.prompt_logprobs.as_ref().map(bits),
        finished.top_prompt_logprobs.clone(),
        finished.error.clone(),
    )
}

fn alone(request: &Request) -> Finished {
    let sampler = sampler(&llama(), 1, 1024);
    sampler.submit(request.clone()).unwrap();
    drain(&sampler).remove(0)
}

/// Requests of many kinds; more prompt tokens than a step takes, more logits than are kept at once.
fn mixed(cfg: &ModelConfig) -> Vec<Request> {
    (0..14u64)
        .map(|i| Request {
            n: [1, 3, 0, 5][i as usize % 4],
            temperature: [1.0, 0.0, 0.7][i as usize % 3],
            top_k: [0, 7][i as usize % 2],
            top_p: [1.0, 0.8, 0.95][i as usize % 3],
            top_logprobs: i as usize % 3,
            prompt_logprobs: i % 2 == 0,
            ..Request::new(
                prompt(cfg, 80 - 5 * i as usize, i),
                4 + 9 * (i as usize % 4),
                i,
            )
        })
        .collect()
}

#[test]
fn an_answer_is_the_same_bits_in_any_company_on_any_threads() {
    let cfg = llama();
    let requests = mixed(&cfg);
    let expected: Vec<_> = requests
        .iter()
        .map(|request| content(&alone(request)))
        .collect();
    for (threads, kv_tokens) in [(1, 4096), (2, 4096), (3, 320)] {
        let sampler = sampler(&cfg, threads, kv_tokens);
        let ids: Vec<u64> = requests
            .iter()
            .rev()
            .map(|request| sampler.submit(request.clone()).unwrap())
            .collect();
        let mut answers = drain(&sampler);
        answers.reverse();
        assert_eq!(ids.len(), answers.len());
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(
                content(answer),
                expected[i],
                "request {i}, {threads} threads, {kv_tokens} tokens"
            );
        }
    }
}

#[test]
fn completion_j_depends_on_the_seed_and_j_alone() {
    let request = Request {
        n: 9,
        ..Request::new(prompt(&llama(), 21, 3), 12, 77)
    };
    let nine = alone(&request).completions;
    let five = alone(&Request {
        n: 5,
        ..request.clone()
    })
    .completions;
    assert_eq!(nine[..5], five[..]);
    assert!(nine.windows(2).all(|pair| pair[0].tokens != pair[1].tokens));
    let other = alone(&Request {
        seed: 78,
        ..request
    })
    .completions;
    assert!(nine.iter().zip(&other).all(|(a, b)| a.tokens != b.tokens));
}

#[test]
fn sampled_logprobs_are_those_of_scoring() {
    let cfg = llama();
    let sampler = sampler(&cfg, 2, 2048);
    let request = Request {
        n: 4,
        temperature: 0.6,
        top_k: 5,
        ..Request::new(prompt(&cfg, 30, 1), 50, 9)
    };
    sampler.submit(request.clone()).unwrap();
    let finished = drain(&sampler).remove(0);
    let joined = finished
        .completions
        .iter()
        .map(|c| [request.prompt.clone(), c.tokens.clone()].concat());
    let scores = sampler.score(joined.collect()).unwrap();
    for (completion, scores) in finished.completions.iter().zip(scores) {
        assert!(scores[0].is_nan());
        assert_eq!(completion.logprobs, scores[30..]);
    }
    assert_eq!(drain(&sampler), []);
}

#[test]
fn the_context_and_max_tokens_end_a_completion() {
    let cfg = llama();
    for (len, max_tokens, expected) in [(95, 40, 1), (90, 40, 6), (10, 1, 1), (16, 17, 17)] {
        let request = Request {
            n: 2,
            ..Request::new(prompt(&cfg, len, 2), max_tokens, 4)
        };
        for completion in alone(&request).completions {
            assert_eq!(
                (completion.tokens.len(), completion.stop_reason),
                (expected, StopReason::Length)
            );
        }
    }
}

#[test]
fn stop_ids_and_stop_strings_end_a_completion_at_their_first_match() {
    let request = Request {
        n: 6,
        ..Request::new(prompt(&llama(), 12, 8), 60, 5)
    };
    let free = alone(&request).completions;
    let text = |tokens: &[u32]| -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|id| vec![b'a' + (id % 26) as u8; 1 + *id as usize % 2])
            .collect()
    };
    // Two letters that straddle tokens 3 and 4 of the first completion.
    let bytes = |i: usize| text(&free[0].tokens[i..=i]);
    let string = [vec![*bytes(3).last().unwrap()], vec![bytes(4)[0]]].concat();
    let id = free[1].tokens[7];
    let stopping = Request {
        stop_ids: vec![id],
        stop_strings: vec![b"never!".to_vec(), string.clone()],
        ..request
    };
    for (free, stopped) in free.iter().zip(alone(&stopping).completions) {
        let matches = |len: &usize| {
            free.tokens[len - 1] == id || text(&free.tokens[..*len]).windows(2).any(|w| w == string)
        };
        let Some(len) = (1..=free.tokens.len()).find(matches) else {
            assert_eq!(free.tokens, stopped.tokens);
            continue;
        };
        assert_eq!(stopped.tokens, free.tokens[..len]);
        assert_eq!(stopped.stop_reason, StopReason::Stop);
        match stopped.stop_match.unwrap() {
            StopMatch::Token(found) => assert_eq!(found, id),
            StopMatch::String(found) => {
                assert_eq!(found.index, 1);
                assert_eq!(text(&stopped.tokens)[found.start..][..2], string);
            }
        }
    }
}

#[test]
fn a_cancelled_request_gives_what_it_has_and_all_its_room() {
    let cfg = llama();
    // Room for one of the two at a time.
    let sampler = sampler(&cfg, 2, 96);
    let request = Request {
        n: 2,
        prompt_logprobs: true,
        ..Request::new(prompt(&cfg, 10, 1), 60, 1)
    };
    let first = sampler.submit(request.clone()).unwrap();
    let second = sampler.submit(request.clone()).unwrap();
    assert_eq!(sampler.run(20).unwrap(), []);
    sampler.cancel(second).unwrap();
    sampler.cancel(first).unwrap();
    sampler.cancel(999).unwrap();
    let answers = drain(&sampler);
    assert_eq!(
        answers.iter().map(|a| a.id).collect::<Vec<_>>(),
        [first, second]
    );
    let whole = alone(&request).completions;
    let part = &answers[0].completions;
    assert!(part.iter().all(|c| c.stop_reason == StopReason::Cancelled));
    assert_eq!((part[0].tokens.len(), part[1].tokens.len()), (20, 1));
    assert!(
        part.iter()
            .zip(&whole)
            .all(|(part, whole)| whole.tokens.starts_with(&part.tokens))
    );
    assert!(answers[1].completions.iter().all(|c| c.tokens.is_empty()));
}

#[test]
fn another_thread_may_submit_cancel_and_interrupt() {
    let cfg = llama();
    let sampler = sampler(&cfg, 2, 1 << 16);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut answers = Vec::new();
            while answers.len() < 40 {
                answers.extend(sampler.run(usize::MAX).unwrap());
            }
            answers
        });
        for i in 0..40u64 {
            let id = sampler
                .submit(Request {
                    n: 2,
                    ..Request::new(prompt(&cfg, 20, i), 30, i)
                })
                .unwrap();
            if i % 7 == 0 {
                sampler.cancel(id).unwrap();
            }
            sampler.interrupt();
        }
        let mut ids: Vec<u64> = worker.join().unwrap().iter().map(|a| a.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..40).collect::<Vec<u64>>());
    });
    assert_eq!(drain(&sampler), []);
}

#[test]
fn what_can_never_run_is_refused() {
    let cfg = llama();
    let sampler = sampler(&cfg, 1, 48);
    let good = Request::new(vec![1, 2, 3], 5, 0);
    let bad = [
        Request {
            prompt: vec![],
            ..good.clone()
        },
        Request {
            prompt: vec![1, 83],
            ..good.clone()
        },
        Request {
            prompt: vec![1; 96],
            ..good.clone()
        },
        Request {
            max_tokens: 0,
            ..good.clone()
        },
        Request {
            n: 0,
            ..good.clone()
        },
        Request {
            temperature: -1.0,
            ..good.clone()
        },
        Request {
            temperature: f64::NAN,
            ..good.clone()
        },
        Request {
            top_p: 0.0,
            ..good.clone()
        },
        Request {
            top_p: 1.5,
            ..good.clone()
        },
        Request {
            stop_ids: vec![83],
            ..good.clone()
        },
        Request {
            stop_strings: vec![vec![]],
            ..good.clone()
        },
        Request {
            top_logprobs: 84,
            ..good.clone()
        },
        Request {
            top_prompt_logprobs: 1,
            ..good.clone()
        },
    ];
    for request in bad {
        let refused = sampler.submit(request.clone());
        assert!(
            matches!(refused, Err(SampleError::Invalid(_))),
            "{request:?}: {refused:?}"
        );
    }
    // 40 + 8 tokens fit; the ninth new one is never fed back; one more does not fit.
    assert!(sampler.submit(Request::new(vec![1; 40], 9, 0)).is_ok());
    let refused = sampler.submit(Request::new(vec![1; 40], 10, 0));
    assert_eq!(
        refused,
        Err(SampleError::TooLarge {
            needed: 64,
            available: 48
        })
    );
    assert_eq!(drain(&sampler)[0].completions[0].tokens.len(), 9);
}

#[test]
fn broken_weights_fail_the_request_and_not_the_sampler() {
    let cfg = llama();
    let mut weights = (*random_weights(&cfg, 5)).clone();
    weights.embed[7 * cfg.hidden] = f32::NAN;
    let untied = ModelConfig {
        tied_head: false,
        ..cfg.clone()
    };
    weights.head = Some(random_weights(&untied, 5).embed.clone());
    let options = Options {
        threads: 2,
        kv_tokens: 1024,
    };
    let sampler = Sampler::new(untied, Arc::new(weights), options, None).unwrap();
    sampler.submit(Request::new(vec![1, 7, 2], 5, 0)).unwrap();
    sampler
        .submit(Request {
            stop_ids: vec![7],
            ..Request::new(vec![1, 2], 5, 0)
        })
        .unwrap();
    let answers = drain(&sampler);
    assert_eq!(
        answers[0].error,
        Some(SampleError::NotFinite { position: 3 })
    );
    assert_eq!(answers[1].error, None);
    let scored = sampler.score(vec![vec![1, 2], vec![7, 2], vec![3, 4]]);
    assert_eq!(scored, Err(SampleError::NotFinite { position: 1 }));
    assert_eq!(drain(&sampler), []);
}

#[test]
fn weights_of_another_shape_are_refused() {
    let cfg = llama();
    let options = Options {
        threads: 1,
        kv_tokens: 64,
    };
    let weights = random_weights(&cfg, 1);
    let wrong = [
        ModelConfig {
            hidden: 37,
            ..cfg.clone()
        },
        ModelConfig {
            qkv_bias: true,
            ..cfg.clone()
        },
        ModelConfig {
            n_layers: 2,
            ..cfg.clone()
        },
        ModelConfig {
            n_kv_heads: 4,
            ..cfg.clone()
        },
        ModelConfig { head_dim: 0, ..cfg },
    ];
    for cfg in wrong {
        assert!(matches!(
            Sampler::new(cfg, Arc::clone(&weights), options, None),
            Err(SampleError::Invalid(_))
        ));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    /// However small the cache, everything that was let in ends, whole, in room that is all given back.
    #[test]
    fn any_budget_that_lets_requests_in_finishes_them(
        sizes in proptest::collection::vec((1usize..60, 0usize..6, 1usize..40), 1..10),
        pages in 1usize..12,
    ) {
        let cfg = llama();
        let sampler = sampler(&cfg, 2, pages * 16);
        let mut expected = Vec::new();
        for (i, (len, n, max_tokens)) in sizes.into_iter().enumerate() {
            let request = Request::new(prompt(&cfg, len, i as u64), max_tokens, i as u64);
            let request = Request { n, prompt_logprobs: true, ..request };
            if let Ok(id) = sampler.submit(request) {
                expected.push((id, n, max_tokens.min(cfg.context - len)));
            }
        }
        let mut answers = Vec::new();
        while sampler.stats().unwrap().pending > 0 {
            answers.extend(sampler.run(1).unwrap());
            proptest::prop_assert!(sampler.stats().unwrap().pages_in_use <= pages);
        }
        answers.sort_by_key(|a| a.id);
        proptest::prop_assert_eq!(sampler.stats().unwrap().pages_in_use, 0);
        proptest::prop_assert_eq!(answers.len(), expected.len());
        for (answer, (id, n, len)) in answers.iter().zip(expected) {
            proptest::prop_assert_eq!((answer.id, answer.completions.len()), (id, n));
            proptest::prop_assert!(answer.completions.iter().all(|c| c.tokens.len() == len));
        }
    }
}
