//! Which tensor plays which part, and its name in each format.
use crate::config::ModelConfig;

/// One stored tensor of a decoder. Query, key, value and gate, up are stored apart, whatever memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embed,
    FinalNorm,
    Head,
    Layer(usize, Part),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    AttnNorm,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    O,
    OBias,
    MlpNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    pub const ALL: [Self; 15] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::QBias,
        Self::KBias,
        Self::VBias,
        Self::QNorm,
        Self::KNorm,
        Self::O,
        Self::OBias,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The name inside a layer: (Hugging Face, GGUF).
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::AttnNorm => ("input_layernorm.weight", "attn_norm.weight"),
            Self::Q => ("self_attn.q_proj.weight", "attn_q.weight"),
            Self::K => ("self_attn.k_proj.weight", "attn_k.weight"),
            Self::V => ("self_attn.v_proj.weight", "attn_v.weight"),
            Self::QBias => ("self_attn.q_proj.bias", "attn_q.bias"),
            Self::KBias => ("self_attn.k_proj.bias", "attn_k.bias"),
            Self::VBias => ("self_attn.v_proj.bias", "attn_v.bias"),
            Self::QNorm => ("self_attn.q_norm.weight", "attn_q_norm.weight"),
            Self::KNorm => ("self_attn.k_norm.weight", "attn_k_norm.weight"),
            Self::O => ("self_attn.o_proj.weight", "attn_output.weight"),
            Self::OBias => ("self_attn.o_proj.bias", "attn_output.bias"),
            Self::MlpNorm => ("post_attention_layernorm.weight", "ffn_norm.weight"),
            Self::Gate => ("mlp.gate_proj.weight", "ffn_gate.weight"),
            Self::Up => ("mlp.up_proj.weight", "ffn_up.weight"),
            Self::Down => ("mlp.down_proj.weight", "ffn_down.weight"),
        }
    }
}

impl Role {
    pub fn huggingface(self) -> String {
        match self {
            Self::Embed => "model.embed_tokens.weight".into(),
            Self::FinalNorm => "model.norm.weight".into(),
            Self::Head => "lm_head.weight".into(),
            Self::Layer(i, part) => format!("model.layers.{i}.{}", part.names().0),
        }
    }

    pub fn gguf(self) -> String {
        match self {
            Self::Embed => "token_embd.weight".into(),
            Self::FinalNorm => "output_norm.weight".into(),
            Self::Head => "output.weight".into(),
            Self::Layer(i, part) => format!("blk.{i}.{}", part.names().1),
        }
    }

    /// The shape under `config`, slowest axis first.
    pub fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, q, kv) = (config.hidden, config.q_dim(), config.kv_dim());
        match self {
            Self::Embed | Self::Head => vec![config.vocab, hidden],
            Self::FinalNorm => vec![hidden],
            Self::Layer(_, part) => match part {
                Part::AttnNorm | Part::MlpNorm | Part::OBias => vec![hidden],
                Part::Q => vec![q, hidden],
                Part::K | Part::V => vec![kv, hidden],
                Part::QBias => vec![q],
                Part::KBias | Part::VBias => vec![kv],
                Part::QNorm | Part::KNorm => vec![config.head_dim],
                Part::O => vec![hidden, q],
                Part::Gate | Part::Up => vec![config.intermediate, hidden],
                Part::Down => vec![hidden, config.intermediate],
            },
        }
    }
}
