//! What a model is: the numbers that fix every shape and every formula.

/// The decoder families the engine knows. All are pre-norm decoders with RMSNorm, RoPE (half-split
/// rotation), grouped-query attention and SwiGLU; they differ in the QKV bias and the QK norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

/// How rotary frequencies are stretched beyond the trained context (Hugging Face `rope_scaling`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: usize,
    },
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: usize,
        attention_factor: f64,
    },
}

/// A model's shape. `q_dim = n_heads * head_dim` need not equal `hidden`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub rms_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Longest sequence, in tokens, that the model was made for.
    pub context: usize,
    pub qkv_bias: bool,
    pub qk_norm: bool,
    /// The output head is the embedding table.
    pub tied_head: bool,
}

impl ModelConfig {
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Rows of the fused projection: queries, then keys, then values.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
}
