//! Small models, and GGUF files made byte by byte.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]
use half::f16;
use tinsmith_engine::{Family, LayerWeights, ModelConfig, RopeScaling, Weights};

/// A two-layer model whose every size differs from the others.
pub fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        vocab: 40,
        hidden: 32,
        intermediate: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context: 128,
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        tied_head: false,
    }
}

/// Weights that are all different, and exact in every stored type: eighths between -16 and 16.
pub fn weights(config: &ModelConfig) -> Weights<f32> {
    let mut next = 0u32;
    let mut vector = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| {
                next += 1;
                (next.wrapping_mul(2_654_435_761) >> 24) as f32 / 8.0 - 16.0
            })
            .collect()
    };
    let (hidden, qkv) = (config.hidden, config.qkv_dim());
    Weights {
        embed: vector(config.vocab * hidden),
        layers: (0..config.n_layers)
            .map(|_| LayerWeights {
                attn_norm: vector(hidden),
                qkv: vector(qkv * hidden),
                qkv_bias: config.qkv_bias.then(|| vector(qkv)),
                q_norm: config.qk_norm.then(|| vector(config.head_dim)),
                k_norm: config.qk_norm.then(|| vector(config.head_dim)),
                o: vector(hidden * config.q_dim()),
                mlp_norm: vector(hidden),
                gate_up: vector(2 * config.intermediate * hidden),
                down: vector(hidden * config.intermediate),
            })
            .collect(),
        final_norm: vector(hidden),
        head: (!config.tied_head).then(|| vector(config.vocab * hidden)),
    }
}

pub const F32: u32 = 0;
pub const Q8_0: u32 = 8;

/// A GGUF file in the making.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub values: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

pub fn text(value: &str) -> Vec<u8> {
    let mut out = (value.len() as u64).to_le_bytes().to_vec();
    out.extend(value.as_bytes());
    out
}

impl Gguf {
    pub fn new() -> Self {
        Self {
            version: 3,
            values: Vec::new(),
            tensors: Vec::new(),
        }
    }

    pub fn raw(&mut self, key: &str, kind: u32, bytes: &[u8]) {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(bytes);
        self.values.retain(|(name, _)| name != key);
        self.values.push((key.into(), value));
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.raw(key, 8, &text(value));
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.raw(key, 4, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.raw(key, 6, &value.to_le_bytes());
    }

    pub fn texts(&mut self, key: &str, values: &[&str]) {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| text(value)));
        self.raw(key, 9, &bytes);
    }

    /// `shape` slowest axis first, as in Hugging Face.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32], kind: u32) {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = match kind {
            F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Q8_0 => values
                .chunks_exact(32)
                .flat_map(|block| {
                    // One eighth a step: exact for the values of `weights`.
                    let mut out = f16::from_f32(0.125).to_le_bytes().to_vec();
                    out.extend(block.iter().map(|v| (v * 8.0) as i8 as u8));
                    out
                })
                .collect(),
            other => panic!("type {other}"),
        };
        self.tensors
            .push((name.into(), shape.to_vec(), kind, bytes));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            out.extend(text(key));
            out.extend(value);
        }
        let mut offset = 0u64;
        for (name, shape, kind, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((shape.len() as u32).to_le_bytes());
            for axis in shape.iter().rev() {
                out.extend((*axis as u64).to_le_bytes());
            }
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

/// The model as llama.cpp's converter stores it: matrices of type `kind`, everything else in F32.
pub fn gguf(config: &ModelConfig, weights: &Weights<f32>, kind: u32) -> Gguf {
    let arch = match config.family {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    };
    let mut out = Gguf::new();
    out.text("general.architecture", arch);
    for (key, value) in [
        ("block_count", config.n_layers),
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("feed_forward_length", config.intermediate),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ] {
        out.u32(&format!("{arch}.{key}"), value as u32);
    }
    out.f32(&format!("{arch}.rope.freq_base"), config.rope_theta as f32);
    out.f32(
        &format!("{arch}.attention.layer_norm_rms_epsilon"),
        config.rms_eps as f32,
    );
    out.text("tokenizer.ggml.model", "gpt2");
    out.text("tokenizer.ggml.pre", "smollm");
    out.texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<|end|>"]);
    out.texts("tokenizer.ggml.merges", &["a b"]);
    out.u32("tokenizer.ggml.eos_token_id", 3);

    let (hidden, q, kv) = (config.hidden, config.q_dim(), config.kv_dim());
    out.tensor(
        "token_embd.weight",
        &[config.vocab, hidden],
        &weights.embed,
        kind,
    );
    for (i, layer) in weights.layers.iter().enumerate() {
        let mut put = |name: &str, shape: &[usize], values: &[f32], kind: u32| {
            out.tensor(&format!("blk.{i}.{name}"), shape, values, kind);
        };
        let permuted = |values: &[f32], columns: usize| match config.family {
            Family::Llama => interleaved(values, columns, config.head_dim),
            _ => values.to_vec(),
        };
        put("attn_norm.weight", &[hidden], &layer.attn_norm, F32);
        let (qs, rest) = layer.qkv.split_at(q * hidden);
        let (ks, vs) = rest.split_at(kv * hidden);
        put("attn_q.weight", &[q, hidden], &permuted(qs, hidden), kind);
        put("attn_k.weight", &[kv, hidden], &permuted(ks, hidden), kind);
        put("attn_v.weight", &[kv, hidden], vs, kind);
        if let Some(bias) = &layer.qkv_bias {
            put("attn_q.bias", &[q], &permuted(&bias[..q], 1), F32);
            put("attn_k.bias", &[kv], &permuted(&bias[q..q + kv], 1), F32);
            put("attn_v.bias", &[kv], &bias[q + kv..], F32);
        }
        if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
            put("attn_q_norm.weight", &[config.head_dim], q_norm, F32);
            put("attn_k_norm.weight", &[config.head_dim], k_norm, F32);
        }
        put("attn_output.weight", &[hidden, q], &layer.o, kind);
        put("ffn_norm.weight", &[hidden], &layer.mlp_norm, F32);
        let (gate, up) = layer.gate_up.split_at(config.intermediate * hidden);
        put(
            "ffn_gate.weight",
            &[config.intermediate, hidden],
            gate,
            kind,
        );
        put("ffn_up.weight", &[config.intermediate, hidden], up, kind);
        put(
            "ffn_down.weight",
            &[hidden, config.intermediate],
            &layer.down,
            kind,
        );
    }
    out.tensor("output_norm.weight", &[hidden], &weights.final_norm, F32);
    if let Some(head) = &weights.head {
        out.tensor("output.weight", &[config.vocab, hidden], head, kind);
    }
    out
}

/// llama.cpp's permutation of query and key rows: reshape [head, 2, head_dim / 2], swap the last two axes.
fn interleaved(values: &[f32], columns: usize, head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let rows: Vec<&[f32]> = values.chunks_exact(columns).collect();
    let mut out = Vec::new();
    for head in rows.chunks_exact(head_dim) {
        for j in 0..half {
            for p in 0..2 {
                out.extend(head[p * half + j]);
            }
        }
    }
    out
}
